"""The client, in methods that block; see :class:`hubbub.sync.Client`."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypedDict, TypeVar, Unpack, overload

from .. import client as asynchronous
from ..client import Event, History, RoomEvent, StateChange
from ..client.backoff import Waits
from ..client.handshake import Headers, Proxy, TLSContext
from ..client.returning import Token
from ..protocol.envelope import Member, Position
from ..protocol.messages import Sendable
from .loop import TIMEOUT, Loop

Own = TypeVar("Own", bound="Client")
Reply = TypeVar("Reply")


class Options(TypedDict, total=False):
    """The parameters of :func:`hubbub.connect`."""

    token: Token
    messages: Sequence[type]
    subprotocol: str | None
    backoff: Waits
    climb: Waits
    outbox: int
    inbox: int
    headers: Headers | None
    ssl: TLSContext | None
    proxy: Proxy
    compression: str | None
    max_size: int | None
    open_timeout: float


def connect(
    url: str | Sequence[str], *, timeout: float | None = 30.0, **options: Unpack[Options]
) -> "Client":
    """Return a client of the server at a URL, or at the first of several that works.

    It connects as it is entered. That may take `timeout` seconds. The options are those of
    :func:`hubbub.connect`.
    """
    return Client(asynchronous.connect(url, **options), timeout)


class Room:
    """One room, as :class:`hubbub.client.Room`."""

    def __init__(self, room: asynchronous.Room, loop: Loop) -> None:
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
        self._loop = Loop("client")

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
