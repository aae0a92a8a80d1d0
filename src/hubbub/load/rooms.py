"""Many rooms: each broadcast goes to the few members of one of them."""

import select
import time
from collections.abc import Callable, Iterable

from .connection import BUFFER, PATIENCE, Connection
from .frames import Closed, masked
from .latencies import Latencies
from .line import Line, Target
from .load import TELLS_EVERY, Load, Tell, open_all, untold
from .streams import Messages


class RoomsLoad(Load):
    """Broadcasts are under way in some rooms at once; when one is through, the next room has its turn."""

    def __init__(
        self,
        target: Target,
        member: Callable[[int], Line],
        publisher: Callable[[int], Line],
        publish: Callable[[int], bytes],
        delivery: bytes,
        *,
        rooms: int,
        members: int,
        in_flight: int,
    ) -> None:
        self.latencies = Latencies()
        self._delivery = delivery
        self._publish = publish
        self._frames = [masked(publish(room)) for room in range(rooms)]
        self._publishers: list[Connection] = []
        self._members: list[Connection] = []
        self._epoll = select.epoll()
        self._in_flight = min(in_flight, rooms)
        self._next = 0
        self._missing = [0] * rooms
        """For each room, how many members have not received the broadcast that is under way."""
        self._under_way: set[int] = set()
        try:
            self._publishers = open_all(lambda room: Connection(target, publisher(room)), rooms)
            self._members = open_all(lambda n: Connection(target, member(n // members)), rooms * members)
            self._size = members
            self._broadcast_once()
        except BaseException:
            self.close()
            raise
        self._lines = {
            connection.socket.fileno(): (connection.socket.recv_into, Messages(connection), number // members)
            for number, connection in enumerate(self._members)
        }
        for connection in self._members:
            self._epoll.register(connection.release(), select.EPOLLIN | select.EPOLLET)

    def __len__(self) -> int:
        return len(self._members)

    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Go on with the load; return how many messages have come in."""
        while len(self._under_way) < self._in_flight:
            self._start()
        return self._receive(time.perf_counter() + seconds, publish=True, tell=tell)

    def _start(self) -> None:
        """Broadcast in the next room that has none under way."""
        rooms = len(self._frames)
        room = self._next
        while room in self._under_way:
            room = (room + 1) % rooms
        self._next = (room + 1) % rooms
        self._under_way.add(room)
        self._missing[room] = self._size
        self._publishers[room].socket.sendall(self._frames[room])

    def _receive(self, end: float, *, publish: bool, tell: Tell = untold) -> int:
        """Receive until `end`, or until nothing is under way; return how many messages came."""
        lines, missing = self._lines, self._missing
        poll, most, now = self._epoll.poll, len(lines), time.perf_counter
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        count = 0
        tells_at = now() + TELLS_EVERY
        try:
            while (moment := now()) < end and self._under_way:
                if moment > tells_at:
                    tells_at = moment + TELLS_EVERY
                    tell(count)
                events = poll(PATIENCE, most)
                if not events:
                    raise TimeoutError(f"No broadcast came for {PATIENCE:.0f} seconds.")
                for number, _ in events:
                    receive, messages, room = lines[number]
                    if not (received := receive(buffer)):
                        raise Closed
                    complete = messages.feed(view[:received])
                    if complete:
                        count += complete
                        missing[room] -= complete
                        if not missing[room]:
                            self._under_way.remove(room)
                            if publish:
                                self._start()
        finally:
            tell(count)
        return count

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        self._receive(time.perf_counter() + PATIENCE, publish=False)
        if any(self._missing):
            raise ValueError("Not every member of a room had each broadcast once.")
        self._broadcast_once()

    def everyone(self) -> Iterable[Connection]:
        """All connections."""
        return (*self._publishers, *self._members)

    def _broadcast_once(self) -> None:
        """Have every member of every room parse one broadcast, with nothing before or after it."""
        for room, publisher in enumerate(self._publishers):
            publisher.send(self._publish(room))
            for member in self._members[room * self._size : (room + 1) * self._size]:
                member.take_back()
                member.expect(self._delivery)
                member.release()
