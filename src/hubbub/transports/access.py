"""Which pages and under which names: the checks of ``Origin`` and ``Host`` before a WebSocket is opened.

A browser lets every page open WebSockets to every server and sends the server's cookies along. What it tells
is the page's origin (RFC 6455 section 10.2). A page can also give its own name this server's address (DNS
rebinding); then the origin fits and only the name is wrong.
"""

import re
from collections.abc import Iterable

from starlette.types import Scope

from ..errors import ConfigurationError
from ..settings import Settings
from .admission import Refusal

PORTS = {"http": 80, "https": 443}
"""What a page's origin has where it names no port."""

ORIGIN_REFUSED = Refusal(403, "allowed_origins", "Pages from there may not connect here.")
HOST_REFUSED = Refusal(421, "allowed_hosts", "This server does not answer to that name.")

_NAME = r"\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\,*]+"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.\-]*)://({_NAME})(?::([0-9]{{1,5}}))?")
_HOST = re.compile(rf"({_NAME})(?::([0-9]{{1,5}})?)?")
_ALLOWED_HOST = re.compile(rf"(?:\*\.)?(?:{_NAME})")

_OTHER_SITES = (b"cross-site", b"same-site")
"""What ``Sec-Fetch-Site`` says where another origin's page made the request (W3C Fetch Metadata)."""

NAMELESS = "hubbub.nameless"
"""Extension of a scope whose request says no name that could be read: gRPC's, which no browser makes."""

Origin = tuple[str, str, int | None]


class Access:
    """What the settings `allowed_origins` and `allowed_hosts` say.

    Raises :exc:`ConfigurationError` for an origin or a name that can't be one.
    """

    def __init__(self, settings: Settings) -> None:
        self._origins: set[Origin | None] = set()
        """None stands for ``null``."""
        origins, hosts = _listed(settings.allowed_origins), _listed(settings.allowed_hosts)
        self._any_origin = "*" in origins
        for text in origins:
            origin = None if text == "null" else _origin(text)
            if origin is None and text not in ("null", "*"):
                raise ConfigurationError(
                    f"allowed_origins has {text!r}; write scheme://host, with a port if it is not the usual "
                    "one, such as https://example.com, or null, or *."
                )
            if text != "*":
                self._origins.add(origin)
        self._any_host = "*" in hosts
        if not hosts:
            raise ConfigurationError("allowed_hosts is empty; write * for any host.")
        for text in hosts:
            if text != "*" and not _ALLOWED_HOST.fullmatch(text):
                raise ConfigurationError(
                    f"allowed_hosts has {text!r}; write a name without scheme and port, such as example.com, "
                    "or *.example.com for all names below it, or *."
                )
        self._hosts = frozenset(hosts)
        self._below = tuple(text[1:] for text in hosts if text.startswith("*."))

    def refusal(self, scope: Scope, *, line: bool = False) -> Refusal | None:
        """Return why a request is refused; None if it is not.

        The origin counts where a client's `line` is opened or used: any WebSocket is one.
        """
        found_hosts, found_origins, untold = [], [], False
        for name, value in scope["headers"]:
            if name == b"host":
                found_hosts.append(value)
            elif name == b"origin":
                found_origins.append(value)
            elif name == b"sec-fetch-site":
                untold = value in _OTHER_SITES
        named = NAMELESS not in scope.get("extensions", {})
        if not self._any_host and named and not self._may_be_called(found_hosts):
            return HOST_REFUSED
        if not (line or scope["type"] == "websocket") or self._any_origin:
            return None
        if not found_origins:
            # A page that does not mean to read the answer can have its origin left out, and cookies sent.
            return ORIGIN_REFUSED if untold else None
        if len(found_origins) == 1 and self._may_come_from(found_origins[0], found_hosts):
            return None
        return ORIGIN_REFUSED

    def answer_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the headers with which a page from elsewhere may read an answer (Fetch standard, 3.3).

        Whoever may open WebSockets may read: with cookies and logins if its origin is listed, or is the
        server's own, and without where only ``*`` lets it in.
        """
        found_origins = [value for name, value in scope["headers"] if name == b"origin"]
        headers = [(b"vary", b"Origin")]
        if len(found_origins) != 1:
            return headers
        found_hosts = [value for name, value in scope["headers"] if name == b"host"]
        if self._may_come_from(found_origins[0], found_hosts):
            headers += [
                (b"access-control-allow-origin", found_origins[0]),
                (b"access-control-allow-credentials", b"true"),
            ]
        elif self._any_origin:
            headers.append((b"access-control-allow-origin", b"*"))
        if len(headers) > 1:
            headers.append((b"access-control-expose-headers", b"Retry-After"))
        return headers

    def _may_be_called(self, found: list[bytes]) -> bool:
        host = _host(found)
        return host is not None and (host[0] in self._hosts or host[0].endswith(self._below))

    def _may_come_from(self, value: bytes, hosts: list[bytes]) -> bool:
        text = value.decode("latin-1").lower()
        if text == "null":
            return None in self._origins
        origin = _origin(text)
        if origin is None:
            return False
        if origin in self._origins:
            return True
        scheme, name, port = origin
        host = _host(hosts)
        if host is None or scheme not in PORTS or host[0] != name:
            return False
        # Without a port both have the usual one. Which that is, the origin says: what ends TLS before this
        # server may not tell.
        return port == (PORTS[scheme] if host[1] is None else host[1])


def _listed(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def _origin(text: str) -> Origin | None:
    """Return scheme, host and port of an origin in lower case; None if it is none."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, name, port = found.groups()
    return scheme, name, int(port) if port else PORTS.get(scheme)


def _host(found: Iterable[bytes]) -> tuple[str, int | None] | None:
    """Return name and port of the one Host header there is; None if it is not one, or malformed."""
    values = list(found)
    matched = _HOST.fullmatch(values[0].decode("latin-1").lower()) if len(values) == 1 else None
    if matched is None:
        return None
    return matched[1], int(matched[2]) if matched[2] else None
