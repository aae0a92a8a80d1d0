"""aiohttp: a hub in a ``web.Application``, on its event loop.

>>> app = web.Application()
>>> setup(app, hub, path="/live")
"""

import asyncio
from contextlib import suppress

from ..app import Hubbub
from ..errors import ConfigurationError
from ..transports.streamed import die_after
from .bridge import (
    Headers,
    HTTPExchange,
    WebSocketExchange,
    gone,
    keepalive_of,
    phrase,
    scope_of,
    texts_of,
)

try:
    from aiohttp import ClientConnectionResetError, WSMessage, WSMsgType, web
except ImportError:
    raise ConfigurationError("aiohttp is not installed: pip install 'hubbub[http]'.") from None

from starlette.types import Message

PIECE = 65536
"""Bytes of a request's body that are handed on at a time."""


def setup(app: web.Application, hub: Hubbub, *, path: str = "") -> None:
    """Serve a hub under a path of an application, which starts, drains and stops it.

    All kinds of lines are at `path`, as are the hub's endpoints and probes below it: ``/live/readyz``. It is
    the path in `app`: for a sub-application, below that one's prefix.
    """
    root = path.rstrip("/")

    async def start(_: web.Application) -> None:
        await hub.start()

    async def drain(_: web.Application) -> None:
        await hub.drain()

    async def stop(_: web.Application) -> None:
        await hub.stop()

    async def serve(request: web.Request) -> web.StreamResponse:
        below = request.match_info.get("below")
        return await _serve(
            hub, request, request.path if below is None else request.path.removesuffix(f"/{below}")
        )

    app.on_startup.append(start)
    app.on_shutdown.append(drain)
    app.on_cleanup.append(stop)
    if root:
        app.router.add_route("*", root, serve)
    app.router.add_route("*", root + "/{below:.*}", serve)


async def _serve(hub: Hubbub, request: web.Request, root: str) -> web.StreamResponse:
    peer = request.get_extra_info("peername")
    upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    scope = scope_of(
        "websocket" if upgrade else "http",
        method=request.method,
        target=request.raw_path,
        headers=[(name.lower(), value) for name, value in request.raw_headers],
        secure=request.secure,
        client=(peer[0], peer[1]) if isinstance(peer, tuple) else None,
        root_path=root,
    )
    exchange: _WebSocket | _HTTP
    if upgrade:
        exchange = _WebSocket(request, hub)
    else:
        exchange = _HTTP(request)
        scope["extensions"] = exchange.extensions
    try:
        await hub(scope, exchange.receive, exchange.send)
    finally:
        exchange.leave()
    return exchange.response or web.Response(status=500)


class _HTTP(HTTPExchange):
    def __init__(self, request: web.Request) -> None:
        super().__init__()
        self._request = request
        self._body_read = False
        self._left = asyncio.Event()
        self.response: web.StreamResponse | None = None

    async def receive(self) -> Message:
        if not self._body_read:
            body = await self._request.content.read(PIECE)
            self._body_read = self._request.content.at_eof()
            return {"type": "http.request", "body": body, "more_body": not self._body_read}
        # aiohttp tells a handler of a lost client by its cancellation, where it is set to, or as it writes.
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def respond(self, status: int, headers: Headers) -> None:
        self.response = web.StreamResponse(status=status, reason=phrase(status))
        for name, value in texts_of(headers, without=b"transfer-encoding"):
            self.response.headers.add(name, value)
        await self.response.prepare(self._request)

    async def write(self, data: bytes, *, last: bool) -> None:
        assert self.response is not None
        try:
            if data:
                await self.response.write(data)
            if last:
                await self.response.write_eof()
        except ClientConnectionResetError:
            self._left.set()
            raise

    def cut(self) -> None:
        self._left.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    def die_after(self, seconds: float) -> None:
        die_after(self._request.get_extra_info("socket"), seconds)

    def leave(self) -> None:
        """Cut an answer that the application did not finish; the application's wait for its end is over."""
        self._left.set()
        super().leave()


class _WebSocket(WebSocketExchange):
    def __init__(self, request: web.Request, hub: Hubbub) -> None:
        super().__init__()
        self._request = request
        self._settings = hub.settings
        self._keepalive = keepalive_of(hub)
        self._pinging: asyncio.Task[None] | None = None
        self._reading = False
        self._connected = False
        self._closed: asyncio.Event | None = None
        self.response: web.StreamResponse | None = None
        self._websocket: web.WebSocketResponse | None = None

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        websocket = self._websocket
        if websocket is None:
            return gone(None, None)
        if self._closed is not None:
            # The client's part of it is read by `close`.
            await self._closed.wait()
        message = await self._receive(websocket)
        if message.type is WSMsgType.TEXT:
            return {"type": "websocket.receive", "text": message.data}
        if message.type is WSMsgType.BINARY:
            return {"type": "websocket.receive", "bytes": message.data}
        reason = message.extra if message.type is WSMsgType.CLOSE else None
        return gone(websocket.close_code, reason)

    async def _receive(self, websocket: web.WebSocketResponse) -> WSMessage:
        """Return the next message that is neither a ping, which is answered, nor a pong."""
        self._reading = True
        try:
            while True:
                message = await websocket.receive()
                self.signs += 1
                if message.type is WSMsgType.PING:
                    # Who is gone is told by the next that is received.
                    with suppress(OSError):
                        await websocket.pong(message.data)
                elif message.type is not WSMsgType.PONG:
                    return message
        finally:
            self._reading = False

    @property
    def reading(self) -> bool:
        return self._reading

    def ping(self) -> None:
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.create_task(self._ping(), name="hubbub: ping")

    async def _ping(self) -> None:
        assert self._websocket is not None
        with suppress(OSError):
            await self._websocket.ping()

    def silent(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        websocket = web.WebSocketResponse(
            protocols=() if subprotocol is None else (subprotocol,),
            # The hub pings, since aiohttp gives half as long to answer as between pings.
            autoping=False,
            timeout=self._settings.close_timeout,
            max_msg_size=self._settings.max_message,
            # Each connection would have a compressor of its own.
            compress=False,
        )
        for name, value in texts_of(headers):
            websocket.headers.add(name, value)
        try:
            await websocket.prepare(self._request)
        except web.HTTPException as refused:
            # It is no handshake that aiohttp understands.
            self.response = web.Response(status=refused.status, text=refused.text)
            raise ConnectionResetError("The client opened no WebSocket.") from refused
        self._websocket = self.response = websocket
        self._keepalive.watch(self)

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self.response = web.Response(
            status=status,
            reason=phrase(status),
            body=body,
            headers=texts_of(headers),
        )

    async def write(self, message: str | bytes) -> None:
        assert self._websocket is not None
        if isinstance(message, str):
            await self._websocket.send_str(message)
        else:
            await self._websocket.send_bytes(message)

    async def close(self, code: int, reason: str) -> None:
        assert self._websocket is not None
        self._closed = asyncio.Event()
        try:
            await self._websocket.close(code=code, message=reason.encode())
        finally:
            self._closed.set()

    def leave(self) -> None:
        """Cut a line that the application left open."""
        self._keepalive.forget(self)
        if self._pinging is not None:
            self._pinging.cancel()
        if self._websocket is not None and not self._websocket.closed:
            transport = self._request.transport
            if transport is not None:
                transport.abort()
