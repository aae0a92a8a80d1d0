"""What all loads have in common."""

import gc
import select
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from .connection import BUFFER, PATIENCE, Connection, Refused
from .frames import CLOSE, Closed, masked
from .latencies import Latencies
from .streams import Messages

GOOD_BYE = (1000).to_bytes(2, "big")
PARTS_WITHIN = 2.0
"""Seconds that a server has to close connections at the end."""
SILENCE = 0.2
"""Seconds after which a server that says nothing has said what it had to say."""

Lost = Callable[[Exception], None]
"""Told why a connection was lost. It raises where that is the end of the load, else the load goes on."""

Tell = Callable[[int], None]
"""Hears how many messages have come in so far: now and then, and at the end of a run, however it ends."""
TELLS_EVERY = 0.5
"""Seconds between. While it is told the load waits, so it should not be often."""


def fail(error: Exception) -> None:
    """Raise `error`: every connection counts."""
    raise error


def untold(_: int) -> None:
    """Nobody wants to know."""


class Load(ABC):
    """The clients of one load: connected and checked when made."""

    latencies: Latencies
    spun: float = 0.0
    """Seconds that were worked for nothing but to see when the next message is due."""
    _epoll: "select.epoll"  # which only Linux has

    @abstractmethod
    def __len__(self) -> int:
        """Return how many connections there still are, without those that only send."""

    @abstractmethod
    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Go on with the load for that long; return how many messages have come in.

        What is under way at the end is still under way in the next run, and its latency counts from when it
        was sent. To look at how far it is, `tell` is there: nothing is left out for that.

        Raises :exc:`ValueError` if the server answers wrongly, :exc:`OSError` if it stops answering.
        """

    @abstractmethod
    def finish(self) -> None:
        """Send no more, receive what is under way, and check that it is right."""

    @abstractmethod
    def everyone(self) -> Iterable[Connection]:
        """All connections."""

    def close(self) -> None:
        """Close all connections at once."""
        self._epoll.close()
        close_all(self.everyone())

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_all(
    connect: Callable[[int], Connection],
    count: int,
    lost: Lost = fail,
    *,
    at_once: int = 1,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Connection]:
    """Make connections number 0 to `count - 1`, so many at once; `tell` hears how many there are so far.

    `lost` is told of those that can't be made: :exc:`OSError` or :exc:`Refused`.
    """
    made: list[Connection] = []
    with ThreadPoolExecutor(at_once) as pool:
        futures = deque(pool.submit(connect, number) for number in range(count))
        try:
            while futures:
                try:
                    made.append(futures[0].result())
                except (OSError, Refused) as error:
                    lost(error)
                futures.popleft()
                tell(len(made))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            made += [future.result() for future in futures if _has_result(future)]
            close_all(made)
            raise
    return made


def _has_result(future: Future[Connection]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def close_all(connections: Iterable[Connection]) -> None:
    """Close connections at once."""
    for connection in connections:
        connection.abort()


def part(connections: Iterable[Connection]) -> None:
    """Close connections as clients do that leave no error in the server's log; it has some time to answer."""
    waited_for = {connection.socket.fileno(): connection for connection in connections}
    waited_for.pop(-1, None)  # lost before
    buffer = bytearray(BUFFER)
    deadline = time.monotonic() + PARTS_WITHIN
    with select.epoll() as epoll:
        for number, connection in list(waited_for.items()):
            connection.let_go()
            try:
                connection.socket.send(masked(GOOD_BYE, CLOSE))
            except OSError:
                del waited_for[number]  # it can't be told
            else:
                epoll.register(number, select.EPOLLIN)
        while waited_for and (left := deadline - time.monotonic()) > 0:
            for number, _ in epoll.poll(left):
                try:
                    if waited_for[number].receiver()(buffer):
                        continue
                except BlockingIOError:
                    continue
                except OSError:
                    pass  # gone as well
                epoll.unregister(number)
                del waited_for[number]


@contextmanager
def without_collection() -> Iterator[None]:
    """Have no garbage collection disturb a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle(connections: Iterable[tuple[Connection, Messages]]) -> None:
    """Read what servers say of themselves, such as who else has joined, until they have said it.

    Raises :exc:`TimeoutError` if they go on.
    """
    lines = {c.socket.fileno(): (c, messages) for c, messages in connections}
    buffer = bytearray(BUFFER)
    deadline = time.monotonic() + PATIENCE
    with select.epoll() as epoll:
        for number, (connection, messages) in lines.items():
            messages.feed(memoryview(connection.let_go()))
            epoll.register(number, select.EPOLLIN | select.EPOLLET)
        while events := epoll.poll(SILENCE):
            if time.monotonic() > deadline:
                raise TimeoutError("The server sends messages although nothing was said.")
            for number, _ in events:
                connection, messages = lines[number]
                with suppress(BlockingIOError):
                    if not (received := connection.receiver()(buffer)):
                        raise Closed
                    messages.feed(memoryview(buffer)[:received])
