"""The client: a connection that comes back, and what an application does with it."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar, overload

from ..errors import ConfigurationError
from ..protocol.codecs import JSON
from ..protocol.envelope import Position
from ..protocol.messages import Sendable
from .backoff import Backoff, Waits
from .events import Event, StateChange
from .falling_back import CLIMB, FallingBack
from .handshake import Headers, Proxy, TLSContext, listed
from .line import Dial
from .lines import SECURE, dialling, scheme_of
from .returning import Returning, Token
from .room import Room
from .session import Session
from .speaking import ask, send_plain, tell
from .states import States, Watch
from .wire import schemas_of

Reply = TypeVar("Reply")

Own = TypeVar("Own", bound="Client")


def connect(
    url: str | Sequence[str],
    *,
    token: Token = None,
    messages: Sequence[type] = (),
    subprotocol: str | None = JSON.subprotocol,
    backoff: Waits = Backoff(),  # noqa: B008  # it can't be changed
    climb: Waits = CLIMB,
    outbox: int = 1000,
    inbox: int = 1000,
    headers: Headers | None = None,
    ssl: TLSContext | None = None,
    proxy: Proxy = True,
    compression: str | None = "deflate",
    max_size: int | None = 16 * 2**20,
    open_timeout: float = 10.0,
) -> "Client":
    """Return a client of the server at a URL; it connects as it is entered.

    >>> async with hubbub.connect("wss://example.com", messages=[Say]) as client:
    ...     room = await client.join("chat/lobby")

    The scheme of the URL says by what kind of line: ``ws://`` and ``wss://`` are WebSockets. Over HTTP there
    are ``sse+https://`` (Server-Sent Events), ``stream+https://`` (a response that goes on) and
    ``poll+https://`` (long polling), for which ``hubbub[http]`` has to be installed; ``grpcs://`` with
    ``hubbub[grpc]``; and ``socketio+https://``. Each exists without TLS, too.

    Several URLs are several ways in, the best one first. Where one can't be opened, the next is tried; what
    worked is where the client begins the next time. `climb` begins a series of waits, in seconds, after
    each of which a client that is not on the best line looks whether a better one can be opened. It moves
    there without a message lost or doubled; where the series ends, it stays.

    `token` is what the user logs in with, or a function that fetches it: plain or asynchronous. It is called
    again, once, where the server has refused the last one.
    `messages` are the classes of what the server sends; other messages are plain data.
    `backoff` begins a series of waits, in seconds, before each attempt to come back. Where it ends, the
    client stops with :exc:`ReconnectFailed`.
    `outbox` is how many messages may wait to be acknowledged. `inbox` is how many events of a room may wait
    to be yielded; twice as many while an answer or another room's event is awaited.
    `subprotocol` is what is offered: ``hubbub.v1.msgpack`` for binary messages, or what is not hubbub's; both
    over WebSockets only.
    `headers`, `ssl`, `proxy`, `compression` and `max_size` are those of the `websockets` library, and mean
    the same for other lines. `ssl` is for those lines that are encrypted.
    Opening a connection may take `open_timeout` seconds, and so may the server's welcome. To take the session
    up, the server has 30 seconds, or `open_timeout` if that is more.

    Raises :exc:`hubbub.ConfigurationError` for what can't work.
    """
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise ConfigurationError("Connect to one URL at the least.")
    given = [] if headers is None else listed(headers)
    dials = [
        dialling(
            one,
            subprotocol=subprotocol,
            headers=given,
            ssl=ssl if len(urls) == 1 or scheme_of(one) in SECURE else None,
            proxy=proxy,
            compression=compression,
            max_size=max_size,
            open_timeout=open_timeout,
        )
        for one in urls
    ]
    several = FallingBack([*zip(map(scheme_of, urls), dials, strict=True)], open_timeout, climb)
    return Client(
        dials[0] if len(dials) == 1 else several.dial,
        token=token,
        messages=messages,
        backoff=backoff,
        outbox=outbox,
        inbox=inbox,
        open_timeout=open_timeout,
    )


class Client:
    """A client of one server, over lines that `dial` opens; all else is given as to :func:`connect`.

    It is an asynchronous context manager: it connects, comes back when the line is lost, and closes at the
    end. Entering it raises :exc:`ReconnectFailed` if no connection comes about.

    Iteration over it yields what arrives from everywhere: all rooms, the user's inbox, and messages to this
    connection. Each event is yielded once, here or by iteration over its room: use one or the other.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        token: Token = None,
        messages: Sequence[type] = (),
        backoff: Waits = Backoff(),  # noqa: B008  # it can't be changed
        outbox: int = 1000,
        inbox: int = 1000,
        open_timeout: float = 10.0,
    ) -> None:
        if inbox < 1 or outbox < 1:
            raise ConfigurationError("`inbox` and `outbox` are how many may wait: 1 at the least.")
        self._states = States()
        self._session = Session(schemas_of(messages), backoff, outbox=outbox, inbox=inbox)
        self._returning = Returning(self._session, dial, token, backoff, self._states, open_timeout)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self: Own) -> Own:
        if self._task is not None:
            raise RuntimeError("A client can be entered once.")
        self._task = asyncio.create_task(self._returning.run())
        try:
            await self._returning.opened.wait()
            if self._session.ended is not None:
                raise self._session.ended
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, and come back no more. Iteration ends; what waits to be sent fails."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        self._returning.stop()

    # What it is

    @property
    def state(self) -> StateChange:
        """What it is doing, and why."""
        return self._states.current

    def states(self) -> Watch:
        """Return an asynchronous iterator over its states: the present one first, CLOSED last.

        Who watches too slowly misses the oldest of more than 100.
        """
        return self._states.watch()

    @property
    def user(self) -> str | None:
        """Who is logged in; None for a guest."""
        return self._session.user

    @property
    def inbox(self) -> Room | None:
        """The room in which messages to the user arrive; None for a guest."""
        membership = self._session.rooms.inbox
        return None if membership is None else Room(self._session, membership)

    # What it does

    async def join(self, name: str, since: Position | None = None) -> Room:
        """Join a room; what is sent to it from now on, or after the position `since`, arrives.

        Raises :exc:`RequestFailed` if there is no such room or the server lets the client not in.
        """
        membership = self._session.rooms.by_name.get(name)
        if membership is None or since is not None:
            membership = await self._session.join(name, since)
        return Room(self._session, membership)

    async def send(self, message: Sendable | str | bytes, *, acknowledged: bool = True) -> None:
        """Send a message to the server, as :meth:`Room.send` does to a room.

        A server that is no hubbub is sent text and bytes; this returns when they were.
        """
        if isinstance(message, str | bytes):
            await send_plain(self._session, message, kept=acknowledged)
        elif acknowledged:
            await ask(self._session, message, None, room=None)
        else:
            await tell(self._session, message, room=None)

    @overload
    async def request(self, message: Sendable) -> object: ...
    @overload
    async def request(self, message: Sendable, reply: type[Reply]) -> Reply: ...
    async def request(self, message: Sendable, reply: type[Reply] | None = None) -> Reply | object:
        """Send a message to the server; return what its handler replied, as `reply` or as plain data."""
        return await ask(self._session, message, reply, room=None)

    async def log_in(self, token: str) -> str | None:
        """Log in with another token, before the last one ends or to be a guest no longer; return the user.

        Raises :exc:`RequestFailed` if it is refused; then everything stays as it was.
        """
        identity = await self._session.log_in(token)
        self._returning.show(token)
        return identity.user

    def __aiter__(self: Own) -> Own:
        return self

    async def __anext__(self) -> Event:
        return await self._session.rooms.arrivals.take()
