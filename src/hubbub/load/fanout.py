"""Fan-out: one publisher, many subscribers, a fixed number of broadcasts in flight."""

import math
import select
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice

from .connection import BUFFER, PATIENCE, Connection
from .frames import Closed, masked, raise_errors
from .latencies import Latencies
from .line import Line, Target
from .load import TELLS_EVERY, Load, Lost, Tell, fail, open_all, settle, untold
from .streams import Messages, SharedStream


class FanOutLoad(Load):
    """The next broadcast is sent when every subscriber has received the oldest one in flight.

    Each subscriber's messages are counted. Broadcasts that become due together are sent in one write. What
    the publisher is sent is read but not counted. A latency is the time until every subscriber has received
    a broadcast. After `publish` the publisher sends the `others`, and then all again. With `through`, the
    publisher is connected to that other server.
    """

    def __init__(
        self,
        target: Target,
        subscriber: Line,
        publisher: Line,
        publish: bytes,
        subscribers: int,
        in_flight: int,
        *,
        others: Sequence[bytes] = (),
        through: Target | None = None,
        deflate: bool = False,
        lost: Lost = fail,
        at_once: int = 1,
    ) -> None:
        self.latencies = Latencies()
        self._message = publish
        self._frames = cycle([masked(message) for message in (publish, *others)])
        self._in_flight = in_flight
        self._deflate = deflate
        self._lost = lost
        self._epoll = select.epoll()
        self._subscribers: dict[int, Connection] = {}
        self._publisher = Connection(through or target, publisher)
        try:
            made = open_all(
                lambda _: Connection(target, subscriber, deflate=deflate), subscribers, lost, at_once=at_once
            )
            self._subscribers = {connection.socket.fileno(): connection for connection in made}
            self._messages = {n: Messages(c, compressed=deflate) for n, c in self._subscribers.items()}
            self._messages[self._publisher.socket.fileno()] = Messages(self._publisher, notice=raise_errors)
            self._positions = dict.fromkeys(self._subscribers, 0)
            """How far each has received, by file descriptor; here in messages."""
            self._had_by_the_lost = 0
            """How many messages those had received that are no longer there."""
            self._published = 0
            self._sent_at: deque[float] = deque()
            """When the broadcasts that are in flight were sent."""
            self._begin()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._subscribers)

    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Go on with the load; return how many messages have come in."""
        before = self._deliveries()
        if not self._published:
            self._publish(self._in_flight)
        end = time.perf_counter() + seconds
        try:
            self._receive(end, publish=True, tell=lambda: tell(self._deliveries() - before))
        finally:
            tell(count := self._deliveries() - before)
        return count

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        self._receive(time.perf_counter() + PATIENCE, publish=False)
        if set(self._positions.values()) != {self._published}:
            raise ValueError(f"Not every subscriber had all {self._published} broadcasts and nothing else.")

    def everyone(self) -> Iterable[Connection]:
        """All connections."""
        return (self._publisher, *self._subscribers.values())

    def _begin(self) -> None:
        """Make sure, with one broadcast, that each subscriber is sent one message for it."""
        settle((c, self._messages[n]) for n, c in self._all())
        for number, _ in self._all():
            self._epoll.register(number, select.EPOLLIN | select.EPOLLET)
        self._publish(1)
        try:
            self._receive(time.perf_counter() + PATIENCE, publish=False)
        except TimeoutError:
            raise ValueError(
                f"Not every subscriber received a message within {PATIENCE:.0f} seconds after it was sent. "
                "Does the server send such messages on?"
            ) from None
        if (times := set(self._positions.values())) - {1}:
            raise ValueError(f"A message must be sent on to each subscriber once, not {max(times)} times.")
        self._published = 0
        self._positions = dict.fromkeys(self._subscribers, 0)
        self.latencies.clear()

    def _all(self) -> list[tuple[int, Connection]]:
        return [(self._publisher.socket.fileno(), self._publisher), *self._subscribers.items()]

    def _receive(self, end: float, *, publish: bool, tell: Callable[[], None] = lambda: None) -> None:
        """Receive until `end`; without `publish`, only until every broadcast has reached every subscriber."""
        lines = {number: (c.receiver(), self._messages[number].feed) for number, c in self._all()}
        poll, most, now = self._epoll.poll, len(lines), time.perf_counter
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        positions = self._positions
        complete, goal, behind = self._progress()
        tells_at = now() + TELLS_EVERY
        while positions and (moment := now()) < end and complete < self._published:
            if moment > tells_at:
                tells_at = moment + TELLS_EVERY
                tell()
            events = poll(PATIENCE, most)
            if not events:
                raise TimeoutError(f"No broadcast came for {PATIENCE:.0f} seconds.")
            for number, _ in events:
                receive, feed = lines[number]
                try:
                    if not (received := receive(buffer)):
                        raise Closed
                    count = feed(view[:received])
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._lose(number, error)
                    before = complete
                    complete, goal, behind = self._progress()
                else:
                    if number not in positions:
                        continue
                    previous = positions[number]
                    position = positions[number] = previous + count
                    if not previous < goal <= position:
                        continue
                    behind -= 1
                    if behind:
                        continue
                    before = complete
                    complete, goal, behind = self._progress()
                self._arrived(complete - before, publish=publish)

    def _progress(self) -> tuple[int, float, int]:
        """How many broadcasts have reached every subscriber, the position that completes the next, if that is
        known yet, and how many subscribers have not reached it.
        """
        positions = self._positions.values()
        complete = min(positions, default=0)
        return complete, complete + 1, sum(position == complete for position in positions)

    def _deliveries(self) -> int:
        return self._had_by_the_lost + sum(self._positions.values())

    def _publish(self, count: int) -> None:
        self._publisher.push(b"".join(islice(self._frames, count)))
        self._published += count
        self._sent_at.extend([time.perf_counter()] * count)

    def _arrived(self, count: int, *, publish: bool) -> None:
        """Note that so many more broadcasts have reached every subscriber; have others take their place."""
        moment = time.perf_counter()
        for _ in range(min(count, len(self._sent_at))):
            self.latencies.add(moment - self._sent_at.popleft())
        if publish and count > 0:
            self._publish(count)

    def _lose(self, number: int, error: OSError) -> None:
        if number not in self._subscribers:
            raise error  # without who publishes there is no load
        self._lost(error)
        self._epoll.unregister(number)
        self._had_by_the_lost += self._positions.pop(number)
        self._subscribers.pop(number).abort()


class SharedFanOutLoad(FanOutLoad):
    """The same at less cost, for a server that is known: its bytes are counted, between checks.

    Two broadcasts that are parsed in full first tell whether every subscriber is sent the same bytes. If so,
    its position in that one stream tells how many a subscriber has had. If not, as where a server compresses
    for each connection, messages are counted after all.
    """

    def __init__(
        self,
        target: Target,
        subscriber: Line,
        publisher: Line,
        publish: bytes,
        delivery: bytes,
        subscribers: int,
        in_flight: int,
        *,
        others: Sequence[bytes] = (),
        through: Target | None = None,
        deflate: bool = False,
    ) -> None:
        self._delivery = delivery
        self._stream = SharedStream(compressed=deflate)
        self.shared = True
        """Whether the subscribers are sent the same bytes."""
        super().__init__(
            target,
            subscriber,
            publisher,
            publish,
            subscribers,
            in_flight,
            others=others,
            through=through,
            deflate=deflate,
        )

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        if not self.shared:
            super().finish()
        else:
            self._receive(time.perf_counter() + PATIENCE, publish=False)
            stream = self._stream
            if len(stream.ends) != self._published or set(self._positions.values()) != {stream.seen}:
                raise ValueError(
                    f"Not every subscriber had all {self._published} broadcasts and nothing else."
                )
        # What a server compresses in one go can't be inflated without what was only counted.
        self._broadcast_once(checked=all(c.separate for c in self._subscribers.values()))

    def _begin(self) -> None:
        alike = [self._broadcast_once(checked=True) for _ in range(2)]
        self.shared = all(alike)
        self._publisher.release()
        # Where bytes are counted the publisher must be sent none, so there is nothing to read.
        for number, _ in self._subscribers.items() if self.shared else self._all():
            self._epoll.register(number, select.EPOLLIN | select.EPOLLET)

    def _receive(self, end: float, *, publish: bool, tell: Callable[[], None] = lambda: None) -> None:
        if not self.shared:
            super()._receive(end, publish=publish, tell=tell)
            return
        receivers = {number: c.socket.recv_into for number, c in self._subscribers.items()}
        poll, most, now = self._epoll.poll, len(receivers), time.perf_counter
        buffer = bytearray(BUFFER)  # more than can be in flight, so one call empties a socket (EPOLLET)
        view = memoryview(buffer)
        stream, positions = self._stream, self._positions
        seen = stream.seen
        complete, goal, behind = self._progress()
        tells_at = now() + TELLS_EVERY
        while (moment := now()) < end and complete < self._published:
            if moment > tells_at:
                tells_at = moment + TELLS_EVERY
                tell()
            events = poll(PATIENCE, most)
            if not events:
                raise TimeoutError(f"No broadcast came for {PATIENCE:.0f} seconds.")
            for number, _ in events:
                received = receivers[number](buffer)
                if not received:
                    raise Closed
                previous = positions[number]
                position = positions[number] = previous + received
                if position > seen:
                    stream.feed(view[received - (position - seen) : received])
                    seen = position
                    if goal is math.inf and len(stream.ends) > complete:
                        goal, behind = stream.ends[complete], len(positions)
                if previous < goal <= position:
                    behind -= 1
                    if not behind:
                        before = complete
                        complete, goal, behind = self._progress()
                        self._arrived(complete - before, publish=publish)

    def _progress(self) -> tuple[int, float, int]:
        if not self.shared:
            return super()._progress()
        ends, positions = self._stream.ends, self._positions.values()
        complete = bisect_right(ends, min(positions))
        if complete == len(ends):
            return complete, math.inf, len(positions)
        goal = ends[complete]
        return complete, goal, sum(position < goal for position in positions)

    def _deliveries(self) -> int:
        if not self.shared:
            return super()._deliveries()
        return sum(bisect_right(self._stream.ends, position) for position in self._positions.values())

    def _broadcast_once(self, *, checked: bool) -> bool:
        """Have every subscriber receive one broadcast, with nothing before or after it, and parse it if
        `checked`; tell whether it was the same bytes for all.
        """
        self._publisher.take_back()
        self._publisher.send(self._message)
        frames = set()
        for connection in self._subscribers.values():
            connection.take_back()
            message = connection.receive(inflate=checked)
            if checked and self._delivery not in message:
                raise ValueError(f"Expected {self._delivery!r} in a broadcast, but there was {message!r}.")
            if self._deflate and not connection.compressed:
                raise ValueError("The server sent a broadcast that is not compressed.")
            frames.add(connection.frame)
            connection.release()
        return len(frames) == 1
