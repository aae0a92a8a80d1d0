"""Just enough of RFC 6455 for a client that must cost less than the server it loads."""

import base64
import hashlib
import json
import os

FIN = 0x80
RSV1 = 0x40
"""What marks a compressed message (RFC 7692 section 6)."""
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

LONGEST_SHOWN = 300
"""How many bytes are shown of what can't be understood."""
LARGEST = 16 * 2**20
"""The most bytes that a frame from the server may have; a larger one is an error."""


class Closed(ConnectionError):
    """The server closed the connection; 1006 is without a close frame (RFC 6455 section 7.1.5)."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"The server closed the connection: {code}{f' {reason!r}' if reason else ''}.")
        self.code = code
        self.reason = reason

    @classmethod
    def by(cls, payload: bytes) -> "Closed":
        """Return what the payload of a close frame says."""
        if len(payload) < 2:
            return cls(1005)
        return cls(int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace"))


def accept(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key`` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    return base64.b64encode(digest)


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a whole frame as a client sends it, with a random masking key."""
    key = os.urandom(4)
    return bytes([FIN | opcode]) + _length(len(payload), 0x80) + key + xor(payload, key)


def unmasked(payload: bytes, opcode: int = TEXT, *, compressed: bool = False) -> bytes:
    """Return a whole frame as a server sends it."""
    return bytes([FIN | (RSV1 if compressed else 0) | opcode]) + _length(len(payload), 0) + payload


class Answered(ValueError):
    """A hubbub server answered with an ``$error``; the text has its code and what it says."""


def raise_errors(payload: bytes, what: str = "The server answered with an error") -> None:
    """Raise :exc:`Answered` if a message is an error of a hubbub server's: that is `what` it did."""
    if not payload.startswith(b'{"type":"$error"'):
        return
    try:
        error = json.loads(payload)["data"]
        said = f": {error['code']}. {error['message']}"
    except (ValueError, LookupError, TypeError, RecursionError):
        said = f", but not as hubbub does: {payload[:LONGEST_SHOWN]!r}"
    raise Answered(what + said)


def client_frame(data: bytes | bytearray) -> tuple[int, bytes] | None:
    """Return the size of the masked frame at the start of `data`, and its payload; None until it is whole."""
    if len(data) < 6:
        return None
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    end = start + 4 + size
    if len(data) < end:
        return None
    return end, xor(bytes(data[start + 4 : end]), bytes(data[start : start + 4]))


def extent(data: bytes | bytearray | memoryview, position: int = 0) -> tuple[int, int] | None:
    """Return where the payload of the frame at `position` begins and ends; None until that is known.

    Raises :exc:`ValueError` for a frame that no server may send, or that is too large.
    """
    available = len(data) - position
    if available < 2:
        return None
    length = data[position + 1]
    if length < 126:
        return position + 2, position + 2 + length
    if length > 127:
        raise ValueError(f"The server sent what is no frame: {bytes(data[position : position + 32])!r}.")
    extra = 2 if length == 126 else 8
    if available < 2 + extra:
        return None
    start = position + 2 + extra
    length = int.from_bytes(data[position + 2 : start], "big")
    if length > LARGEST:
        raise ValueError(f"The server sent a frame of {length:,} bytes; at most {LARGEST:,} can be taken.")
    return start, start + length


def _length(size: int, mask: int) -> bytes:
    if size < 126:
        return bytes([mask | size])
    if size < 1 << 16:
        return bytes([mask | 126]) + size.to_bytes(2, "big")
    return bytes([mask | 127]) + size.to_bytes(8, "big")


def xor(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload (RFC 6455 section 5.3)."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
