"""A connection: one client's line, as the application sees it."""

import asyncio
import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, cast

from starlette.datastructures import Headers
from starlette.types import Scope
from websockets.frames import Close, Frame, Opcode

from ..errors import ConfigurationError, InvalidMessage
from ..observe.log import correlation_of
from ..protocol.bookmarks import Bookmark
from ..protocol.codecs import Codec
from ..protocol.codes import CloseCode
from ..protocol.envelope import Envelope
from ..protocol.messages import Sendable, wire_type_of
from ..settings import Settings
from .form import form_of
from .outbox import Flusher, Outbox
from .receiving import Receiving
from .request import Request
from .transport import Ending, Transport
from .watch import Watch

if TYPE_CHECKING:
    from .membership import Memberships
    from .room import Room

Rank = tuple[int, int, int]
"""With which token a connection took its session up, in which attempt, and the how manieth it was.

Of two connections with the same session, the one of the higher rank has it.
"""

BEGUN: Rank = (-1, 0, 0)
"""Rank of the connection that the session began on."""

TOKEN = "hubbub.token"  # noqa: S105  # a name
"""What a scope has the login token as that a line brought in a way of its own, if it did."""

TURN_BYTES = 65536
TURN_MESSAGES = 256
"""What a task may send to one connection before it lets the event loop have a turn."""


class _Held(list[Envelope]):
    """What waits until the client is greeted."""

    blocked = False
    """Whether the line takes no more."""


