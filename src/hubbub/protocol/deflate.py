"""Compression of messages (RFC 7692, permessage-deflate), always without context takeover.

So neither a compressor nor a decompressor stays with a connection, and what one message was compressed to is
right for every client that agreed to the same window.
"""

import zlib
from collections.abc import Sequence

from websockets.exceptions import DuplicateParameter, InvalidParameterValue, NegotiationError
from websockets.extensions.base import Extension, ServerExtensionFactory
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.typing import ExtensionParameter

LEVEL = 1
"""zlib's fastest: a large message must not hold up the event loop for long."""

MAX_ENDINGS = 16
"""Blocks marked as final that one message may have. Each costs a decompressor, and nobody needs two."""

_TAIL = b"\x00\x00\xff\xff"
"""The empty block that ends a flush; it is left out on the wire (RFC 7692 section 7.2.1)."""

_MARK = b"M"
_END = b"\x01\x01\x00\xfe\xff" + _MARK
"""A final block that says the mark."""


class Agreement(Extension):
    """What a client and the server agreed upon."""

    name = ServerPerMessageDeflateFactory.name

    def __init__(self, window_bits: int) -> None:
        self.window_bits = window_bits
        """How far back, as a power of two, a compressed message to this client may refer."""


class Deflate(ServerExtensionFactory):
    """Judges offers of permessage-deflate (RFC 7692 section 7.1); the first that is acceptable is taken."""

    name = Agreement.name

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Agreement]:
        """Return the answer to an offer, and what is agreed; `NegotiationError` declines the offer."""
        if accepted_extensions:
            raise NegotiationError("a message is compressed once")
        offered: dict[str, str | None] = {}
        for name, value in params:
            if name in offered:
                raise DuplicateParameter(name)
            if value not in _VALUES.get(name, ()):
                raise InvalidParameterValue(name, value)
            offered[name] = value
        # A server may demand the second even of a client that did not offer it (section 7.1.1.2).
        answer: list[ExtensionParameter] = [
            ("server_no_context_takeover", None),
            ("client_no_context_takeover", None),
        ]
        bits = offered.get("server_max_window_bits")
        if bits is not None:
            answer.append(("server_max_window_bits", bits))
        return answer, Agreement(int(bits or zlib.MAX_WBITS))


_BITS = tuple(str(bits) for bits in range(8, 16))
_VALUES: dict[str, tuple[str | None, ...]] = {
    "server_no_context_takeover": (None,),
    "client_no_context_takeover": (None,),
    "server_max_window_bits": _BITS,
    # A window of the client's that is smaller is understood with the largest, too.
    "client_max_window_bits": (None, *_BITS),
}


def compress(payload: bytes, window_bits: int) -> bytes:
    """Return the compressed payload of a message (RFC 7692 section 7.2.1)."""
    # zlib has no window of 8 bits. Its runs refer back by one byte only, so that they need none.
    strategy = zlib.Z_RLE if window_bits < 9 else zlib.Z_DEFAULT_STRATEGY
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -max(window_bits, 9), zlib.DEF_MEM_LEVEL, strategy)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def inflate(payload: bytes, limit: int) -> bytes | None:
    """Return a message that came in one plain piece, or None for an :class:`Inflater` to judge."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        message = inflater.decompress(payload + _TAIL, limit + 1)
        if len(message) > limit or not _is_between_blocks(inflater):
            return None
    except zlib.error:
        return None
    return message


class TooLarge(Exception):
    """A message is larger than it may be."""


class Inflater:
    """Inflates one message, in whatever fragments it comes (RFC 7692 section 7.2.2)."""

    __slots__ = ("_begun", "_endings", "_inflater")

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._begun = False
        self._endings = 0

    def inflate(self, part: bytes, last: bool, room: int) -> bytes:
        """Return what the next part says, at most `room` bytes.

        Raises :exc:`TooLarge` for more, before it is inflated, and `zlib.error` for what can't be inflated.
        """
        self._begun = self._begun or bool(part)
        if not self._begun:
            # Not even an empty block: not how to write an empty message, but there is no doubt about it.
            return b""
        if last:
            part += _TAIL
        content = self._inflater.decompress(part, room + 1)
        while self._inflater.eof and self._inflater.unused_data and len(content) <= room:
            # A final block ends what zlib reads, but not the message: others may follow it.
            rest = self._inflater.unused_data
            if last and rest == _TAIL:
                return content
            self._endings += 1
            if self._endings > MAX_ENDINGS:
                raise zlib.error("too many final blocks")
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            content += self._inflater.decompress(rest, room + 1 - len(content))
        if len(content) > room:
            raise TooLarge
        if last and not self._inflater.eof and not _is_between_blocks(self._inflater):
            raise zlib.error("incomplete block")
        return content


def _is_between_blocks(inflater: "zlib._Decompress") -> bool:
    """Tell whether another block may follow, as after a message that is whole; nothing else can be read then.

    By what comes out of a block, and not only by whether something does: within a block its bytes may pass
    for others.
    """
    return inflater.decompress(_END, 2) == _MARK and inflater.eof and not inflater.unused_data
