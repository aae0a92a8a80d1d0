"""The codec of Socket.IO: how an envelope becomes an event or an acknowledgement, and back.

An array is the arguments, both ways: a message whose data is ``["hi", 3]`` is ``emit(type, "hi", 3)``, any
other data is the one argument.
"""

import re
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from ...protocol.codecs import JSON, MESSAGEPACK, Codec, pack
from ...protocol.envelope import Envelope, Incoming, MessageId
from .packets import RESERVED, take_out

Kind = TypeVar("Kind")


class Payload(bytes):
    """A packet's text as of the namespace ``/``, and what has to be known of the envelope that it is.

    The engine keeps and passes on what a codec encodes as bytes.
    """

    type: str
    room: str | None
    offset: int | None
    answers: MessageId | None
    """Which request it answers."""
    attachments: tuple[bytes, ...]

    @classmethod
    def of(cls, envelope: Envelope, text: bytes, attachments: tuple[bytes, ...]) -> "Payload":
        """Return the payload of an envelope."""
        payload = cls(text)
        payload.type, payload.room, payload.offset = envelope.type, envelope.room, envelope.offset
        payload.answers, payload.attachments = envelope.id, attachments
        return payload


_BINARY = re.compile(rb"[\xc4-\xc6]")
"""What MessagePack begins binary data with, though a text may have it too."""

_unpack = msgspec.msgpack.Decoder().decode


class SocketIOCodec(Codec):
    """Envelopes as Socket.IO packets.

    What comes in is an envelope with the array of the arguments as ``data``: JSON as text or, where there is
    binary data in it, MessagePack. `about` is whether events of a room say in a last argument which, with
    offset and sender.
    """

    def __init__(self, *, about: bool) -> None:
        super().__init__("socket.io", binary=False)
        self.empty = msgspec.Raw(b"[]")
        self.encode = self._encode
        self._about = about

    # What comes in

    def read(self, message: str | bytes) -> Incoming:
        """Return a client's message; :exc:`InvalidMessage` if it is no envelope."""
        return JSON.read(message) if isinstance(message, str) else MESSAGEPACK.read(message)

    def shallow(self, limit: int) -> int:
        """Return up to which length a message can't have more than `limit` levels, and needs no check."""
        return limit

    def check_depth(self, message: str | bytes, limit: int, *, at_once: bool = False) -> bool:
        """Raise :exc:`InvalidMessage` if a message that could be read has more than `limit` levels."""
        codec = JSON if isinstance(message, str) else MESSAGEPACK
        # The array of the arguments is no level of the data.
        return codec.check_depth(message, limit + 1, at_once=at_once)

    def decoder(self, kind: type[Kind]) -> Callable[[msgspec.Raw], Kind]:
        """Return a function that decodes arguments and checks them as `kind`.

        A message that is an array is of all arguments, as are several; else it is of the only one.
        """
        spread = is_array(kind)
        of_text = _Reader(JSON, kind, spread)
        of_binary = _Reader(MESSAGEPACK, kind, spread)
        return lambda raw: (of_text if bytes(raw)[:1] == b"[" else of_binary).read(raw)

    # What goes out

    def _encode(self, envelope: Envelope) -> bytes:
        if envelope.id is None:
            return self._event(envelope)
        data = envelope.data
        if envelope.type == "$error":
            data = {"$error": data}
        elif data is msgspec.UNSET:
            data = ()
        several = isinstance(data, tuple) or is_array(type(data))
        text, attachments = _arguments(data, spread=several)
        head = b"6%d-" % len(attachments) if attachments else b"3"
        # Only the line's own requests have ids that are no numbers, and it sends on no answer to them.
        number = b"%d" % envelope.id if isinstance(envelope.id, int) else b""
        return Payload.of(envelope, head + number + text, attachments)

    def _event(self, envelope: Envelope) -> bytes:
        if envelope.type in RESERVED:
            raise ValueError(
                f"Socket.IO keeps {envelope.type!r} for itself: give the message another name with "
                "@wire_type(...)."
            )
        if not self._about and envelope.type in ("$join", "$leave"):
            return Payload.of(envelope, b"", ())  # without a room it would say nothing
        parts = [_json(envelope.type)]
        about = self._about and envelope.room is not None
        data = envelope.data
        attachments: tuple[bytes, ...] = ()
        if data is not msgspec.UNSET or about:
            # The protocol's own have one argument, whatever their data is.
            arguments, attachments = _arguments(
                None if data is msgspec.UNSET else data, spread=envelope.type[0] != "$"
            )
            if arguments != b"[]":
                parts.append(arguments[1:-1])
        if about:
            parts.append(_json(_About(envelope.room, envelope.offset, envelope.sender)))
        head = b"5%d-[" % len(attachments) if attachments else b"2["
        return Payload.of(envelope, head + b",".join(parts) + b"]", attachments)


class _About(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}):
    """Last argument of a room's event."""

    room: str | None
    offset: int | None = None
    sender: str | None = None


_json = cast("Callable[[object], bytes]", JSON.encode)


def _arguments(data: object, *, spread: bool) -> tuple[bytes, tuple[bytes, ...]]:
    """Return data as the array of an event's arguments, and its attachments.

    With `spread` an array is all of them, else it is the only one like other data.
    """
    found = _without_binary(data)
    value, attachments = found or (data, ())
    text = _json(value)
    return (text if spread and text[:1] == b"[" else b"[" + text + b"]"), attachments


def _without_binary(data: object) -> tuple[object, tuple[bytes, ...]] | None:
    """Return data with placeholders for binary data, and that; None if there is none or it can't be done.

    It is Base64 in JSON's own way then.
    """
    try:
        packed = pack(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None  # JSON can say it, or tells what is wrong
    if _BINARY.search(packed) is None:
        return None
    value = [_unpack(packed)]
    attachments = take_out(value)
    return (value[0], attachments) if attachments else None


def is_array(kind: type) -> bool:
    """Tell whether what is of a class is an array on the wire, all of it its fields."""
    return issubclass(kind, msgspec.Struct) and kind.__struct_config__.array_like


_SPLIT = {codec: codec.decoder(list[msgspec.Raw]) for codec in (JSON, MESSAGEPACK)}


class _Reader(Generic[Kind]):
    """Reads arguments in one encoding."""

    def __init__(self, codec: Codec, kind: type[Kind], spread: bool) -> None:
        self._split = _SPLIT[codec]
        self._whole = codec.decoder(kind)
        self._spread = spread
        self._nothing = codec.empty

    def read(self, raw: msgspec.Raw) -> Kind:
        """Return what the arguments are; it raises what is unreadable."""
        if self._spread:
            return self._whole(raw)
        arguments = self._split(raw)
        if len(arguments) > 1:
            return self._whole(raw)
        return self._whole(arguments[0] if arguments else self._nothing)


EVENTS = SocketIOCodec(about=True)
PLAIN_EVENTS = SocketIOCodec(about=False)
"""That for clients whose handlers take what the application sends and nothing behind it."""
