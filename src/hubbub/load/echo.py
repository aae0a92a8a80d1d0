"""Echo, closed loop: each connection sends its next message when the answer has arrived."""

import select
import time
from collections.abc import Iterable
from contextlib import suppress

from .connection import BUFFER, PATIENCE, WOULD_BLOCK, Connection
from .frames import Closed, extent
from .latencies import Latencies
from .line import Line, Target
from .load import TELLS_EVERY, Load, Lost, Tell, fail, open_all, untold
from .numbered import Numbered, frames
from .streams import Messages


class EchoLoad(Load):
    """So many connections, each with one message under way.

    Where all answers are of one size, seeing the header of the checked first one again and as many bytes is
    enough; all others are taken apart. Latencies are noted if it is to be `measured`, which costs a little.
    """

    def __init__(
        self,
        target: Target,
        line: Line,
        request: bytes | Numbered,
        answer: bytes,
        connections: int,
        *,
        measured: bool = False,
        lost: Lost = fail,
        at_once: int = 1,
    ) -> None:
        self._frames = frames(request)
        self._answer = answer
        self._measured = measured
        self.latencies = Latencies()
        self._lost = lost
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._waiting: set[int] = set()
        """File descriptors of the connections that a message of theirs is under way on."""
        self._partial: set[int] = set()
        """File descriptors of the connections that have received a part of an answer."""
        self._sent_at: dict[int, float] = {}
        """When what is under way was sent, by file descriptor, if it is to be measured."""
        self._checked = b""
        """The frame of the last answer that was checked."""
        try:
            made = open_all(lambda _: Connection(target, line), connections, lost, at_once=at_once)
            self._connections = {connection.socket.fileno(): connection for connection in made}
            for number, connection in list(self._connections.items()):
                try:
                    self._exchange(connection)
                except TimeoutError:
                    raise  # it would be the same with all others
                except OSError as error:
                    lost(error)
                    self._connections.pop(number).abort()
            self._messages = {number: Messages(c) for number, c in self._connections.items()}
            for connection in self._connections.values():
                self._epoll.register(connection.release(), select.EPOLLIN | select.EPOLLET)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._connections)

    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Go on with the load; return how many messages have come in."""
        frames, size, messages = self._frames, len(self._checked), self._messages
        found = extent(self._checked)
        head = self._checked[: found[0] if found else 0]
        lines = {number: (c.receiver(), c.socket.send) for number, c in self._connections.items()}
        poll, most, now = self._epoll.poll, len(lines), time.perf_counter
        sent_at, counts = self._sent_at, self.latencies.counts if self._measured else None
        for number in list(self._connections.keys() - self._waiting):
            sent_at[number] = now()
            try:
                self._connections[number].push(next(frames))
            except OSError as error:
                self._lose(number, error)
            else:
                self._waiting.add(number)
        buffer = bytearray(BUFFER)
        whole, partial = buffer.startswith, self._partial
        count = 0
        tells_at = now() + TELLS_EVERY
        end = now() + seconds
        try:
            while (moment := now()) < end and self._connections:
                if moment > tells_at:
                    tells_at = moment + TELLS_EVERY
                    tell(count)
                events = poll(PATIENCE, most)
                if not events:
                    raise TimeoutError(f"No answer came for {PATIENCE:.0f} seconds.")
                for number, _ in events:
                    receive, send = lines[number]
                    try:
                        try:
                            received = receive(buffer)
                        except BlockingIOError:
                            continue
                        if received != size or number in partial or not whole(head):
                            if not self._complete(messages[number], buffer, received):
                                partial.add(number)
                                continue
                            partial.discard(number)
                        if counts is not None:
                            moment = now()
                            counts[int((moment - sent_at[number]) * 1e6)] += 1
                            sent_at[number] = moment
                        frame = next(frames)
                        try:
                            taken = send(frame)
                        except WOULD_BLOCK:
                            taken = 0
                        if taken != len(frame):
                            self._connections[number].push(frame, taken)
                    except OSError as error:
                        self._lose(number, error)
                        continue
                    count += 1
        finally:
            tell(count)
        return count

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        while self._waiting:
            events = self._epoll.poll(PATIENCE)
            if not events:
                raise TimeoutError(f"No answer came for {PATIENCE:.0f} seconds.")
            buffer = bytearray(BUFFER)
            for number, _ in events:
                with suppress(BlockingIOError):
                    connection = self._connections[number]
                    if self._complete(self._messages[number], buffer, connection.receiver()(buffer)):
                        self._waiting.remove(number)
        for connection in self._connections.values():
            connection.take_back()
            self._exchange(connection)
            connection.release()

    def everyone(self) -> Iterable[Connection]:
        """All connections."""
        return self._connections.values()

    def _exchange(self, connection: Connection) -> None:
        connection.socket.sendall(next(self._frames))
        connection.expect(self._answer)
        self._checked = connection.frame

    def _complete(self, messages: Messages, buffer: bytearray, received: int) -> bool:
        """Take in a piece of an answer; tell whether the answer is whole now."""
        if not received:
            raise Closed
        complete = messages.feed(memoryview(buffer)[:received])
        if complete > 1:
            raise ValueError("The server sent more than one answer to one message.")
        return complete == 1

    def _lose(self, number: int, error: OSError) -> None:
        self._lost(error)
        self._epoll.unregister(number)
        self._waiting.discard(number)
        self._connections.pop(number).abort()
