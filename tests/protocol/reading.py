"""Reads frames as the native transport does: the short cut first, an assembler for what it leaves."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from hubbub.protocol.frames import Assembler, read_messages


class Reader:
    """One connection's way in: what came out of the bytes that were received."""

    def __init__(
        self, limit: int = 1_000_000, *, max_fragments: int = 1_000_000, compression: bool = False
    ) -> None:
        self.limit = limit
        self.max_fragments = max_fragments
        self.compression = compression
        self.signs = 0
        self.messages: list[str | bytes] = []
        self.answers = b""
        self.assembler: Assembler | None = None
        self.ended = False

    def receive(self, data: bytes) -> "Reader":
        """Read what arrived in one piece."""
        position = 0
        while position < len(data) and not self.ended:
            if self.assembler is None:
                position = read_messages(data, position, self.limit, self._deliver, self.compression)
                if position == len(data):
                    break
                self.assembler = Assembler(self.max_fragments, self.compression)
            assembler = self.assembler
            before = position
            position = assembler.receive(data, position, self.limit, self._deliver)
            assert before < position <= len(data)
            self.answers += b"".join(assembler.answers)
            assembler.answers.clear()
            self.signs += assembler.signs
            assembler.signs = 0
            if assembler.closed or assembler.failed:
                self.ended = True
            elif assembler.idle:
                self.assembler = None
        return self

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason that the connection ended with."""
        assert self.ended
        assert self.assembler is not None
        return self.assembler.ending

    @property
    def failure(self) -> int:
        """Close code of a broken protocol; the close frame that says so was sent."""
        assert self.ended
        assert self.assembler is not None
        assert self.assembler.failed
        assert not self.assembler.closed
        code, _ = self.assembler.ending
        [(opcode, payload)] = server_frames(self.answers)
        assert opcode is Opcode.CLOSE
        assert int.from_bytes(payload[:2], "big") == code
        return code

    def _deliver(self, message: str | bytes, more: bool) -> bool:
        self.messages.append(message)
        return True


def masked(opcode: Opcode, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """Return a frame as a client sends it; `compressed` sets RSV1, the payload is left as it is."""
    whole = Frame(opcode, payload, fin).serialize(mask=True)
    return bytes((whole[0] | 0x40,)) + whole[1:] if compressed else whole


def header(first_byte: int, length: int, *, mask: bool = True) -> bytes:
    """Return the beginning of a frame that declares `length` bytes, up to the payload."""
    bit = 0x80 if mask else 0
    if length < 126:
        declared = bytes((bit | length,))
    elif length < 65536:
        declared = bytes((bit | 126,)) + length.to_bytes(2, "big")
    else:
        declared = bytes((bit | 127,)) + length.to_bytes(8, "big")
    return bytes((first_byte,)) + declared + (b"\0\0\0\0" if mask else b"")


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Yield `data` split at these positions."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(places):
        yield data[start:end]


def server_frames(data: bytes) -> list[tuple[Opcode, bytes]]:
    """Return opcode and payload of unmasked frames, as a client of another library reads them."""
    client = Protocol(CLIENT, max_size=None)
    client.receive_data(data)
    assert client.parser_exc is None
    frames = client.events_received()
    assert all(isinstance(frame, Frame) and frame.fin for frame in frames)
    return [(frame.opcode, bytes(frame.data)) for frame in frames]
