"""A client's connection: opened and checked with blocking calls, then handed to a load as a bare socket."""

import base64
import os
import socket

from benchmarks.frames import accept, extent, masked
from benchmarks.peers import Line

PATIENCE = 10.0
"""Seconds without any progress after which a peer counts as stuck."""


class Connection:
    """A WebSocket connection to the server on `port`, opened as `line` says.

    Raises `ValueError` if the server's answer is not what `line` expects, `OSError` if there is none.
    """

    def __init__(self, port: int, line: Line) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = bytearray()
        try:
            self._upgrade(port, line.path)
            for step in line.opening:
                if step.send is not None:
                    self.send(step.send)
                self.expect(step.answer)
        except BaseException:
            self.socket.close()
            raise

    def send(self, payload: bytes) -> None:
        self.socket.sendall(masked(payload))

    def expect(self, part: bytes) -> int:
        """Receive one message, check that it contains `part`, and return its size on the wire in bytes."""
        while (found := extent(self._unread)) is None or found[1] > len(self._unread):
            self._receive()
        start, end = found
        payload = bytes(self._unread[start:end])
        if part not in payload:
            raise ValueError(f"Expected a message with {part!r} in it, but the server sent {payload!r}.")
        del self._unread[:end]
        return end

    def skip(self, size: int) -> None:
        """Receive and drop so many bytes."""
        while len(self._unread) < size:
            self._receive()
        del self._unread[:size]

    def release(self) -> socket.socket:
        """The socket, now non-blocking, for a load to use. Nothing may be left unread."""
        if self._unread:
            raise ValueError(f"The server sent more than was asked for: {bytes(self._unread)!r}.")
        self.socket.setblocking(False)
        return self.socket

    def take_back(self) -> None:
        """Make the socket blocking again, after a load, for more of the calls above."""
        self.socket.settimeout(PATIENCE)

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise TimeoutError(f"The server sent nothing for {PATIENCE:.0f} seconds.") from None
        if not data:
            raise ConnectionError("The server closed the connection.")
        self._unread += data

    def _upgrade(self, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(
            b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (path.encode(), port, key)
        )
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._unread[:end])
        del self._unread[: end + 4]
        if not head.startswith(b"HTTP/1.1 101 ") or accept(key) not in head:
            raise ValueError(f"The server refused the WebSocket handshake: {head.decode(errors='replace')}")
