"""Rooms that one instance holds: what each takes of its memory, and how many are joined a second."""

import select
import time
from contextlib import AbstractContextManager
from typing import ClassVar

from benchmarks.peers import Held as Speech
from benchmarks.peers import Peer
from benchmarks.servers import Server, redis_missing, serving_with_redis
from benchmarks.works import Reading, Work, target, watched
from benchmarks.works.memory import settled
from hubbub.load.connection import BUFFER, PATIENCE, Connection
from hubbub.load.frames import Closed, masked
from hubbub.load.idle import IdleConnections
from hubbub.load.streams import Messages

EACH = 100
"""Rooms that a connection joins."""
AT_ONCE = 64
"""Connections that have a join under way."""


class Held(Work):
    """What a server's memory grows by when its connections join rooms, each of which they are alone in."""

    unit = "kB for each room"
    lower_is_better = True
    limited = False
    also: ClassVar[dict[str, str]] = {"joins_per_second": "joins/s"}

    def __init__(self, rooms: int, *, shared: bool) -> None:
        self._connections = max(1, rooms // EACH)
        self._shared = shared
        self.name = f"{self._connections * EACH} rooms of one, {'over Redis' if shared else 'in memory'}"

    def can(self, peer: Peer) -> bool:
        return peer.held is not None and (peer.across is not None or not self._shared)

    def missing(self) -> str | None:
        return redis_missing() if self._shared else None

    def serving(self, peer: Peer, core: int) -> AbstractContextManager[Server]:
        return serving_with_redis(peer, core) if self._shared else super().serving(peer, core)

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:  # noqa: ARG002  # there is no window
        assert peer.held is not None
        idle = IdleConnections(target(server), peer.held.line)
        try:
            idle.open(self._connections)
            before = settled(server, idle)
            began = time.perf_counter()
            with watched(server) as reading:
                join_all(list(idle.everyone()), peer.held)
                took = time.perf_counter() - began
                after = settled(server, idle)
            if after <= before:
                raise ValueError("The server's memory did not grow; more rooms are needed to tell.")
        finally:
            idle.close()
        rooms = self._connections * EACH
        return reading(
            lambda _: (after - before) / rooms,
            {"before_kB": before, "after_kB": after, "rooms": rooms, "joins_per_second": rooms / took},
        )


def join_all(connections: list[Connection], speech: Speech) -> None:
    """Have each connection join `EACH` rooms that nobody else is in, one after another, some at any time.

    Raises `ValueError` for a wrong answer, `TimeoutError` if none comes.
    """
    numbers = iter(range(len(connections) * EACH))
    lines: dict[int, tuple[Connection, Messages]] = {}
    answers: list[bytes] = []
    queue = list(connections)
    left = dict.fromkeys((connection.socket.fileno() for connection in connections), EACH)
    buffer = bytearray(BUFFER)
    with select.epoll() as epoll:

        def begin() -> None:
            connection = queue.pop()
            number = connection.socket.fileno()
            lines[number] = connection, Messages(connection, notice=answers.append)
            epoll.register(number, select.EPOLLIN)
            connection.push(masked(speech.join(next(numbers))))

        while queue and len(lines) < AT_ONCE:
            begin()
        while lines:
            if not (events := epoll.poll(PATIENCE)):
                raise TimeoutError(f"No room was joined for {PATIENCE:.0f} seconds.")
            for number, _ in events:
                connection, messages = lines[number]
                if not (received := connection.receiver()(buffer)):
                    raise Closed
                messages.feed(memoryview(buffer)[:received])
                for answer in answers:
                    if speech.joined not in answer:
                        raise ValueError(
                            f"Expected {speech.joined!r} in an answer, but there was {answer!r}."
                        )
                    left[number] -= 1
                    if left[number]:
                        connection.push(masked(speech.join(next(numbers))))
                    else:
                        epoll.unregister(number)
                        del lines[number]
                        if queue:
                            begin()
                answers.clear()
