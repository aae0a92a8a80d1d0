"""Rooms on NATS JetStream, for many instances."""

from ...settings import Settings
from .broker import NatsBroker
from .options import Options, read

__all__ = ["NatsBroker", "Options", "open_broker", "read"]


def open_broker(settings: Settings) -> NatsBroker:
    """Return the broker that the setting `broker` names; :exc:`ConfigurationError` if it can't be read."""
    return NatsBroker(
        read(settings.broker),
        timeout=settings.broker_timeout,
        window=settings.deduplication_window,
        lease=settings.lease,
    )
