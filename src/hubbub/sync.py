"""The client for scripts and threads: the same names as :mod:`hubbub.client`, in methods that block.

>>> with hubbub.sync.connect("ws://localhost:8000", messages=[Say]) as client:
...     room = client.join("chat/lobby")
...     room.send(Say(text="hi"))
...     for event in room: ...

Each client runs the asynchronous one on an event loop in a thread of its own. So it answers heartbeats and
comes back while the program does something else. Its methods may be called from any thread. A method that
has not done its work after `timeout` seconds raises :exc:`TimeoutError`; with None it waits for ever.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TypedDict, TypeVar, Unpack, overload

from . import client as asynchronous
from .client import Event, History, RoomEvent, StateChange
from .client.backoff import Waits
from .client.returning import Token
from .client.websocket import Headers, Proxy, TLSContext
from .errors import ClientError
from .protocol.envelope import Member, Position
from .protocol.messages import Sendable

Own = TypeVar("Own", bound="Client")
Reply = TypeVar("Reply")
Result = TypeVar("Result")

CLOSED = "The client is closed, or was not entered in this process: use it in a `with` block."

TIMEOUT = 10.0
"""Seconds that a method may take if nothing else is said."""


class Options(TypedDict, total=False):
    """The parameters of :func:`hubbub.connect`."""

    token: Token
    messages: Sequence[type]
    subprotocol: str | None
    backoff: Waits
    outbox: int
    inbox: int
    headers: Headers | None
    ssl: TLSContext | None
    proxy: Proxy
    compression: str | None
    max_size: int | None
    open_timeout: float


def connect(url: str, *, timeout: float | None = 30.0, **options: Unpack[Options]) -> "Client":
    """Return a client of the server at a URL; it connects as it is entered.

    That may take `timeout` seconds. The options are those of :func:`hubbub.connect`.
    """
    return Client(asynchronous.connect(url, **options), timeout)


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._problem: OSError | None = None
        self._handing_over = threading.Lock()
        # A daemon, so that a program which forgets to close its client ends all the same.
        self._thread = threading.Thread(target=self._run, name="hubbub client", daemon=True)

    @property
    def running(self) -> bool:
        # In a child made by fork there is no such thread, and nobody who would answer.
        return self._loop is not None and self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()
        self._started.wait()
        if self._loop is None:
            raise ClientError(f"The client's event loop did not start: {self._problem}") from self._problem

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except OSError as problem:
            if self._started.is_set():
                raise
            self._problem = problem
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def stop(self) -> None:
        """Stop the loop and wait for the end of its thread; what is still under way there is cancelled."""
        with self._handing_over:
            # What was handed over before is cancelled with the loop's other tasks; nothing comes after.
            loop, self._loop = self._loop, None
            if loop is not None and self._stop is not None:
                loop.call_soon_threadsafe(self._stop.set)
        if loop is not None:
            self._thread.join()

    def next(self, source: AsyncIterator[Result], timeout: float | None) -> Result:
        """Return what an asynchronous iterator yields next; :exc:`EOFError` at its end."""
        item = self._take(source, timeout)
        if item is None:
            raise EOFError("Nothing comes any more.")
        return item

    def each(self, source: AsyncIterator[Result]) -> Iterator[Result]:
        """Yield what an asynchronous iterator yields, until it ends or the loop does."""
        while self.running:
            item = self._take(source, None)
            if item is None:
                return
            yield item

    def _take(self, source: AsyncIterator[Result], timeout: float | None) -> Result | None:
        return self.call(lambda: anext(source, None), timeout)

    def call(self, function: Callable[[], Awaitable[Result]], timeout: float | None) -> Result:
        """Return what an asynchronous function returns on the loop."""

        async def bounded() -> Result:
            # On the loop, so that nothing is taken there that would come too late here.
            async with asyncio.timeout(timeout):
                return await function()

        if not self.running:
            raise ClientError(CLOSED)
        with self._handing_over:
            loop = self._loop
            if loop is None:
                raise ClientError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(bounded(), loop)
        try:
            return future.result()
        except CancelledError:
            raise ClientError("The client was closed meanwhile.") from None
        except BaseException:
            future.cancel()  # an interrupt of this thread ends it there, too
            raise


class Room:
    """One room, as :class:`hubbub.client.Room`."""

    def __init__(self, room: asynchronous.Room, loop: _Loop) -> None:
        self._room = room
        self._loop = loop

    @property
    def name(self) -> str:
        """Its name."""
        return self._room.name

    @property
    def position(self) -> Position:
        """The position of the last event that iteration yielded: where to join later to go on from there."""
        return self._room.position

    def send(self, message: Sendable, *, acknowledged: bool = True, timeout: float | None = TIMEOUT) -> None:
        """Send a message to the room; return when the server has acknowledged it."""
        self._loop.call(lambda: self._room.send(message, acknowledged=acknowledged), timeout)

    @overload
    def request(self, message: Sendable, *, timeout: float | None = TIMEOUT) -> object: ...
    @overload
    def request(self, message: Sendable, reply: type[Reply], *, timeout: float | None = TIMEOUT) -> Reply: ...
    def request(
        self, message: Sendable, reply: type[Reply] | None = None, *, timeout: float | None = TIMEOUT
    ) -> Reply | object:
        """Send a message to the room; return what its handler replied, as `reply` or as plain data."""
        return self._loop.call(lambda: _request(self._room, message, reply), timeout)

    def history(
        self, since: Position | None = None, limit: int = 100, *, timeout: float | None = TIMEOUT
    ) -> History:
        """Return messages that the room keeps: the first ones after `since`, or the newest."""
        return self._loop.call(lambda: self._room.history(since, limit), timeout)

    def members(self, *, timeout: float | None = TIMEOUT) -> list[Member]:
        """Return who is in the room."""
        return self._loop.call(self._room.members, timeout)

    def leave(self, *, timeout: float | None = TIMEOUT) -> None:
        """Leave the room; iteration over it ends at once."""
        self._loop.call(self._room.leave, timeout)

    def receive(self, *, timeout: float | None = TIMEOUT) -> RoomEvent:
        """Return the room's next event; :exc:`EOFError` if nothing comes any more."""
        return self._loop.next(self._room, timeout)

    def __iter__(self) -> Iterator[RoomEvent]:
        return self._loop.each(self._room)


