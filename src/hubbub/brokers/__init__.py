"""Between processes: each module orders, stores and spreads room messages on one engine."""

import importlib
from urllib.parse import unquote, urlsplit

import msgspec

from ..errors import ConfigurationError
from ..settings import Settings
from .base import Broker
from .memory import MemoryBroker, MemoryStore


def open_broker(settings: Settings) -> Broker:
    """Return the broker that the setting `broker` names; :exc:`ConfigurationError` if there is none."""
    try:
        url = urlsplit(settings.broker)
    except ValueError:
        # What it says may hold a password.
        raise ConfigurationError("The setting broker is no URL. Use memory://, for example.") from None
    # The others look for whose lease is over when they renew their own. So that its members are gone in the
    # time that the setting says, it is over before.
    settings = msgspec.structs.replace(settings, lease=settings.lease * 2 / 3)
    window, lease = settings.deduplication_window, settings.lease
    if url.scheme == "memory":
        return MemoryBroker(MemoryStore(window=window, lease=lease))
    if url.scheme == "sqlite":
        # As SQLAlchemy has it: three slashes and a relative path, or four and an absolute one.
        slash, path = url.path[:1], unquote(url.path[1:])
        other = url.netloc or url.query or url.fragment
        if slash != "/" or other or path in ("", "/", ":memory:") or "\0" in path:
            raise ConfigurationError(
                "sqlite:// takes a file: sqlite:///rooms.db is in the working directory, "
                "sqlite:////var/lib/chat/rooms.db anywhere. For rooms in memory, use memory://."
            )
        # Only here: not every Python was built with sqlite3.
        from .sqlite import SqliteBroker, SqliteStore

        return SqliteBroker(SqliteStore(path, window=window, lease=lease))
    opener = _OPENERS.get(url.scheme)
    if opener is None:
        raise ConfigurationError(
            f"There is no broker for {url.scheme or 'no scheme'}://. Use memory:// (one process), "
            "sqlite:///rooms.db (one process; history survives it), or redis://, amqp:// or nats:// (many)."
        )
    package, module = opener
    try:
        driver = importlib.import_module(module, __name__)
    except ModuleNotFoundError as problem:
        if (problem.name or "").startswith("hubbub"):
            raise
        raise ConfigurationError(
            f"A broker at {url.scheme}:// needs a package more: pip install 'hubbub[{package}]'."
        ) from None
    opened: Broker = driver.open_broker(settings)
    return opened


_OPENERS = {
    "redis": ("redis", ".redis"),
    "rediss": ("redis", ".redis"),
    "redis+sentinel": ("redis", ".redis"),
    "rediss+sentinel": ("redis", ".redis"),
    "redis+cluster": ("redis", ".redis"),
    "rediss+cluster": ("redis", ".redis"),
    "amqp": ("rabbitmq", ".rabbitmq"),
    "amqps": ("rabbitmq", ".rabbitmq"),
    "nats": ("nats", ".nats"),
    "tls": ("nats", ".nats"),
}
"""By the scheme of a URL: the extra with the client library, and the module that opens it."""
