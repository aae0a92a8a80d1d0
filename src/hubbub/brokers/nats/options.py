"""What the URL of a NATS broker says."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

PORT = 4222

_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Options:
    """What the URL says; the defaults are those of a URL that says nothing."""

    servers: tuple[str, ...]
    """URLs of servers of one cluster, without the account."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    prefix: str = "hubbub"
    """All names of subjects and streams begin with it."""
    shards: int = 1
    """Streams that rooms are spread over; fixed by the first start."""
    replicas: int = 1
    """Servers that each stream is kept on."""
    max_bytes: int = 2**30
    """Bytes of room messages on the disk, in all streams together; the oldest go first."""


def read(url: str) -> Options:
    """Return what a URL says; :exc:`ConfigurationError` if it can't be understood.

    Never with the URL in the text: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        account, at, places = parts.netloc.rpartition("@")
        servers = tuple(_server(parts.scheme, place) for place in places.split(","))
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(
            "The setting broker is no URL of NATS. Use nats://user:password@host:4222, for example."
        ) from None
    if parts.path not in ("", "/") or parts.fragment:
        raise ConfigurationError("A broker at nats:// has no path: use nats://host:4222?prefix=chat.")
    user, colon, password = account.partition(":")
    values = dict(query)
    prefix = values.pop("prefix", "hubbub")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError("The prefix of a broker at nats:// is up to 64 letters, digits, _ and -.")
    options = Options(
        servers,
        user=unquote(user) if colon else None,
        password=unquote(password) if colon else None,
        token=unquote(user) if at and not colon else None,
        prefix=prefix,
        shards=_number(values, "shards", 1, 1, 1024),
        replicas=_number(values, "replicas", 1, 1, 5),
        max_bytes=_number(values, "max_bytes", 2**30, 2**20, 2**62),
    )
    if values:
        raise ConfigurationError(
            f"A broker at nats:// has no setting {min(values)[:40]}: "
            "there are prefix, shards, replicas and max_bytes."
        )
    return options


def _server(scheme: str, place: str) -> str:
    parts = urlsplit(f"{scheme}://{place}")
    if not parts.hostname:
        raise ValueError("no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}:{parts.port or PORT}"


def _number(values: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = values.pop(name, None)
    if text is None:
        return default
    if not text.isdecimal() or not text.isascii() or len(text) > 20 or not least <= int(text) <= most:
        raise ConfigurationError(f"{name} of a broker at nats:// is a number from {least} to {most}.")
    return int(text)
