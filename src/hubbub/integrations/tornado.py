"""Tornado: a hub in an existing ``Application``, on its event loop.

>>> app = tornado.web.Application([*routes(hub, "/live"), (r"/", Page)])
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from typing import cast

from starlette.types import Message

from ..app import Hubbub
from ..errors import ConfigurationError
from ..transports.streamed import die_after
from .bridge import (
    Arrivals,
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
    from tornado import iostream, web
    from tornado.http1connection import HTTP1Connection
    from tornado.websocket import WebSocketClosedError, WebSocketHandler
except ImportError:
    raise ConfigurationError("Tornado is not installed: pip install 'hubbub[tornado]'.") from None

Rule = tuple[str, type["HubHandler"], dict[str, object]]


def routes(hub: Hubbub, path: str = "") -> list[Rule]:
    """Return what has an ``Application`` serve a hub under a path.

    All kinds of lines are at `path`, as are the hub's endpoints and probes below it: ``/live/readyz``. The
    hub is started and stopped by ``async with hub.lifespan()`` around the program.
    """
    root = path.rstrip("/")
    return [(f"{root}(?:/.*)?", HubHandler, {"hub": hub, "root_path": root})]


@web.stream_request_body
class HubHandler(WebSocketHandler):
    """WebSockets and HTTP requests of a hub; :func:`routes` puts it into an application.

    Which pages may connect is the hub's setting `allowed_origins`; the limits are the hub's as well.
    """

    def initialize(self, hub: Hubbub, root_path: str = "") -> None:
        """Take what the route says."""
        self.hub = hub
        self.root_path = root_path
        self._body: list[bytes] = []
        self._size = 0
        self._line: _HTTP | _WebSocket | None = None

    # What Tornado asks

    @property
    def ping_interval(self) -> float:
        """Nothing: the hub pings, since Tornado gives no longer to answer than between pings."""
        return 0

    @property
    def max_message_size(self) -> int:
        """Bytes of the largest message: the hub's setting."""
        return self.hub.settings.max_message

    def check_origin(self, origin: str) -> bool:  # noqa: ARG002
        """Leave it to the hub, which is asked before anything else."""
        return True

    def check_trusted_origin(self, origin: str) -> bool:  # noqa: ARG002
        """Leave it to the hub."""
        return True

    def check_xsrf_cookie(self) -> None:
        """Leave it to the hub: its clients show a line's secret, or an API key."""

    def compute_etag(self) -> None:
        """Let responses be what the hub says."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:  # noqa: ARG002
        """Return the one that the hub took."""
        return self._line.subprotocol if isinstance(self._line, _WebSocket) else None

    def data_received(self, chunk: bytes) -> None:
        """Keep the body, as far as the hub takes one of that size: it refuses what is larger."""
        settings = self.hub.settings
        room = max(settings.max_message, settings.max_batch_bytes) + 1 - self._size
        if room > 0:
            self._body.append(chunk[:room])
            self._size += len(self._body[-1])

    def open(self, *_: str, **__: str) -> None:
        """Take that the handshake is done."""
        if isinstance(self._line, _WebSocket):
            self._line.opened()

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Hand a message on; Tornado reads the next one when that is done."""
        kind = "text" if isinstance(message, str) else "bytes"
        assert isinstance(self._line, _WebSocket)
        return self._line.arrived({"type": "websocket.receive", kind: message})

    def on_ping(self, data: bytes) -> None:  # noqa: ARG002
        """Take a sign of life."""
        if isinstance(self._line, _WebSocket):
            self._line.signs += 1

    on_pong = on_ping

    def on_close(self) -> None:
        """Take that the WebSocket has ended."""
        if isinstance(self._line, _WebSocket):
            self._line.ended(self.close_code, self.close_reason)

    def on_connection_close(self) -> None:
        """Take that the client is gone."""
        if isinstance(self._line, _HTTP):
            self._line.arrivals.end({"type": "http.disconnect"})
        super().on_connection_close()

    async def get(self, *args: str, **kwargs: str) -> None:
        """Serve a request, which may open a WebSocket."""
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await self._serve_websocket(*args, **kwargs)
        else:
            await self._serve()

    async def _serve(self, *_: str, **__: str) -> None:
        line = self._line = _HTTP(self)
        await line.arrivals.put({"type": "http.request", "body": b"".join(self._body), "more_body": False})
        self._body.clear()
        scope = {**self._scope("http"), "extensions": line.extensions}
        try:
            await self.hub(scope, line.arrivals.take, line.send)
        finally:
            line.leave()

    head = post = delete = patch = put = options = _serve

    async def _serve_websocket(self, *args: str, **kwargs: str) -> None:
        line = self._line = _WebSocket(self)
        await line.arrivals.put({"type": "websocket.connect"})
        serving = asyncio.create_task(
            self.hub(self._scope("websocket"), line.arrivals.take, line.send), name="hubbub: connection"
        )
        try:
            await asyncio.wait((serving, line.decided), return_when=asyncio.FIRST_COMPLETED)
            if line.decided.done() and line.decided.result():
                serving.add_done_callback(line.cut)
                await super().get(*args, **kwargs)
        finally:
            line.ended(self.close_code, self.close_reason)
            await serving

    def _scope(self, kind: str) -> dict[str, object]:
        request = self.request
        address = getattr(getattr(request.connection, "context", None), "address", None)
        return dict(
            scope_of(
                "websocket" if kind == "websocket" else "http",
                method=request.method or "GET",
                target=request.uri or "/",
                headers=[
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in request.headers.get_all()
                ],
                secure=request.protocol == "https",
                # As Tornado says, which with `xheaders` believes the proxy before it.
                client=(str(request.remote_ip), address[1]) if isinstance(address, tuple) else None,
                root_path=self.root_path,
            )
        )


