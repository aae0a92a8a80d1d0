"""Messages that are each another request: hubbub runs a request of a session once, however often it comes."""

from collections.abc import Iterator
from itertools import repeat

from .frames import masked, xor

DIGITS = 12
"""Digits of a number: always as many, so that the frame can be used again with only its number changed."""
GROUP = 4
"""Digits that are written at once: as many as a masking key has bytes, so that one mask fits all."""


class Numbered:
    """A message with another number in it each time it is sent, between `before` and `after`.

    The numbers are new wherever the message is sent, so they are new on each connection, too.
    """

    def __init__(self, before: bytes, after: bytes) -> None:
        self.frames: Iterator[bytes | bytearray] = _numbered(before, after)
        """The message's masked frames. A frame is to be sent before the next one is asked for."""


def frames(message: bytes | Numbered) -> Iterator[bytes | bytearray]:
    """Return what to send, frame after frame, to send a message again and again."""
    return message.frames if isinstance(message, Numbered) else repeat(masked(message))


def _numbered(before: bytes, after: bytes) -> Iterator[bytearray]:
    """Mask a frame once, then change only the digits of its number: a tenth of a microsecond for each."""
    size = len(before) + DIGITS + len(after)
    frame = bytearray(masked(before + b"0" * DIGITS + after))
    payload = len(frame) - size
    place, turn = payload + len(before), len(before) % GROUP
    key = bytes(frame[payload - GROUP + turn : payload] + frame[payload - GROUP : payload - GROUP + turn])
    groups = [xor(b"%04d" % number, key) for number in range(10**GROUP)]
    high, middle, low = (slice(start, start + GROUP) for start in range(place, place + DIGITS, GROUP))
    while True:  # until there is no new number: in ten days, at a million a second
        for frame[high] in groups[1000:]:  # JSON has no number that begins with 0
            for frame[middle] in groups:
                for frame[low] in groups:
                    yield frame
