"""How messages become frames on the native transport: one frame for all who agreed to the same.

A framing is one function object for each kind of line, so that its chunk is made once for all of a room.
"""

import functools

from ..engine.outbox import Chunk, Framing
from ..protocol import frames
from ..protocol.deflate import compress

frame: Framing = frames.message
"""Returns the frame that sends a message; one frame serves many connections."""


@functools.cache
def compressed(window_bits: int, threshold: int) -> Framing:
    """Return the one framing of all connections that agreed to a window, compressing from `threshold` bytes.

    A message is plain where that is shorter: compression is a matter of each message (RFC 7692 section 6).
    """

    def frame_compressed(payload: bytes, binary: bool) -> Chunk:
        if len(payload) >= threshold:
            shorter = compress(payload, window_bits)
            if len(shorter) < len(payload):
                first_byte = frames.COMPRESSED_BINARY if binary else frames.COMPRESSED_TEXT
                return frames.frame(first_byte, shorter)
        return frame(payload, binary)

    _COMPRESSING.add(frame_compressed)
    return frame_compressed


_COMPRESSING: set[Framing] = set()


def uncompressed(framing: Framing) -> Framing:
    """Return the framing that leaves messages as they are, for the same connections.

    What is made for one of many members is not worth to be compressed for each.
    """
    return frame if framing in _COMPRESSING else framing