class Connection(Receiving):
    """One client's line.

    In an endpoint it carries `str` and `bytes` both ways, as in the `websockets` library. In rooms and
    message handlers it sends messages (:meth:`send`); what comes in goes to the handlers.

    >>> @hub.endpoint("/echo")
    ... async def echo(connection: Connection) -> None:
    ...     async for message in connection:
    ...         await connection.send(message)
    """

    __slots__ = (
        "_held", "_state", "_token", "correlation_id", "form", "id", "info", "max_message", "memberships",
        "on_lost", "outbox", "rank", "scope", "session", "signs", "since", "turn", "user", "watch",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, transport: Transport, flusher: Flusher, settings: Settings, codec: Codec | None
    ) -> None:
        self.id = secrets.token_hex(8)
        """Identifies the connection in logs and to its client."""
        self.session = self.id
        """Identifies the session, which outlives the connection when a client resumes it."""
        self.turn = 0
        """How often the session had been taken up, by any connection, when this one took it up."""
        self.rank = BEGUN
        self.user: str | None = None
        """Who it is, as `authenticate` said; None for a guest."""
        self.info: object = None
        """What others are shown beside the user in a room's presence. JSON-like; set it in `authenticate`."""
        self.since = time.time()
        """When it came: Unix time in seconds."""
        self.memberships: Memberships | None = None
        """The rooms that it is in, while it speaks hubbub's protocol and is logged in."""
        self.scope = scope
        self.max_message = settings.max_message
        if codec is not None:
            # An endpoint has no login; a session's client gets the whole of it with the login.
            self.max_message = min(settings.max_message, settings.max_message_before_login)
        super().__init__(transport, settings, min(settings.max_inbox_bytes, self.max_message))
        self.form = None if codec is None else form_of(codec, transport.framing)
        self.outbox = Outbox(transport, flusher, settings.max_outbox, self._overflowed)
        self.signs = 0
        """Whatever else came in: together with the messages, the signs of life."""
        self.watch = Watch()
        self.on_lost: Callable[[], None] | None = None
        """Called, once, as soon as the line is gone."""
        self.correlation_id = correlation_of(Headers(raw=scope["headers"]), self.id)
        """Ties the log lines about this connection together; from ``X-Request-ID`` or ``traceparent``."""
        self._state: dict[str, object] | None = None
        self._token: str | None = scope.get(TOKEN)
        self._held: _Held | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} user={self.user!r}>"

    # What the application asks

    @property
    def request(self) -> Request:
        """The request that opened the connection."""
        return Request(self.scope)

    @property
    def remote_address(self) -> tuple[str, int] | None:
        """Address and port of the client; None over a Unix domain socket."""
        return cast("tuple[str, int] | None", self.scope.get("client"))

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol in use in rooms; None in an endpoint."""
        return self.form.codec.subprotocol if self.form else None

    @property
    def state(self) -> dict[str, object]:
        """A place for whatever the application wants to remember with the connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def token(self) -> str | None:
        """What to log in with: the token of ``$auth``, of ``Authorization: Bearer`` or of ``?token=``.

        A Socket.IO client's is the ``token`` in its ``auth``, if there is one.
        """
        if self._token is not None:
            return self._token
        request = self.request
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and credentials:
            return credentials.strip()
        return request.query_params.get("token")

    @token.setter
    def token(self, token: str) -> None:
        self._token = token

    @property
    def login(self) -> tuple[str | None, object]:
        """Token and info, as they have to be again when another login is refused."""
        return self._token, self.info

    @login.setter
    def login(self, login: tuple[str | None, object]) -> None:
        self._token, self.info = login

    @property
    def name(self) -> str:
        """Who room members are told a message is from: the user, or ``guest:`` and a few characters."""
        return self.user if self.user is not None else f"guest:{self.session[:8]}"

    def named(self, name: str) -> bool:
        """Tell whether :attr:`name` is this one."""
        # Asked of every connection at once, of which most are no guests.
        return self.user == name if self.user is not None else self.name == name

    # What the application does

    async def send(self, message: str | bytes | Sendable) -> None:
        """Send to this client: at most once, in order.

        In an endpoint, `str` goes as text and `bytes` as binary. Elsewhere it is a message: what must
        survive a lost connection goes to a room or a user instead. While the client reads too slowly this
        waits. Raises :exc:`ConnectionClosed` when the connection is closed, :exc:`TypeError` for anything
        that can't be sent here.
        """
        if self.closing:
            await self.raise_if_closed()
        if self.form is not None:
            if isinstance(message, str | bytes | bytearray | memoryview):
                raise TypeError("Only an endpoint sends str and bytes; here, send a hubbub.Message.")
            self.deliver(Envelope(wire_type_of(type(message)), data=message))
        elif isinstance(message, str):
            payload = message.encode()
            self.outbox.append(self.transport.framing(payload, False), len(payload))
        elif isinstance(message, bytes | bytearray | memoryview):
            payload = bytes(message)
            self.outbox.append(self.transport.framing(payload, True), len(payload))
        else:
            raise TypeError(f"An endpoint sends str or bytes, not {type(message).__name__}.")
        outbox = self.outbox
        if outbox.paused and self._held is None:
            await outbox.drained()
            # What still waited when it was closed, this message perhaps, is dropped.
            await self.raise_if_closed()
        elif outbox.size > TURN_BYTES or len(outbox.chunks) > TURN_MESSAGES:
            # Who sends without end would otherwise never let others have a turn, as long as the client keeps
            # up, or once it is gone and the loop has not come to tell.
            await asyncio.sleep(0)

    async def join(self, name: str) -> "Room":
        """Put this client into a room, as if it had joined it itself; return the room.

        The client is told; from then on it is sent the room's messages. Nothing happens if it is in the room.
        In `on_connect`, it is told right behind the welcome, and then what came in the room meanwhile.

        Raises :exc:`Denied` if the room's join hook refuses, :exc:`InvalidMessage` if there is no such room,
        the user is banned from it or the client is in too many, :exc:`Unavailable` if the broker can't be
        reached, :exc:`ConnectionClosed` when the connection is closed. A hook of a room can't await this for
        its own connection: :exc:`RuntimeError`.
        """
        memberships = await self._own_memberships()
        try:
            room = await memberships.put_in(name)
        except InvalidMessage:
            await self.raise_if_closed()
            raise
        await self.raise_if_closed()
        assert room is not None
        return room

    async def leave(self, name: str) -> None:
        """Take this client out of a room, as if it had left it itself. It is told, and may join again.

        Raises :exc:`InvalidMessage` if it is not in the room, and what :meth:`join` raises.
        """
        await (await self._own_memberships()).take_out(name)

    async def _own_memberships(self) -> "Memberships":
        if self.closing:
            await self.raise_if_closed()
        if self.memberships is None:
            raise ConfigurationError(
                "An endpoint has no rooms; elsewhere a client can be in some once it is logged in, from "
                "`on_connect` on."
            )
        return self.memberships

    def admit(self, settings: Settings) -> None:
        """Take messages of the full size from now on: the client is logged in."""
        self.max_message = settings.max_message
        self._max_inbox_bytes = settings.max_inbox_bytes

    def hold(self) -> None:
        """Keep what the application sends, in `on_connect`, until the client is greeted.

        What rooms bring waits as it does where the line takes no more.
        """
        self._held = _Held()
        self.outbox.pause()

    def greet(self, first: Envelope) -> None:
        """Send the first envelope of all, and then what was kept."""
        held, self._held = self._held or _Held(), None
        outbox = self.outbox
        behind, outbox.chunks = outbox.chunks, []
        for envelope in (first, *held):
            self.deliver(envelope)
        if not self.closing:
            outbox.chunks += behind
        if not held.blocked:
            outbox.resume()

    def deliver(self, envelope: Envelope) -> None:
        """Put an envelope into the outbox; nothing happens if the connection is closing."""
        form = self.form
        if self._held is not None:
            self._held.append(envelope)
        elif not self.closing and form is not None:
            self.outbox.append(*form.chunk(envelope))

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close, and wait until the client has closed too or `close_timeout` is over.

        `reason` has at most 123 bytes of UTF-8. What was sent before still goes out. Does nothing if the
        connection is closed. Raises ``websockets.exceptions.ProtocolError`` for a code that can't be sent
        (RFC 6455 section 7.4) and for a longer reason.
        """
        Frame(Opcode.CLOSE, Close(code, reason).serialize()).check()
        self.start_close(code, reason)
        await self.wait_closed()

    def start_close(self, code: int, reason: str) -> None:
        """Start to close, without waiting for the client's part."""
        if not self.closing:
            self.closing = True
            self.outbox.write_all()
            self.transport.close(code, reason)

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.close(CloseCode.INTERNAL_ERROR)

    # What the transport tells

    def heard_from(self, control_frames: int = 0) -> None:
        """Note a sign of life that is no message; control frames are counted with the messages."""
        self.signs += 1
        self.allowed -= control_frames
        if self.messages_in > self.allowed:
            self.sent_too_many()

    def bookmark(self) -> Bookmark | None:
        """Return what takes the session up right after all that was written; None before the welcome."""
        return None if self.memberships is None else self.memberships.bookmark()

    def pause_writing(self) -> None:
        """Keep messages in the outbox: the transport's buffer is full."""
        if self._held is not None:
            self._held.blocked = True
        self.outbox.pause()

    def resume_writing(self) -> None:
        """Write again."""
        if self._held is not None:
            self._held.blocked = False
        else:
            self.outbox.resume()

    def replaced(self) -> None:
        """Take that the session goes on on another connection; what waits here comes there again."""
        self.inbox.clear()
        self._inbox_bytes = 0
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None
        self.start_close(CloseCode.REPLACED, "the session goes on on another connection")

    def failing(self) -> None:
        """Take that the client broke the protocol: nothing more can be sent."""
        self.closing = True
        self.outbox.close()

    def ended(self, ending: Ending) -> None:
        """Take that the line is gone."""
        self.closing = True
        self._ending = ending
        self.outbox.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = self._beginning = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def shut_down(self) -> None:
        """Leave: the server stops. A message that is being handled is finished first, and those behind it."""
        if self.form is None or (self._waits and not self.inbox):
            self.start_close(CloseCode.SERVICE_RESTART, "the server restarts")
        elif not self.closing:
            self._leaving = True
            self.transport.pause_reading()

    def _overflowed(self) -> None:
        # What waits would only reach the client long after it is known to be too slow.
        self.outbox.clear()
        self.start_close(CloseCode.TOO_SLOW, "reads too slowly")
