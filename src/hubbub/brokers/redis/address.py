"""The broker's URL, and what it says."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ...errors import ConfigurationError

Kind = Literal["server", "sentinel", "cluster"]

SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
FORM = {
    "server": "redis://:password@host:6379/0",
    "sentinel": "redis+sentinel://host:26379,host:26379/name/0",
    "cluster": "redis+cluster://host:6379,host:6379",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where Redis is, and how to log in. Its text has no secrets."""

    kind: Kind
    places: tuple[Place, ...]
    name: str
    """What Sentinels call the master."""
    database: int
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None
    tls: Mapping[str, str | bool] | None
    """What redis-py's TLS connection takes; None for a connection without."""
    prefix: str

    def __str__(self) -> str:
        return ",".join(map(str, self.places))

    __repr__ = __str__


def address_of(url: str) -> Address:
    """Return what a URL says; :exc:`ConfigurationError` says what is wrong with it, without any password."""
    try:
        return _address_of(urlsplit(url))
    except ValueError:
        raise ConfigurationError(
            "The setting broker is no URL of a Redis. Use redis://host:6379/0, for example."
        ) from None


def _address_of(url: SplitResult) -> Address:
    kind, secure = SCHEMES[url.scheme]
    options = _options(url)
    user, _, netloc = url.netloc.rpartition("@")
    username, _, password = user.partition(":")
    path = [unquote(part) for part in url.path.strip("/").split("/")] if url.path.strip("/") else []
    name = path.pop(0) if kind == "sentinel" and path else ""
    database = path.pop(0) if path else "0"
    places = tuple(_place(part, PORTS[kind]) for part in netloc.split(","))
    wrong = path or not database.isdecimal() or url.fragment or (kind == "sentinel" and not name)
    if wrong or (kind == "server" and len(places) > 1) or (kind == "cluster" and database != "0"):
        raise ConfigurationError(f"A {url.scheme}:// URL reads like {FORM[kind]}.")
    prefix = options.get("prefix", "hubbub")
    if not prefix or "{" in prefix or "}" in prefix:
        raise ConfigurationError("The prefix of a Redis URL must not be empty and must have no braces.")
    return Address(
        kind=kind,
        places=places,
        name=name,
        database=int(database),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options) if secure else None,
        prefix=prefix,
    )


def _options(url: SplitResult) -> dict[str, str]:
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    _, secure = SCHEMES[url.scheme]
    known = {"prefix"}
    if secure:
        known |= {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
    if SCHEMES[url.scheme][0] == "sentinel":
        known |= {"sentinel_username", "sentinel_password"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ConfigurationError(
            f"A {url.scheme}:// URL has no setting {unknown[0][:40]!r}, but {', '.join(sorted(known))}."
        )
    return options


def _place(text: str, port: int) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return Place(unquote(parts.hostname), parts.port or port)


def _tls(options: Mapping[str, str]) -> Mapping[str, str | bool]:
    check = options.get("ssl_check_hostname", "true")
    if check not in ("true", "false"):
        raise ConfigurationError("ssl_check_hostname in a Redis URL is true or false.")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as problem:
        raise ConfigurationError(
            f"A certificate that the Redis URL names can't be used: {problem.strerror or problem}."
        ) from None
    files = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    return {name: options[name] for name in files if name in options} | {
        "ssl_check_hostname": check == "true"
    }
