"""Users across instances: where they are connected, and how they are let go."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from itertools import islice

from ..errors import Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import pack
from ..protocol.codes import CloseCode
from ..protocol.envelope import Failure
from .connection import Connection
from .control import MAX_CONTROL, Answer, Ask, ConnectionInfo, Disconnect, Kick, Question
from .questions import Questions, new_question

WAIT = 2.0
"""Seconds for which the answers of other instances are waited for."""

MAX_TOLD = 1000
"""Connections of a user that an instance tells."""

MAX_ROOMS = 100
"""Rooms of a connection that are told."""

MAX_TASKS = 1000
"""Connections whose tokens are being made void for other instances; those that are too many are left out."""


class Users:
    """Does to a user's connections on this instance what is asked here or by another one, and asks those.

    `connections` are all of this instance by their id; `revoke` makes the tokens of a connection's session
    void.
    """

    def __init__(
        self,
        questions: Questions,
        connections: Mapping[str, Connection],
        revoke: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._questions = questions
        self._connections = connections
        self._revoke = revoke
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowded = False

    # What the application asks

    async def connections(self, user: str) -> list[ConnectionInfo]:
        """Return a user's connections; see :meth:`hubbub.Hubbub.connections`."""
        told, _ = await self._ask(Ask(new_question(), self._questions.instance, user))
        found = list(self._answer_of("", user).connections)
        for answer in told:
            found += answer.connections
            if answer.count > len(answer.connections):
                untold = answer.count - len(answer.connections)
                logger.warning("control", extra=fields(user=user, instance=answer.instance, untold=untold))
        return sorted(found, key=lambda connection: connection.connected_at)

    async def disconnect(self, user: str, reason: str, login: str | None = None) -> int | None:
        """Close a user's connections; see :meth:`hubbub.Hubbub.disconnect`."""
        closed = self._close(user, reason, login)
        try:
            question = Disconnect(new_question(), self._questions.instance, user, reason, login)
            told, complete = await self._ask(question)
        finally:
            # Whatever became of the others: who asks again would not find these here any more.
            for connection in closed:
                await self._revoke(connection)
        return sum((answer.count for answer in told), len(closed)) if complete else None

    async def kick(self, room: str, user: str, failure: Failure) -> int | None:
        """Take a user out of a room; see :meth:`hubbub.Room.kick`."""
        kicked = self._kick(room, user, failure)
        question = Kick(new_question(), self._questions.instance, user, room, failure)
        told, complete = await self._ask(question)
        return sum((answer.count for answer in told), kicked) if complete else None

    async def _ask(self, question: Question) -> tuple[list[Answer], bool]:
        """Ask all other instances; return their answers, and whether none is missing."""
        others = await self._questions.others()
        if not others:
            return [], True
        asked = await self._questions.ask(question, others, WAIT)
        if asked.missing:
            unanswered = ", ".join(sorted(asked.missing))
            kind = type(question).__name__.lower()
            logger.warning("control", extra=fields(asked=kind, unanswered=unanswered))
        told = [answer for answer in asked.answers.values() if isinstance(answer, Answer)]
        return told, not asked.missing

    # What other instances say

    def asked(self, ask: Ask) -> None:
        """Tell another instance of a user's connections."""
        if ask.instance != self._questions.instance:
            self._questions.answer(ask, self._answer_of(ask.question, ask.user))

    def disconnected(self, disconnect: Disconnect) -> None:
        """Close a user's connections, as another instance asks."""
        if disconnect.instance != self._questions.instance:
            closed = self._close(disconnect.user, disconnect.reason, disconnect.login)
            answer = Answer(disconnect.question, self._questions.instance, len(closed))
            self._questions.answer(disconnect, answer)
            for connection in closed:
                self._begin(self._revoke_later, connection)

    def kicked(self, kick: Kick) -> None:
        """Take a user out of a room, as another instance asks."""
        if kick.instance != self._questions.instance:
            count = self._kick(kick.room, kick.user, kick.failure)
            self._questions.answer(kick, Answer(kick.question, self._questions.instance, count))

    # What is done here

    def _of(self, user: str) -> Iterator[Connection]:
        return (connection for connection in self._connections.values() if connection.named(user))

    def _answer_of(self, question: str, user: str) -> Answer:
        found = list(self._of(user))
        instance, told, size = self._questions.instance, [], 0
        for connection in found[:MAX_TOLD]:
            memberships = connection.memberships
            info = ConnectionInfo(
                connection.id,
                connection.name,
                instance,
                connection.session[:8],
                connection.remote_address,
                connection.since,
                [] if memberships is None else list(islice(memberships.names, MAX_ROOMS)),
            )
            size += len(pack(info))
            if size > MAX_CONTROL - 1024:
                break
            told.append(info)
        return Answer(question, instance, len(found), told)

    def _close(self, user: str, reason: str, login: str | None) -> list[Connection]:
        closed = [
            connection
            for connection in self._of(user)
            if not connection.closing and (login is None or connection.state.get("login") == login)
        ]
        for connection in closed:
            connection.start_close(CloseCode.NOT_LOGGED_IN, reason)
        if closed:
            logger.info("disconnect user", extra=fields(user=user, count=len(closed), reason=reason))
        return closed

    def _kick(self, room: str, user: str, failure: Failure) -> int:
        count = 0
        for connection in self._of(user):
            memberships = connection.memberships
            if memberships is not None and memberships.kick(room, failure):
                count += 1
                self._keep(memberships.give_back())
        return count

    # The tasks that do what takes time

    def _begin(self, work: Callable[..., Coroutine[object, object, None]], *arguments: object) -> None:
        crowded = len(self._tasks) >= MAX_TASKS
        if not crowded:
            self._keep(work(*arguments))
        elif not self._crowded:
            logger.warning("control", extra=fields(being_revoked=len(self._tasks), more="are left out"))
        self._crowded = crowded

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name="hubbub: control")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            logger.error("error", exc_info=problem, extra=fields(during="control message"))

    async def _revoke_later(self, connection: Connection) -> None:
        try:
            await self._revoke(connection)
        except Unavailable as problem:
            logger.warning("control", extra=fields(unrevoked=connection.session[:8], problem=str(problem)))

    async def stop(self, seconds: float) -> None:
        """Finish what was begun, within some seconds."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=seconds)
