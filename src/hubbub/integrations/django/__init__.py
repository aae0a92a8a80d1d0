"""Django: the hub beside a project's views, with its sessions, users, settings and database.

>>> # chat/live.py, in any installed app
>>> from hubbub.integrations.django import hub, user_of
>>> chat = hub.room("chat/{name}", history=200)

>>> # asgi.py
>>> from hubbub.integrations.django import get_asgi_application
>>> application = get_asgi_application()

Put ``"hubbub.integrations.django"`` into ``INSTALLED_APPS``. Settings are in ``HUBBUB``, with the names that
:class:`hubbub.Settings` has.
"""

from typing import TYPE_CHECKING

from ...errors import ConfigurationError

try:
    import django as _django  # noqa: F401
except ModuleNotFoundError:
    raise ConfigurationError("Django is not installed: pip install 'hubbub[django]'.") from None

from .application import DjangoHub, get_asgi_application, the_hub
from .login import log_in, request_of, user_of
from .publishing import apublish, publish, publish_on_commit

if TYPE_CHECKING:
    hub: DjangoHub
    """The hub of this project; it is made, from the project's settings, when it is first asked for."""

__all__ = [
    "DjangoHub",
    "apublish",
    "get_asgi_application",
    "hub",
    "log_in",
    "publish",
    "publish_on_commit",
    "request_of",
    "user_of",
]


def __getattr__(name: str) -> DjangoHub:
    # Only when it is asked for: Django imports this module before the project's settings can be read.
    if name == "hub":
        return the_hub()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
