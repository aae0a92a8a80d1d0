"""How many may be here at once and for how long they may wait: counts, deadlines, the log of refusals."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ..engine.transport import Transport
from ..observe.log import fields, logger
from ..protocol.codecs import Codec
from ..settings import Settings

RETRY_AFTER = 5
"""Seconds after which those that found no place are told to try again."""

LONGEST_ADDRESS = 64
"""Characters of what a proxy calls an address that are told apart."""


class Refusal(NamedTuple):
    """Why somebody is not let in, as an HTTP answer and as a log line."""

    status: int
    because: str
    """What was exceeded or broken, for the log: a setting's name where there is one."""
    sentence: str
    """For the client."""
    retry: bool = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer, but for its length."""
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if self.retry:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER))
        return headers

    @property
    def body(self) -> bytes:
        """The sentence as the body of the answer."""
        return self.sentence.encode() + b"\n"

    def response(self) -> bytes:
        """Return the whole answer, after which the connection is closed."""
        body = self.body
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode(),
            *(name + b": " + value for name, value in self.headers),
            b"content-length: %d" % len(body),
            b"connection: close",
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


FULL = Refusal(503, "max_connections", "The server has no place for more connections; try again later.", True)
TOO_MANY = Refusal(
    429, "max_connections_per_address", "There are too many connections from your address.", True
)
RESTARTS = Refusal(503, "drain", "The server restarts; come back in a moment.")
CROWDED = Refusal(503, "max_pending", "Too many are waiting to be let in; try again later.", True)


class OpenLine(Protocol):
    """Lets a client's new line in: the way from every transport but a WebSocket's into the hub."""

    async def __call__(
        self, scope: Scope, transport: Transport, codec: Codec, subprotocol: str | None = None
    ) -> Coroutine[object, object, None] | Refusal:
        """Return what serves the line, to be awaited at once; or why it may not be here.

        Nothing was said to the client so far. What serves the line calls :meth:`Transport.accept` first of
        all, and returns when the line has ended. `scope` is the request's, as of ASGI: of it are used
        ``headers``, ``path``, ``query_string`` and ``client``.
        """


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address itself, the /64 network of an IPv6 one."""
    if ":" in address:
        try:
            packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        except (OSError, ValueError):
            return address[:LONGEST_ADDRESS]
        if packed.startswith(_MAPPED):
            # An IPv4 client of a socket that listens for both.
            return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
        return packed[:8].hex(":", 2)
    return address[:LONGEST_ADDRESS]


_MAPPED = bytes(10) + b"\xff\xff"


class Counts:
    """How many are here, in all and from each address; nothing is kept of one that nobody is here from."""

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._all = 0
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return self._all

    def counted(self) -> dict[str, int]:
        """Return how many there are from each address."""
        return dict(self._counts)

    def refusal(self, address: str | None) -> Refusal | None:
        """Return why there may be no more; None as address counts in all only."""
        if self._all >= self._limit:
            return FULL
        if address is not None and self._counts.get(network_of(address), 0) >= self._limit_per_address:
            return TOO_MANY
        return None

    def add(self, address: str | None) -> Refusal | None:
        """Count one more, or return why there may be none."""
        refusal = self.refusal(address)
        if refusal is None:
            self._all += 1
            if address is not None:
                network = network_of(address)
                self._counts[network] = self._counts.get(network, 0) + 1
        return refusal

    def remove(self, address: str | None) -> None:
        """Count one less."""
        self._all -= 1
        if address is not None:
            network = network_of(address)
            count = self._counts[network] - 1
            if count:
                self._counts[network] = count
            else:
                del self._counts[network]


class Places:
    """Who is here, counted.

    A place belongs to its holder, any object, until it is given back. Giving it back twice is harmless.
    """

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._counts = Counts(limit, limit_per_address)
        self._holders: dict[object, str | None] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def counted(self) -> dict[str, int]:
        """Return how many there are from each address."""
        return self._counts.counted()

    def take(self, holder: object, address: str | None) -> Refusal | None:
        """Take a place, or return why there is none; None as address counts in all only."""
        refusal = self._counts.add(address)
        if refusal is None:
            self._holders[holder] = address
        return refusal

    def pass_on(self, holder: object, heir: object) -> None:
        """Hand a place to another holder, if there is one to hand over."""
        if holder in self._holders:
            self._holders[heir] = self._holders.pop(holder)

    def give_back(self, holder: object) -> None:
        """Give a place back; nothing if there is none."""
        if holder in self._holders:
            self._counts.remove(self._holders.pop(holder))


