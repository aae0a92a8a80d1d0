"""What to connect to, how that is done, and in words why it could not be done."""

import errno
import logging
import socket
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
)
from websockets.typing import Origin, Subprotocol

from ..client.line import Dial, NotConnected
from ..client.lines import SECURE
from .line import LineConnection

CLOSES_WITHIN = 5.0
"""Seconds that the server has to answer the closing handshake."""
LONGEST_BODY_SHOWN = 300

# The library logs, with tracebacks, what is told here in a sentence.
_SILENT = logging.Logger("hubbub.connect")
_SILENT.addHandler(logging.NullHandler())


class Connection(Protocol):
    """The far end: a WebSocket, or another line to a hubbub that does as if it were one.

    What has ended raises :exc:`ConnectionClosed`, which is kept as `closed`.
    """

    close_timeout: float | None
    """Seconds that the server has to answer the closing handshake."""

    @property
    def subprotocol(self) -> str | None:
        """What the two have agreed to speak."""

    @property
    def closed(self) -> ConnectionClosed:
        """How it ended."""

    async def send(self, message: str | bytes) -> None:
        """Send a message; :exc:`TypeError` for one that the line can't carry."""

    async def recv(self) -> str | bytes:
        """Return the next message."""

    async def ping(self) -> Awaitable[float]:
        """Ask for a sign of life; the seconds until then are awaited."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close."""


class _WebSocket(ClientConnection):
    @property
    def closed(self) -> ConnectionClosed:
        return self.protocol.close_exc


@dataclass(frozen=True)
class Target:
    """What to connect to, and how. Times are in seconds, sizes in bytes; `ping` None means no pings.

    `dial` opens a line that is no WebSocket; all but `url` and `timeout` was given to it then.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    tls: ssl.SSLContext | None = None
    timeout: float = 10.0
    ping: float | None = 20.0
    max_size: int = 16 * 2**20
    dial: Dial | None = None

    async def open(self) -> Connection:
        """Connect; raise what :func:`explain` explains."""
        if self.dial is not None:
            return LineConnection(await self.dial(None), CLOSES_WITHIN)
        dial = partial(
            connect,
            self.url,
            additional_headers=self.headers,
            subprotocols=[Subprotocol(name) for name in self.subprotocols] or None,
            origin=None if self.origin is None else Origin(self.origin),
            open_timeout=self.timeout,
            ping_interval=self.ping,
            close_timeout=CLOSES_WITHIN,
            max_size=self.max_size,
            logger=_SILENT,
            create_connection=_WebSocket,
        )
        # Only where it is needed: a redirection from ws:// to wss:// makes a context of its own.
        connection = await (dial() if self.tls is None else dial(ssl=self.tls))
        assert isinstance(connection, _WebSocket)
        return connection


PORTS = {"wss": 443, "ws": 80, "grpc": 50051, "grpcs": 443}
"""By scheme: the port where a URL has none. All other schemes end with that of HTTP."""


def _place(url: str) -> tuple[str, int]:
    """Return host and port of a URL that can be connected to."""
    parts = urlsplit(url)
    usual = PORTS.get(parts.scheme) or (443 if parts.scheme.endswith("https") else 80)
    return parts.hostname or "", parts.port or usual


def _other(url: str) -> str:
    """Advise the same kind of line without TLS, or with it: its scheme is longer by a letter."""
    scheme = urlsplit(url).scheme
    if scheme in SECURE:
        return f"If it does not speak TLS, use {scheme[:-1]}://"
    return f"If it speaks TLS, use {scheme}s://"


def explain(problem: Exception, target: Target) -> str:
    """Say in a sentence or two why a connection could not be established, and what to try."""
    host, port = _place(target.url)
    place, other = f"{host}:{port}", _other(target.url)
    if isinstance(problem, NotConnected):
        if problem.status is not None:
            return _explain_line(problem, target.url)
        if not isinstance(problem.__cause__, OSError):
            return f"There is no line to {place}: {problem}."
        problem = problem.__cause__
    match problem:
        case socket.gaierror(errno=socket.EAI_NONAME):
            return f"There is no host called {host}. Check the spelling."
        case socket.gaierror():
            return f"The address of {host} can't be looked up: {problem.strerror}. Is the network up?"
        case TimeoutError():
            return (
                f"{place} did not answer within {target.timeout:g} s. Check the address and the firewalls "
                "between, or give it more time with --timeout."
            )
        case ssl.SSLCertVerificationError():
            return (
                f"The certificate of {place} is not trusted: {problem.verify_message}. "
                "Trust its issuer with --ca FILE, or any certificate with --insecure."
            )
        case ssl.SSLError():
            return f"TLS with {place} failed: {problem.strerror or problem}. {other}"
        case OSError() if _refused(problem):
            return f"{place} refuses connections. Is the server running, and on this port?"
        case ConnectionError():
            return f"{place} broke the connection off. {other}"
        case OSError():
            return f"{place} can't be reached: {problem.strerror or problem}."
        case InvalidStatus():
            response = problem.response
            return _explain_status(
                response.status_code,
                response.reason_phrase,
                bytes(response.body or b""),
                f"{urlsplit(target.url).path or '/'} instead of a WebSocket",
            )
        case InvalidMessage():
            return f"{place} does not answer as an HTTP server. {other}"
        case ProxyError() | InvalidProxy() | ImportError():
            return f"The proxy does not work: {problem}. To do without it, set NO_PROXY={host}"
    return f"The handshake with {place} failed: {problem}."


def _refused(problem: OSError) -> bool:
    # With several addresses for a name, asyncio puts their errors into one text.
    return problem.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(problem)


_ADVICE = {
    400: "It may want a subprotocol (--subprotocol) or other headers.",
    401: "It wants a login: try --header 'Authorization: Bearer …' or a cookie.",
    403: "It may want a login (--header), or an origin it knows (--origin).",
    404: "Check the path of the URL.",
    426: "It wants another version of HTTP or of the protocol.",
    429: "It has had too many requests; try again later.",
    503: "It is not ready or overloaded; try again later.",
}


def _explain_line(problem: NotConnected, url: str) -> str:
    status = problem.status or 0
    phrase = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else ""
    return _explain_status(status, phrase, b"", f"{urlsplit(url).path or '/'} instead of opening a line")


def _explain_status(status: int, phrase: str, body: bytes, what: str) -> str:
    said = f"The server answered {status} {phrase}".rstrip() + f" for {what}."
    advice = _ADVICE.get(status) or (
        "There is a page here, but nothing to connect to; check the path of the URL."
        if status < 300
        else "It sends on to another place; check the URL."
        if status < 400
        else "The server, or a proxy before it, has a problem."
        if status >= 500
        else "Check the URL and the headers."
    )
    text = " ".join(body.decode("utf-8", "replace").split())
    if len(text) > LONGEST_BODY_SHOWN:
        text = text[:LONGEST_BODY_SHOWN] + "…"
    return f"{said} {advice}" + (f" It says: {text}" if text else "")
