"""Serving: who answers an ASGI scope, or what serves the line that it opens."""

import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.routing import Router as HTTPRouter
from starlette.types import Receive, Scope, Send

from .engine.callback import Callback
from .engine.connection import Connection
from .engine.hub import Hub
from .engine.lifecycle import serve_endpoint
from .engine.pattern import Pattern
from .engine.room import Rooms
from .entrance import Entrance, refuse, turn_away
from .errors import CollisionError, ConfigurationError
from .protocol.codecs import negotiate
from .transports.admission import RESTARTS, OpenLine, Refusal
from .transports.daphne import response_under_daphne, under_daphne
from .transports.http_lines.endpoint import HTTPLines
from .transports.publish import PublishEndpoint
from .transports.socketio.server import SocketIO

if TYPE_CHECKING:
    from .transports.grpc import Health, Service


@dataclass(frozen=True)
class Endpoint:
    """A path and the handler of the bare connections to it."""

    pattern: Pattern
    handler: Callback


class Begun(NamedTuple):
    """What serves a scope, to be awaited at once.

    Of a WebSocket, also who leaves the entrance after that: the connection, and the address it counts for.
    """

    serving: Coroutine[object, object, None]
    connection: Connection | None = None
    client: str | None = None


class Serving:
    """Finds who answers a scope.

    At `path` are the clients of the protocol, over WebSockets and HTTP lines. `rooms` and `endpoints` may
    still be added to; `inboxes` are the users'. `start` and `stop` are for the scope of the lifespan.
    """

    def __init__(
        self,
        hub: Hub,
        entrance: Entrance,
        path: str,
        *,
        rooms: Sequence[Rooms],
        inboxes: Rooms,
        endpoints: Sequence[Endpoint],
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._entrance = entrance
        self._path = path
        self._endpoints = endpoints
        self._start, self._stop = start, stop
        self.socketio: SocketIO | None = None
        """What speaks Socket.IO, if that is served."""
        self.socketio_paths: tuple[str, ...] = ()
        """Where that is."""
        self._publish = PublishEndpoint(
            hub,
            rooms,
            inboxes,
            hub.settings,
            ready=entrance.ready,
            refused=lambda refusal, request: entrance.log(refusal, request.scope),
        )
        self._lines = HTTPLines(
            hub.lines,
            hub.settings,
            open_line=entrance.open_line,
            access=entrance.access,
            refusal=lambda scope: entrance.refusal(scope, line=True),
            ready=entrance.ready,
            readers=entrance.readers,
            writers=entrance.writers,
        )
        self._http = HTTPRouter(
            [Route("/healthz", self._healthz), Route("/readyz", self._readyz), *self._publish.routes]
        )

    @property
    def http_paths(self) -> list[str]:
        """What is answered over HTTP, but for lines."""
        return [route.path for route in self._http.routes if isinstance(route, Route)]

    def add_socketio(self, path: str, others: Mapping[str, OpenLine], *, plain: bool) -> None:
        """Serve Socket.IO at a path: the hub in the namespace ``/``, and `others` by name.

        Raises :exc:`CollisionError` and :exc:`ConfigurationError` for what can't be.
        """
        for name in (path, *others):
            if not name.startswith("/"):
                raise ConfigurationError(f"{name!r} begins with no slash: write {'/' + name!r}.")
        if "/" in others or any("," in name or "?" in name for name in others):
            raise ConfigurationError(
                "The namespace / is the hub itself; no name has a comma or a question mark."
            )
        if self.socketio is not None:
            raise CollisionError(f"The hub serves Socket.IO at {self.socketio_paths[1]} already.")
        entrance = self._entrance
        self.socketio_paths = paths_of(path)
        self.socketio = SocketIO(
            {"/": entrance.open_line, **others},
            self._hub.settings,
            plain=plain,
            refusal=lambda scope: entrance.refusal(scope, line=True),
            full=entrance.full,
            websocket=entrance.websocket,
            cross_origin=entrance.access.answer_headers,
            lines=self._hub.lines,
            ready=entrance.ready,
        )

    def grpc_services(self) -> "tuple[Service, Health]":
        """Return what speaks gRPC; :exc:`ConfigurationError` where the package is missing."""
        from .transports import grpc  # the package is optional

        entrance = self._entrance
        publish = self._publish.outcome if self._publish.routes else None
        return grpc.services(
            entrance.open_line, self._hub.settings, lambda: entrance.unready is None, publish
        )

    async def begin(self, scope: Scope, receive: Receive, send: Send) -> Begun | None:
        """Return what serves a scope; None if it was answered already.

        What serves it is not awaited here: an idle connection is to hold no more frames than it needs.
        """
        kind = scope["type"]
        if kind == "lifespan":
            return Begun(self._lifespan(receive, send))
        if kind == "websocket":
            send = under_daphne(scope, send) or send
        if self.socketio is not None and _path_of(scope) in self.socketio_paths:
            return Begun(self.socketio(scope, receive, send))
        refusal = self._entrance.refusal(scope)
        if refusal is None:
            if kind == "websocket":
                return await self._websocket(scope, receive, send)
            return self._request(scope, receive, send)
        if kind == "websocket":
            await turn_away(refusal, scope, send)
        else:
            await PlainTextResponse(refusal.sentence + "\n", refusal.status)(scope, receive, send)
        return None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except ConfigurationError as problem:
            # It is a sentence already; a traceback would hide it.
            await send({"type": "lifespan.startup.failed", "message": str(problem)})
            return
        except Exception:
            # A server that is only told by the exception may take it for an application without lifespan.
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    # WebSockets

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> Begun | None:
        entrance = self._entrance
        path = _path_of(scope)
        found = None if path == self._path else self._endpoint(path)
        if path != self._path and found is None:
            await refuse(scope, send, 404, f"There is no WebSocket at {path}.\n")
            return None
        if not await entrance.ready():
            await turn_away(RESTARTS, scope, send)
            return None
        codec, subprotocol = (None, None) if found is not None else negotiate(scope["subprotocols"])
        transport, opened = entrance.websocket(scope, receive, send)
        admitted = entrance.admit(scope, transport, codec, opened)
        if isinstance(admitted, Refusal):
            await turn_away(admitted, scope, send)
            return None
        connection, client = admitted
        if found is not None:
            return Begun(serve_endpoint(self._hub, connection, *found), connection, client)
        return Begun(entrance.session(connection, subprotocol), connection, client)

    def _endpoint(self, path: str) -> tuple[Callback, tuple[str, ...]] | None:
        for endpoint in self._endpoints:
            values = endpoint.pattern.match(path)
            if values is not None and endpoint.handler.fits(values):
                return endpoint.handler, values
        return None

    # Requests

    def _request(self, scope: Scope, receive: Receive, send: Send) -> Begun:
        answer = self._lines if _path_of(scope) == self._path else self._http
        response = response_under_daphne(scope, send)
        if response is not None:
            return Begun(response.carry(answer(scope, receive, response)))
        return Begun(answer(scope, receive, send))

    async def _healthz(self, request: Request) -> PlainTextResponse:  # noqa: ARG002
        return PlainTextResponse("alive\n")

    async def _readyz(self, request: Request) -> PlainTextResponse:  # noqa: ARG002
        # Who is sent no clients before it is ready would never be started by one.
        await self._entrance.ready()
        unready = self._entrance.unready
        return PlainTextResponse(f"not ready: {unready}\n", 503) if unready else PlainTextResponse("ready\n")


def _path_of(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", "")) or "/"


def paths_of(path: str) -> tuple[str, str]:
    """Return a path without and with a slash in the end: both are the same to clients of Socket.IO."""
    bare = path.rstrip("/")
    return bare, f"{bare}/"
