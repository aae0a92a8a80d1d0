"""The log as this instance has it: what it appends, what it reads, and how it comes back after trouble."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry, History
from .address import Address
from .connecting import Connecting
from .line import Line
from .outgoing import Done, Outgoing
from .records import Anew, Answer, Batch, Part, Probe, Publish, Record, Relive, Secret, decode_record, encode
from .replica import Replica, Resolve
from .snapshots import Snapshots
from .state import Result, State

MOST_MISSED = 2**31
CLOCKS_APART = 60.0
"""Seconds by which a clock may be behind the log's time without a word."""
SNAPSHOTS = 64
"""A snapshot is due when the log has grown by this part of it, or by twice the last one if that is more."""
ATTEMPTS = 5
"""How often the other instances are asked for a snapshot."""

# It logs a traceback for each refused connection; what is to be known of those, is said here once.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class Owner(Protocol):
    """Whose log it is."""

    @property
    def answers(self) -> bool:
        """Whether it takes part as an instance, which others may send to and ask."""

    def spread(self, room: str, entry: Entry, epoch: str) -> None:
        """Take a room message, in the order of the log."""

    def control(self, payload: bytes) -> None:
        """Take a control message."""

    def began(self, *, anew: bool) -> None:
        """Take note that the log can be used; `anew` if not all that was applied since was spread."""


