"""A session: what outlives the lines that it is carried over, and what is said on one of them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from msgspec import UNSET

from ..errors import ClientError, InvalidMessage, RequestFailed
from ..protocol.codecs import CODECS
from ..protocol.codes import CloseCode
from ..protocol.envelope import Drain, Envelope, Identity, Inbox, Join, Login, Position, Resume, Ticket
from ..protocol.messages import Schema
from .backoff import Waits
from .line import Line, LineLost
from .opening import Opening, greeting_of, in_time, misspoken, resumed
from .outbox import Outbox, Request
from .retries import Retries
from .rooms import Membership, Rooms
from .silence import Silence
from .wire import Arrived, Greeting, Tongue, failed, logger

RESUMES_WITHIN = 30.0
"""Seconds that the server has at the least to take a session up: it looks for each of its rooms."""

OF_WINDOW = 0.9
"""How much of the server's window is used, so that what is sent again gets there in time."""


class Session:
    """Rooms, requests, and what has arrived; one line at a time carries it.

    `outbox` is how many requests may be unanswered, `inbox` how many events of one room may wait to be
    yielded.
    """

    def __init__(self, schemas: dict[str, Schema], backoff: Waits, *, outbox: int, inbox: int) -> None:
        self.user: str | None = None
        self.outbox = Outbox(outbox)
        self.rooms = Rooms(inbox, self.outbox.__bool__, self._catch_up)
        self.tongue: Tongue | None = None
        """How the server is spoken to; None if it is no hubbub, and until it is known."""
        self.drain: float | None = None
        """How many seconds after the end of this line the server wants the client back, if it said."""
        self.ended: ClientError | None = None
        """Why there will be no line any more."""
        self._schemas = schemas
        self._backoff = backoff
        self._ticket: str | None = None
        self._attempts = 0
        """How often it was asked for the session to go on."""
        self._retries = Retries(self.outbox, backoff)
        self._met = False
        self._pong: Request | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._joins: Counter[str] = Counter()
        """How many wait to be let into a room."""

    @property
    def carried(self) -> bool:
        """Whether there is a line, and the server has welcomed the client on it."""
        return self._tasks is not None

    def spoken(self) -> Tongue:
        """Return how the server is spoken to.

        Raises the reason if there will be no line any more, :exc:`ClientError` if the server is no hubbub.
        """
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if self.tongue is None:
            raise ClientError(
                "The server is no hubbub: send it text and bytes." if self._met else "Not connected yet."
            )
        return self.tongue

    # One line, from its first message to its last

    async def carry(self, line: Line, within: float, opened: Callable[[bool], None]) -> NoReturn:
        """Be carried by a line until it is lost, which raises :exc:`LineLost`.

        `opened` is called, with whether the session goes on, when the server has welcomed the client. That
        has to happen `within` some seconds, and the session to be taken up in some more.
        """
        self.drain = None
        opening = await self._open(line, within)
        opened(opening.resumed)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                greeting = opening.greeting
                tasks.create_task(self._write(line, greeting.max_message if greeting else None))
                if greeting and greeting.lifetime:
                    tasks.create_task(self._renew(greeting.lifetime))
                for membership, request in opening.returning:
                    tasks.create_task(self._return(membership, request))
                await self._read(line, greeting.heartbeat if greeting else None)
        except* LineLost as group:
            lost = _first(group)
        finally:
            self._tasks = None
            self._retries.lost()
            self.outbox.lost()
            for membership in self.rooms.by_name.values():
                membership.returning = False
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A group of tasks that is already ending forgets that it was cancelled (python/cpython#116720).
            raise asyncio.CancelledError
        raise lost

    async def _open(self, line: Line, within: float) -> Opening:
        codec = CODECS.get(line.subprotocol or "")
        if self._met and (codec is None) != (self.tongue is None):
            raise await misspoken(line, "it speaks another protocol than before")
        self._met = True
        if codec is None:
            self.outbox.restart((), None)
            return Opening()
        tongue = self.tongue = Tongue(codec, self._schemas)
        try:
            greeting = await in_time(within, greeting_of(line, tongue), "$welcome")
            if self._ticket is not None:
                # Should it be another user's, what arrives there until the session is known is dropped as
                # for all rooms, and has to come again.
                self._meet_inbox(greeting.inbox)
            asked = {name: membership.resumes_from for name, membership in self.rooms.by_name.items()}
            resuming = self._resume(line, tongue, greeting, asked)
            answer = await in_time(max(within, RESUMES_WITHIN), resuming, "answer to $resume")
        except InvalidMessage as problem:
            raise await misspoken(line, str(problem)) from problem
        return self._anew(greeting) if answer is None else self._resumed(answer, asked)

    async def _resume(
        self, line: Line, tongue: Tongue, greeting: Greeting, asked: dict[str, Position | None]
    ) -> Greeting | None:
        """Take the session up; return the second greeting, or None if it is a new session from here on."""
        if self._ticket is None:
            return None
        self._attempts += 1
        ask = Resume(self._ticket, asked, self._attempts)
        resume = Envelope("$resume", id=self.outbox.number(), data=ask)

        async def take_in(arrived: Arrived) -> None:
            await self._take_in(arrived, tongue, greeting.heartbeat)

        return await resumed(line, tongue, resume, asked, greeting.max_message, take_in)

    def _resumed(self, greeting: Greeting, asked: dict[str, Position | None]) -> Opening:
        returning: list[tuple[Membership, Request | None]] = []
        for name, membership in list(self.rooms.by_name.items()):
            failure = greeting.refused.get(name)
            if failure is not None and not failure.retry:
                self.rooms.refuse(membership, failed(failure))
            elif name in greeting.rooms and (name not in asked or asked[name] is not None):
                membership.joined(greeting.rooms[name])
            elif name not in greeting.rooms or membership.low:
                membership.behind = membership.returning = True
                returning.append((membership, None))
                if name not in greeting.rooms:
                    self.outbox.absent(name)
        for name in greeting.rooms.keys() - self.rooms.by_name.keys() - asked.keys():
            self.rooms.enter(name, greeting.rooms[name])  # the server has put the client in
        self.outbox.restart((), self.outbox.window)
        self._welcomed(greeting)
        return Opening(greeting, True, tuple(returning))

    def _anew(self, greeting: Greeting) -> Opening:
        returning: list[tuple[Membership, Request | None]] = []
        for membership in self.rooms.by_name.values():
            membership.behind = membership.returning = True
            returning.append((membership, self._joining(membership)))
            self.outbox.absent(membership.name)
        self.outbox.restart([request for _, request in returning if request is not None], None)
        self._welcomed(greeting)
        return Opening(greeting, False, tuple(returning))

    def _welcomed(self, greeting: Greeting) -> None:
        self._ticket = greeting.session
        self.outbox.window = OF_WINDOW * greeting.window
        self.user = greeting.user
        self._meet_inbox(greeting.inbox)

    def _meet_inbox(self, inbox: Inbox | None) -> None:
        if inbox is not None:
            self.rooms.inbox = self.rooms.enter(inbox.room, Position(inbox.epoch, inbox.offset))

    # What arrives

    async def _read(self, line: Line, heartbeat: float | None) -> None:
        tongue = self.tongue
        try:
            async with Silence(
                None if heartbeat is None else 2 * heartbeat, lambda: line.heard_at
            ) as silence:
                while True:
                    message = await line.recv()
                    if tongue is None:
                        await self.rooms.take_plain(message)
                    else:
                        await self._take_in(tongue.read(message), tongue, heartbeat)
                    silence.heard = silence.now()
        except InvalidMessage as problem:
            raise await misspoken(line, str(problem)) from problem
        except TimeoutError:
            raise LineLost(CloseCode.ABNORMAL, "nothing was heard from the server in time") from None
        finally:
            self._tasks = None

    async def _write(self, line: Line, largest: int | None) -> None:
        try:
            await self.outbox.write(line, largest)
        finally:
            self._tasks = None  # nothing more is to be begun on this line

    async def _take_in(self, arrived: Arrived, tongue: Tongue, patience: float | None) -> None:
        kind = arrived.type
        if kind in ("$ack", "$error"):
            self._answered(arrived, tongue)
        elif kind == "$ping":
            if self._pong is None or self._pong.outcome.done():
                self._pong = self.note(Envelope("$pong"))
        elif kind == "$drain":
            self.drain = tongue.data(arrived, Drain).after
        else:
            await self.rooms.take_in(arrived, tongue, patience)

    def _answered(self, arrived: Arrived, tongue: Tongue) -> None:
        # First of all: if it can't be read, the request is still there to be told so.
        failure = tongue.failure(arrived) if arrived.type == "$error" else None
        request = self.outbox.answered(arrived.id)
        if arrived.id is not None and self._retries.answered(request, failure, self._tasks):
            return
        if request is not None and failure is None:
            request.acknowledged(arrived)
        elif request is not None and failure is not None:
            request.fail(failure)
        elif failure is not None and arrived.id is None:
            logger.warning("a message that asked for no answer failed: %s", failure)

    # What is sent

    def request(
        self,
        envelope: Envelope,
        accept: Callable[[Arrived], object] | None,
        *,
        kept: bool = True,
        repeatable: bool = False,
    ) -> Request:
        """Return a request for an envelope, which has to be added to the outbox.

        Raises what :meth:`spoken` raises, and :exc:`TypeError` if it can't be encoded.
        """
        tongue = self.spoken()
        number = self.outbox.number()
        if accept is not None:
            envelope = Envelope(envelope.type, id=number, room=envelope.room, data=envelope.data)
        room = None if envelope.type.startswith("$") else envelope.room
        payload = tongue.write(envelope)
        return Request(number, payload, accept, kept=kept, repeatable=repeatable, room=room)

    async def control(
        self, kind: str, room: str | None, data: object, accept: Callable[[Arrived], object]
    ) -> object:
        """Ask for something of the protocol's, which can be asked as often as lines are lost."""
        envelope = Envelope(kind, room=room, data=data)
        return await self.ask(self.request(envelope, accept, repeatable=True))

    async def ask(self, request: Request) -> object:
        """Send a request of the application and return its outcome; :exc:`OutboxFull` if too many wait.

        Where this is cancelled, the request is not sent any more, or not again.
        """
        self.outbox.check_room()
        self.outbox.add(request)
        self.rooms.stir()
        return await self._outcome(request)

    async def _outcome(self, request: Request) -> object:
        try:
            return await request.outcome
        finally:
            self.outbox.drop(request)

    def note(self, envelope: Envelope) -> Request:
        """Have something of the protocol's said that gets no answer and matters on this line only."""
        request = self.request(envelope, None, kept=False)
        self.outbox.add(request)
        return request

    async def join(self, name: str, since: Position | None) -> Membership:
        """Join a room."""
        data = self.spoken().data

        def accept(answer: Arrived) -> Membership:
            position = data(answer, Position)
            known = name in self.rooms.by_name
            membership = self.rooms.enter(name, position)
            self.outbox.present(name)
            if since is not None or not known:
                membership.joined(position)
            return membership

        request = self.request(Envelope("$join", room=name, data=Join(since)), accept, repeatable=True)
        self._joins[name] += 1
        try:
            membership = await self.ask(request)
        except asyncio.CancelledError:
            unwanted = name not in self.rooms.by_name and self._joins[name] == 1
            if request.sent is not None and unwanted and self.ended is None:
                self.note(Envelope("$leave", room=name))
            raise
        finally:
            self._joins[name] -= 1
            if not self._joins[name]:
                del self._joins[name]
        assert isinstance(membership, Membership)
        return membership

    async def leave(self, membership: Membership) -> None:
        """Leave a room; its iteration ends at once."""
        if membership is self.rooms.inbox:
            raise ClientError("An inbox can't be left.")
        name = membership.name

        def accept(_: Arrived) -> None:
            # Answers come in order: who is in it by now had asked for that before.
            other = self.rooms.by_name.get(name)
            if other is not None:
                self.rooms.leave(other)

        self.rooms.leave(membership)
        self.outbox.present(name)
        with suppress(RequestFailed):  # the server says that it is not in the room
            await self.control("$leave", name, UNSET, accept)

    async def log_in(self, token: str) -> Identity:
        """Log in with another token."""
        data = self.spoken().data

        def accept(answer: Arrived) -> Identity:
            identity = data(answer, Identity)
            self.user = identity.user
            self._ticket = identity.session or self._ticket
            self._meet_inbox(identity.inbox)
            return identity

        identity = await self.control("$auth", None, Login(token), accept)
        assert isinstance(identity, Identity)
        return identity

    # What goes on beside

    def _joining(self, membership: Membership) -> Request:
        data = self.spoken().data

        def accept(answer: Arrived) -> None:
            membership.joined(data(answer, Position))
            self.outbox.present(membership.name)

        envelope = Envelope("$join", room=membership.name, data=Join(membership.received))
        return self.request(envelope, accept, kept=False)

    def _catch_up(self, membership: Membership) -> None:
        if self._tasks is not None:
            membership.returning = True
            self._tasks.create_task(self._return(membership, None))

    async def _return(self, membership: Membership, request: Request | None) -> None:
        """Join a room again where it was left off, with a back-off while the server can't say."""
        waits = self._backoff()
        while self.ended is None and self.rooms.by_name.get(membership.name) is membership:
            if request is None:
                request = self._joining(membership)
                self.outbox.add(request)
            try:
                await self._outcome(request)
                if membership.kicked and membership.name not in self.rooms.by_name:
                    # It was in its way back when the client was taken out.
                    self.note(Envelope("$leave", room=membership.name))
                return
            except (RequestFailed, InvalidMessage) as problem:
                error = (
                    problem if isinstance(problem, RequestFailed) else RequestFailed("invalid", str(problem))
                )
            wait = next(waits, None) if error.retry else None
            if wait is None:
                self.rooms.refuse(membership, error)
                self.outbox.present(membership.name)
                return
            request = None
            await asyncio.sleep(wait)

    async def _renew(self, lifetime: float) -> None:
        """Ask for a new token each time that half of the last one's life is over."""
        data = self.spoken().data
        while lifetime:
            await asyncio.sleep(lifetime / 2)
            request = self.request(Envelope("$session"), lambda answer: data(answer, Ticket), kept=False)
            self.outbox.add(request)
            try:
                ticket = await self._outcome(request)
            except (RequestFailed, InvalidMessage) as problem:
                logger.info("no new session token: %s", problem)
                return
            if isinstance(ticket, Ticket):
                self._ticket, lifetime = ticket.session, ticket.lifetime

    def end(self, problem: ClientError, failure: ClientError | None) -> None:
        """Note that no line will come any more: requests fail with `problem`, iteration with `failure`."""
        self.ended = problem
        self.outbox.fail(problem)
        self.rooms.end(failure)


def _first(group: BaseExceptionGroup[LineLost]) -> LineLost:
    problem = group.exceptions[0]
    return _first(problem) if isinstance(problem, BaseExceptionGroup) else problem
