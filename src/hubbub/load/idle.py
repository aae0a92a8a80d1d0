"""Connections that are open and say nothing."""

import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from .connection import BUFFER, Connection
from .frames import Closed
from .latencies import Latencies
from .line import Line, Target
from .load import Lost, close_all, fail, open_all
from .streams import Messages

FROM_ONE_ADDRESS = 20_000
"""Connections from one address: to one port there are about 28,000 (`net.ipv4.ip_local_port_range`)."""


class IdleConnections:
    """Connections that are held open and answer pings."""

    def __init__(
        self,
        target: Target,
        line: Line,
        *,
        lost: Lost = fail,
        at_once: int = 8,
    ) -> None:
        self._target = target
        self._line = line
        self._lost = lost
        self._at_once = at_once
        self._epoll = select.epoll()
        self._connections: dict[int, tuple[Connection, Messages]] = {}
        self.latencies = Latencies()
        """How long it took until a connection was open."""

    def __len__(self) -> int:
        return len(self._connections)

    def open(self, count: int, tell: Callable[[int], None] = lambda _: None) -> None:
        """Open so many more; `tell` hears how many of them there are so far."""
        before = len(self)
        took: list[float] = []

        def connect(number: int) -> Connection:
            began = time.perf_counter()
            connection = Connection(self._target, self._line, source=self._source(before + number))
            took.append(time.perf_counter() - began)
            return connection

        try:
            made = open_all(connect, count, self._lost, at_once=self._at_once, tell=tell)
        finally:
            for seconds in took:
                self.latencies.add(seconds)
        for connection in made:
            messages = Messages(connection)
            self._connections[connection.socket.fileno()] = connection, messages
            messages.feed(memoryview(connection.let_go()))
            self._epoll.register(connection.socket, select.EPOLLIN)

    def hold(self, seconds: float) -> None:
        """Keep them open for so long, as far as the server does."""
        buffer = bytearray(BUFFER)
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for number, _ in self._epoll.poll(left):
                connection, messages = self._connections[number]
                try:
                    with suppress(BlockingIOError):
                        received = connection.receiver()(buffer)
                        if not received:
                            raise Closed
                        messages.feed(memoryview(buffer)[:received])
                except OSError as error:
                    self._epoll.unregister(number)
                    del self._connections[number]
                    connection.abort()
                    self._lost(error)

    def ask(self) -> None:
        """Have the last one pinged and answered: then the server has done all that was asked before."""
        connection, _ = next(reversed(self._connections.values()))
        connection.take_back()
        connection.ping()
        connection.let_go()

    def everyone(self) -> Iterable[Connection]:
        """All connections."""
        return (connection for connection, _ in self._connections.values())

    def close(self) -> None:
        """Close all at once."""
        self._epoll.close()
        close_all(self.everyone())

    def _source(self, number: int) -> str | None:
        """The loopback address to connect from, where one has too few ports."""
        block = number // FROM_ONE_ADDRESS
        return f"127.0.0.{1 + block}" if block and self._target.host == "127.0.0.1" else None
