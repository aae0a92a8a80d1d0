"""A fixed rate, open loop: what is due is sent whether or not the server keeps up."""

import select
import time
from collections.abc import Iterable, Sequence

from .connection import BROKEN_OFF, BUFFER, PATIENCE, WOULD_BLOCK, Connection
from .frames import Closed, raise_errors
from .latencies import Latencies
from .load import TELLS_EVERY, Load, Lost, Tell, fail, untold
from .numbered import Numbered, frames
from .streams import Messages

COARSE = 0.001
"""Seconds: what `epoll` can wait for. The last moment before a message is due is waited for without it."""


class PacedLoad(Load):
    """The senders take turns at sending, `rate` messages a second in all.

    A latency is counted from when the message was due, not from when it could be sent: what waited because
    the server held things up has been waiting too ("coordinated omission").

    If `echo`, each sender receives the answers to its own messages; else each of the receivers receives all,
    and what senders are sent is read but not counted.
    """

    def __init__(
        self,
        senders: Sequence[Connection],
        receivers: Sequence[Connection],
        message: bytes | Numbered,
        rate: float,
        *,
        echo: bool = False,
        lost: Lost = fail,
    ) -> None:
        self.latencies = Latencies()
        self._senders = senders
        self._frames = frames(message)
        self._rate = rate
        self._stride = len(senders) if echo else 1
        self._lost = lost
        self._epoll = select.epoll()
        self._turns = {c.socket.fileno(): number if echo else 0 for number, c in enumerate(receivers)}
        """The number of the message that each receiver waits for, by file descriptor."""
        self._lines: dict[int, tuple[Connection, Messages]] = {}
        self._sent = 0
        for connection in (*receivers, *senders):
            number = connection.socket.fileno()
            if number not in self._lines:
                messages = Messages(connection, notice=None if number in self._turns else raise_errors)
                messages.feed(memoryview(connection.let_go()))
                self._lines[number] = connection, messages
                self._epoll.register(number, select.EPOLLIN | select.EPOLLET)
        self._connections = [connection for connection, _ in self._lines.values()]

    def __len__(self) -> int:
        return len(self._turns)

    def stall(self, connections: Iterable[Connection]) -> None:
        """Have these receivers read no more."""
        for connection in connections:
            number = connection.socket.fileno()
            self._epoll.unregister(number)
            del self._lines[number], self._turns[number]

    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Send for that long, and receive the answers to all that was sent, before it returns."""
        rate, turns, stride = self._rate, self._turns, self._stride
        lines = {number: (c.receiver(), m.feed) for number, (c, m) in self._lines.items()}
        counts, poll, now = self.latencies.counts, self._epoll.poll, time.perf_counter
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        last = self._sent + max(1, round(seconds * rate))
        heard = now()
        base = heard - self._sent / rate
        count = 0
        tells_at = now() + TELLS_EVERY
        try:
            while turns:
                began, sent, idle = now(), self._sent, False
                if began > tells_at:
                    tells_at = began + TELLS_EVERY
                    tell(count)
                while self._sent < last and now() >= base + self._sent / rate:
                    self._send(next(self._frames))
                if self._sent < last:
                    wait = base + self._sent / rate - now()
                    events = poll(wait - COARSE if wait > COARSE else 0, len(lines))
                    idle = not events and wait <= COARSE and self._sent == sent
                elif min(turns.values()) < last:
                    events = poll(PATIENCE, len(lines))
                elif (left := base + last / rate - now()) > 0:
                    events = poll(left, len(lines))
                else:
                    break
                for number, _ in events:
                    receive, feed = lines[number]
                    try:
                        if not (received := receive(buffer)):
                            raise Closed
                        complete = feed(view[:received])
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        self._lose(number, error)
                        continue
                    if number not in turns:
                        continue
                    heard = moment = now()
                    turn = turns[number]
                    for _ in range(complete):
                        if turn >= self._sent:
                            raise ValueError("The server sent a message that nothing was said for.")
                        counts[int((moment - base - turn / rate) * 1e6)] += 1
                        turn += stride
                    turns[number] = turn
                    count += complete
                moment = now()
                if idle:
                    self.spun += moment - began
                if moment - heard > PATIENCE and turns:
                    oldest = min(turns.values())
                    if oldest < self._sent and moment - (base + oldest / rate) > PATIENCE:
                        raise TimeoutError(f"No message came for {PATIENCE:.0f} seconds.")
        finally:
            tell(count)
        return count

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        if self._turns and min(self._turns.values()) < self._sent:
            raise ValueError(f"Not everyone received all of {self._sent} messages.")

    def everyone(self) -> Iterable[Connection]:
        """All connections."""
        return self._connections

    def _send(self, frame: bytes | bytearray) -> None:
        sender = self._senders[self._sent % len(self._senders)].socket
        self._sent += 1
        if sender.fileno() < 0:
            return  # one that was lost; the others' turns stay as they are
        try:
            if sender.send(frame) == len(frame):
                return
        except WOULD_BLOCK:
            pass
        except BROKEN_OFF:
            return  # it is lost when that is read, and with it what the server said before
        raise TimeoutError("The server reads more slowly than messages are due.")

    def _lose(self, number: int, error: OSError) -> None:
        if number not in self._turns:
            raise error  # without who publishes there is no load
        self._lost(error)
        self._epoll.unregister(number)
        self._lines.pop(number)[0].abort()
        del self._turns[number]
