"""Fan-out: one publisher, many subscribers, a fixed number of broadcasts in flight."""

import math
import select
import time
from bisect import bisect_right

from benchmarks.connection import PATIENCE, Connection
from benchmarks.frames import SharedStream, masked
from benchmarks.peers import Peer
from benchmarks.works import Load, RateWork


class FanOut(RateWork):
    """Deliveries to all subscribers together, with `in_flight` broadcasts on their way at any time."""

    unit = "deliveries/s"

    def __init__(self, subscribers: int, in_flight: int) -> None:
        self.name = f"fan-out to {subscribers}, w={in_flight}"
        self._subscribers = subscribers
        self._in_flight = in_flight

    def load(self, peer: Peer, port: int) -> Load:
        return FanOutLoad(peer, port, self._subscribers, self._in_flight)


class FanOutLoad(Load):
    """The next broadcast is sent when every subscriber has received the oldest one in flight.

    A broadcast is the same bytes for every subscriber, so a subscriber's position in that one stream tells
    how many it has had. Broadcasts that become due together are sent in one write.
    """

    def __init__(self, peer: Peer, port: int, subscribers: int, in_flight: int) -> None:
        self._peer = peer
        self._frame = masked(peer.fanout.publish)
        self._publisher = Connection(port, peer.fanout.publisher)
        self._epoll = select.epoll()
        self._subscribers: dict[int, Connection] = {}
        try:
            for _ in range(subscribers):
                connection = Connection(port, peer.fanout.subscriber)
                self._subscribers[connection.socket.fileno()] = connection
            self._broadcast_once()
        except BaseException:
            self.close()
            raise
        for number in self._subscribers:
            self._epoll.register(number, select.EPOLLIN | select.EPOLLET)
        self._stream = SharedStream()
        self._positions = dict.fromkeys(self._subscribers, 0)
        """Bytes of the stream that each has received, by file descriptor."""
        self._published = 0
        self._publish(in_flight)

    def run(self, seconds: float) -> int:
        before = self._deliveries()
        self._receive(time.perf_counter() + seconds, publish=True)
        return self._deliveries() - before

    def _receive(self, end: float, *, publish: bool) -> None:
        """Receive until `end`; without `publish`, only until every broadcast has reached every subscriber."""
        receivers = {number: c.socket.recv_into for number, c in self._subscribers.items()}
        poll, most, now = self._epoll.poll, len(receivers), time.perf_counter
        buffer = bytearray(1 << 18)  # more than can be in flight, so one call empties a socket (EPOLLET)
        view = memoryview(buffer)
        stream, positions = self._stream, self._positions
        seen = stream.seen
        complete, goal, behind = self._progress()
        while now() < end and complete < self._published:
            events = poll(PATIENCE, most)
            if not events:
                raise TimeoutError(f"No broadcast came for {PATIENCE} seconds.")
            for number, _ in events:
                received = receivers[number](buffer)
                if not received:
                    raise ConnectionError("The server closed the connection of a subscriber.")
                previous = positions[number]
                position = positions[number] = previous + received
                if position > seen:
                    stream.feed(view[received - (position - seen) : received])
                    seen = position
                    if goal is math.inf and len(stream.ends) > complete:
                        goal, behind = stream.ends[complete], most
                if previous < goal <= position:
                    behind -= 1
                    if not behind:
                        before = complete
                        complete, goal, behind = self._progress()
                        if publish:
                            self._publish(complete - before)

    def _progress(self) -> tuple[int, float, int]:
        """How many broadcasts have reached every subscriber, the position that completes the next, if that is
        known yet, and how many subscribers have not reached it.
        """
        ends, positions = self._stream.ends, self._positions.values()
        complete = bisect_right(ends, min(positions))
        if complete == len(ends):
            return complete, math.inf, len(positions)
        goal = ends[complete]
        return complete, goal, sum(position < goal for position in positions)

    def _deliveries(self) -> int:
        return sum(bisect_right(self._stream.ends, position) for position in self._positions.values())

    def finish(self) -> None:
        self._receive(time.perf_counter() + PATIENCE, publish=False)
        stream = self._stream
        if len(stream.ends) != self._published or set(self._positions.values()) != {stream.seen}:
            raise ValueError(f"Not every subscriber had all {self._published} broadcasts and nothing else.")
        for connection in self._subscribers.values():
            connection.take_back()
        self._broadcast_once()

    def close(self) -> None:
        self._epoll.close()
        for connection in (self._publisher, *self._subscribers.values()):
            connection.socket.close()

    def _publish(self, count: int) -> None:
        self._publisher.socket.sendall(self._frame * count)
        self._published += count

    def _broadcast_once(self) -> None:
        """Have every subscriber parse one broadcast, with nothing before or after it."""
        self._publisher.send(self._peer.fanout.publish)
        for connection in self._subscribers.values():
            connection.expect(self._peer.fanout.delivery)
            connection.release()
