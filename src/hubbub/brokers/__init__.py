"""Between processes: each module orders, stores and spreads room messages on one engine."""

from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..settings import Settings
from .base import Broker
from .memory import MemoryBroker, MemoryStore


def open_broker(settings: Settings) -> Broker:
    """Return the broker that the setting `broker` names; :exc:`ConfigurationError` if there is none."""
    scheme = urlsplit(settings.broker).scheme
    if scheme == "memory":
        return MemoryBroker(MemoryStore(lease=settings.lease))
    raise ConfigurationError(
        f"There is no broker for {scheme or 'no scheme'}://. Use memory:// (one process)."
    )
