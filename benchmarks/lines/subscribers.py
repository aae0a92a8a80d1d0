"""Clients of every kind of line, cheap enough for one process to have a thousand of them.

Each speaks just enough of its protocol to be subscribed, and counts the broadcasts in what comes in.
"""

import re
import socket
import struct
from collections.abc import Callable

from hubbub.load.connection import PATIENCE, handshake
from hubbub.load.frames import masked
from hubbub.load.line import Target

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_RECEIVED = re.compile(rb'"received":([0-9]+)')
_LINE = re.compile(rb'"line":"([^"]+)"')


class Ended(Exception):
    """The server ended a line, or says what it should not."""


class Subscriber:
    """A socket on which a server sends a stream of bytes; each broadcast has `mark` in it once."""

    def __init__(self, port: int, mark: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._mark = mark
        self._rest = b""

    def until(self, part: bytes) -> bytes:
        """Receive until `part` has come; return all that has, with blocking calls."""
        came = b""
        while part not in came:
            if not (data := self.socket.recv(65_536)):
                raise Ended(f"The server ended the line instead of sending {part!r}: {came!r}.")
            came += data
        return came

    def begin(self) -> None:
        """Let nothing wait from now on: what comes is handed to :meth:`count`."""
        self.socket.setblocking(False)

    def count(self, data: bytes) -> int:
        """Return how many broadcasts are complete with what came now."""
        data = self._rest + data
        found = data.count(self._mark)
        # A mark may be torn: all of it but its last byte may be here.
        counted = data.rfind(self._mark) + len(self._mark) if found else 0
        self._rest = data[max(counted, len(data) - len(self._mark) + 1) :]
        return found


def streaming(path: str, accept: str, subscribed: bytes) -> Callable[[int, bytes], Subscriber]:
    """Return what subscribes by one long answer over HTTP."""

    def subscribe(port: int, mark: bytes) -> Subscriber:
        subscriber = Subscriber(port, mark)
        subscriber.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {accept}\r\n\r\n".encode()
        )
        subscriber.until(subscribed)
        return subscriber

    return subscribe


def websocket(path: str, *said: bytes, subscribed: bytes) -> Callable[[int, bytes], Subscriber]:
    """Return what subscribes over a WebSocket by saying some things, one after the other's answer."""

    def subscribe(port: int, mark: bytes) -> Subscriber:
        subscriber = Subscriber(port, mark)
        subscriber.socket.sendall(handshake(Target("127.0.0.1", port), path, b"dGhlIHNhbXBsZSBub25jZQ=="))
        subscriber.until(b"{")
        for message in said[:-1]:
            subscriber.socket.sendall(masked(message))
            subscriber.until(b"{")
        subscriber.socket.sendall(masked(said[-1]))
        subscriber.until(subscribed)
        return subscriber

    return subscribe


class Poll(Subscriber):
    """A long poll after the other, on one connection."""

    def __init__(self, port: int, mark: bytes, join: bytes) -> None:
        super().__init__(port, mark)
        self._head = f"Host: 127.0.0.1:{port}\r\nAccept: application/json\r\n"
        self._line = ""
        self._unread = b""
        self.socket.sendall(f"GET / HTTP/1.1\r\n{self._head}\r\n".encode())
        while (answer := self._answer()) is None:
            self._unread += self._received()
        found = _LINE.search(answer)
        if found is None:
            raise Ended(f"The server opened no line: {answer!r}.")
        self._line = found[1].decode()
        self.socket.sendall(
            f"POST / HTTP/1.1\r\n{self._head}Hubbub-Line: {self._line}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(join)}\r\n\r\n".encode()
            + join
        )
        self.until(b"HTTP/1.1 204")
        joined = b'"$ack"' in answer
        self._poll(answer)
        while not joined:
            self._unread += self._received()
            while (answer := self._answer()) is not None:
                joined = joined or b'"$ack"' in answer
                self._poll(answer)

    def count(self, data: bytes) -> int:
        """Return how many broadcasts came, and poll again."""
        self._unread += data
        found = 0
        while (answer := self._answer()) is not None:
            found += answer.count(self._mark)
            self._poll(answer)
        return found

    def _received(self) -> bytes:
        if not (data := self.socket.recv(65_536)):
            raise Ended("The server ended the connection.")
        return data

    def _answer(self) -> bytes | None:
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None:
            if end:
                raise Ended(f"The server answered a poll without a length: {head!r}.")
            return None
        if len(rest) < (size := int(length[1])):
            return None
        self._unread = rest[size:]
        return rest[:size]

    def _poll(self, answer: bytes) -> None:
        received = _RECEIVED.search(answer)
        if received is None:
            raise Ended(f"The server answered a poll with {answer[:200]!r}.")
        request = (
            f"GET / HTTP/1.1\r\n{self._head}Hubbub-Line: {self._line}\r\n"
            f"Hubbub-Received: {received[1].decode()}\r\n\r\n"
        )
        self.socket.sendall(request.encode())


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
"""Types of HTTP/2 frames (RFC 9113 section 6)."""
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
LARGEST_WINDOW = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """Return a header that is in no table (RFC 7541 section 6.2.2); both are shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Call(Subscriber):
    """A gRPC call, on an HTTP/2 connection of its own, that receives without ever being out of credit."""

    def __init__(self, port: int, mark: bytes, method: str) -> None:
        super().__init__(port, mark)
        self._unread = b""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": f"127.0.0.1:{port}",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, struct.pack(">HI", 4, LARGEST_WINDOW))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - 65_535))
            + _frame(HEADERS, END_HEADERS, 1, b"".join(_literal(*header) for header in headers.items()))
        )

    def say(self, message: bytes, *, last: bool = False) -> None:
        """Send a message, the last one perhaps."""
        payload = b"\x00" + struct.pack(">I", len(message)) + message
        self.socket.sendall(_frame(DATA, END_STREAM if last else 0, 1, payload))

    def until(self, part: bytes) -> bytes:
        """Receive until `part` has come in messages; return all that has."""
        came = b""
        while part not in came:
            if not (data := self.socket.recv(65_536)):
                raise Ended(f"The server ended the connection instead of sending {part!r}.")
            came += self._messages(data)
        return came

    def count(self, data: bytes) -> int:
        """Return how many broadcasts are complete with what came now."""
        return super().count(self._messages(data))

    def _messages(self, data: bytes) -> bytes:
        self._unread += data
        unread, start, found = self._unread, 0, []
        while len(unread) - start >= 9:
            size = int.from_bytes(unread[start : start + 3], "big")
            if len(unread) - start - 9 < size:
                break
            kind, flags = unread[start + 3], unread[start + 4]
            payload = unread[start + 9 : start + 9 + size]
            start += 9 + size
            if kind == DATA:
                found.append(payload)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self.socket.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
                raise Ended(f"The server ended the call: {payload!r}.")
        self._unread = unread[start:]
        return b"".join(found)