class Client:
    """A client of one server, as :class:`hubbub.Client`; a context manager."""

    def __init__(self, client: asynchronous.Client, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        self._loop = _Loop()

    def __enter__(self: Own) -> Own:
        self._loop.start()
        try:
            self._loop.call(self._client.__aenter__, self._timeout)
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and come back no more. Iteration ends; what waits to be sent fails."""
        if self._loop.running:
            try:
                self._loop.call(self._client.close, None)
            finally:
                self._loop.stop()

    @property
    def state(self) -> StateChange:
        """What it is doing, and why."""
        return self._client.state

    def states(self) -> Iterator[StateChange]:
        """Return an iterator over its states: the present one first, CLOSED last."""
        yield from self._loop.each(self._client.states())

    @property
    def user(self) -> str | None:
        """Who is logged in; None for a guest."""
        return self._client.user

    @property
    def inbox(self) -> Room | None:
        """The room in which messages to the user arrive; None for a guest."""
        inbox = self._client.inbox
        return None if inbox is None else Room(inbox, self._loop)

    def join(self, name: str, since: Position | None = None, *, timeout: float | None = TIMEOUT) -> Room:
        """Join a room; what is sent to it from now on, or after the position `since`, arrives."""
        return Room(self._loop.call(lambda: self._client.join(name, since), timeout), self._loop)

    def send(
        self,
        message: Sendable | str | bytes,
        *,
        acknowledged: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> None:
        """Send a message to the server; return when it has acknowledged it."""
        self._loop.call(lambda: self._client.send(message, acknowledged=acknowledged), timeout)

    @overload
    def request(self, message: Sendable, *, timeout: float | None = TIMEOUT) -> object: ...
    @overload
    def request(self, message: Sendable, reply: type[Reply], *, timeout: float | None = TIMEOUT) -> Reply: ...
    def request(
        self, message: Sendable, reply: type[Reply] | None = None, *, timeout: float | None = TIMEOUT
    ) -> Reply | object:
        """Send a message to the server; return what its handler replied, as `reply` or as plain data."""
        return self._loop.call(lambda: _request(self._client, message, reply), timeout)

    def log_in(self, token: str, *, timeout: float | None = TIMEOUT) -> str | None:
        """Log in with another token; return the user."""
        return self._loop.call(lambda: self._client.log_in(token), timeout)

    def receive(self, *, timeout: float | None = TIMEOUT) -> Event:
        """Return the next event from anywhere; :exc:`EOFError` if nothing comes any more."""
        return self._loop.next(self._client, timeout)

    def __iter__(self) -> Iterator[Event]:
        return self._loop.each(self._client)


async def _request(
    target: asynchronous.Room | asynchronous.Client, message: Sendable, reply: type[Reply] | None
) -> Reply | object:
    if reply is None:
        return await target.request(message)
    return await target.request(message, reply)
