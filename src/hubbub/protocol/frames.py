"""WebSocket frames (RFC 6455 section 5): a short cut for the common ones, an assembler for all others."""

import codecs
import zlib
from collections.abc import Callable

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode

from .deflate import Inflater, TooLarge, inflate

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover  # where no C extension was built
    from websockets.utils import apply_mask

TEXT = 0x81
BINARY = 0x82
CLOSE = 0x88
PING = 0x89
PONG = 0x8A
"""First byte of a whole, uncompressed frame: FIN set and the opcode."""

COMPRESSED = 0x40
"""The bit RSV1 of the first byte: with permessage-deflate, the message is compressed (RFC 7692 section 6)."""

COMPRESSED_TEXT = COMPRESSED | TEXT
COMPRESSED_BINARY = COMPRESSED | BINARY
_COMPRESSED = (COMPRESSED_TEXT, COMPRESSED_BINARY)

SIGN = 16_384
"""Bytes of a message under way that are as much a sign of life as a pong, which can't come meanwhile."""

_SHORT_TEXT, _SHORT_BINARY = ([bytes((first, length)) for length in range(126)] for first in (TEXT, BINARY))
"""Headers of short messages by their length, which are not made anew for each."""

Deliver = Callable[[str | bytes, bool], bool]
"""Takes a message, and whether more has come in behind it; false if no more may come for now."""


