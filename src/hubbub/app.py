"""Hubbub: declares rooms, messages, endpoints and hooks, wires the parts, and is the ASGI application."""

import asyncio
import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio.to_thread
from starlette.requests import Request as HTTPRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.routing import Router as HTTPRouter
from starlette.types import Receive, Scope, Send

from .brokers import open_broker
from .brokers.base import Broker
from .engine.callback import CONNECTION, Callback, Function, place_of
from .engine.connection import Connection
from .engine.control import ConnectionInfo
from .engine.drain import drain
from .engine.held import Slow
from .engine.hub import Hub
from .engine.lifecycle import Hooks, serve_endpoint, serve_session
from .engine.pattern import Pattern
from .engine.room import AnyFunction, Room, Rooms
from .engine.router import Router
from .entrance import Entrance, refuse, turn_away
from .errors import CollisionError, ConfigurationError
from .observe.log import fields, logger
from .protocol.codecs import negotiate
from .protocol.publications import DEFAULT_AGE, inbox_of
from .settings import Settings
from .transports.publish import PublishEndpoint

Hook = TypeVar("Hook", bound=Function)


@dataclass(frozen=True)
class Endpoint:
    """A path and the handler of the bare connections to it."""

    pattern: Pattern
    handler: Callback


class Hubbub:
    """The application.

    >>> hub = Hubbub()
    >>> chat = hub.room("chat/{name}", history=200)

    `path` is where clients of the protocol connect. `settings` are overridden by the environment
    (:class:`Settings`). `broker` is a broker object of your own, used instead of the one that the setting
    of that name says.
    """

    def __init__(
        self, settings: Settings | None = None, *, path: str = "/", broker: Broker | None = None
    ) -> None:
        self.settings = Settings.load(settings)
        self.path = path
        self.rooms: list[Rooms] = []
        self.endpoints: list[Endpoint] = []
        self.router = Router("the hub", {Connection: CONNECTION})
        self.broker = broker
        """The broker object that it was given; None if the setting names it."""
        self._hub = Hub(self.settings)
        self._entrance = Entrance(self._hub)
        self._hooks = Hooks()
        self._inboxes = Rooms(
            self._hub,
            inbox_of("{user}"),
            history=self.settings.inbox_history,
            history_age=DEFAULT_AGE,
            presence=False,
            place="hubbub itself",
        )
        self._startup: list[Function] = []
        self._shutdown: list[Function] = []
        self._started = False
        self._draining = False
        self._changing = asyncio.Lock()
        publish = PublishEndpoint(
            self._hub,
            self.rooms,
            self._inboxes,
            self.settings,
            ready=self._takes_messages,
            refused=lambda refusal, request: self._entrance.log(refusal, request.scope),
        )
        self._http = HTTPRouter(
            [Route("/healthz", self._healthz), Route("/readyz", self._readyz), *publish.routes]
        )

    # Declaring

    def room(
        self,
        pattern: str,
        *,
        history: int = 0,
        history_age: float = DEFAULT_AGE,
        presence: bool = False,
        slow: Slow = "disconnect",
        bans: bool = False,
    ) -> Rooms:
        """Declare the rooms whose name is of a pattern: ``"chat/{name}"``. Clients can join no others.

        `history` messages are kept for those who come later or come back, none for longer than
        `history_age` seconds. With `presence`, members see who is there. A member that reads too `slow` is
        disconnected and comes back for what it missed, or with ``"drop"`` loses the oldest messages, or with
        ``"conflate"`` is sent only the newest of the messages with the same key. With `bans`, users can be
        banned (:meth:`Room.ban`); each join asks the broker once more then.

        Raises :exc:`CollisionError` if a name could be of two patterns.
        """
        caller = inspect.stack(context=0)[1]
        place = f"{caller.filename}:{caller.lineno}"
        if pattern.startswith("$"):
            raise ConfigurationError(
                f"The rooms {pattern!r}: names that start with $ are the protocol's own."
            )
        declared = Rooms(
            self._hub,
            pattern,
            history=history,
            history_age=history_age,
            presence=presence,
            place=place,
            slow=slow,
            bans=bans,
        )
        for other in self.rooms:
            if declared.pattern.overlaps(other.pattern):
                raise CollisionError(
                    f"A name can be of both {pattern!r} ({place}) and {other.pattern.text!r} "
                    f"({other.place}). "
                    "Make the patterns differ in a part that has no braces."
                )
        self.rooms.append(declared)
        return declared

    def user(self, user: str) -> Room:
        """Return a user's inbox: a room with history that all their connections are in."""
        return Room(self._hub, self._inboxes, inbox_of(user))

    async def connections(self, *, user: str) -> list[ConnectionInfo]:
        """Return a user's connections, on all instances, the oldest first.

        `user` is a user's id or a guest's name. An instance tells 1000 of them at the most. One that did not
        answer within 2 s is logged, and its connections are missing. Raises :exc:`hubbub.Unavailable` if the
        broker can't be reached.
        """
        return await self._hub.running.users.connections(user)

    async def disconnect(self, *, user: str, reason: str = "Log in again.") -> int | None:
        """Close a user's connections, on all instances, with 4401: clients don't come back by themselves.

        `user` is a user's id or a guest's name. The sessions can't be taken up with a token from before. Who
        connects after that, or has no line just now, is for `authenticate` to refuse. `reason` has up to 123
        bytes of UTF-8; :exc:`ValueError` for a longer one.

        Returns how many connections it closed; None if that is not known, as an instance did not answer
        within 2 s, and perhaps was not reached. Raises :exc:`hubbub.Unavailable` if the broker can't be
        reached; the connections to this instance are closed then.
        """
        if len(reason.encode()) > 123:
            raise ValueError(f"The reason has {len(reason.encode())} bytes; 123 fit into a close frame.")
        return await self._hub.running.users.disconnect(user, reason)

    def endpoint(self, path: str) -> Callable[[AnyFunction], AnyFunction]:
        """Serve bare connections to a path with a handler, as with the `websockets` library.

        The handler takes the connection, and the named parts of the path by their names. The connection
        is closed when it returns.
        """

        def declare(handler: AnyFunction) -> AnyFunction:
            pattern = Pattern(path)
            callback = Callback(handler, {Connection: CONNECTION}, pattern.names, any_connection=True)
            taken = [(other.pattern, other.handler.place) for other in self.endpoints]
            for other, place in [*taken, (Pattern(self.path), "the path of the hub itself")]:
                if pattern.overlaps(other):
                    raise CollisionError(
                        f"A path can be of both {path!r} ({callback.place}) and {other.text!r} ({place}). "
                        "Give one of them another path."
                    )
            self.endpoints.append(Endpoint(pattern, callback))
            return handler

        return declare

    def on_message(self, handler: AnyFunction) -> AnyFunction:
        """Handle messages that are sent to no room, of the class that one parameter is annotated with."""
        self.router.add(handler)
        return handler

    def authenticate(self, hook: Hook) -> Hook:
        """Ask it who a connection is: it returns the user's id, or None for a guest, or raises `Denied`."""
        self._hooks.authenticate = self._hook(hook, self._hooks.authenticate, "authenticate")
        return hook

    def on_connect(self, hook: Hook) -> Hook:
        """Call it when a client is connected and logged in; raise `Denied` to refuse it."""
        self._hooks.connect = self._hook(hook, self._hooks.connect, "on_connect")
        return hook

    def on_disconnect(self, hook: Hook) -> Hook:
        """Call it, whatever happened, after a client's connection ended."""
        self._hooks.disconnect = self._hook(hook, self._hooks.disconnect, "on_disconnect")
        return hook

    def on_startup(self, hook: Hook) -> Hook:
        """Call it, without arguments, before the first connection."""
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Call it, without arguments, after the last connection."""
        self._shutdown.append(hook)
        return hook

    def _hook(self, hook: Function, present: Callback | None, kind: str) -> Callback:
        callback = Callback(hook, {Connection: CONNECTION})
        if present is not None:
            raise CollisionError(
                f"There are two {kind} hooks: {present.place} and {callback.place}. Make it one."
            )
        return callback

    @property
    def http_paths(self) -> list[str]:
        """What is answered over HTTP: health checks, and publishing if there are API keys."""
        return [route.path for route in self._http.routes if isinstance(route, Route)]

    # Running

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002
        """Run the hub while the body runs. A host application takes it as its `lifespan`."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    async def start(self) -> None:
        """Connect to the broker and call the startup hooks; nothing if it is done already."""
        async with self._changing:
            if self._started:
                return
            broker = self.broker or open_broker(self.settings)
            shares = self.rooms or self._hooks.authenticate is not None
            if self.settings.workers > 1 and shares and not broker.guarantees.shared:
                raise ConfigurationError(
                    f"{self.settings.workers} workers would each have rooms of their own, and users: "
                    "their broker is one process's. Use one worker, or a broker that processes share."
                )
            await self._hub.start(broker)
            try:
                for hook in self._startup:
                    await _call(hook)
            except BaseException:
                await self._hub.stop()
                raise
            self._draining = False
            self._started = True

    async def stop(self) -> None:
        """Let the clients go, call the shutdown hooks, leave the broker; nothing if it is not started."""
        async with self._changing:
            if not self._started:
                return
            try:
                await self.drain()
                await self._hub.until_empty()
                for hook in reversed(self._shutdown):
                    try:
                        await _call(hook)
                    except Exception:
                        # The other hooks and the broker have something to give back too.
                        logger.exception("error", extra=fields(during="shutdown", hook=place_of(hook)))
            finally:
                try:
                    await self._hub.stop()
                finally:
                    self._started = False

    async def drain(self) -> None:
        """Take no new connections and let the present ones go, within the setting `drain`."""
        self._draining = True
        if self._hub.connections:
            await drain(self._hub, self.settings.drain)

    # Serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "websocket":
            admitted = await self._admit(scope, receive, send)
            if admitted is not None:
                connection, client, serving = admitted
                del admitted  # a connection is to hold no more than it needs
                try:
                    await serving
                finally:
                    self._entrance.leave(connection, client)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            refusal = self._entrance.refusal(scope)
            if refusal is not None:
                answer = PlainTextResponse(refusal.sentence + "\n", refusal.status)
                await answer(scope, receive, send)
                return
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
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
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Connection, str | None, Coroutine[object, object, None]] | None:
        """Return a connection that may be here, the address it counts for and what serves it; or refuse it.

        What serves it is not awaited here: an idle connection is to hold no more frames than it needs.
        """
        entrance = self._entrance
        refusal = entrance.refusal(scope)
        if refusal is not None:
            await turn_away(refusal, scope, send)
            return None
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        found = None if path == self.path else self._endpoint(path)
        if path != self.path and found is None:
            await refuse(scope, send, 404, f"There is no WebSocket at {path}.\n")
            return None
        if self._draining:
            await refuse(scope, send, 503, "The server restarts; come back in a moment.\n")
            return None
        await self._start_late()
        codec, subprotocol = (None, None) if found is not None else negotiate(scope["subprotocols"])
        admitted = await entrance.admit(scope, receive, send, codec)
        if admitted is None:
            return None
        connection, client = admitted
        if found is not None:
            return connection, client, serve_endpoint(self._hub, connection, *found)
        return (
            connection,
            client,
            serve_session(
                self._hub,
                connection,
                subprotocol,
                hooks=self._hooks,
                router=self.router,
                rooms=self.rooms,
                inboxes=self._inboxes,
            ),
        )

    def _endpoint(self, path: str) -> tuple[Callback, tuple[str, ...]] | None:
        for endpoint in self.endpoints:
            values = endpoint.pattern.match(path)
            if values is not None and endpoint.handler.fits(values):
                return endpoint.handler, values
        return None

    async def _start_late(self) -> None:
        if not self._started:
            if not self._changing.locked():
                logger.warning(
                    "started without lifespan: shutdown hooks won't run; give the host application "
                    "lifespan=hub.lifespan",
                )
            await self.start()

    async def _takes_messages(self) -> bool:
        if not self._draining:
            await self._start_late()
        return not self._draining

    async def _healthz(self, request: HTTPRequest) -> PlainTextResponse:  # noqa: ARG002
        return PlainTextResponse("alive\n")

    async def _readyz(self, request: HTTPRequest) -> PlainTextResponse:  # noqa: ARG002
        if not self._started:
            return PlainTextResponse("not ready: it has not started\n", 503)
        if self._draining:
            return PlainTextResponse("not ready: it is about to stop\n", 503)
        if not self._hub.running.broker.available:
            return PlainTextResponse("not ready: the broker can't be reached\n", 503)
        return PlainTextResponse("ready\n")


async def _call(hook: Function) -> None:
    if inspect.iscoroutinefunction(hook):
        await hook()
    else:
        await anyio.to_thread.run_sync(hook)
