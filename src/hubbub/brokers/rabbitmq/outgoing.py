"""What this instance appends to the log: gathered into numbered batches, and sent again until it is read."""

import asyncio
import functools
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import Unavailable
from .line import Line
from .records import Batch, Look, Record, encode, encode_batch
from .replica import Resolve
from .state import Result, State

MOST_WAITING = 10_000
"""Records that may wait to be appended; past it they are refused at once."""
MOST_BYTES = 64 * 2**20
"""Bytes that those may hold. RabbitMQ itself takes no message of more than 128 MiB, and ends the line."""
BATCH = 1_000
BATCH_BYTES = 256 * 1024
"""Records of a batch, and their bytes; a single one may be larger."""
IN_FLIGHT = 4
"""Batches appended but not read yet: while there are so many, what is asked for gathers."""

Done = Callable[[Result, bool], None]
"""Called with what a record came to, in the order of the log, and whether somebody waits for that.

Where it was applied and nobody here has seen to what, it is called with None."""


@dataclass(slots=True)
class _Asked:
    record: bytes
    answer: "asyncio.Future[Result] | None"
    done: Done | None

    @property
    def forsaken(self) -> bool:
        """Whether somebody waited for it, and does no more."""
        return self.answer is not None and self.answer.done()

    def fail(self, why: str) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(Unavailable(why))


@dataclass(slots=True)
class _Sent:
    number: int
    asked: list[_Asked]
    at: float


class Outgoing:
    """The records that wait to be appended, and the batches that were but have not been read.

    A batch keeps its number over all connections, so that it counts once however often it was sent.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._waiting: deque[_Asked] = deque()
        self._bytes = 0
        self._sent: deque[_Sent] = deque()
        self._look: asyncio.Future[Result] | None = None
        self._changed = asyncio.Event()

    def ask(self, record: Record, done: Done | None) -> "asyncio.Future[Result]":
        """Have a record appended; return what will be what it came to.

        Raises :exc:`Unavailable` if too much waits already. Who cancels before it is sent has asked nothing.
        """
        encoded = encode(record)
        if len(encoded) > MOST_BYTES:
            raise Unavailable("The message is too large for the broker.")
        if self._bytes + len(encoded) > MOST_BYTES or len(self._waiting) >= MOST_WAITING:
            raise Unavailable("Too much waits for the broker.")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._add(_Asked(encoded, answer, done))
        return answer

    def look(self) -> "asyncio.Future[Result]":
        """Return what is done when all is applied that is in the log by now; shared, so shield it."""
        if self._look is None or self._look.done():
            self._look = self.ask(Look(), None)
            # Nobody may wait for it any more when it fails.
            self._look.add_done_callback(lambda look: look.cancelled() or look.exception())
        return self._look

    def tell(self, record: Record, done: Done | None) -> None:
        """Have a record appended that nobody waits for."""
        self._add(_Asked(encode(record), None, done))

    def _add(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._bytes += len(asked.record)
        self._changed.set()

    def waits_since(self) -> float | None:
        """Return when the oldest batch not read yet was sent, by the loop's clock; None if there is none."""
        return self._sent[0].at if self._sent else None

    async def send(self, line: Line) -> None:
        """Append what is not read yet, then what waits and comes, in order; it never returns."""
        for sent in list(self._sent):
            sent.at = _now()
            await self._append(line, sent)
        while True:
            while not self._waiting or len(self._sent) >= IN_FLIGHT:
                self._changed.clear()
                await self._changed.wait()
            # One that is on its way may not see what comes now.
            self._look = None
            asked: list[_Asked] = []
            size = 0
            while self._waiting and len(asked) < BATCH and size < BATCH_BYTES:
                one = self._waiting.popleft()
                self._bytes -= len(one.record)
                if not one.forsaken:
                    asked.append(one)
                    size += len(one.record)
            if asked:
                self._number += 1
                sent = _Sent(self._number, asked, _now())
                self._sent.append(sent)
                await self._append(line, sent)

    async def send_alone(self, line: Line, record: Record) -> None:
        """Append a record as the first batch of a new writer, before all else."""
        self.forsake()
        self._number = 1
        await line.append(encode_batch(self._writer, 1, self._clock(), [encode(record)]))

    async def _append(self, line: Line, sent: _Sent) -> None:
        records = [asked.record for asked in sent.asked]
        await line.append(encode_batch(self._writer, sent.number, self._clock(), records))

    def is_own(self, batch: Batch) -> bool:
        """Return whether a batch was written here."""
        return batch.writer == self._writer

    def out_of_turn(self, batch: Batch, last: int) -> bool:
        """Return whether what is not read yet has to be sent again, as a batch of it came out of its turn.

        `last` is the number of this writer's last batch that was applied.
        """
        if not self.is_own(batch) or not self._sent or batch.number < self._sent[0].number:
            return False
        if batch.number <= last:
            # A repeat of one that is in the state: see `skip`.
            return False
        if last + 1 < self._sent[0].number:
            # This writer was forgotten.
            self._rename()
        return True

    def resolve(self, batch: Batch) -> Resolve | None:
        """Return what answers those who wait for a batch that is applied now, if it was written here."""
        if not self.is_own(batch) or not self._sent or self._sent[0].number != batch.number:
            return None
        self._changed.set()
        return functools.partial(self._resolve, self._sent.popleft().asked)

    def _resolve(self, all_asked: list[_Asked], index: int, result: Result) -> None:
        asked = all_asked[index]
        if asked.done is not None:
            asked.done(result, not asked.forsaken)
        if asked.answer is not None and not asked.answer.done():
            asked.answer.set_result(result)

    def _rename(self) -> None:
        self._writer = secrets.token_hex(8)
        self._number = 0
        for sent in self._sent:
            self._number += 1
            sent.number = self._number

    def skip(self, state: State) -> None:
        """Give up what was sent and is in a state that was not read from here: what it came to is not known.

        Sent again, it would be taken for that of a writer that was forgotten, and count twice.
        """
        last = state.writers.get(self._writer, 0)
        while self._sent and self._sent[0].number <= last:
            for asked in self._sent.popleft().asked:
                asked.fail("What the broker made of it is not known.")
                if asked.done is not None:
                    asked.done(None, False)
        self._changed.set()

    def forsake(self) -> None:
        """Give up what was sent but not read, and begin as a new writer."""
        for sent in self._sent:
            for asked in sent.asked:
                asked.fail("The broker lost what it had.")
        self._sent.clear()
        self._rename()

    def close(self, why: str) -> None:
        """Fail all that waits."""
        for asked in [*(one for sent in self._sent for one in sent.asked), *self._waiting]:
            asked.fail(why)
        self._sent.clear()
        self._waiting.clear()
        self._bytes = 0


def _now() -> float:
    return asyncio.get_running_loop().time()
