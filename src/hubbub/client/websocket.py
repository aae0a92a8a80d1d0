"""A line over a real WebSocket, by the `websockets` library: proxies, TLS and compression are its work."""

import asyncio
from contextlib import suppress
from functools import partial
from ssl import SSLCertVerificationError, SSLContext

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
from .handshake import LATER, Headers, Proxy, headers_with, listed, seconds_of
from .line import Dial, LineLost, NotConnected

CLOSES_WITHIN = 5.0
"""Seconds that the server has to answer the closing handshake."""


class _Connection(ClientConnection):
    def start_keepalive(self) -> None:
        # hubbub's server says something at least every `heartbeat` seconds, and the client watches that.
        # Any other has to be asked.
        if self.subprotocol not in CODECS:
            super().start_keepalive()


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
        try:
            opening = partial(
                connect_websocket,
                url,
                additional_headers=headers_to_send,
                subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
                proxy=proxy,
                compression=compression,
                open_timeout=open_timeout,
                close_timeout=CLOSES_WITHIN,
                max_size=max_size,
                create_connection=_Connection,
            )
            # Only where it is needed: a redirection from ws:// to wss:// makes a context of its own.
            connection = await (opening() if ssl is None else opening(ssl=ssl))
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