class Log(Connecting):
    """Appends records and applies all that anybody appends, over one connection after the other.

    `timeout` is for how many seconds an answer is waited for.
    """

    def __init__(
        self, address: Address, owner: Owner, instance: str, *, timeout: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(address, timeout=timeout)
        self._owner = owner
        self._instance = instance
        self._clock = clock
        self._replica: Replica | None = None
        self._last = b""
        """The newest message taken: where reading goes on, it has to be there."""
        self._settled = False
        """Whether what is applied is spread as it comes: not while the state is built up anew."""
        self._life = ""
        self._outgoing = Outgoing(clock)
        self._snapshots = Snapshots(address, timeout=timeout)
        self._read = asyncio.Event()
        self._moved = 0.0
        """When something was read."""
        self._went_back = False
        """Whether the log has lost what was at its end."""
        self._trusts_pointer = True

    # What the owner asks for

    @property
    def state(self) -> State:
        """What the log comes to; :exc:`Unavailable` while that is not known."""
        if self._replica is None or self._replica.state is None or not self.available:
            raise Unavailable(self._why)
        return self._replica.state

    def position(self, room: str) -> Position:
        """Return where a room is, while messages are applied."""
        return self._known().position(room)

    def missed(self, room: str, since: Position) -> History:
        """Return all that is kept of a room after a position."""
        return self._known().history(room, since, MOST_MISSED, self._clock())

    def held(self, instance: str) -> list[str]:
        """Return the rooms that an instance is subscribed to, as far as the log tells."""
        return self._known().held(instance)

    def _known(self) -> State:
        assert self._replica is not None
        assert self._replica.state is not None
        return self._replica.state

    async def stop(self, *, abruptly: bool = False) -> None:
        """End; `abruptly` as a crash would: the server is not told."""
        await super().stop(abruptly=abruptly)
        await self._snapshots.stop()
        self._outgoing.close(self._why)

    async def ask(self, record: Record, done: Done | None = None) -> Result:
        """Append a record, and return what it came to when it was applied here.

        Raises :exc:`Unavailable` at once if the log can't be used or too much waits, or when it was not
        applied in time: then it may be all the same, later.
        """
        if not self.available:
            raise Unavailable(self._why)
        answer = self._outgoing.ask(record, done)
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise Unavailable("The broker did not answer in time.") from None

    async def look(self) -> State:
        """Return what the log comes to with all that was appended before; raises as :meth:`ask` does."""
        if not self.available:
            raise Unavailable(self._why)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._outgoing.look())
        except TimeoutError:
            raise Unavailable("The broker did not answer in time.") from None
        return self.state

    def tell(self, record: Record, done: Done | None = None) -> None:
        """Append a record that nobody waits for; it is dropped while the log can't be used."""
        if self.available:
            self._outgoing.tell(record, done)

    # Coming and going of the connection

    async def _use(self, line: Line) -> str:
        """Use a connection until it is of no use any more; return why."""
        if not await self._catch_up(line):
            return "the log is not the one that it was"
        sender = asyncio.create_task(self._outgoing.send(line), name="hubbub: RabbitMQ appends")
        try:
            while not line.ended.done():
                awaited: list[asyncio.Future[Any]] = [line.ended, sender]
                await asyncio.wait(awaited, timeout=self._timeout / 8, return_when=asyncio.FIRST_COMPLETED)
                if sender.done():
                    await sender
                since = self._outgoing.waits_since()
                if since is not None and self._now() - since > self._timeout:
                    return "it did not answer in time"
            return line.ended.result()
        finally:
            sender.cancel()
            await asyncio.wait([sender])

    async def _catch_up(self, line: Line) -> bool:
        """Read the log to its end, and begin; False if reading has to begin anew, on another connection."""
        async with asyncio.timeout(self._timeout):
            if self._owner.answers:
                await line.listen(self._instance, self._owner.control)
            end = await line.end_of_log(encode(Probe(secrets.token_hex(8))))
        replica = self._replica
        if replica is not None and replica.state is not None:
            # Another log, or one that has lost what was at its end.
            went_back = replica.offset >= end
            # Until it is made good: what is read may be cut short, and go on over another connection.
            self._went_back |= went_back
            if went_back or not await self._go_on(line, replica, end):
                self._replica = None
                self._settled = False
                return False
        else:
            replica = await self._read_anew(line, end)
            if replica is None:
                return False
        await self._begin(line, replica)
        return True

    async def _go_on(self, line: Line, replica: Replica, end: int) -> bool:
        """Read on from where this reader was; False if that is not there any more."""
        place, last = replica.offset, self._last
        found: bool | None = None

        def take(offset: int, body: bytes) -> None:
            nonlocal found
            if found is None:
                found = offset == place and body == last
                # If nothing is there, the log has lost its beginning; if something else is, its end.
                self._went_back |= not found and offset == place
                if not found:
                    line.end("the log is not the one that it was")
            elif found:
                self._take(line, replica, offset, body)

        await line.read(place, take)
        return await self._until(line, lambda: replica.offset >= end) and bool(found)

    async def _read_anew(self, line: Line, end: int) -> Replica | None:
        """Read as much of the log as it takes to know its state; None if the connection did not last."""
        replica = self._replica = Replica(self._spread, self, self._clock)
        begins: int | None = None
        if self._trusts_pointer:
            async with asyncio.timeout(self._timeout):
                pointer = await line.pointer()
            begins = None if pointer is None or pointer >= end else pointer + 1
        await line.read(begins, lambda offset, body: self._take(line, replica, offset, body))
        if not await self._until(line, lambda: replica.offset >= end):
            return None
        if replica.state is None and begins is not None:
            # It points to no snapshot: the log was emptied since, perhaps.
            self._trusts_pointer = False
            return None
        if not await self._ask_around(line, replica):
            return None
        self._trusts_pointer = True
        return replica

    async def _ask_around(self, line: Line, replica: Replica) -> bool:
        """Have the log's state told, or begun anew if nobody knows it; False if the connection ends."""
        name, attempt = secrets.token_hex(8), 0
        while replica.state is None:
            # Its beginning is not kept any more, nor is a snapshot: who runs already can write one.
            attempt, heard = attempt + 1, replica.heard
            anew = attempt > ATTEMPTS
            await line.append(encode(Anew(name, replica.offset) if anew else Probe(name, attempt)))
            known = await self._until(line, lambda: replica.state is not None, within=min(1.0, self._timeout))
            if known and anew:
                logger.warning("history began anew", extra=fields(broker=self._address.shown))
            if line.ended.done():
                return False
            if replica.heard != heard:
                # Somebody knows, and may need longer to tell. It is asked of all from now on.
                attempt = 2
        return True

    async def _begin(self, line: Line, replica: Replica) -> None:
        """Let the log be used."""
        state = replica.state
        assert state is not None
        if not self._settled and (self._went_back or self._life != state.life):
            # What was sent belonged to what the log was.
            self._outgoing.forsake()
            if self._went_back and self._life == state.life and state.life:
                await self._relive(line, state)
        self._went_back = False
        self._life = state.life
        # They could not be heard of while the server was away.
        now = self._clock()
        for instance in state.instances.values():
            instance.heard = now
        if state.now - now > CLOCKS_APART:
            # One of the two is wrong. If it is the log's, nothing in it grows older until then.
            logger.warning(
                "broker clock", extra=fields(broker=self._address.shown, behind=round(state.now - now))
            )
        settled, self._settled = self._settled, True
        self._becomes_available()
        self._outgoing.skip(state)
        self._owner.began(anew=not settled)
        if self._owner.answers:
            async with asyncio.timeout(self._timeout):
                await line.answer(self._answer)
        self._is_ready()

    async def _answer(self, question: bytes) -> bytes:
        """Append a record for somebody who does not read the log; return what it came to."""
        try:
            record = decode_record(question)
            if not isinstance(record, Publish | Secret):
                return encode(Answer(problem="Only messages are appended for others."))
            result = await self.ask(record)
        except (Unavailable, msgspec.MsgspecError) as problem:
            return encode(Answer(problem=str(problem)))
        if isinstance(result, Position):
            return encode(Answer(position=result))
        assert isinstance(result, bytes)
        return encode(Answer(secret=result))

    async def _relive(self, line: Line, state: State) -> None:
        """Have every room begin a new epoch: the log has lost positions that were given out."""
        logger.warning(
            "history began anew", extra=fields(broker=self._address.shown, rooms=len(state.streams))
        )
        life = state.life
        await self._outgoing.send_alone(line, Relive())
        if not await self._until(line, lambda: state.life != life):
            raise ConnectionError(line.ended.result())

    async def _until(self, line: Line, met: Callable[[], bool], *, within: float | None = None) -> bool:
        """Wait for a condition while messages are read; False if the connection ends, or `within` is over.

        :exc:`TimeoutError` if nothing is read for too long.
        """
        began = self._moved = self._now()
        while not met():
            if line.ended.done():
                return False
            now = self._now()
            if within is not None and now - began >= within:
                return False
            if within is None and now - self._moved > self._timeout:
                raise TimeoutError
            self._read.clear()
            read = asyncio.create_task(self._read.wait(), name="hubbub: RabbitMQ reads")
            awaited: list[asyncio.Future[Any]] = [line.ended, read]
            try:
                await asyncio.wait(
                    awaited,
                    timeout=min(within or self._timeout, self._timeout / 8),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                read.cancel()
        return True

    # Reading

    def _take(self, line: Line, replica: Replica, offset: int, body: bytes) -> None:
        self._moved = self._now()
        try:
            message = replica.take(offset, body)
        except Exception:
            # Half of it may be applied: to go on from here would be another state than the others'.
            self._replica = None
            self._settled = False
            raise
        self._last = body
        self._read.set()
        if isinstance(message, Probe) and message.attempt and self._settled and replica.state is not None:
            names = sorted(replica.state.instances)
            # One of them first, if it answers.
            if message.attempt > 2 or names[message.attempt - 1 : message.attempt] == [self._instance]:
                self._snapshots.write(line, replica)
        elif isinstance(message, Part):
            self._snapshots.read(message)

    def _spread(self, room: str, entry: Entry, epoch: str) -> None:
        if self._settled:
            self._owner.spread(room, entry, epoch)

    def begins(self, batch: Batch, turn: bool) -> Resolve | None:
        """Return what answers those who wait for the batch, if it is an own one (see :class:`.Watch`)."""
        if turn:
            return self._outgoing.resolve(batch)
        last = self._known().writers.get(batch.writer, 0)
        if self._outgoing.out_of_turn(batch, last) and self._line is not None:
            self._line.end("a batch came out of its turn")
        return None

    def ends(self, batch: Batch, state: State) -> None:
        """Take note that a batch was applied (see :class:`.Watch`)."""
        if state.life != self._life and self._settled:
            self._life = state.life
            self._owner.began(anew=True)
        if state.grown >= max(self._address.log_bytes // SNAPSHOTS, 2 * state.image):
            state.grown = 0
            if self._outgoing.is_own(batch) and self._settled and self._line and self._replica:
                self._snapshots.write(self._line, self._replica)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
