"""A line over a real WebSocket, by the `websockets` library: proxies, TLS and compression are its work."""

import asyncio
from contextlib import suppress
from functools import partial
from ssl import SSLCertVerificationError, SSLContext
from urllib.parse import urljoin

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ..errors import ConfigurationError
from ..protocol.codecs import CODECS
from ..protocol.codes import CloseCode
from .handshake import (
    LATER,
    MOST_REDIRECTS,
    REDIRECTS,
    Headers,
    Place,
    Proxy,
    headers_with,
    listed,
    may_follow,
    seconds_of,
)
from .line import Dial, LineLost, NotConnected

CLOSES_WITHIN = 5.0
"""Seconds that the server has to answer the closing handshake."""


class _Connection(ClientConnection):
    def start_keepalive(self) -> None:
        # hubbub's server says something at least every `heartbeat` seconds, and the client watches that.
        # Any other has to be asked.
        if self.subprotocol not in CODECS:
            super().start_keepalive()


class _Opening(connect_websocket):
    def process_redirect(self, exc: Exception) -> Exception | str:
        # `websockets` would follow it to any host, with all headers but a login's; and what is said on the
        # line has tokens in it too. So it is judged here, by `_moved_to`.
        return exc


class WebSocketLine:
    """A WebSocket that is open."""

    heard_at = 0.0
    """Heartbeats are messages here. A server that is no hubbub is asked by pings, and nobody watches."""

    def __init__(self, name: str, connection: ClientConnection) -> None:
        self.name = name
        self._connection = connection
        self.subprotocol: str | None = connection.subprotocol

    async def send(self, message: str | bytes) -> None:  # noqa: D102
        try:
            await self._connection.send(message)
        except ConnectionClosed as closed:
            raise _lost(closed) from closed

    async def recv(self) -> str | bytes:  # noqa: D102
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _lost(closed) from closed
        except ConcurrencyError:
            # It is being closed, and what comes is read out.
            await self._connection.wait_closed()
            raise _lost(self._connection.protocol.close_exc) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: D102
        if code == CloseCode.ABNORMAL:
            self._connection.transport.abort()
            await self._connection.wait_closed()
        else:
            await asyncio.gather(self._connection.close(code, reason), self._read_out())

    async def _read_out(self) -> None:
        # What nobody takes would stand before the answer to the closing handshake; whoever receives takes it.
        with suppress(ConnectionClosed, ConcurrencyError):
            while True:
                await self._connection.recv()


def _lost(closed: ConnectionClosed) -> LineLost:
    close = closed.rcvd or closed.sent
    return LineLost() if close is None else LineLost(close.code, close.reason)


def _moved_to(url: str, answered: InvalidStatus) -> str | None:
    """Return where the client is to go, if an answer is a redirection that may be followed."""
    response = answered.response
    location = "".join(response.headers.get_all("Location")[:1])
    if response.status_code not in REDIRECTS or not location:
        return None
    try:
        elsewhere = urljoin(url, location)
        return elsewhere if may_follow(_place_of(url), _place_of(elsewhere)) else None
    except (InvalidURI, ValueError):
        return None


def _place_of(url: str) -> Place:
    uri = parse_uri(url)
    return "wss" if uri.secure else "ws", uri.host, uri.port


def dialling(
    url: str,
    *,
    subprotocol: str | None,
    headers: Headers | None = None,
    ssl: SSLContext | None = None,
    proxy: Proxy = True,
    compression: str | None = "deflate",
    max_size: int | None = 16 * 2**20,
    open_timeout: float = 10.0,
) -> Dial:
    """Return what opens lines to a URL; :exc:`hubbub.ConfigurationError` if that is none for WebSockets.

    URLs and headers may have secrets in them, so no exception repeats them.
    """
    try:
        secure = parse_uri(url).secure
    except (InvalidURI, ValueError) as problem:
        why = f" ({problem.msg})" if isinstance(problem, InvalidURI) else ""
        raise ConfigurationError(
            f"The URL is none for WebSockets{why}: connect to a ws:// or wss:// URL."
        ) from None
    if ssl is not None and not secure:
        raise ConfigurationError("The URL is not encrypted: connect to a wss:// URL, or give no `ssl`.")
    given = listed(headers)

    async def dial(token: str | None) -> WebSocketLine:
        headers_to_send = headers_with(given, token)
        loop = asyncio.get_running_loop()
        until = loop.time() + open_timeout

        async def opened(there: str) -> ClientConnection:
            opening = partial(
                _Opening,
                there,
                additional_headers=headers_to_send,
                subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
                proxy=proxy,
                compression=compression,
                open_timeout=until - loop.time(),
                close_timeout=CLOSES_WITHIN,
                max_size=max_size,
                create_connection=_Connection,
            )
            # Only where it is needed: a redirection from ws:// to wss:// makes a context of its own.
            return await (opening() if ssl is None else opening(ssl=ssl))

        there = url
        try:
            for _ in range(MOST_REDIRECTS):
                try:
                    connection = await opened(there)
                    break
                except InvalidStatus as answered:
                    elsewhere = _moved_to(there, answered)
                    if elsewhere is None:
                        raise
                    there = elsewhere
            else:
                raise NotConnected(f"the server redirects more than {MOST_REDIRECTS} times", comes_back=False)
        except InvalidStatus as refused:
            status = refused.response.status_code
            raise NotConnected(
                f"the server answered with HTTP {status}",
                status=status,
                comes_back=status in LATER,
                after=seconds_of(*refused.response.headers.get_all("Retry-After")[:1]),
            ) from refused
        except SSLCertVerificationError as problem:
            raise NotConnected(str(problem), comes_back=False, for_all=True) from problem
        except (OSError, InvalidMessage, ProxyError, ConnectionClosed) as problem:
            # The last one where it was closed before anything could be asked.
            raise NotConnected(str(problem) or type(problem).__name__) from problem
        except InvalidProxy as problem:
            raise NotConnected(f"the proxy's URL is none: {problem.msg}", comes_back=False) from None
        except (InvalidHandshake, InvalidURI, ValueError, ImportError) as problem:
            raise NotConnected(str(problem), comes_back=False) from problem
        return WebSocketLine("wss" if secure else "ws", connection)

    return dial
