"""Engine.IO packets, without I/O (Engine.IO protocol, "Packet encoding"): version 4, and 3 of older clients.

A packet that goes to many is one object: it is encoded once for each kind of line that it is written to.
"""

import binascii
from enum import StrEnum
from typing import NamedTuple

from ...engine.outbox import Chunk, Framing

SEPARATOR = "\x1e"
"""What stands between the packets of a payload, and so can't be in one."""


class Kind(StrEnum):
    """What a packet is for: the first character of it."""

    OPEN = "0"
    CLOSE = "1"
    PING = "2"
    PONG = "3"
    MESSAGE = "4"
    UPGRADE = "5"
    NOOP = "6"


class Dialect(NamedTuple):
    """How a client speaks: the protocol's version, 4 or 3, and whether it takes binary data as such.

    Without `binary`, which a client asks for with ``b64=1``, binary data is written as Base64 everywhere.
    """

    version: int = 4
    binary: bool = True


class MalformedPacket(ValueError):
    """What a client sent is no packet."""


class Packet:
    """A packet to clients: `payload` is UTF-8, or with `binary` any bytes, which only messages may be.

    Raises :exc:`ValueError` for a text that has the record separator in it: it would be taken for two packets
    by clients that poll. JSON never has it.
    """

    __slots__ = ("_encoded", "_text", "binary", "kind", "payload")

    def __init__(self, payload: bytes = b"", binary: bool = False, kind: Kind = Kind.MESSAGE) -> None:
        if not binary and b"\x1e" in payload:
            raise ValueError("The record separator, U+001E, can't be in a packet's text.")
        self.payload = payload
        self.binary = binary
        self.kind = kind
        self._encoded: dict[tuple[Framing, bool], Chunk] = {}
        self._text: str | None = None

    def __len__(self) -> int:
        return len(self.payload) + 1

    def frame(self, framing: Framing, dialect: Dialect) -> Chunk:
        """Return the packet as a WebSocket message in the shape that a transport writes."""
        if self.binary and not dialect.binary:
            return framing(self.text(dialect).encode(), False)
        marked = self.binary and dialect.version == 3
        chunk = self._encoded.get((framing, marked))
        if chunk is None:
            if self.binary:
                data = bytes((int(self.kind),)) + self.payload if marked else self.payload
                chunk = framing(data, True)
            else:
                chunk = framing(self.kind.encode() + self.payload, False)
            self._encoded[framing, marked] = chunk
        return chunk

    def text(self, dialect: Dialect) -> str:
        """Return the packet as text, binary data in Base64, as a payload or a ``b64`` client has it."""
        if self.binary and dialect.version == 3:
            return "b" + self.kind + _base64(self.payload)
        if self._text is None:
            self._text = "b" + _base64(self.payload) if self.binary else self.kind + self.payload.decode()
        return self._text


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


NOOP = Packet(kind=Kind.NOOP)
PING = Packet(kind=Kind.PING)
CLOSE = Packet(kind=Kind.CLOSE)


def read_packet(data: str | bytes, dialect: Dialect) -> tuple[Kind, str | bytes]:
    """Return kind and data of a client's packet; :exc:`MalformedPacket` if it is none."""
    if isinstance(data, bytes):
        if dialect.version == 4:
            return Kind.MESSAGE, data
        if not data or data[0] > 6:
            raise MalformedPacket("There is no such kind of packet.")
        return Kind(str(data[0])), data[1:]
    first = data[:1]
    if first == "b":
        start = 1
        kind = Kind.MESSAGE
        if dialect.version == 3:
            kind, start = _kind(data[1:2]), 2
        try:
            return kind, binascii.a2b_base64(data[start:], strict_mode=True)
        except ValueError:
            raise MalformedPacket("That is no Base64.") from None
    return _kind(first), data[1:]


def _kind(character: str) -> Kind:
    try:
        return Kind(character)
    except ValueError:
        raise MalformedPacket("There is no such kind of packet.") from None
