"""What a client's bytes mean by RFC 6455 and RFC 7692, with `websockets` fed all of them at once."""

import logging
import zlib
from dataclasses import dataclass, field, replace

from websockets.exceptions import ProtocolError
from websockets.extensions import Extension
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension
from websockets.protocol import CLIENT, SERVER, Protocol
from websockets.typing import ExtensionName
from websockets.utils import apply_mask

_silent = logging.getLogger("fuzz.reference")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

MOST_PADDING = 1 << 17


@dataclass
class Reading:
    """The messages in a client's bytes, what it pinged with, and the code that the line closes with.

    `codes` are the ones that will do, none while the line is open. `closed` is whether the code is the
    client's own, of a close frame. `undecided` is whether the last frame lacks bytes: then the server may
    wait for them, or close already with what the frame can only come to.
    """

    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    closed: bool = False
    undecided: bool = False


@dataclass
class Verdict:
    """What the sizes of frames come to: they are read up to `end`, where `missing` bytes are to come.

    The line closes with one of `codes`, if there are any and nothing before it is wrong. `inflating` is
    whether the last frame is a compressed one that lacks bytes.
    """

    end: int
    missing: int = 0
    codes: set[int] = field(default_factory=set)
    closed: bool = False
    inflating: bool = False


def readings(wire: bytes, limit: int, extensions: str, most_fragments: int) -> list[Reading]:
    """Return the ways to read `wire` where messages may have `limit` bytes; any will do.

    `extensions` is the server's answer, as it stands in ``Sec-WebSocket-Extensions``. A message of more than
    `most_fragments` may be refused.
    """
    found = []
    for verdict in _verdicts(wire, limit, bool(extensions), most_fragments):
        reading, inflating = _read(wire[: verdict.end], limit, extensions)
        found.append(reading)
        if inflating or verdict.inflating:
            # How much of a part can be inflated, and in which order it is judged, is zlib's affair.
            found.append(replace(reading, codes=ANY_OF_INFLATING, closed=False, undecided=True))
        if reading.codes:
            continue
        if verdict.codes:
            reading.codes, reading.undecided = set(verdict.codes), verdict.missing > 0
            reading.closed = verdict.closed
            if 1009 in verdict.codes:
                # Too big, but perhaps wrong as well: then either may be seen first.
                empty = bytes((wire[verdict.end], 0x80, 0, 0, 0, 0))
                also, _ = _read(wire[: verdict.end] + empty, limit, extensions)
                reading.codes |= set() if also.closed else also.codes
        elif verdict.missing:
            whole, _ = _read(wire[: verdict.end] + bytes(verdict.missing), limit, extensions)
            reading.codes, reading.undecided = set() if whole.closed else whole.codes, True
    return found


def _verdicts(wire: bytes, limit: int, compression: bool, most_fragments: int) -> list[Verdict]:
    """Judge each frame by its header: first where `websockets` is laxer than the RFC or hubbub, last all.

    `websockets` itself is given no limit: it counts a ping inside of a message as a part of it, and hubbub
    doesn't.
    """
    found: list[Verdict] = []
    position = collected = fragments = 0
    compressed = under_way = False
    while True:
        head = wire[position : position + 14]
        length, start = head[1] & 0x7F if len(head) > 1 else 0, 2
        if length >= 126:
            least = 126 if length == 126 else 65536
            start += 2 if length == 126 else 8
            length = int.from_bytes(head[2:start], "big")
            if length < least and len(head) >= start:
                # A length has to be in its shortest form (RFC 6455 section 5.2).
                found.append(Verdict(position, 0, {1002}))
        start += 4 if len(head) > 1 and head[1] & 0x80 else 0
        if len(head) < start:
            return [*found, Verdict(position)]
        if length >> 63:
            # Not a length at all (RFC 6455 section 5.2), and too big as well.
            return [*found, Verdict(position, 0, {1002, 1009})]
        opcode, end = head[0] & 0x0F, position + start + length
        if not head[1] & 0x80 or opcode in _RESERVED:
            return [*found, Verdict(position, 0, {1002})]
        if opcode >= 8:
            if length > 125:
                # It is too long by RFC 6455 section 5.5, and may be too big as well.
                return [*found, Verdict(position, max(0, end - len(wire)), {1002, 1009})]
            if opcode == 8 and under_way and end <= len(wire):
                # A control frame may stand within a message (RFC 6455 section 5.4), so a close frame may.
                code = _close_code(apply_mask(wire[end - length : end], head[start - 4 : start]))
                if code is not None:
                    found.append(Verdict(position, 0, {code}, closed=True))
        else:
            if opcode and under_way:
                # A message within a message, which `websockets` may call too big.
                return [*found, Verdict(position, max(0, end - len(wire)), {1002, 1009})]
            if opcode:
                compressed = compression and bool(head[0] & 0x40)
            collected = collected + length if opcode == 0 else length
            fragments = fragments + 1 if opcode == 0 else 1
            if fragments == most_fragments + 1:
                found.append(Verdict(position, 0, {1009}))
            if collected > limit and not compressed:
                return [*found, Verdict(position, 0, {1009})]
            if collected > limit:
                # Compressed, it may be somewhat larger than what it stands for.
                found.append(Verdict(position, 0, {1009}))
            under_way = not head[0] & 0x80
            if not under_way:
                collected = 0
        if end > len(wire):
            missing = min(end - len(wire), MOST_PADDING)
            return [*found, Verdict(len(wire), missing, inflating=compressed and opcode < 8)]
        position = end


