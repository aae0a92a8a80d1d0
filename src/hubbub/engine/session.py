"""A session: the protocol's side of a connection, from its messages to handlers and back."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio.to_thread
import msgspec

from ..errors import ConfigurationError, ConnectionClosed, Denied, InvalidMessage, Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, Codec, invalid
from ..protocol.codes import ERROR_CODES, CloseCode, ErrorCode
from ..protocol.depth import AT_ONCE
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
    MessageId,
    Position,
    Problem,
    Resume,
    Since,
    Ticket,
    Welcome,
)
from .answers import LARGEST_ANSWER, Answers
from .attempt import ATTEMPT, Attempt
from .callback import ends_task
from .connection import Connection
from .hub import Hub
from .membership import Memberships
from .replay import Replay
from .router import Router

Control = TypeVar("Control", bound=msgspec.Struct)

Authenticate = Callable[[Connection], Awaitable[str | None]]
"""Returns who a connection's user is."""

PONG = Envelope("$pong")

READ_AT_ONCE = 10
"""Messages of history that cost as much as one message that a client sends."""


class Session:
    """Reads what a connection's messages ask for, and answers each."""

    __slots__ = (
        "_answers", "_authenticate", "_codec", "_connection", "_fresh", "_hub", "_max_depth", "_memberships",
        "_router", "_shallow",
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
        self._answers: Answers | None = None
        """What the session's requests were answered; None as long as there was none."""
        self._fresh = True
        """Whether another session can still be taken up: nothing was done in this one."""

    async def open(self) -> bool:
        """Welcome the client; false if that can't be done now, and the connection closes."""
        connection = self._connection
        try:
            await self._hub.sessions.prepare()
            inbox = await self._memberships.join_inbox()
        except Unavailable as problem:
            connection.greet(Envelope("$error", data=self._failure(problem, None)))
            connection.start_close(CloseCode.TRY_AGAIN_LATER, "the broker can't be reached now")
            return False
        connection.greet(Envelope("$welcome", data=self._welcome(inbox)))
        return True

    def _welcome(
        self,
        inbox: Inbox | None = None,
        rooms: dict[str, Position] | None = None,
        refused: dict[str, Failure] | None = None,
    ) -> Welcome:
        connection, settings = self._connection, self._hub.settings
        return Welcome(
            protocol=VERSION,
            session=self._hub.sessions.token(connection),
            connection=connection.id,
            resumed=rooms is not None,
            heartbeat=settings.ping_interval,
            max_message=settings.max_message,
            lifetime=settings.session_lifetime,
            window=settings.deduplication_window,
            user=connection.user,
            inbox=inbox,
            rooms=rooms or {},
            refused=refused or {},
        )

    async def answer(self, message: str | bytes) -> None:
        """Do what a message asks for, and answer it."""
        request: Incoming | None = None
        try:
            request = self._codec.read(message)
            if len(message) > self._shallow:
                await self._check_depth(message)
            if request.type[0] == "$":
                await self._control(request)
                return
            connection = self._connection
            self._fresh = False
            if request.id is not None:
                answers = self._answers
                if answers is None:
                    answers = self._answers = self._hub.sessions.answers(connection)
                if request.id in answers.newer or request.id in answers.older:
                    self._repeat(request)
                    return
                if answers.earlier and (answer := answers.earlier_one(request.id)) is not None:
                    self._send(answer)
                    return
                ATTEMPT.set(Attempt(connection.session, request.id))
            else:
                ATTEMPT.set(None)
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
                self._settle(request.id, Envelope("$ack", request.id, request.room, data=data))
        except BaseException as problem:
            # Anything at all, as an application's validator or encoder may raise it.
            if ends_task(problem) or (isinstance(problem, ConnectionClosed) and self._connection.lost):
                raise
            self._refuse(request, self._failure(problem, request))

    def _repeat(self, request: Incoming) -> None:
        """Answer a request that was answered on this connection: it is another one with the same id."""
        # Nothing gets lost on one line, so this is no second attempt.
        problem = InvalidMessage(
            f"The id {request.id!r} was used already: take a new one for each request.",
            [("$.id", "Used already")],
        )
        failure = self._failure(problem, request)
        self._connection.deliver(Envelope("$error", id=request.id, room=request.room, data=failure))

    def _settle(self, request: MessageId, answer: Envelope) -> None:
        """Answer a request, once and for all: it gets the same when it is sent again."""
        payload = self._codec.encode(answer)
        if self._answers is not None and len(payload) <= LARGEST_ANSWER:
            self._answers.add(request, payload)
        self._send(payload)

    def _send(self, payload: bytes) -> None:
        connection = self._connection
        if not connection.closing:
            framing = connection.transport.framing
            connection.outbox.append(framing(payload, self._codec.binary), len(payload))

    def _charge(self, messages: int) -> None:
        """Count a request as so many messages more, of a burst half at the most.

        So it is answered, however small the burst; it is the next message that may be too much.
        """
        self._connection.allowed -= min(messages, self._hub.settings.max_message_burst // 2)

    async def _check_depth(self, message: str | bytes) -> None:
        codec, limit = self._codec, self._max_depth
        if not codec.check_depth(message, limit, at_once=True):
            self._charge(len(message) // AT_ONCE[type(message)])
            # In a thread, so that others get their turns; in one only, which has to share the interpreter.
            async with self._hub.running.looking:
                await anyio.to_thread.run_sync(codec.check_depth, message, limit)

    # What a message asks for

    async def _control(self, request: Incoming) -> None:
        ATTEMPT.set(None)
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
        await self._run(replay)

    async def _run(self, replay: Replay) -> None:
        # It is a member already, but one that would be brought nothing: it has to come back.
        try:
            await replay.run()
        except Unavailable:
            self._connection.start_close(CloseCode.TRY_AGAIN_LATER, "history can't be read now")
        except Exception:
            logger.exception("error", extra=fields(connection=self._connection.id, during="replay"))
            self._connection.start_close(CloseCode.TRY_AGAIN_LATER, "history can't be read now")

    async def _resume(self, request: Incoming) -> None:
        connection, memberships = self._connection, self._memberships
        if not self._fresh or memberships.joined:
            raise InvalidMessage("$resume has to come before anything else but $auth, $ping and $pong.")
        resume = self._data(request, Resume)
        limit = self._hub.settings.max_rooms
        if len(resume.rooms) > limit:
            # One small message must not have thousands of rooms looked for and refused.
            raise InvalidMessage(f"A connection may be in {limit} rooms.", code=ErrorCode.TOO_MANY_ROOMS)
        replays: dict[str, Replay] = {}
        refused: dict[str, Failure] = {}
        try:
            await self._hub.sessions.take_up(resume.session, resume.attempt, connection)
            self._fresh = False
            if memberships.put:
                # A guest is called otherwise, now that it is known whose session it is.
                await memberships.rename()
            for name, since in resume.rooms.items():
                try:
                    replays[name] = await memberships.join(name, since)
                except Unavailable:
                    raise
                except Exception as problem:
                    if isinstance(problem, ConnectionClosed) and connection.lost:
                        raise
                    refused[name] = self._failure(problem, request)
            while added := {name: at for name, at in memberships.put.items() if name not in replays}:
                # The client drops what has come of them so far, as it does of all its rooms.
                for name, since in added.items():
                    replays[name] = await memberships.join(name, since)
        except Unavailable:
            # Half a session is none: the client comes back later for all of it.
            connection.start_close(CloseCode.TRY_AGAIN_LATER, "the session can't be taken up now")
            return
        # Who was taken out of a room meanwhile was told so before, and has dropped it.
        refused |= {name: replay.refusal for name, replay in replays.items() if replay.refusal is not None}
        begins = {name: replay.begins for name, replay in replays.items() if name not in refused}
        connection.deliver(
            Envelope("$welcome", id=request.id, data=self._welcome(rooms=begins, refused=refused))
        )
        for replay in replays.values():
            await self._run(replay)

    async def _renew(self, request: Incoming) -> None:
        token = self._hub.sessions.token(self._connection)
        self._acknowledge(request, Ticket(token, self._hub.settings.session_lifetime))

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
        self._charge(len(page.messages) // READ_AT_ONCE)
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
        token: str | None = None
        if user != connection.user:
            connection.user = user
            try:
                await self._hub.sessions.revoke(connection)
                await self._memberships.rename()
                inbox = await self._memberships.join_inbox()
            except BaseException:
                # So that all of it is done when the client tries again.
                connection.user = None
                raise
            token = self._hub.sessions.token(connection)
        self._acknowledge(request, Identity(user, inbox, token))

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

    def _refuse(self, request: Incoming | None, failure: Failure) -> None:
        if request is None or request.id is None:
            room = request.room if request else None
            self._connection.deliver(Envelope("$error", room=room, data=failure))
            return
        answer = Envelope("$error", id=request.id, room=request.room, data=failure)
        if failure.retry or request.type[0] == "$":
            self._connection.deliver(answer)
        else:
            self._settle(request.id, answer)

    def _failure(self, problem: BaseException, request: Incoming | None) -> Failure:
        """Return what a client is told of a problem; one that is the server's is logged."""
        if isinstance(problem, InvalidMessage):
            known = ERROR_CODES.get(problem.code)  # the application may have codes of its own
            problems = [Problem(path, what) for path, what in problem.problems]
            return Failure(problem.code, problem.message, known is not None and known.retry, problems)
        if isinstance(problem, Denied):
            return Failure(ErrorCode.DENIED, problem.reason, ErrorCode.DENIED.retry)
        if isinstance(problem, Unavailable):
            return Failure(ErrorCode.UNAVAILABLE, str(problem), ErrorCode.UNAVAILABLE.retry)
        connection = self._connection
        kind = request.type if request else None
        logger.error(
            "error",
            exc_info=problem,
            extra=fields(connection=connection.id, user=connection.user, type=kind),
        )
        return Failure(
            ErrorCode.INTERNAL,
            f"The server met an error (correlation id {connection.correlation_id}).",
            ErrorCode.INTERNAL.retry,
        )


def _room_of(request: Incoming) -> str:
    if request.room is None:
        raise InvalidMessage(f"{request.type} needs a room.", [("$.room", "Missing")])
    return request.room


_CONTROLS: dict[str, Callable[[Session, Incoming], Awaitable[None]]] = {
    "$resume": Session._resume,
    "$session": Session._renew,
    "$join": Session._join,
    "$leave": Session._leave,
    "$history": Session._history,
    "$presence": Session._presence,
    "$auth": Session._login,
    "$ping": Session._ping,
    "$pong": Session._pong,
}
