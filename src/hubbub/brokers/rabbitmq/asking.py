"""Publishing without reading the log: an instance that reads it is asked to."""

import asyncio

import msgspec

from ...errors import Unavailable
from .connecting import Connecting
from .line import Line, Trouble
from .records import Answer, Record, decode_answer, encode
from .state import Result


class NobodyAnswers(Exception):
    """No instance runs that could be asked; nothing was done."""


class Asking(Connecting):
    """Has records appended by any instance that runs, and is told what they came to."""

    async def ask(self, record: Record) -> Result:
        """Have a record appended, and return what it came to.

        Raises :exc:`NobodyAnswers` if no instance runs, and :exc:`Unavailable` if none answered in time: then
        it may have been appended all the same.
        """
        line = self._usable()
        question = encode(record)
        try:
            async with asyncio.timeout(self._timeout):
                body = await line.ask(question)
            if body is None:
                raise NobodyAnswers
            answer: Answer = decode_answer(body)
        except Trouble as problem:
            raise Unavailable("The broker did not answer in time.") from problem
        except msgspec.MsgspecError as problem:
            raise Unavailable("What an instance answered can't be read.") from problem
        if answer.problem is not None:
            raise Unavailable(answer.problem)
        return answer.secret if answer.position is None else answer.position

    async def _use(self, line: Line) -> str:
        async with asyncio.timeout(self._timeout):
            await line.take_answers()
        self._becomes_available()
        self._is_ready()
        return await asyncio.shield(line.ended)
