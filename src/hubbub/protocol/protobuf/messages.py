"""The classes of `hubbub.proto`, and envelopes between JSON and protobuf.

The classes are made of the compiled file (`hubbub.binpb`) in a pool of their own. So they run with every
version of protobuf, which generated code does not, and an application may have stubs that were generated from
the same file, wherever it keeps that.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from ..codecs import UNREADABLE
from ..envelope import ABSENT, Position, RawEnvelope

SERVICE = "hubbub.v1.Hubbub"
"""Full name of the service."""

UNREADABLE_PROTOBUF = DecodeError
"""What reading raises for bytes that are no message of the kind."""

_pool = DescriptorPool()
for _file in FileDescriptorSet.FromString(files(__package__).joinpath("hubbub.binpb").read_bytes()).file:
    _pool.Add(_file)

Message, Messages, _Position, Publication, Subscription = (
    GetMessageClass(_pool.FindMessageTypeByName(f"hubbub.v1.{name}"))
    for name in ("Message", "Messages", "Position", "Publication", "Subscription")
)


_read = msgspec.json.Decoder(RawEnvelope).decode
_write = msgspec.json.Encoder().encode
_read_raw = msgspec.json.Decoder(msgspec.Raw).decode


def message_of(envelope: str | bytes) -> bytes:
    """Return an envelope's JSON as a ``Message``.

    Raises :exc:`ValueError` if it is none, or its id has more than 64 bits.
    """
    try:
        return bytes(_message_of(_read(envelope)).SerializeToString())
    except msgspec.DecodeError as problem:
        raise ValueError(f"it is no envelope: {problem}") from None


def messages_of(envelope: bytes) -> bytes:
    """Return an envelope's JSON as ``Messages`` with this one.

    The serialisations of several, one behind the other, are ``Messages`` with all of them: so protobuf has
    it with a repeated field.
    """
    return bytes(Messages(messages=[_message_of(_read(envelope))]).SerializeToString())


def _message_of(envelope: RawEnvelope) -> Any:  # protobuf has no types
    message = Message(
        type=envelope.type,
        data=bytes(envelope.data),
        room=envelope.room or "",
        offset=envelope.offset or 0,
        sender=envelope.sender or "",
    )
    if isinstance(envelope.id, str):
        message.text = envelope.id
    elif envelope.id is not None:
        message.number = envelope.id
    return message


def envelope_of(message: bytes) -> str:
    """Return the JSON of the envelope that a client's ``Message`` is.

    `data` that is no JSON is returned in its place: then whoever reads the envelope says what is wrong there.
    Raises :data:`UNREADABLE_PROTOBUF` for what is no message, :exc:`UnicodeDecodeError` for other text than
    UTF-8.
    """
    read = Message.FromString(message)
    if read.data:
        try:
            # It becomes a part of the envelope: nothing may stand behind it.
            _read_raw(read.data)
        except UNREADABLE:
            return bytes(read.data).decode()
    return _text_of(read)


def envelopes_of(messages: bytes) -> Iterator[str]:
    """Yield the JSON of each envelope in the server's ``Messages``; raises what :func:`envelope_of` does."""
    for read in Messages.FromString(messages).messages:
        yield _text_of(read)


def _text_of(read: Any) -> str:
    kind = read.WhichOneof("id")
    identity = None if kind is None else read.number if kind == "number" else read.text
    envelope = RawEnvelope(
        read.type,
        identity,
        read.room or None,
        read.offset or None,
        read.sender or None,
        msgspec.Raw(read.data) if read.data else ABSENT,
    )
    return _write(envelope).decode()


def publication_of(publication: bytes) -> bytes:
    """Return what ``Publish`` takes as the JSON that ``POST /api/publish`` takes.

    Raises :data:`UNREADABLE_PROTOBUF` for what is no publication, :exc:`ValueError` for data that is no JSON.
    """
    read = Publication.FromString(publication)
    told: dict[str, object] = {
        name: value
        for name in ("type", "room", "user", "key", "idempotency_key", "ephemeral")
        if (value := getattr(read, name))
    }
    if read.data:
        try:
            told["data"] = _read_raw(read.data)
        except UNREADABLE as problem:
            raise ValueError(f"data is no JSON: {problem}") from None
    return _write(told)


def position_of(position: Position) -> bytes:
    """Return a position as protobuf has it."""
    return bytes(_Position(epoch=position.epoch, offset=position.offset).SerializeToString())
