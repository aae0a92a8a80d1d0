"""Echo, closed loop: each connection sends its next message when the answer has arrived."""

import select
import time

from benchmarks.connection import PATIENCE, Connection
from benchmarks.frames import masked
from benchmarks.peers import Peer
from benchmarks.works import Load, RateWork


class Echo(RateWork):
    """So many connections, each with one message under way."""

    unit = "echoes/s"

    def __init__(self, connections: int) -> None:
        self.name = f"echo, {connections} connections"
        self._connections = connections

    def load(self, peer: Peer, port: int) -> Load:
        return EchoLoad(peer, port, self._connections)


class EchoLoad(Load):
    """Answers are all of one size, so between a checked first and last one counting their bytes is enough."""

    def __init__(self, peer: Peer, port: int, connections: int) -> None:
        self._peer = peer
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._size = 0
        try:
            for _ in range(connections):
                connection = Connection(port, peer.echo.line)
                self._connections[connection.socket.fileno()] = connection
                self._exchange(connection)
        except BaseException:
            self.close()
            raise
        self._partial = dict.fromkeys(self._connections, 0)
        """Bytes of the awaited answer that have already come, by file descriptor."""
        for connection in self._connections.values():
            connection.send(peer.echo.request)
            self._epoll.register(connection.release(), select.EPOLLIN | select.EPOLLET)

    def run(self, seconds: float) -> int:
        frame, size, partial = masked(self._peer.echo.request), self._size, self._partial
        lines = {number: (c.socket.recv_into, c.socket.send) for number, c in self._connections.items()}
        buffer = bytearray(65536)
        poll, most, now = self._epoll.poll, len(lines), time.perf_counter
        count = 0
        end = now() + seconds
        while now() < end:
            events = poll(PATIENCE, most)
            if not events:
                raise TimeoutError(f"No answer came for {PATIENCE} seconds.")
            for number, _ in events:
                receive, send = lines[number]
                received = receive(buffer)
                if (received != size or partial[number]) and not self._complete(number, received):
                    continue
                send(frame)
                count += 1
        return count

    def finish(self) -> None:
        for number, connection in self._connections.items():
            connection.take_back()
            connection.skip(self._size - self._partial[number])
            self._exchange(connection)
            connection.release()

    def close(self) -> None:
        self._epoll.close()
        for connection in self._connections.values():
            connection.socket.close()

    def _exchange(self, connection: Connection) -> None:
        connection.send(self._peer.echo.request)
        size = connection.expect(self._peer.echo.answer)
        if size != (self._size or size):
            raise ValueError(
                f"Answers must all be of one size, but there is one of {size} and one of {self._size}."
            )
        self._size = size

    def _complete(self, number: int, received: int) -> bool:
        """Note a piece of an answer; tell whether the answer is whole now."""
        self._partial[number] += received
        if not received:
            raise ConnectionError("The server closed the connection.")
        if self._partial[number] > self._size:
            raise ValueError("The server sent more than one answer to one message.")
        if self._partial[number] < self._size:
            return False
        self._partial[number] = 0
        return True
