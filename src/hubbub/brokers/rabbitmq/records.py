"""What is in the log: the records that every instance applies in the same order, as MessagePack."""

import msgspec
from msgspec import Struct

from ...protocol.envelope import Position
from ..base import Retention


class Publish(Struct, frozen=True, array_like=True, tag=1):
    """A message to a room; `window` is for how many seconds its `key` is remembered."""

    room: str
    payload: bytes
    sender: str | None
    key: str | None
    count: int | None
    """With `age`, how much history is kept; None if the message is not kept."""
    age: float
    window: float

    @property
    def keep(self) -> Retention | None:
        """How much history the room keeps, or None if this message is not kept."""
        return None if self.count is None else Retention(self.count, self.age)


class Hold(Struct, frozen=True, array_like=True, tag=2):
    """An instance is subscribed to a room, which is not forgotten meanwhile."""

    room: str
    instance: str


class LetGo(Struct, frozen=True, array_like=True, tag=3):
    """An instance is subscribed to a room no more."""

    room: str
    instance: str


class Enter(Struct, frozen=True, array_like=True, tag=4):
    """A member is in a room on a connection to an instance."""

    room: str
    member: str
    connection: str
    instance: str
    details: bytes


class Leave(Struct, frozen=True, array_like=True, tag=5):
    """A connection of a member left."""

    room: str
    member: str
    connection: str


class Beat(Struct, frozen=True, array_like=True, tag=6):
    """An instance is there."""

    instance: str


class Gone(Struct, frozen=True, array_like=True, tag=7):
    """An instance was silent for its lease after so many beats; it counts only if there were no more."""

    instance: str
    beats: int


class Bye(Struct, frozen=True, array_like=True, tag=8):
    """An instance stops."""

    instance: str


class Secret(Struct, frozen=True, array_like=True, tag=9):
    """A proposal for the instances' common secret; the first one is taken."""

    proposed: bytes


class Relive(Struct, frozen=True, array_like=True, tag=10):
    """The log has lost what it had acknowledged: every room begins a new epoch."""


class Look(Struct, frozen=True, array_like=True, tag=11):
    """Nothing: whoever sees it applied has seen all that came before it."""


Record = Publish | Hold | LetGo | Enter | Leave | Beat | Gone | Bye | Secret | Relive | Look


class Batch(Struct, frozen=True, array_like=True, tag=1):
    """Records of one writer, which numbers its batches 1, 2, 3 ...; one out of turn is not applied.

    So a batch that is sent again counts once, and none is applied where one before it is missing.
    """

    writer: str
    number: int
    time: float
    """Seconds since 1970 by the writer's clock."""
    records: list[Record]


class Part(Struct, frozen=True, array_like=True, tag=2):
    """A part of a snapshot: what applying the log up to and with `offset` comes to."""

    snapshot: str
    offset: int
    number: int
    """Counts from 0; the last part is told by `last`."""
    last: bool
    piece: bytes


class Probe(Struct, frozen=True, array_like=True, tag=3):
    """A reader wants to see the end of the log, and with `attempt` of 1 or more a snapshot written."""

    name: str
    attempt: int = 0


class Anew(Struct, frozen=True, array_like=True, tag=4):
    """Nobody knows any more what the log had come to: everything begins anew after this.

    It counts only if no batch came after the offset `after`, up to which its writer had read: else somebody
    knows, or has begun anew already.
    """

    name: str
    after: int


Message = Batch | Part | Probe | Anew


class Answer(Struct, frozen=True, array_like=True):
    """What a record came to that an instance appended for somebody: a position, a secret, or a problem."""

    position: Position | None = None
    secret: bytes = b""
    problem: str | None = None


_answers = msgspec.msgpack.Decoder(Answer)
_records = msgspec.msgpack.Decoder(Record)
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def encode(value: Message | Record | Answer) -> bytes:
    """Return the bytes of a message or a record; :exc:`ValueError` for a name that UTF-8 has no bytes for."""
    return _encoder.encode(value)


def encode_batch(writer: str, number: int, time: float, records: list[bytes]) -> bytes:
    """Return the bytes of a :class:`Batch` whose records are encoded already."""
    return _encoder.encode((1, writer, number, time, [msgspec.Raw(record) for record in records]))


def decode(body: bytes) -> Message:
    """Return what a message of the log says; :exc:`msgspec.MsgspecError` if that can't be read."""
    message: Message = _decoder.decode(body)
    return message


def decode_record(body: bytes) -> Record:
    """Return a record by itself; :exc:`msgspec.MsgspecError` if it can't be read."""
    record: Record = _records.decode(body)
    return record


def decode_answer(body: bytes) -> Answer:
    """Return an answer; :exc:`msgspec.MsgspecError` if it can't be read."""
    return _answers.decode(body)
