"""Just enough of RFC 6455 for a client that must cost less than the server it loads."""

import base64
import hashlib
import os

TEXT = 0x1
BINARY = 0x2


def accept(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def masked(payload: bytes) -> bytes:
    """A whole text frame as a client sends it, with a random masking key."""
    key = os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    body = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    return bytes([0x80 | TEXT]) + length + key + body


def unmasked(payload: bytes) -> bytes:
    """A whole text frame as a server sends it."""
    size = len(payload)
    length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
    return bytes([0x80 | TEXT]) + length + payload


def extent(data: bytes | bytearray) -> tuple[int, int] | None:
    """Where the payload of the frame at the start of `data` begins and ends; None until that is known.

    Raises `ValueError` for anything but a whole, plain, unmasked data message: no load here asks for more.
    """
    if len(data) < 2:
        return None
    if data[0] not in (0x80 | TEXT, 0x80 | BINARY) or data[1] > 126:
        raise ValueError(f"Expected one whole data frame, but the server sent {bytes(data[:64])!r}.")
    if data[1] < 126:
        return 2, 2 + data[1]
    if len(data) < 4:
        return None
    return 4, 4 + int.from_bytes(data[2:4], "big")


class SharedStream:
    """Finds the frames in a stream that many connections receive alike, byte for byte.

    Whichever connection is ahead feeds what it has received beyond `seen`, so every byte is looked at once,
    however many connections there are; a position in the stream tells how many frames come before it.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.ends: list[int] = []
        """Positions in the stream at which a frame ends, ascending."""
        self._rest = bytearray()

    def feed(self, data: memoryview) -> None:
        self._rest += data
        self.seen += len(data)
        while (found := extent(self._rest)) is not None and found[1] <= len(self._rest):
            del self._rest[: found[1]]
            self.ends.append(self.seen - len(self._rest))