def _close_code(payload: bytes) -> int | None:
    try:
        return int(Close.parse(payload).code)
    except (ProtocolError, UnicodeDecodeError):
        return None


_RESERVED = (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)


def _read(wire: bytes, limit: int, extensions: str) -> tuple[Reading, bool]:
    """Return what `websockets` reads, and whether a compressed message is under way at its end."""
    protocol = Protocol(SERVER, max_size=None, logger=_silent)
    inflating = _Inflating()
    if extensions:
        [(name, parameters)] = parse_extension(extensions)
        assert name == _Inflating.name
        assert ("client_no_context_takeover", None) in parameters
        protocol.extensions = [inflating]
    protocol.receive_data(wire)
    reading = Reading()
    message, text = b"", False
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.PING:
            reading.pings.append(bytes(event.data))
        if event.opcode >= Opcode.CLOSE:
            continue
        if event.opcode is not Opcode.CONT:
            message, text = b"", event.opcode is Opcode.TEXT
        message += event.data
        may_be_text = not text or _may_be_text(message, event.fin)
        if len(message) > limit:
            reading.codes = {1009} if may_be_text else {1007, 1009}
        elif not may_be_text:
            reading.codes = {1007}
        if reading.codes:
            return reading, False
        if event.fin:
            reading.messages.append(message.decode() if text else message)
    if isinstance(protocol.parser_exc, Corrupt):
        reading.codes = ANY_OF_INFLATING
    elif protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        reading.codes = {int(protocol.close_sent.code)}
    elif protocol.close_rcvd is not None:
        reading.codes, reading.closed = {int(protocol.close_rcvd.code)}, True
    return reading, inflating.under_way


def _may_be_text(message: bytes, whole: bool) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError as problem:
        # Cut within a letter: the next fragment may bring the rest.
        return not whole and problem.reason == "unexpected end of data"
    return True


class Corrupt(ProtocolError):
    """A message can't be inflated to its end."""


class _Inflating(Extension):
    """permessage-deflate without context takeover, each message at once.

    `websockets` has its own, which takes messages that are cut, and drops what follows a final block.
    """

    name = ExtensionName("permessage-deflate")

    def __init__(self) -> None:
        self._collected: bytes | None = None

    @property
    def under_way(self) -> bool:
        return self._collected is not None

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:  # noqa: ARG002
        if frame.opcode >= Opcode.CLOSE:
            return frame
        if frame.opcode is not Opcode.CONT and frame.rsv1:
            self._collected = b""
        elif frame.rsv1 or self._collected is None:
            return frame  # which is wrong if the bit is set, and `websockets` says so
        self._collected += frame.data
        whole = b""
        if frame.fin:
            whole, self._collected = _inflated(self._collected), None
        return Frame(frame.opcode, whole, frame.fin, False, frame.rsv2, frame.rsv3)

    def encode(self, frame: Frame) -> Frame:
        return frame


def _inflated(data: bytes) -> bytes:
    if not data:
        return b""  # not how to write an empty message, but there is no doubt about it
    content, rest = b"", data + _TAIL
    for _ in range(MOST_FINAL_BLOCKS + 1):
        inflater = zlib.decompressobj(-15)
        try:
            content += inflater.decompress(rest)
        except zlib.error as problem:
            raise Corrupt(str(problem)) from None
        if not inflater.eof:
            break
        rest = inflater.unused_data
        if rest in (b"", _TAIL):
            # hubbub takes a final block as an end, also without the empty byte of RFC 7692 section 7.2.3.4.
            return content
    # Between two blocks, and nowhere else, another block can follow.
    try:
        mark = inflater.decompress(_MARK)
    except zlib.error as problem:
        raise Corrupt(str(problem)) from None
    if mark != b"M" or not inflater.eof or inflater.unused_data:
        raise Corrupt("incomplete block")
    return content


_TAIL = b"\x00\x00\xff\xff"
"""What is left out at the end of a compressed message (RFC 7692 section 7.2.1)."""

_MARK = b"\x01\x01\x00\xfe\xffM"
"""A final block with one letter in it, stored as it is."""

MOST_FINAL_BLOCKS = 16
"""Final blocks within a message that hubbub puts up with."""

ANY_OF_INFLATING = {1002, 1007, 1009}


def server_frames(data: bytes) -> list[tuple[Opcode, bytes]]:
    """Return opcode and payload of the frames that a server sent, as a client reads them."""
    client = Protocol(CLIENT, max_size=None, logger=_silent)
    client.receive_data(data)
    assert client.parser_exc is None, f"the server broke the protocol: {client.parser_exc}"
    found = [
        (event.opcode, bytes(event.data)) for event in client.events_received() if isinstance(event, Frame)
    ]
    length = sum(
        len(payload) + (2 if len(payload) < 126 else 4 if len(payload) < 65536 else 10)
        for _, payload in found
    )
    assert length == len(data), "the server sent something after its close frame, or half a frame"
    return found
