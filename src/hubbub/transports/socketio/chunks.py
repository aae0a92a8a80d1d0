"""Events and acknowledgements as a line writes them: Engine.IO packets, made once for all who get them."""

import functools
from typing import NamedTuple, cast

from ...engine.outbox import Chunk as AnyChunk
from ...engine.outbox import Framing
from ...protocol.envelope import MessageId
from ..engineio import Dialect, Packet
from ..engineio.packets import Kind
from ..framing import uncompressed
from .codec import Payload
from .packets import place_of


class OwnPacket(Packet):
    """A packet of text for one client alone: nothing of it is kept for others, nor is it compressed."""

    __slots__ = ()

    def __init__(self, payload: bytes) -> None:
        # There is one for each member of a broadcast: what all of them have in common is not looked at again.
        self.payload = payload
        self.binary = False
        self.kind = Kind.MESSAGE
        self._text = None

    def frame(self, framing: Framing, dialect: Dialect) -> AnyChunk:  # noqa: ARG002
        """Return the packet as a WebSocket message in the shape that a transport writes."""
        return uncompressed(framing)(b"4" + self.payload, False)


class Chunk(NamedTuple):
    """An envelope for one namespace, as the packets that bring it."""

    packets: tuple[Packet, ...]
    type: str
    room: str | None = None
    offset: int | None = None
    answers: MessageId | None = None

    @property
    def ends_in_text(self) -> bool:
        """Whether it is an event whose last argument is a text, which a client takes for an offset."""
        return self.answers is None and self.packets[0].payload.endswith(b'"]')

    def followed_by(self, argument: bytes) -> tuple[Packet, ...]:
        """Return the packets of the event with one argument more, which is JSON."""
        text, *attachments = self.packets
        return (OwnPacket(text.payload[:-1] + b"," + argument + b"]"), *attachments)


@functools.cache
def framing_of(namespace: str) -> Framing:
    """Return what makes payloads chunks for a namespace: one function for all connections to it."""
    place = place_of(namespace)

    def frame(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001
        # Nothing else is encoded by the codec of these connections.
        payload = cast("Payload", payload)
        kind, answers = payload.type, payload.answers
        if kind == "$ping" or not payload:
            # The heartbeat is Engine.IO's; and what says nothing is not for this client.
            return Chunk((), kind)
        attachments = payload.attachments
        head = payload.index(b"-") + 1 if attachments else 1
        text = payload[:head] + place + payload[head:] if place else bytes(payload)
        packets = (Packet(text), *(Packet(data, True) for data in attachments))
        return Chunk(packets, kind, payload.room, payload.offset, answers)

    return frame
