"""A client that sends and sees every byte: a plain blocking socket, for what a library would never do."""

import os
import select
import socket
import ssl
import struct
from collections.abc import Sequence

from conftest import Served

ARRIVES_WITHIN = 10.0

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to that key, as RFC 6455 section 1.3 has it."""

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)


def masked(first_byte: int, payload: bytes = b"", *, declared: int | None = None) -> bytes:
    """Return a client's frame; `declared` is the length that it claims, if not its own."""
    length = len(payload) if declared is None else declared
    if length < 126:
        head = struct.pack("!BB", first_byte, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first_byte, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first_byte, 0x80 | 127, length)
    mask = os.urandom(4)
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    bits = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + bits.to_bytes(len(payload), "big")


def text(content: str) -> bytes:
    return masked(FIN | TEXT, content.encode())


def closing(code: int, reason: str = "") -> bytes:
    return masked(FIN | CLOSE, struct.pack("!H", code) + reason.encode())


def request(path: str = "/echo", *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return the head of an HTTP request; without headers it asks for a WebSocket."""
    lines = [f"{method} {path} {version}", "Host: localhost", *(headers or UPGRADE)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Response:
    """An HTTP response's head."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, self.phrase = first.split(" ", 2)
        self.status = int(status)
        self.headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in self.headers, f"{name} came twice"
            self.headers[name.lower()] = value


class Line:
    """One connection."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._received = b""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(ARRIVES_WITHIN)
        self.socket.connect(address)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *problem: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_while_taken(self, data: bytes) -> int:
        """Send until the other side takes no more; return how much that was."""
        view, sent = memoryview(data), 0
        while sent < len(data):
            _, writable, _ = select.select([], [self.socket], [], 0.3)
            if not writable:
                break
            sent += self.socket.send(view[sent : sent + 65536])
        return sent

    def read(self, count: int) -> bytes:
        while len(self._received) < count:
            part = self.socket.recv(65536)
            assert part, f"the line ended after {self._received[:200]!r}"
            self._received += part
        data, self._received = self._received[:count], self._received[count:]
        return data

    def rest(self) -> bytes:
        """Return everything up to the end of the line; a reset raises `ConnectionResetError`."""
        data, self._received = self._received, b""
        while part := self.socket.recv(65536):
            data += part
        return data

    def response(self) -> Response:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        return Response(head[:-4])

    def open(self, path: str = "/echo", headers: Sequence[str] = ()) -> Response:
        """Open a WebSocket."""
        self.send(request(path, *UPGRADE, *headers))
        response = self.response()
        assert response.status == 101, response.status
        return response

    def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame, which must not be masked."""
        first, second = self.read(2)
        assert second < 128, "a server's frame is not masked (RFC 6455 section 5.1)"
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", self.read(2))
            assert length >= 126, "not the shortest form of the length"
        elif second == 127:
            (length,) = struct.unpack("!Q", self.read(8))
            assert length >= 65536, "not the shortest form of the length"
        return first, self.read(length)

    def message(self) -> str | bytes:
        first, payload = self.frame()
        assert first in (FIN | TEXT, FIN | BINARY), f"{first:#x} {payload[:100]!r}"
        return payload.decode() if first == FIN | TEXT else payload

    def close_frame(self) -> tuple[int, str]:
        first, payload = self.frame()
        assert first == FIN | CLOSE, f"{first:#x} {payload[:100]!r}"
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def vanish(self) -> None:
        """End with a reset, as a machine does that has lost the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def dial(served: Served, path: str | None = None, **options: int) -> Line:
    """Connect to a server; with a path, open a WebSocket there."""
    line = Line(("127.0.0.1", served.port), **options)
    if path is not None:
        line.open(path)
    return line
