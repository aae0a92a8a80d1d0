"""One reader of the log: takes its messages in order, and knows what they come to."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ...observe.log import fields, logger
from ..base import Entry
from . import snapshot
from .records import Anew, Batch, Message, Part, Probe, decode
from .state import Result, State

Spread = Callable[[str, Entry, str], None]
Resolve = Callable[[int, Result], None]


class Watch(Protocol):
    """Who wants to know what batches come to."""

    def begins(self, batch: Batch, turn: bool) -> Resolve | None:
        """Return what to call with the index of each record and what it has come to, in their order.

        Without `turn` the batch is not applied.
        """

    def ends(self, batch: Batch, state: State) -> None:
        """Take note that a batch was applied."""


@dataclass(slots=True)
class _Collected:
    """The parts of a snapshot that have been read."""

    offset: int
    parts: list[bytes] = field(default_factory=list)


class Replica:
    """What this reader made of the log.

    A reader that begins where the log begins applies all of it. One that begins later takes note of batches
    until it has read a whole snapshot that was made at or after its beginning, and goes on from there: so its
    state is the one that every other reader has, or none.

    `spread` is called with each room message as it is applied.
    """

    def __init__(self, spread: Spread, watch: Watch, clock: Callable[[], float]) -> None:
        self._spread = spread
        self._watch = watch
        self._clock = clock
        self._first: int | None = None
        self._noted: deque[tuple[int, Batch, int]] = deque()
        self._collected: dict[str, _Collected] = {}
        self._measured = "", 0
        """The snapshot of which a part was read last, and its bytes so far."""
        self.heard = 0
        """How many batches and parts of snapshots were taken without a state: who wrote them, has one."""
        self.state: State | None = None
        self.offset = -1
        """Offset in the log of the newest message taken."""

    def take(self, offset: int, body: bytes) -> Message | None:
        """Take the log's next message; return it, or None if it can't be read."""
        if self._first is None:
            self._first = offset
            if offset == 0:
                self.state = State(self._spread, self._clock)
        self.offset = offset
        try:
            message = decode(body)
        except msgspec.MsgspecError as problem:
            # Every reader leaves it out, so all still agree.
            logger.warning("broker message unreadable", extra=fields(offset=offset, because=str(problem)))
            return None
        match message:
            case Batch():
                if self.state is None:
                    self.heard += 1
                    self._noted.append((offset, message, len(body)))
                else:
                    self._apply(self.state, message, offset, len(body))
            case Part():
                if self.state is None:
                    self.heard += 1
                    self._collect(message)
                else:
                    self._measure(self.state, message)
            case Anew() if self._counts(message):
                self.state = State(self._spread, self._clock)
                self._noted.clear()
                self._collected.clear()
            case Anew():
                pass
            case Probe():
                pass
        return message

    def _counts(self, anew: Anew) -> bool:
        if self.state is not None:
            return self.state.newest <= anew.after
        assert self._first is not None
        # Who has not seen all that came after it can't tell, and asks for a snapshot.
        newest = self._noted[-1][0] if self._noted else -1
        return self._first <= anew.after + 1 and newest <= anew.after

    def _apply(self, state: State, batch: Batch, offset: int, size: int) -> None:
        state.grown += size
        state.newest = offset
        turn = state.turn(batch)
        resolve = self._watch.begins(batch, turn)
        if not turn:
            return
        for index, record in enumerate(batch.records):
            result = state.apply(record, batch)
            if resolve is not None:
                resolve(index, result)
        self._watch.ends(batch, state)

    def _measure(self, state: State, part: Part) -> None:
        size = len(part.piece) + (self._measured[1] if self._measured[0] == part.snapshot else 0)
        self._measured = part.snapshot, size
        if part.last:
            state.image = size

    def _collect(self, part: Part) -> None:
        assert self._first is not None
        if part.offset < self._first - 1:
            return
        collected = self._collected.setdefault(part.snapshot, _Collected(part.offset))
        if part.number != len(collected.parts):
            # Its writer sent some again, or began before this reader did.
            return
        collected.parts.append(part.piece)
        if not part.last:
            return
        try:
            self.state = snapshot.restore(b"".join(collected.parts), self._spread, self._clock)
        except (msgspec.MsgspecError, LookupError) as problem:
            logger.warning(
                "broker snapshot unreadable", extra=fields(offset=self.offset, because=str(problem))
            )
            del self._collected[part.snapshot]
            return
        self._collected.clear()
        self.state.image = sum(map(len, collected.parts))
        while self._noted:
            offset, batch, size = self._noted.popleft()
            if offset > part.offset:
                self._apply(self.state, batch, offset, size)
