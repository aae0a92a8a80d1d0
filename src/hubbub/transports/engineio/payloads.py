"""Engine.IO payloads, without I/O: several packets as the body of one request or answer.

Version 4 has a record separator between packets. Version 3 counts them off: in characters of UTF-16, as
JavaScript counts, or, where there is binary data, in bytes.
"""

from collections.abc import Iterable, Iterator, Sequence

from .packets import SEPARATOR, Dialect, Kind, MalformedPacket, Packet, read_packet

LONGEST_LENGTH = 10
"""Digits of a length in a payload of version 3."""

TEXT = b"text/plain; charset=UTF-8"
BINARY = b"application/octet-stream"


def write_payload(packets: Sequence[Packet], dialect: Dialect) -> tuple[bytes, bytes]:
    """Return packets as the body of an answer, and its content type."""
    if dialect.version == 4:
        return SEPARATOR.join([packet.text(dialect) for packet in packets]).encode(), TEXT
    if dialect.binary and any(packet.binary for packet in packets):
        return b"".join(map(_counted_bytes, packets)), BINARY
    texts = [packet.text(dialect) for packet in packets]
    return "".join(f"{_utf_16_length(text)}:{text}" for text in texts).encode(), TEXT


def read_payload(body: bytes, binary: bool, dialect: Dialect) -> Iterator[tuple[Kind, str | bytes]]:
    """Yield kind and data of each packet in the body of a request; `binary` is what its content type says.

    Raises :exc:`MalformedPacket` where it is malformed, after what came before that.
    """
    if binary:
        if dialect.version == 4:
            raise MalformedPacket("A payload is text: binary data in it is in Base64.")
        packets: Iterable[str | bytes] = _count_off_bytes(body)
    else:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("That is no UTF-8.") from None
        packets = _separated(text) if dialect.version == 4 else _count_off(text)
    for packet in packets:
        yield read_packet(packet, dialect)


def _separated(text: str) -> Iterator[str]:
    start = 0
    while (end := text.find(SEPARATOR, start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _count_off(text: str) -> Iterator[str]:
    """Yield the packets of ``length:packet`` one after the other."""
    # Characters beyond the Basic Multilingual Plane count as two; where there are none, slices will do.
    units = None if text.isascii() or max(text) <= "\uffff" else text.encode("utf-16-le")
    position, end = 0, len(text) if units is None else len(units) // 2
    if not end:
        raise MalformedPacket("There is no packet.")
    while position < end:
        head = _slice(text, units, position, position + LONGEST_LENGTH + 1)
        digits, colon, _ = head.partition(":")
        if not colon or not (digits.isascii() and digits.isdigit()):
            raise MalformedPacket("That is no length.")
        position += len(digits) + 1
        length = int(digits)
        if length > end - position:
            raise MalformedPacket("A packet is shorter than it says.")
        yield _slice(text, units, position, position + length)
        position += length


def _slice(text: str, units: bytes | None, start: int, end: int) -> str:
    return text[start:end] if units is None else units[2 * start : 2 * end].decode("utf-16-le", "replace")


def _count_off_bytes(body: bytes) -> Iterator[str | bytes]:
    """Yield the packets of a binary payload: 0 for text or 1, digits as bytes, 255, the packet."""
    position, end = 0, len(body)
    while position < end:
        kind, stop = body[position], body.find(b"\xff", position + 1, position + LONGEST_LENGTH + 2)
        digits = body[position + 1 : stop]
        if kind > 1 or stop < 0 or not digits or max(digits) > 9:
            raise MalformedPacket("That is no length.")
        position = stop + 1
        length = int("".join(map(str, digits)))
        if length > end - position:
            raise MalformedPacket("A packet is shorter than it says.")
        packet = body[position : position + length]
        position += length
        if kind:
            yield packet
            continue
        try:
            yield packet.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("That is no UTF-8.") from None


def _counted_bytes(packet: Packet) -> bytes:
    digit = int(packet.kind)
    data = (bytes((digit,)) if packet.binary else b"%d" % digit) + packet.payload
    return bytes((packet.binary, *map(int, str(len(data))), 255)) + data


def _utf_16_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
