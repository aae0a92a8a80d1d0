"""Between processes: each module orders, stores and spreads room messages on one engine."""

from urllib.parse import unquote, urlsplit

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
    raise ConfigurationError(
        f"There is no broker for {url.scheme or 'no scheme'}://. Use memory:// (one process) or "
        "sqlite:///rooms.db (one process; history survives it)."
    )
