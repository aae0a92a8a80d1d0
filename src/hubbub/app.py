"""Hubbub: declares rooms, messages, endpoints and hooks, wires the parts, and is the ASGI application."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from .brokers import open_broker
from .brokers.base import Broker
from .engine.callback import CONNECTION, Callback, Function, place_of
from .engine.connection import Connection
from .engine.control import ConnectionInfo
from .engine.drain import drain
from .engine.held import Slow
from .engine.hub import Hub
from .engine.lifecycle import Hooks, serve_session
from .engine.pattern import Pattern
from .engine.room import AnyFunction, Room, Rooms
from .engine.router import Router
from .engine.transport import Transport
from .entrance import Entrance
from .errors import CollisionError, ConfigurationError
from .observe.log import fields, logger
from .protocol.codecs import Codec
from .protocol.publications import DEFAULT_AGE, inbox_of
from .serving import Endpoint, Serving, paths_of
from .settings import Settings
from .stopping import Signals
from .transports.admission import Refusal

if TYPE_CHECKING:
    from grpc import aio

    from .transports.grpc import GRPCServer

Hook = TypeVar("Hook", bound=Function)


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
        self._changing = asyncio.Lock()
        self._drain: asyncio.Task[None] | None = None
        self._late = False
        """Whether it was started by a client, since no host did."""
        self.signals = Signals(self._leave) if self.settings.drain_at_signals else None
        """Lets the clients go at a signal; None where the server does, or nobody is to."""
        session = functools.partial(
            serve_session,
            self._hub,
            hooks=self._hooks,
            router=self.router,
            rooms=self.rooms,
            inboxes=self._inboxes,
        )
        self._entrance = Entrance(self._hub, start=self._start_late, session=session)
        self._serving = Serving(
            self._hub,
            self._entrance,
            path,
            rooms=self.rooms,
            inboxes=self._inboxes,
            endpoints=self.endpoints,
            start=self.start,
            stop=self.stop,
        )
        self._namespaces: list[Hubbub] = []
        """The hubs that clients of Socket.IO reach through this one."""

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

    async def disconnect(
        self, *, user: str, reason: str = "Log in again.", login: str | None = None
    ) -> int | None:
        """Close a user's connections, on all instances, with 4401: clients don't come back by themselves.

        `user` is a user's id or a guest's name. With `login`, only those that have it as
        ``connection.state["login"]`` are closed, where `authenticate` put it: one browser's, and not those of
        the user's telephone. The sessions can't be taken up with a token from before. Who connects after
        that, or has no line just now, is for `authenticate` to refuse. `reason` has up to 123 bytes of UTF-8;
        :exc:`ValueError` for a longer one.

        Returns how many connections it closed; None if that is not known, as an instance did not answer
        within 2 s, and perhaps was not reached. Raises :exc:`hubbub.Unavailable` if the broker can't be
        reached; the connections to this instance are closed then.
        """
        if len(reason.encode()) > 123:
            raise ValueError(f"The reason has {len(reason.encode())} bytes; 123 fit into a close frame.")
        return await self._hub.running.users.disconnect(user, reason, login)

    def endpoint(self, path: str) -> Callable[[AnyFunction], AnyFunction]:
        """Serve bare connections to a path with a handler, as with the `websockets` library.

        The handler takes the connection, and the named parts of the path by their names. The connection
        is closed when it returns.
        """

        def declare(handler: AnyFunction) -> AnyFunction:
            pattern = Pattern(path)
            callback = Callback(handler, {Connection: CONNECTION}, pattern.names, any_connection=True)
            self._claim(path, callback.place)
            self.endpoints.append(Endpoint(pattern, callback))
            return handler

        return declare

    def _claim(self, path: str, place: str) -> None:
        """Raise :exc:`CollisionError` if a path can be that of something declared already."""
        pattern = Pattern(path)
        taken = [(endpoint.pattern, endpoint.handler.place) for endpoint in self.endpoints]
        taken.append((Pattern(self.path), "the path of the hub itself"))
        taken += [(Pattern(other), "Socket.IO") for other in self._serving.socketio_paths]
        for other, of in taken:
            if pattern.overlaps(other):
                raise CollisionError(
                    f"A path can be of both {path!r} ({place}) and {other.text!r} ({of}). "
                    "Give one of them another path."
                )

    def socketio(
        self,
        path: str = "/socket.io/",
        *,
        namespaces: "Mapping[str, Hubbub] | None" = None,
        plain: bool = False,
    ) -> None:
        """Serve clients of Socket.IO at a path, under the one where the hub itself is mounted.

        Its namespace ``/`` is this hub. `namespaces` are others, by name, each a hub of its own, which is
        started and stopped with this one. With `plain` clients are sent the application's events alone, with
        its data and nothing behind that: for clients whose handlers take nothing else. They can't recover
        then.

        Raises :exc:`CollisionError` if it was called before or the path is an endpoint's,
        :exc:`ConfigurationError` for a path or a namespace that does not begin with ``/``.
        """
        others = namespaces or {}
        spaces = {name: hub.open_line for name, hub in others.items()}
        if self._serving.socketio is None:
            for one in paths_of(path):
                self._claim(one, "Socket.IO")
        self._serving.add_socketio(path, spaces, plain=plain)
        self._namespaces = [hub for hub in others.values() if hub is not self]
        for hub in self._namespaces:
            hub.signals = None  # this one sees to it
            self._startup.append(hub.start)
            self._shutdown.append(hub.stop)

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
        return self._serving.http_paths

    def add_to_grpc(self, server: "aio.Server", *, health: bool = False) -> None:
        """Add the gRPC service to a server of yours, a ``grpc.aio.Server`` that has not started.

        With `health`, the standard health service too. Both are at home on the event loop on which the hub is
        started. Stop the server after the hub, which tells its clients when to come back. Raises
        :exc:`ConfigurationError` where the package is missing: ``pip install 'hubbub[grpc]'``.
        """
        from .transports import grpc  # the package is optional

        service, answers = self._serving.grpc_services()
        grpc.add(service, answers if health else None, server)

    def grpc_server(self, settings: Settings) -> "GRPCServer":
        """Return a server that listens where `settings` say, by `grpc_port`, in the running event loop.

        Raises :exc:`ConfigurationError` for what can't work, and if the address can't be had.
        """
        from .transports import grpc

        return grpc.GRPCServer(*self._serving.grpc_services(), settings)

    # Running

    @property
    def unready(self) -> str | None:
        """Why it takes no clients now, as ``/readyz`` says it; None if it does."""
        return self._entrance.unready

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
            if self._entrance.started:
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
            if self._serving.socketio is not None:
                self._serving.socketio.start()
            self._entrance.leaving = False
            self._entrance.started = True
            if self.signals is not None:
                self.signals.watch()

    async def stop(self) -> None:
        """Let the clients go, call the shutdown hooks, leave the broker; nothing if it is not started."""
        async with self._changing:
            if not self._entrance.started:
                return
            try:
                await self.drain()
                await self._hub.until_empty()
                if self._serving.socketio is not None:
                    await self._serving.socketio.stop()
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
                    self._entrance.started = False
                    if self.signals is not None:
                        self.signals.leave()

    async def drain(self) -> None:
        """Take no new connections and let the present ones go, within the setting `drain`.

        Called again meanwhile, it waits for that.
        """
        self._entrance.leaving = True
        if self._hub.runs:
            self._hub.running.relay.leave()
        await asyncio.gather(self._let_go(), *(hub.drain() for hub in self._namespaces))

    async def _leave(self) -> None:
        """Let the clients go as a signal stops the server: it is the end where no host tells of one."""
        await (self.stop() if self._late else self.drain())

    async def _let_go(self) -> None:
        if self._drain is None and self._hub.connections:
            self._drain = asyncio.create_task(drain(self._hub, self.settings.drain), name="hubbub: drain")
        if self._drain is None:
            return
        try:
            await self._drain
        finally:
            self._drain = None

    async def _start_late(self) -> None:
        if not self._changing.locked():
            self._late = True
            logger.warning(
                "started without lifespan: shutdown hooks run only where a signal stops the server; give "
                "the host application lifespan=hub.lifespan",
            )
        await self.start()

    # Serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        begun = await self._serving.begin(scope, receive, send)
        if begun is None:
            return
        serving, connection, client = begun
        del begun  # a connection is to hold no more than it needs
        try:
            await serving
        finally:
            if connection is not None:
                self._entrance.leave(connection, client)

    async def open_line(
        self, scope: Scope, transport: Transport, codec: Codec, subprotocol: str | None = None
    ) -> Coroutine[object, object, None] | Refusal:
        """Let a client in over a line that is no WebSocket (:class:`..transports.admission.OpenLine`)."""
        return await self._entrance.open_line(scope, transport, codec, subprotocol)


async def _call(hook: Function) -> None:
    if inspect.iscoroutinefunction(hook):
        await hook()
    else:
        await anyio.to_thread.run_sync(hook)
