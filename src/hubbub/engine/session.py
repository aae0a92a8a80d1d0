"""A session: the protocol's side of a connection, from its messages to handlers and back."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio.to_thread
import msgspec

from ..errors import ConfigurationError, ConnectionClosed, Denied, InvalidMessage, Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, Codec, invalid
from ..protocol.codes import ERROR_CODES, CloseCode, ErrorCode
from ..protocol.envelope import (
    VERSION,
    Envelope,
    Failure,
    Identity,
    Inbox,
    Incoming,
    Join,
    Login,
    Members,
    Problem,
    Since,
    Welcome,
)
from .callback import ends_task
from .connection import Connection
from .hub import Hub
from .membership import Memberships
from .router import Router

Control = TypeVar("Control", bound=msgspec.Struct)

Authenticate = Callable[[Connection], Awaitable[str | None]]
"""Returns who a connection's user is."""

PONG = Envelope("$pong")

LARGE = 65_536
"""Bytes, or characters, of a message that is not looked at in one turn of the event loop."""


class Session:
    """Reads a connection's messages one at a time, in order, and answers each."""

    __slots__ = (
        "_authenticate", "_codec", "_connection", "_hub", "_max_depth", "_memberships", "_router", "_shallow",
    )  # fmt: skip

    def __init__(
        self,
        hub: Hub,
        connection: Connection,
        router: Router,
        memberships: Memberships,
        authenticate: Authenticate,
    ) -> None:
        assert connection.form is not None
        self._hub = hub
        self._connection = connection
        self._codec: Codec = connection.form.codec
        self._max_depth = hub.settings.max_depth
        self._shallow = self._codec.shallow(self._max_depth)
        self._router = router
        self._memberships = memberships
        self._authenticate = authenticate

    async def run(self) -> None:
        """Welcome the client and serve its messages until the connection is closed."""
        inbox = await self._memberships.join_inbox()
        self._welcome(inbox)
        connection = self._connection
        settle = connection.transport.settle
        try:
            while True:
                while (message := connection.take()) is None:
                    await connection.arrival()
                await self._answer(message)
                del message  # nothing of it is kept while the next one is waited for
                outbox = connection.outbox
                if settle is not None and outbox.queued:
                    await settle(outbox)
                if outbox.paused:
                    # Whoever does not read its answers is asked for no more questions.
                    await outbox.drained()
        except ConnectionClosed:
            if not connection.lost:
                raise

    def _welcome(self, inbox: Inbox | None) -> None:
        connection, settings = self._connection, self._hub.settings
        welcome = Welcome(
            protocol=VERSION,
            session=connection.session,
            connection=connection.id,
            resumed=False,
            heartbeat=settings.ping_interval,
            max_message=settings.max_message,
            user=connection.user,
            inbox=inbox,
        )
        connection.greet(Envelope("$welcome", data=welcome))

    async def _answer(self, message: str | bytes) -> None:
        request: Incoming | None = None
        try:
            request = self._codec.read(message)
            if len(message) > self._shallow:
                await self._check_depth(message)
            if request.type[0] == "$":
                await self._control(request)
                return
            connection = self._connection
            if request.room is None:
                handler = self._router.handlers.get(request.type) or self._router.find(request.type)
                decoded = handler.decode(request.data, self._codec)
                reply = await handler.callback.begin(connection, None, decoded)
            else:
                membership = self._memberships.of(request.room)
                router = membership.rooms.router
                handler = router.handlers.get(request.type) or router.find(request.type)
                decoded = handler.decode(request.data, self._codec)
                reply = await handler.callback.begin(connection, membership.room, decoded, *membership.values)
            if request.id is not None:
                data = msgspec.UNSET if reply is None else reply
                connection.deliver(Envelope("$ack", request.id, request.room, data=data))
        except InvalidMessage as problem:
            problems = [Problem(path, what) for path, what in problem.problems]
            self._refuse(request, problem.code, problem.message, problems)
        except Denied as denied:
            self._refuse(request, ErrorCode.DENIED, denied.reason)
        except Unavailable as unavailable:
            self._refuse(request, ErrorCode.UNAVAILABLE, str(unavailable))
        except ConnectionClosed:
            if self._connection.lost:
                raise
            self._failed(request)
        except Exception:
            self._failed(request)
        except BaseException as problem:
            # As an application's validator or encoder may raise it.
            if ends_task(problem):
                raise
            self._failed(request)

    async def _check_depth(self, message: str | bytes) -> None:
        if len(message) > LARGE:
            # It is looked at byte by byte, perhaps: in a thread, so that others get their turns.
            await anyio.to_thread.run_sync(self._codec.check_depth, message, self._max_depth)
        else:
            self._codec.check_depth(message, self._max_depth)

    # What a message asks for

    async def _control(self, request: Incoming) -> None:
        control = _CONTROLS.get(request.type)
        if control is None:
            raise InvalidMessage(
                f"There is no {request.type!r} in version {VERSION} of the protocol.",
                code=ErrorCode.UNKNOWN_TYPE,
            )
        await control(self, request)

    async def _join(self, request: Incoming) -> None:
        since = self._data(request, Join).since
        replay = await self._memberships.join(_room_of(request), since)
        self._acknowledge(request, replay.begins)
        try:
            await replay.run()
        except Exception:
            # It is a member already, but one that would be brought nothing: it has to come back.
            logger.exception("error", extra=fields(connection=self._connection.id, during="replay"))
            self._connection.start_close(CloseCode.TRY_AGAIN_LATER, "history can't be read now")

    async def _leave(self, request: Incoming) -> None:
        await self._memberships.leave(_room_of(request))
        self._acknowledge(request)

    async def _history(self, request: Incoming) -> None:
        membership = self._memberships.of(_room_of(request))
        wanted = self._data(request, Since)
        page = await self._hub.history(
            membership.room.name,
            wanted.since,
            wanted.limit,
            codec=self._codec,
            size=self._hub.settings.max_outbox,
        )
        self._acknowledge(request, page)

    async def _presence(self, request: Incoming) -> None:
        membership = self._memberships.of(_room_of(request))
        try:
            members = await membership.room.members()
        except ConfigurationError as problem:
            raise Denied(str(problem)) from None
        self._acknowledge(request, Members(members))

    async def _login(self, request: Incoming) -> None:
        connection = self._connection
        login = self._data(request, Login)
        before = connection.login
        connection.token = login.token
        try:
            user = await self._authenticate(connection)
            if connection.user is not None and user != connection.user:
                raise Denied("This login is another user's; open a connection of its own for it.")
        except BaseException:
            connection.login = before
            raise
        inbox: Inbox | None = None
        if user != connection.user:
            connection.user = user
            try:
                await self._memberships.rename()
                inbox = await self._memberships.join_inbox()
            except BaseException:
                # So that all of it is done when the client tries again.
                connection.user = None
                raise
        self._acknowledge(request, Identity(user, inbox))

    async def _ping(self, request: Incoming) -> None:
        self._connection.deliver(PONG if request.id is None else Envelope("$pong", id=request.id))

    async def _pong(self, request: Incoming) -> None:
        pass

    # What it is answered

    def _data(self, request: Incoming, kind: type[Control]) -> Control:
        try:
            return self._codec.decoder(kind)(request.data or self._codec.empty)
        except UNREADABLE as problem:
            raise invalid(request.type, problem) from None

    def _acknowledge(self, request: Incoming, data: object = msgspec.UNSET) -> None:
        self._connection.deliver(Envelope("$ack", id=request.id, room=request.room, data=data))

    def _refuse(
        self, request: Incoming | None, code: str, message: str, problems: list[Problem] | None = None
    ) -> None:
        known = ERROR_CODES.get(code)  # the application may have codes of its own
        failure = Failure(code, message, known is not None and known.retry, problems or [])
        answer = Envelope(
            "$error", id=request.id if request else None, room=request.room if request else None, data=failure
        )
        self._connection.deliver(answer)

    def _failed(self, request: Incoming | None) -> None:
        connection = self._connection
        kind = request.type if request else None
        logger.exception("error", extra=fields(connection=connection.id, user=connection.user, type=kind))
        self._refuse(
            request,
            ErrorCode.INTERNAL,
            f"The server met an error (correlation id {connection.correlation_id}).",
        )


def _room_of(request: Incoming) -> str:
    if request.room is None:
        raise InvalidMessage(f"{request.type} needs a room.", [("$.room", "Missing")])
    return request.room


_CONTROLS: dict[str, Callable[[Session, Incoming], Awaitable[None]]] = {
    "$join": Session._join,
    "$leave": Session._leave,
    "$history": Session._history,
    "$presence": Session._presence,
    "$auth": Session._login,
    "$ping": Session._ping,
    "$pong": Session._pong,
}
