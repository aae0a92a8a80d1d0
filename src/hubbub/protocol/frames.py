"""WebSocket frames (RFC 6455 section 5): a short cut for the common ones, `websockets` for all others."""

import codecs
from collections.abc import Callable

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SERVER, Protocol
from websockets.typing import LoggerLike

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


def frame(first_byte: int, payload: bytes) -> bytes:
    """Return a whole, unmasked frame, as a server sends it (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((first_byte, length)) + payload
    if length < 65536:
        return bytes((first_byte, 126)) + length.to_bytes(2, "big") + payload
    return bytes((first_byte, 127)) + length.to_bytes(8, "big") + payload


def read_messages(data: bytes, position: int, limit: int, deliver: Callable[[str | bytes], bool]) -> int:
    """Deliver the messages that come next in `data` in the plainest way; return where they end.

    Taken are whole, masked, unfragmented, uncompressed data frames below 64 KiB, not larger than `limit`
    bytes. Reading stops at the first frame that is anything else, which is left to an :class:`Assembler`,
    or after a message for which `deliver` returned false.
    """
    available = len(data)
    while available - position >= 6:
        first, second = data[position], data[position + 1]
        if first != TEXT and first != BINARY:
            break
        if 128 <= second < 254:
            start = position + 6
            length = second - 128
        elif second == 254:
            start = position + 8
            length = int.from_bytes(data[position + 2 : position + 4], "big")
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
        else:
            message = payload
        position = end
        if not deliver(message):
            break
    return position


class Assembler:
    """Reads any frames, with the `websockets` library as the judge of them.

    Made when the first frame arrives that :func:`read_messages` left, dropped when :attr:`idle` says that
    no message is under way, so that an idle connection holds neither parser nor buffer. Frames are handed
    to `websockets` as soon as their header is complete, hence a declared length or a reserved bit is
    judged before the payload arrives.
    """

    __slots__ = (
        "_decoder", "_head", "_limit", "_message", "_protocol", "_remaining", "closed", "failed", "output",
    )  # fmt: skip

    def __init__(self, limit: int, logger: LoggerLike) -> None:
        self._limit = limit
        self._protocol = Protocol(SERVER, max_size=limit, logger=logger)
        self._head = b""
        self._remaining = 0
        self._message: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self.output: list[bytes] = []
        """Frames to send in answer: pongs, the close frame."""
        self.closed = False
        """Whether a close frame came in; then :attr:`close` tells which."""
        self.failed = False
        """Whether the client broke the protocol; then :attr:`close` tells with what to close."""

    @property
    def idle(self) -> bool:
        """Whether everything that came in is dealt with."""
        return not (self._head or self._remaining or self._message is not None)

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of the close frame that came in, or of the failure."""
        close = self._protocol.close_rcvd if self.closed else self._protocol.close_sent
        assert close is not None
        return int(close.code), close.reason

    def receive(self, data: bytes, position: int, deliver: Callable[[str | bytes], bool]) -> int:
        """Read from `position` on, to the end of a frame at the most; return where reading stopped."""
        if not self._remaining:
            # At most 14 bytes are a header (RFC 6455 section 5.2); with them the frame's size is known.
            head = self._head + data[position : position + 14 - len(self._head)]
            size = _frame_size(head)
            if size is None:
                self._head = head
                return len(data)
            # A control frame inside of a message is no part of it, but `websockets` would count it in.
            self._protocol.max_message_size = self._limit + (125 if head[0] & 0x08 else 0)
            self._feed(self._head, deliver)
            self._remaining = size - len(self._head)
            self._head = b""
        part = data[position : position + self._remaining]
        self._remaining -= len(part)
        self._feed(part, deliver)
        return position + len(part)

    def _feed(self, data: bytes, deliver: Callable[[str | bytes], bool]) -> None:
        protocol = self._protocol
        if data:
            protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.CLOSE:
                self.closed = True
            elif event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY or event.opcode is Opcode.CONT:
                try:
                    self._collect(event, deliver)
                except UnicodeDecodeError as problem:
                    protocol.fail(CloseCode.INVALID_DATA, f"{problem.reason} at position {problem.start}")
                    self.failed = True
        if protocol.parser_exc is not None:
            self.failed = True
            self.closed = False
        self.output += [data for data in protocol.data_to_send() if data]

    def _collect(self, event: Frame, deliver: Callable[[str | bytes], bool]) -> None:
        if event.opcode is Opcode.TEXT:
            # Incremental, so that a bad byte is found in its fragment and not at the end of the message.
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        if self._decoder is not None:
            self._decoder.decode(event.data, event.fin)
        # Kept as bytes: many tiny fragments, each an object of its own, would take many times their size.
        if self._message is None:
            self._message = bytearray()
        self._message += event.data
        if event.fin:
            message, text = bytes(self._message), self._decoder is not None
            self._message = self._decoder = None
            deliver(message.decode() if text else message)


def _frame_size(head: bytes) -> int | None:
    """Return the size in bytes of the frame that starts here, or None while its header is incomplete."""
    if len(head) < 2:
        return None
    length, extra = head[1] & 0x7F, 0
    if length >= 126:
        extra = 2 if length == 126 else 8
        if len(head) < 2 + extra:
            return None
        length = int.from_bytes(head[2 : 2 + extra], "big")
    header = 2 + extra + (4 if head[1] & 0x80 else 0)
    return None if len(head) < header else header + length
