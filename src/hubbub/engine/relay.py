"""The relay: a client's request that came to another instance than its line is on, and the answer to it.

Without it a client whose requests each come to some instance would need a proxy that is told where to send
them. The broker's control messages carry both.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import Unavailable
from ..observe.log import fields, logger
from ..settings import Settings
from .control import Relayed, Returned
from .lines import TAKEN, UNKNOWN, LineAnswer, LineRequest, failed
from .questions import Questions, new_question

PATIENCE = 7.0
"""Seconds for which another instance is waited for, but by a poll: longer than a POST may wait there."""

PAUSE = 1.0
"""Seconds after which a poll is answered with nothing while the broker can't be reached."""

MAX_RELAYED = 16 * 2**20
"""Bytes of requests that wait for another instance, and as many of others' that are being answered here."""

MAX_ANSWERED = 100_000
"""Requests of other instances that are being answered: more than there are clients whose polls can wait."""

Serve = Callable[[LineRequest], Awaitable[LineAnswer]]
"""Has a line of this instance do what a request asks. It may return a future: a request that only waits, as a
poll does, takes no task."""


class Relay:
    """Hands requests to other instances, and theirs to `serve`."""

    def __init__(self, questions: Questions, settings: Settings, serve: Serve) -> None:
        self._questions = questions
        # The owner's heartbeat ends a poll sooner, and a client gives up a line that is silent for two.
        self._poll_patience = 1.5 * settings.ping_interval
        self._serve = serve
        self._asking = 0
        self._polls: set[str] = set()
        """Questions that are polls."""
        self._leaving = False
        self._answering: dict[asyncio.Future[LineAnswer], Relayed] = {}
        self._answering_bytes = 0
        self._stopped = False

    async def ask(self, instance: str, request: LineRequest) -> LineAnswer:
        """Return an instance's answer to a request.

        It is :data:`UNKNOWN` if the instance is gone, or there is none in time: whether it has carried
        anything out is not known then, and the client finds out when it resumes. But a POST with a number,
        and a poll, are to be made again where the instance is still there. A poll that waits when this
        instance is about to stop is answered with nothing, too: the next one comes to another one.
        """
        size, waits = len(request.body), request.kind == "poll"
        if self._asking + size > MAX_RELAYED:
            return _later("Too much is being handed to other instances.")
        if waits and self._leaving:
            return _later("This instance is about to stop.")
        self._asking += size
        try:
            return await self._ask(instance, request, waits)
        except Unavailable as problem:
            if not waits:
                return _later(str(problem))
            # An error would have proxies take this instance for broken; and the next poll may come to the
            # right one.
            await asyncio.sleep(PAUSE)
            return TAKEN
        finally:
            self._asking -= size

    async def _ask(self, instance: str, request: LineRequest, waits: bool) -> LineAnswer:
        if not await self._questions.are_there({instance}):
            return UNKNOWN
        question = Relayed(new_question(), self._questions.instance, request)
        if waits:
            self._polls.add(question.question)
        try:
            patience = self._poll_patience if waits else PATIENCE
            asked = await self._questions.ask(question, {instance}, patience)
        finally:
            self._polls.discard(question.question)
        answer = asked.answers.get(instance)
        if isinstance(answer, Returned):
            return answer.reply
        if waits and self._leaving:
            return TAKEN
        # An answer may get lost on its way while the broker is in trouble. What can be asked again, is.
        if (waits or request.number is not None) and await self._questions.are_there({instance}):
            return TAKEN if waits else _later("The line's instance did not answer in time.")
        return UNKNOWN

    def leave(self) -> None:
        """Let go of the polls that wait for other instances: this one is about to stop."""
        self._leaving = True
        for question in self._polls:
            self._questions.give_up(question)

    def asked(self, relayed: Relayed) -> None:
        """Answer a request that came to another instance."""
        size = len(relayed.request.body)
        if len(self._answering) >= MAX_ANSWERED or self._answering_bytes + size > MAX_RELAYED:
            self._reply(relayed, _later("Too much of other instances is being answered."))
        elif self._stopped:
            self._reply(relayed, UNKNOWN)
        else:
            answering = asyncio.ensure_future(self._serve(relayed.request))
            self._answering[answering] = relayed
            self._answering_bytes += size
            answering.add_done_callback(self._done)

    def _done(self, answering: asyncio.Future[LineAnswer]) -> None:
        relayed = self._answering.pop(answering)
        self._answering_bytes -= len(relayed.request.body)
        problem = None if answering.cancelled() else answering.exception()
        if problem is not None:
            logger.error("error", exc_info=problem, extra=fields(during="answering for another instance"))
        failed_here = answering.cancelled() or problem is not None
        self._reply(relayed, UNKNOWN if failed_here else answering.result())

    def _reply(self, relayed: Relayed, reply: LineAnswer) -> None:
        self._questions.answer(relayed, Returned(relayed.question, self._questions.instance, reply))

    async def stop(self) -> None:
        """Answer nothing any more: whoever still waits is told so."""
        self._stopped = True
        answering = list(self._answering)
        for each in answering:
            each.cancel()
        if answering:
            await asyncio.wait(answering)


def _later(because: str) -> LineAnswer:
    return failed(503, "unavailable", because, retry=True)
