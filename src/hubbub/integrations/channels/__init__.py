"""Django Channels' channel layer, on hubbub's brokers.

>>> CHANNEL_LAYERS = {
...     "default": {
...         "BACKEND": "hubbub.integrations.channels.HubbubChannelLayer",
...         "CONFIG": {"broker": "redis://localhost", "rooms": {"chat_{name}": "chat/{name}"}},
...     }
... }
"""

from ...errors import ConfigurationError

try:
    import channels as _channels  # noqa: F401
except ModuleNotFoundError:
    raise ConfigurationError("Django Channels is not installed: pip install 'hubbub[channels]'.") from None

from .layer import HubbubChannelLayer

__all__ = ["HubbubChannelLayer"]
