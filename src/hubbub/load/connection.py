"""A client's connection: opened and checked with blocking calls, then handed to a load as a bare socket."""

import base64
import os
import socket
import ssl
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

from .frames import CLOSE, FIN, PING, PONG, RSV1, Closed, accept, extent, masked, raise_errors
from .line import Line, Target

PATIENCE = 10.0
"""Seconds without any progress after which a server counts as stuck."""
MOST_OTHERS = 10_000
"""How many messages may come before the one that is awaited."""
LONGEST_HEAD = 64 * 2**10
RECORD = 16 * 2**10
"""The most bytes that one TLS record carries (RFC 8446 section 5.1)."""
BUFFER = 2**18
"""Bytes that a load receives at once at the most."""
WOULD_BLOCK = BlockingIOError, ssl.SSLWantWriteError
"""What sending on a released socket raises while the server has not read enough of what was sent before."""
BROKEN_OFF = (
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
"""What sending and receiving raise where the server is gone: which of them is a matter of the moment."""
OFFER = "permessage-deflate; client_max_window_bits"


class Refused(ValueError):
    """The server refused the WebSocket handshake."""

    def __init__(self, status: int, head: str, body: str) -> None:
        super().__init__(f"The server refused the WebSocket handshake: {head}")
        self.head = head
        self.status = status
        """Of HTTP; 0 where the answer wasn't HTTP."""
        self.body = body
        """What came of the body with the headers."""


class Connection:
    """A WebSocket connection to `target`, opened as `line` says.

    With `deflate` it offers permessage-deflate, and it is an error if the server declines. `source` is an
    address of this machine to connect from. A `narrow` connection takes few bytes into its socket's buffers,
    so that the server soon notices when nobody reads.

    Raises :exc:`Refused`, another :exc:`ValueError` if the server's answer is not what `line` expects, or
    :exc:`OSError` if there is none.
    """

    def __init__(
        self,
        target: Target,
        line: Line,
        *,
        deflate: bool = False,
        source: str | None = None,
        narrow: bool = False,
    ) -> None:
        self.subprotocol: str | None = None
        """What the server chose."""
        self.frame = b""
        """The last message as it came, with its header."""
        self.compressed = False
        """Whether that message was compressed."""
        self.separate = True
        """Whether messages that the server compresses can be inflated one without the others."""
        self._inflater = zlib.decompressobj(-15)
        self._unread = bytearray()
        self.socket = _connect(target, source, narrow=narrow)
        try:
            self._upgrade(target, line.path, deflate=deflate)
            for step in line.opening:
                if step.send is not None:
                    self.send(step.send)
                self.expect(step.answer, others=MOST_OTHERS if step.others else 0)
        except BaseException:
            self.socket.close()
            raise

    def send(self, payload: bytes) -> None:
        """Send a text message."""
        self.socket.sendall(masked(payload))

    def expect(self, part: bytes, *, others: int = 0) -> None:
        """Receive one message and check that it contains `part`; so many others may come before it."""
        while True:
            raise_errors(payload := self.receive())
            if part in payload:
                return
            if not others:
                raise ValueError(f"Expected a message with {part!r} in it, but the server sent {payload!r}.")
            others -= 1

    def receive(self, *, inflate: bool = True) -> bytes:
        """Receive one message and answer pings on the way; :exc:`Closed` if the server closes."""
        message, self.compressed, self.frame = b"", False, b""
        while True:
            first, payload = self._frame()
            if first & 0x0F >= CLOSE:
                continue
            self.compressed |= bool(first & RSV1)
            message += payload
            if first & FIN:
                return self._inflated(message) if self.compressed and inflate else message

    def hears(self, seconds: float) -> bool:
        """Tell whether something comes within so many seconds; nothing is taken."""
        self.socket.settimeout(seconds)
        try:
            if not self._unread:
                self._receive()
        except TimeoutError:
            return False
        finally:
            self.take_back()
        return True

    def ping(self) -> None:
        """Send a ping and wait for a pong, whatever else comes before it."""
        self.socket.sendall(masked(b"", PING))
        while self._frame()[0] & 0x0F != PONG:
            pass

    def release(self) -> socket.socket:
        """Return the socket, now non-blocking, for a load to use. Nothing may be left unread."""
        if self._unread:
            raise ValueError(f"The server sent more than was asked for: {bytes(self._unread)!r}.")
        self.socket.setblocking(False)
        return self.socket

    def let_go(self) -> bytes:
        """Return what came but was not asked for; the socket is non-blocking from now on."""
        unread = bytes(self._unread)
        self._unread.clear()
        self.socket.setblocking(False)
        return unread

    def take_back(self) -> None:
        """Make the socket blocking again, after a load, for more of the calls above."""
        self.socket.settimeout(PATIENCE)

    def receiver(self) -> Callable[[bytearray], int]:
        """Return what reads a released socket into a buffer of `BUFFER` bytes, all that has come if it fits.

        Where fewer than `RECORD` bytes are left of the buffer there may be more. It returns how many bytes it
        read, 0 at the end of the stream; :exc:`BlockingIOError` if none came.
        """
        if isinstance(self.socket, ssl.SSLSocket):
            return _records(self.socket)
        return self.socket.recv_into

    def push(self, frame: bytes | bytearray, sent: int = 0) -> None:
        """Send on a released socket what of a frame is not `sent` yet, and wait while the server is slow to
        read it: a frame that is torn is the end of a stream.
        """
        with suppress(*WOULD_BLOCK):
            sent += self.socket.send(frame[sent:])
        if sent < len(frame):
            self.take_back()
            try:
                self.socket.sendall(frame[sent:])
            except TimeoutError:
                raise TimeoutError(f"The server read nothing for {PATIENCE:.0f} seconds.") from None
            self.socket.setblocking(False)

    def abort(self) -> None:
        """Close at once, with RST: nothing of the connection stays, in particular no TIME_WAIT."""
        if self.socket.fileno() < 0:
            return  # done before
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        finally:
            self.socket.close()

    def _frame(self) -> tuple[int, bytes]:
        """Receive a frame; return its first byte and its payload."""
        while (found := extent(self._unread)) is None or found[1] > len(self._unread):
            self._receive()
        start, end = found
        frame, first = bytes(self._unread[:end]), self._unread[0]
        del self._unread[:end]
        opcode = first & 0x0F
        if opcode == CLOSE:
            raise Closed.by(frame[start:])
        if opcode == PING:
            self.socket.sendall(masked(frame[start:], PONG))
        elif opcode < CLOSE:
            self.frame += frame
        return first, frame[start:]

    def _inflated(self, message: bytes) -> bytes:
        inflater = zlib.decompressobj(-15) if self.separate else self._inflater
        return inflater.decompress(message + b"\x00\x00\xff\xff")

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise TimeoutError(f"The server sent nothing for {PATIENCE:.0f} seconds.") from None
        if not data:
            raise Closed
        self._unread += data

    def _upgrade(self, target: Target, path: str, *, deflate: bool) -> None:
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(handshake(target, path, key, deflate=deflate))
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if len(self._unread) > LONGEST_HEAD:
                raise ValueError(f"The server's answer has headers of more than {LONGEST_HEAD:,} bytes.")
            self._receive()
        head = bytes(self._unread[:end])
        del self._unread[: end + 4]
        if not head.startswith(b"HTTP/1.1 101 ") or accept(key) not in head:
            status = head[9:12] if head.startswith(b"HTTP/1.") and head[9:12].isdigit() else b"0"
            raise Refused(int(status), head.decode(errors="replace"), self._unread.decode(errors="replace"))
        headers = [line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:]]
        values = {name.strip().lower(): value.strip() for name, _, value in headers}
        self.subprotocol = values.get("sec-websocket-protocol")
        extensions = values.get("sec-websocket-extensions", "")
        if deflate and "permessage-deflate" not in extensions:
            raise ValueError("The server does not compress: it declined permessage-deflate.")
        self.separate = not deflate or "server_no_context_takeover" in extensions


ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER for zero seconds: closing resets."""


def handshake(target: Target, path: str, key: bytes, *, deflate: bool = False) -> bytes:
    """Return the opening handshake's request."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}:{target.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {target.subprotocol}"] if target.subprotocol else []),
        *([f"Sec-WebSocket-Extensions: {OFFER}"] if deflate else []),
        *(f"{name}: {value}" for name, value in target.headers),
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def _connect(target: Target, source: str | None, *, narrow: bool) -> socket.socket:
    address = target.host, target.port
    try:
        if narrow:
            plain = socket.socket()
            plain.settimeout(PATIENCE)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            plain.connect(address)
        else:
            plain = socket.create_connection(address, PATIENCE, (source, 0) if source else None)
    except TimeoutError:
        raise TimeoutError(f"No connection was made within {PATIENCE:.0f} seconds.") from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.tls is None:
        return plain
    try:
        return target.tls.wrap_socket(plain, server_hostname=target.host)
    except BaseException:
        plain.close()
        raise


def _records(tls: ssl.SSLSocket) -> Callable[[bytearray], int]:
    """Return what reads as `recv_into` does: one call of a TLS socket's own is a record at the most."""

    def receive(buffer: bytearray) -> int:
        total = 0
        with memoryview(buffer) as view:
            while len(view) - total >= RECORD:
                try:
                    received = tls.recv_into(view[total:])
                except ssl.SSLWantReadError:
                    break
                if not received:
                    return total
                total += received
        if not total:
            raise BlockingIOError
        return total

    return receive
