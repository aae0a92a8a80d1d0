"""New connections, closed loop: so many are being opened at any time; one that is open is closed at once."""

import base64
import select
import socket
import time
from collections.abc import Iterable

from .connection import ABORT, PATIENCE, Connection, Refused, handshake
from .frames import Closed, accept, extent
from .latencies import Latencies
from .line import Line, Target
from .load import TELLS_EVERY, Load, Tell, untold

KEY = base64.b64encode(b"one key for all.")


class AcceptsLoad(Load):
    """A connection counts when the handshake is answered and, where the server speaks first, it has spoken.

    It is closed with RST, so that no ports are used up by connections in TIME_WAIT. The server has to have
    an IPv4 address.
    """

    def __init__(self, target: Target, line: Line, at_once: int) -> None:
        self.latencies = Latencies()
        self._address = target.host, target.port
        self._target = target
        self._line = Line(line.path, line.opening[:1] if line.opening and not line.opening[0].send else ())
        self._request = handshake(target, line.path, KEY)
        self._accept = accept(KEY)
        self._at_once = at_once
        self._epoll = select.epoll()
        self._opening: dict[int, tuple[socket.socket, bytearray]] = {}
        self._check()

    def __len__(self) -> int:
        return len(self._opening)

    def run(self, seconds: float, tell: Tell = untold) -> int:
        """Go on with the load; return how many connections were opened."""
        while len(self._opening) < self._at_once:
            self._start()
        return self._receive(time.perf_counter() + seconds, renew=True, tell=tell)

    def finish(self) -> None:
        """Receive what is under way, and check it."""
        self._receive(time.perf_counter() + PATIENCE, renew=False)
        if self._opening:
            raise TimeoutError(f"{len(self._opening)} connections were not opened in time.")
        self._check()

    def everyone(self) -> Iterable[Connection]:
        """None: what is open is closed at once."""
        return ()

    def close(self) -> None:
        """Close all connections."""
        super().close()
        for client, _ in self._opening.values():
            client.close()

    def _check(self) -> None:
        """Open a connection with all checks."""
        Connection(self._target, self._line).abort()

    def _start(self) -> None:
        client = socket.socket()
        self._opening[client.fileno()] = client, bytearray()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        client.setblocking(False)
        client.connect_ex(self._address)
        self._epoll.register(client, select.EPOLLOUT)

    def _receive(self, end: float, *, renew: bool, tell: Tell = untold) -> int:
        """Go on until `end`, or until nothing is being opened; return how many were opened."""
        poll, opening, now = self._epoll.poll, self._opening, time.perf_counter
        count = 0
        tells_at = now() + TELLS_EVERY
        try:
            while (moment := now()) < end and opening:
                if moment > tells_at:
                    tells_at = moment + TELLS_EVERY
                    tell(count)
                events = poll(PATIENCE)
                if not events:
                    raise TimeoutError(f"No connection was opened for {PATIENCE:.0f} seconds.")
                for number, event in events:
                    client, unread = opening[number]
                    if event & select.EPOLLOUT:
                        if error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                            raise ConnectionError(error, "A connection failed")
                        client.send(self._request)
                        self._epoll.modify(number, select.EPOLLIN)
                    elif self._opened(client, unread):
                        del opening[number]
                        client.close()
                        count += 1
                        if renew:
                            self._start()
        finally:
            tell(count)
        return count

    def _opened(self, client: socket.socket, unread: bytearray) -> bool:
        """Receive what there is; tell whether the connection is open now."""
        if not (data := client.recv(65536)):
            raise Closed
        unread += data
        end = unread.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not unread.startswith(b"HTTP/1.1 101 ") or unread.find(self._accept, 0, end) < 0:
            raise Refused(0, bytes(unread[:end]).decode(errors="replace"), "")
        if not self._line.opening:
            return True
        found = extent(unread, end + 4)
        return found is not None and found[1] <= len(unread)
