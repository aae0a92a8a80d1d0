"""What clients emit, as messages of hubbub's protocol: events without I/O.

``emit(type, data, {room}, ack)`` is an envelope with that type, data and room, and with an id where there is
an acknowledgement. Several arguments are the array that is the data.
"""

from collections.abc import Sequence

import msgspec

from ...protocol.envelope import MessageId
from .packets import RESERVED, MalformedPacket, Packet, fill_in

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Message(msgspec.Struct, omit_defaults=True):
    """An envelope from a client, with the array of the arguments as `data`."""

    type: str
    id: MessageId | None = None
    room: str | None = None
    data: Sequence[object] = ()


class _Where(msgspec.Struct, forbid_unknown_fields=True):
    """A last argument that says which room the others are for."""

    room: str


class _Control(msgspec.Struct):
    """Data of a control message, which names its room itself."""

    room: str | None = None


_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_values = msgspec.json.Decoder(list[object]).decode
_name = msgspec.json.Decoder(str | float).decode
_where = msgspec.json.Decoder(_Where).decode
_control = msgspec.json.Decoder(_Control).decode
_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


def read_event(packet: Packet) -> str | bytes:
    """Return an event as a message for a session: JSON, or MessagePack where it has attachments.

    Raises :exc:`MalformedPacket` for an event whose name is no name, or one that Socket.IO keeps for itself,
    and for placeholders that stand for nothing.
    """
    try:
        if packet.attachments:
            return _read_with_attachments(packet)
        name, *arguments = _array(packet.payload)
        kind = _kind(name)
        room: str | None = None
        if kind[:1] == "$" and len(arguments) == 1 and bytes(arguments[0])[:1] == b"{":
            room = _room_of_control(arguments[0])
        if len(arguments) > 1 and bytes(arguments[-1])[:1] == b"{":
            room = _room_of(arguments[-1])
            if room is not None:
                arguments.pop()
        if len(arguments) == 1 and bytes(arguments[0]) == b"null":
            arguments = []  # it was left out, as undefined
        return _json(_Message(kind, packet.id, room, arguments)).decode()
    except _UNREADABLE:
        raise MalformedPacket("That is no event.") from None


def _kind(name: msgspec.Raw) -> str:
    kind = _name(name)
    if not isinstance(kind, str):
        # Events may be numbered in the reference.
        return bytes(name).decode().strip()
    if kind in RESERVED:
        raise MalformedPacket(f"An event can't be named {kind!r}.")
    return kind


def _room_of(argument: msgspec.Raw) -> str | None:
    try:
        return _where(argument).room
    except msgspec.ValidationError:
        return None


def _room_of_control(argument: msgspec.Raw) -> str | None:
    try:
        return _control(argument).room
    except msgspec.ValidationError:
        return None


def _read_with_attachments(packet: Packet) -> bytes:
    values = _values(packet.payload)
    kind = _kind(_array(packet.payload)[0])
    arguments = values[1:]
    fill_in(arguments, packet.attachments)
    room: str | None = None
    last = arguments[-1] if len(arguments) > 1 else None
    if isinstance(last, dict) and last.keys() == {"room"} and isinstance(last["room"], str):
        room = last["room"]
        arguments.pop()
    try:
        return _pack(_Message(kind, packet.id, room, arguments))
    except OverflowError:
        raise MalformedPacket("A number is too large.") from None


def read_auth(packet: Packet) -> dict[str, object]:
    """Return what a client sends with its CONNECT; :exc:`MalformedPacket` if it can't be read."""
    if not packet.payload:
        return {}
    try:
        return _auth(packet.payload)
    except _UNREADABLE:
        raise MalformedPacket("What came with CONNECT can't be read.") from None


_auth = msgspec.json.Decoder(dict[str, object]).decode
