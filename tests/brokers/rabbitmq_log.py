"""A log in memory in RabbitMQ's place: its lines are cut, held up and fed as a test wants it."""

import asyncio
from collections.abc import Awaitable, Callable

from hubbub.brokers.rabbitmq.address import Address
from hubbub.brokers.rabbitmq.records import Batch, Part, decode, encode
from hubbub.brokers.rabbitmq.snapshot import capture, pieces
from hubbub.testing.brokers import Instance


class MemoryLog:
    """What the server has: bodies by their offsets, of which those before `first` are gone."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.first = 0
        self.pointed: int | None = None
        self.lines: list[MemoryLine] = []
        self.opened = 0
        self.refuses = False
        self.refused: set[str] = set()
        """Whom alone it refuses."""
        self.takes: Callable[[bytes], bool] = lambda body: True
        """Whether what is appended gets there; else it is on its way, and stays there."""
        self.on_its_way: list[bytes] = []
        self.deliveries: Callable[[int], bool] = lambda offset: True
        """Whether a line may read what is there; else it is cut."""

    async def open(self, address: Address) -> "MemoryLine":
        if self.refuses or any(f"name={name}" in address.url for name in self.refused):
            raise ConnectionRefusedError("refused")
        self.opened += 1
        line = MemoryLine(self)
        self.lines.append(line)
        return line

    def append(self, body: bytes) -> int:
        self.bodies.append(body)
        for line in list(self.lines):
            line.feed()
        return len(self.bodies) - 1

    def batches(self) -> list[Batch]:
        return [message for body in self.bodies if isinstance(message := decode(body), Batch)]

    def cut(self) -> None:
        for line in list(self.lines):
            line.end("cut")


def write_snapshot(log: MemoryLog, instance: Instance) -> int:
    """Append a snapshot of what an instance that has read all made of the log; return its offset."""
    at = len(log.bodies) - 1
    whole = b"".join(piece for piece, _ in pieces(capture(instance.broker._log.state)))
    return log.append(encode(Part(f"s{at}", at, 0, True, whole)))


class MemoryLine:
    """One connection to it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._next: int | None = None
        self._take: Callable[[int, bytes], None] | None = None
        self._due = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
        if self in self._log.lines:
            self._log.lines.remove(self)

    def check_rights(self, problem: BaseException | None = None) -> None:
        pass

    def feed(self) -> None:
        if self._take is not None and not self._due and not self.ended.done():
            self._due = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        assert self._take is not None
        assert self._next is not None
        if self.ended.done() or self._next >= len(self._log.bodies):
            return
        offset = self._next = max(self._next, self._log.first)
        if not self._log.deliveries(offset):
            self.end("cut")
            return
        self._next += 1
        try:
            self._take(offset, self._log.bodies[offset])
        except Exception as problem:
            self.end(f"a message could not be taken: {problem!r}")
        self.feed()

    async def listen(self, instance: str, take: Callable[[bytes], None]) -> None:
        pass

    async def answer(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        pass

    async def end_of_log(self, probe: bytes) -> int:
        return self._log.append(probe)

    async def pointer(self) -> int | None:
        return self._log.pointed

    async def point(self, offset: int) -> None:
        self._log.pointed = offset

    async def read(self, begins: int | None, take: Callable[[int, bytes], None]) -> None:
        self._next, self._take = max(begins or 0, self._log.first), take
        self.feed()

    async def append(self, body: bytes, *, wait: bool = False) -> None:
        if self.ended.done():
            raise ConnectionError(self.ended.result())
        if self._log.takes(body):
            self._log.append(body)
        else:
            self._log.on_its_way.append(body)

    async def close(self) -> None:
        self.end("closed")

    async def abort(self) -> None:
        self.end("cut")
