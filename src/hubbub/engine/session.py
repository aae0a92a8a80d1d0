"""A session: the protocol's side of a connection, from its messages to handlers and back."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

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
from .connection import Connection
from .hub import Hub
from .membership import Memberships
from .room import Room
from .router import Router

Control = TypeVar("Control", bound=msgspec.Struct)

Authenticate = Callable[[Connection], Awaitable[str | None]]
"""Returns who a connection's user is."""

PONG = Envelope("$pong")


class Session:
    """Reads a connection's messages one at a time, in order, and answers each."""

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
        self._router = router
        self._memberships = memberships
        self._authenticate = authenticate

    async def run(self) -> None:
        """Welcome the client and serve its messages until the connection is closed."""
        inbox = await self._memberships.join_inbox()
        self._welcome(inbox)
        recv, answer = self._connection.recv, self._answer
        try:
            while True:
                await answer(await recv())
        except ConnectionClosed:
            if not self._connection.lost:
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
            if request.type.startswith("$"):
                await self._control(request)
            else:
                await self._application(request)
        except InvalidMessage as problem:
            problems = [Problem(path, what) for path, what in problem.problems]
            self._refuse(request, ERROR_CODES[problem.code], problem.message, problems)
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
        if self._connection.outbox.paused:
            # Whoever does not read its answers is asked for no more questions.
            await self._connection.outbox.drained()

    # What a message asks for

    async def _application(self, request: Incoming) -> None:
        connection, router = self._connection, self._router
        room: Room | None = None
        values: tuple[str, ...] = ()
        if request.room is not None:
            membership = self._memberships.of(request.room)
            router, room, values = membership.rooms.router, membership.room, membership.values
        handler = router.find(request.type)
        message = handler.decode(request.data, self._codec)
        reply = await handler.callback(connection, room, message, *values)
        if request.id is not None:
            self._acknowledge(request, msgspec.UNSET if reply is None else reply)

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
        self, request: Incoming | None, code: ErrorCode, message: str, problems: list[Problem] | None = None
    ) -> None:
        failure = Failure(code, message, code.retry, problems or [])
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
