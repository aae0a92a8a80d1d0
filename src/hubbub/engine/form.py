"""Forms: how messages look on a line."""

import functools
from typing import NamedTuple

from ..protocol.codecs import Codec
from ..protocol.envelope import Envelope
from .outbox import Chunk, Framing


class Form(NamedTuple):
    """How messages look on a line; the members of a room whose form is the same share each chunk."""

    codec: Codec
    framing: Framing

    def chunk(self, envelope: Envelope) -> tuple[Chunk, int]:
        """Return the envelope, encoded and framed, and its size in bytes."""
        codec, framing = self
        payload = codec.encode(envelope)
        return framing(payload, codec.binary), len(payload)


@functools.cache
def form_of(codec: Codec, framing: Framing) -> Form:
    """Return the one form object for a codec and a framing."""
    return Form(codec, framing)