class Proxies:
    """The trusted proxies: behind one, its client counts and not the proxy."""

    def __init__(self, settings: Settings) -> None:
        self._believed = settings.proxy_headers
        trusted = settings.forwarded_allow_ips if settings.proxy_headers else ""
        self._middleware = ProxyHeadersMiddleware(_nothing, trusted)
        self._trusted = self._middleware.trusted_hosts

    def correct(self, scope: Scope) -> None:
        """Put the client's address and scheme into a scope that came through a trusted proxy."""
        if self._believed:
            # It awaits nothing but the application around which it is, and that is none here.
            with suppress(StopIteration):
                self._middleware(scope, _nothing, _nothing).send(None)  # type: ignore[arg-type]

    def counted_peer(self, peer: tuple[str, int] | None) -> str | None:
        """Return the address that a socket counts for: its peer's, unless that is a proxy."""
        return None if peer is None or peer[0] in self._trusted else peer[0]

    def counted_client(self, scope: Scope) -> str | None:
        """Return the address that a WebSocket counts for, as its server says who the client is."""
        client = scope.get("client")
        # If everybody is trusted, whoever the client is was probably forwarded by a proxy. Else it is a
        # proxy's own address that no proxy forwarded.
        if client is None or (client[0] in self._trusted and not self._trusted.always_trust):
            return None
        return str(client[0])


class Forwarded:
    """An application that is told of the client, not of the proxy before it.

    No coroutine of its own stands between the server and the application: there is one for each connection.
    """

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Return what serves a scope."""
        if scope["type"] != "lifespan":
            self._proxies.correct(scope)
        return self._app(scope, receive, send)


async def _nothing(*_: object) -> None:
    """Stand for the application of a middleware of which only the judgement is used."""


class Waiting(Protocol):
    """A connection that has to get on in time."""

    def expire(self, crowded: bool) -> None:
        """End it: its time is over, or too many are waiting and it has waited longest."""


@dataclass
class Deadlines:
    """Connections that have to get on within the same time, `timeout` seconds, the oldest first.

    If there is a `limit`, so many may wait; one more sends the oldest away, if it had `grace` seconds to get
    on. Without that, a thousand who come in one moment would drive each other out before anybody is heard.
    """

    timeout: float
    limit: int | None = None
    grace: float = 0.0
    waiting: dict[Waiting, float] = field(default_factory=dict)

    def add(self, connection: Waiting, now: float) -> None:
        """Have a connection wait from `now` on, the event loop's time in seconds, if it does not yet."""
        if connection in self.waiting:
            return
        while self.limit is not None and len(self.waiting) >= self.limit:
            oldest, deadline = next(iter(self.waiting.items()))
            if deadline - self.timeout + self.grace > now:
                break
            del self.waiting[oldest]
            _end(oldest, crowded=True)
        self.waiting[connection] = now + self.timeout

    def forget(self, connection: Waiting) -> float | None:
        """Let a connection be: it got on, or it is gone. Return since when it waited, if it did."""
        deadline = self.waiting.pop(connection, None)
        return None if deadline is None else deadline - self.timeout

    def expire(self, now: float) -> None:
        """End those whose time is over; `now` is the event loop's time in seconds."""
        for connection, deadline in list(self.waiting.items()):
            if deadline > now:
                break
            if self.waiting.pop(connection, None) is not None:
                _end(connection, crowded=False)


def _end(connection: Waiting, crowded: bool) -> None:
    """End a connection; whoever looks after all of them goes on with the others if it fails."""
    try:
        connection.expire(crowded)
    except Exception:
        logger.exception("error", extra=fields(during="ending a connection that took too long"))


@dataclass
class _Line:
    """The last line about one kind of refusal, and what has come since and has no line yet."""

    until: float
    times: int = 0
    details: dict[str, object] = field(default_factory=dict)


class Refusals:
    """Logs refusals: of each kind at most one line a second, which says how many it stands for."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._last: dict[str, _Line] = {}

    def log(self, refusal: Refusal, peer: str | None, **details: object) -> None:
        """Log that a peer was refused; `details` must hold no secrets."""
        details["peer"] = peer
        last = self._last.get(refusal.because)
        if last is None:
            self._write(1, refusal, details)
        elif time.monotonic() < last.until:
            last.times += 1
            last.details = details
        else:
            # Its timer is late, or never comes since its event loop has ended.
            self._write(last.times + 1, refusal, details)

    def _write(self, times: int, refusal: Refusal, details: dict[str, object]) -> None:
        logger.warning(
            "refused",
            extra=fields(
                because=refusal.because,
                status=refusal.status,
                times=times if times > 1 else None,
                **details,
            ),
        )
        line = self._last[refusal.because] = _Line(time.monotonic() + self._interval)
        asyncio.get_running_loop().call_later(self._interval, self._catch_up, refusal, line)

    def _catch_up(self, refusal: Refusal, line: _Line) -> None:
        if self._last.get(refusal.because) is not line:
            return
        del self._last[refusal.because]
        if line.times:
            self._write(line.times, refusal, line.details)