def frame(first_byte: int, payload: bytes) -> bytes:
    """Return a whole, unmasked frame, as a server sends it (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((first_byte, length)) + payload
    if length < 65536:
        return bytes((first_byte, 126)) + length.to_bytes(2, "big") + payload
    return bytes((first_byte, 127)) + length.to_bytes(8, "big") + payload


def message(payload: bytes, binary: bool) -> bytes:
    """Return the frame that sends a whole message: what :func:`frame` returns, at once for a short one."""
    length = len(payload)
    if length < 126:
        return (_SHORT_BINARY if binary else _SHORT_TEXT)[length] + payload
    return frame(BINARY if binary else TEXT, payload)


def read_messages(data: bytes, position: int, limit: int, deliver: Deliver, compression: bool = False) -> int:
    """Deliver the messages that come next in `data` in the plainest way; return where they end.

    Taken are whole, masked, unfragmented data frames below 64 KiB, not larger than `limit` bytes; compressed
    ones only with `compression`. Reading stops at the first frame that is anything else, which is left to an
    :class:`Assembler`, or after a message for which `deliver` returned false.
    """
    available = len(data)
    while available - position >= 6:
        first, second = data[position], data[position + 1]
        if first != TEXT and first != BINARY and not (compression and first in _COMPRESSED):
            break
        if 128 <= second < 254:
            start = position + 6
            length = second - 128
        elif second == 254:
            start = position + 8
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if length < 126:
                break
        else:
            break
        end = start + length
        if end > available or length > limit:
            break
        payload = apply_mask(data[start:end], data[start - 4 : start])
        if first == TEXT:
            try:
                message: str | bytes = payload.decode()
            except UnicodeDecodeError:
                break
        elif first == BINARY:
            message = payload
        else:
            try:
                message = _inflate(first, payload, limit)
            except ValueError:
                break
        position = end
        if not deliver(message, end < available):
            break
    return position


def _inflate(first: int, payload: bytes, limit: int) -> str | bytes:
    """Return a compressed message; :exc:`ValueError` for one that an :class:`Assembler` has to judge."""
    message = inflate(payload, limit)
    if message is None:
        raise ValueError
    return message.decode() if first == COMPRESSED_TEXT else message


class _Violation(Exception):
    """The client did what it may not do; `code` is what to close with."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Assembler:
    """Reads any frames, strictly: fragments, control frames, and all that is not as it should be.

    Made when the first frame arrives that :func:`read_messages` left, dropped when :attr:`idle` says that
    no message is under way, so that an idle connection holds neither parser nor buffer. Nothing waits for
    the end of a frame: its header is judged when it is whole; what there is of its payload is inflated,
    judged as UTF-8 and counted at once.
    """

    __slots__ = (
        "_compression", "_decoder", "_fragments", "_head", "_inflater", "_last", "_mask", "_max_fragments",
        "_message", "_remaining", "_size", "_unsigned", "answers", "closed", "control_frames",
        "ending", "failed", "signs",
    )  # fmt: skip

    def __init__(self, max_fragments: int, compression: bool) -> None:
        self._max_fragments = max_fragments
        self._compression = compression
        self._head = b""  # a header, or a control frame, that is not whole yet
        self._mask = b""
        self._remaining = 0
        self._last = True  # whether the frame that is being read ends its message
        self._message: bytearray | None = None
        self._size = 0  # of the message, as its frames declare it
        self._fragments = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._inflater: Inflater | None = None
        self._unsigned = 0
        self.answers: list[bytes] = []
        """Frames to send in answer: pongs, the close frame."""
        self.signs = 0
        """Signs of life: control frames, and messages under way for each :data:`SIGN` bytes."""
        self.control_frames = 0
        """How many of those were control frames."""
        self.closed = False
        """Whether a close frame came in; then :attr:`ending` tells which."""
        self.failed = False
        """Whether the client broke the protocol; then :attr:`ending` tells with what to close."""
        self.ending = (0, "")
        """Code and reason of the close frame that came in, or of the failure."""

    @property
    def idle(self) -> bool:
        """Whether everything that came in is dealt with."""
        return self._message is None and not self._head

    def receive(self, data: bytes, position: int, limit: int, deliver: Deliver) -> int:
        """Read from `position` on, to the end of a frame at the most; return where reading stopped.

        `limit` is the size in bytes of the largest message.
        """
        try:
            if not self._remaining:
                position, begun = self._read_header(data, position, limit)
                if not begun:
                    return position
            return self._read_payload(data, position, limit, deliver)
        except _Violation as violation:
            self.failed = True
            self.ending = (int(violation.code), violation.reason)
            self.answers.append(frame(CLOSE, Close(*self.ending).serialize()))
            return len(data)

    def _read_header(self, data: bytes, position: int, limit: int) -> tuple[int, bool]:
        """Return where the header ends, or the control frame, and whether a data frame has begun."""
        before = len(self._head)
        # At most 14 bytes are a header (RFC 6455 section 5.2), and 125 a control frame's payload.
        head = self._head + data[position : position + 139 - before]
        header, length = _size_of(head)
        if header > len(head):
            self._head = head
            return len(data), False
        first = head[0]
        self._judge(first, length, bool(head[1] & 0x80))
        if first & 0x08:
            end = header + length
            if end > len(head):
                self._head = head
                return len(data), False
            self._head = b""
            self._control(first, apply_mask(head[header:end], head[header - 4 : header]))
            return position + end - before, False
        self._head = b""
        self._mask = head[header - 4 : header]
        self._begin(first, length, limit)
        return position + header - before, True

    def _judge(self, first: int, length: int, masked: bool) -> None:
        """Judge a header by itself (RFC 6455 section 5.2 and 5.5)."""
        opcode = first & 0x0F
        if not masked:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a client's frame has to be masked")
        if length >> 63:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a length has 63 bits")
        if 0x3 <= opcode <= 0x7 or opcode > 0xA:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
        # Only a message's first frame says that it is compressed (RFC 7692 section 6.1).
        if first & (0x30 if self._compression and opcode in (0x1, 0x2) else 0x70):
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved bit")
        if opcode & 0x08:
            if length > 125:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame has at most 125 bytes")
            if not first & 0x80:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame has no fragments")

    def _begin(self, first: int, length: int, limit: int) -> None:
        """Begin a data frame (RFC 6455 section 5.4)."""
        if first & 0x0F:
            if self._message is not None:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a message within a message")
            self._message = bytearray()
            self._size = self._fragments = 0
            # Incremental, so that a bad byte is found where it is and not at the end of the message.
            self._decoder = codecs.getincrementaldecoder("utf-8")() if first & 0x01 else None
            self._inflater = Inflater() if first & COMPRESSED else None
        elif self._message is None:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a continuation of nothing")
        self._fragments += 1
        if self._fragments > self._max_fragments:
            raise _Violation(CloseCode.MESSAGE_TOO_BIG, f"over the limit of {self._max_fragments} fragments")
        self._size += length
        # DEFLATE makes what it can't compress a little larger, at worst by some percent.
        if self._size > (limit if self._inflater is None else limit + limit // 16 + 64):
            raise _too_large(limit)
        self._last = bool(first & 0x80)
        self._remaining = length

    def _read_payload(self, data: bytes, position: int, limit: int, deliver: Deliver) -> int:
        message = self._message
        assert message is not None
        part = data[position : position + self._remaining]
        position += len(part)
        self._remaining -= len(part)
        last = self._last and not self._remaining
        self._count(len(part))
        part = apply_mask(part, self._mask)
        if len(part) % 4:
            self._mask = self._mask[len(part) % 4 :] + self._mask[: len(part) % 4]
        try:
            if self._inflater is not None:
                part = self._inflater.inflate(part, last, max(limit - len(message), 0))
            if self._decoder is not None:
                self._decoder.decode(part, last)
        except TooLarge:
            raise _too_large(limit) from None
        except zlib.error as problem:
            raise _Violation(CloseCode.PROTOCOL_ERROR, f"can't inflate: {problem}"[:120]) from None
        except UnicodeDecodeError as problem:
            raise _Violation(CloseCode.INVALID_DATA, f"no UTF-8: {problem.reason}") from None
        # Kept as bytes: many tiny fragments, each an object of its own, would take many times their size.
        message += part
        if last:
            text = self._decoder is not None
            self._message = self._decoder = self._inflater = None
            deliver(message.decode() if text else bytes(message), position < len(data))
        return position

    def _count(self, size: int) -> None:
        self._unsigned += size
        if self._unsigned >= SIGN:
            self._unsigned = 0
            self.signs += 1

    def _control(self, first: int, payload: bytes) -> None:
        self.signs += 1
        self.control_frames += 1
        if first == PING:
            self.answers.append(frame(PONG, payload))
        elif first == CLOSE:
            try:
                close = Close.parse(payload)
            except ProtocolError as problem:
                raise _Violation(CloseCode.PROTOCOL_ERROR, str(problem)) from None
            except UnicodeDecodeError as problem:
                raise _Violation(CloseCode.INVALID_DATA, f"no UTF-8: {problem.reason}") from None
            self.closed = True
            self.ending = (int(close.code), close.reason)
            # As it came: an empty one has no code that could be sent (RFC 6455 section 7.4.1).
            self.answers.append(frame(CLOSE, payload))


def _too_large(limit: int) -> _Violation:
    return _Violation(CloseCode.MESSAGE_TOO_BIG, f"over the size limit of {limit} bytes")


def _size_of(head: bytes) -> tuple[int, int]:
    """Return the size of a frame's header, as far as it can be told, and the length that it declares.

    Raises `_Violation` for a length that is not in its shortest form (RFC 6455 section 5.2).
    """
    if len(head) < 2:
        return 2, 0
    length, size = head[1] & 0x7F, 2
    if length >= 126:
        size += 2 if length == 126 else 8
        if len(head) < size:
            return size, 0
        least = 126 if length == 126 else 65536
        length = int.from_bytes(head[2:size], "big")
        if length < least:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a length has to be in its shortest form")
    return size + (4 if head[1] & 0x80 else 0), length
