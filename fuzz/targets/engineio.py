"""Engine.IO's packets and payloads, of version 4 and of 3: read, written, and read again.

The first byte of an input says how the client speaks, and whether the rest is the body of a request or one
WebSocket message.
"""

import re
from collections.abc import Iterator

from hubbub.transports.engineio.packets import Dialect, Kind, MalformedPacket, Packet, read_packet
from hubbub.transports.engineio.payloads import BINARY, LONGEST_LENGTH, read_payload, write_payload

VERSION_3, BASE64, BYTES, MESSAGE = 1, 2, 4, 8
"""Bits of the first byte: the version, ``b64=1``, whether it is binary, and one message instead of a body."""

Read = tuple[Kind, str | bytes]


def check(data: bytes) -> list[str]:
    if not data:
        return []
    dialect = Dialect(3 if data[0] & VERSION_3 else 4, not data[0] & BASE64)
    if data[0] & MESSAGE:
        return _check_message(data[1:], bool(data[0] & BYTES), dialect)
    return _check_body(data[1:], bool(data[0] & BYTES), dialect)


def _check_message(data: bytes, binary: bool, dialect: Dialect) -> list[str]:
    try:
        found = read_packet(data if binary else data.decode(), dialect)
    except UnicodeDecodeError:
        return []  # no transport lets it through
    except MalformedPacket as problem:
        return [str(problem)]
    if (packet := _packet(found)) is not None:
        chunk = packet.frame(_framing, dialect)
        payload, is_binary = chunk
        assert is_binary is (packet.binary and dialect.binary), "binary data for a client that takes none"
        assert read_packet(payload if is_binary else payload.decode(), dialect) == found
        assert packet.frame(_framing, dialect) == chunk, "the second time it is another one"
    return [f"{found[0].name} {type(found[1]).__name__}"]


def _framing(payload: bytes, binary: bool) -> tuple[bytes, bool]:
    return payload, binary


def _check_body(body: bytes, binary: bool, dialect: Dialect) -> list[str]:
    found: list[Read] = []
    problem = ""
    try:
        for read in read_payload(body, binary, dialect):
            found.append(read)
            assert len(found) <= len(body) + 1, "more packets than bytes"
    except MalformedPacket as malformed:
        problem = str(malformed)
    else:
        _check_written(found, dialect)
    if dialect.version == 3 and not binary:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            assert problem, "what is no UTF-8 was read"
        else:
            _compare_with_javascript(text, found, problem, dialect)
    return [problem, *{f"{kind.name} {type(data).__name__}" for kind, data in found}]


def _check_written(found: list[Read], dialect: Dialect) -> None:
    """What was read is read the same when it is written again."""
    packets = [packet for packet in map(_packet, found) if packet is not None]
    if len(packets) != len(found) or not packets:
        return
    body, media = write_payload(packets, dialect)
    assert media != BINARY or (dialect.version == 3 and dialect.binary)
    assert list(read_payload(body, media == BINARY, dialect)) == found


def _packet(read: Read) -> Packet | None:
    """Return what was read as a packet to clients; None where only clients may send such a thing."""
    kind, data = read
    if isinstance(data, bytes):
        return Packet(data, True, kind) if kind is Kind.MESSAGE else None
    try:
        return Packet(data.encode(), False, kind)
    except ValueError:
        assert "\x1e" in data
        return None


def _compare_with_javascript(text: str, found: list[Read], problem: str, dialect: Dialect) -> None:
    """The packets of version 3 are counted off as engine.io-parser does it, in JavaScript's units."""
    expected: list[Read] = []
    try:
        expected.extend(read_packet(packet, dialect) for packet in _in_units(text))
    except ValueError:
        assert problem, "a payload was read that is malformed"
    else:
        assert not problem, f"a payload is right, and it was said: {problem}"
    assert found == expected


def _in_units(text: str) -> Iterator[str]:
    units = "".join(_units(character) for character in text)
    if not units:
        raise ValueError
    while units:
        head = re.match(rf"([0-9]{{1,{LONGEST_LENGTH}}}):", units)
        if head is None or int(head[1]) > len(units) - head.end():
            raise ValueError
        stop = head.end() + int(head[1])
        yield units[head.end() : stop].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        units = units[stop:]


def _units(character: str) -> str:
    """Return a character as JavaScript has it: beyond the Basic Multilingual Plane as two surrogates."""
    beyond = ord(character) - 0x10000
    return character if beyond < 0 else chr(0xD800 + (beyond >> 10)) + chr(0xDC00 + (beyond & 0x3FF))
