"""The broker on Redis: many instances, on one server, behind Sentinels, or on a cluster.

`scripts.py` has the steps that Redis carries out, and how a room lies there. `line.py` and `channels.py` are
the two connections to a server, `node.py` keeps them up, `servers.py` knows which server has what. On these
stand `publishing.py`, `rooms.py` (what is delivered), `presence.py`, and `broker.py`, which is the whole.
"""

from ...settings import Settings
from .address import address_of
from .broker import RedisBroker

__all__ = ["RedisBroker", "open_broker"]


def open_broker(settings: Settings) -> RedisBroker:
    """Return the broker that the settings name; :exc:`ConfigurationError` if the URL is wrong."""
    return RedisBroker(
        address_of(settings.broker),
        timeout=settings.broker_timeout,
        window=settings.deduplication_window,
        lease=settings.lease,
    )