class _HTTP(HTTPExchange):
    def __init__(self, handler: HubHandler) -> None:
        super().__init__()
        self._handler = handler
        connection = cast(HTTP1Connection, handler.request.connection)
        self._stream: iostream.IOStream = connection.stream
        self.arrivals = Arrivals()

    async def respond(self, status: int, headers: Headers) -> None:
        _begin(self._handler, status, headers)

    async def write(self, data: bytes, *, last: bool) -> None:
        # Raises StreamClosedError, which is an OSError, if the client is gone.
        if data:
            self._handler.write(data)
        await (self._handler.finish() if last else self._handler.flush())

    def cut(self) -> None:
        self._stream.close()

    def die_after(self, seconds: float) -> None:
        die_after(self._stream.socket, seconds)


class _WebSocket(WebSocketExchange):
    def __init__(self, handler: HubHandler) -> None:
        super().__init__()
        self._handler = handler
        self._opened = asyncio.Event()
        self._over = False
        self._reading = True
        self._keepalive = keepalive_of(handler.hub)
        self._stream: iostream.IOStream | None = None
        self.arrivals = Arrivals()
        self.subprotocol: str | None = None
        self.decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the client was accepted."""

    def opened(self) -> None:
        connection = self._handler.ws_connection
        self._stream = None if connection is None else connection.stream
        self._opened.set()
        self._keepalive.watch(self)

    async def arrived(self, message: Message) -> None:
        self.signs += 1
        self._reading = False
        try:
            await self.arrivals.put(message)
        finally:
            self._reading = True

    @property
    def reading(self) -> bool:
        return self._reading

    def ping(self) -> None:
        # The end is told by `on_close`.
        with suppress(WebSocketClosedError, iostream.StreamClosedError):
            self._handler.ping(b"")

    def silent(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def ended(self, code: int | None, reason: str | None) -> None:
        self._over = True
        self._keepalive.forget(self)
        self.arrivals.end(gone(code, reason))
        self._opened.set()

    def cut(self, _: object) -> None:
        """Cut a line that the application left open."""
        if self.open and self._stream is not None:
            self._stream.close()

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        self.subprotocol = subprotocol
        for name, value in texts_of(headers):
            self._handler.add_header(name, value)
        self.decided.set_result(True)
        await self._opened.wait()
        if self._over:
            raise ConnectionResetError("The client is gone.")

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        _begin(self._handler, status, headers)
        self._handler.write(body)
        await self._handler.finish()
        self.decided.set_result(False)

    async def write(self, message: str | bytes) -> None:
        try:
            await self._handler.write_message(message, binary=isinstance(message, bytes))
        except (WebSocketClosedError, iostream.StreamClosedError) as problem:
            raise ConnectionResetError("The client is gone.") from problem

    async def close(self, code: int, reason: str) -> None:
        self._handler.close(code, reason)


def _begin(handler: HubHandler, status: int, headers: Headers) -> None:
    handler.set_status(status, phrase(status))
    handler.clear_header("Content-Type")
    for name, value in texts_of(headers, without=b"transfer-encoding"):
        handler.add_header(name, value)
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        handler.clear_header("Content-Length")
