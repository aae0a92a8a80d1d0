"""Socket.IO's packets, from the text to the message that a session is given, and back.

An input is what comes in, in order: first a text; behind a byte 254 another text, behind a byte 255 an
attachment.
"""

import json
import random
import re
from typing import Any

import msgspec

from hubbub import InvalidMessage
from hubbub.protocol.codecs import JSON, MESSAGEPACK
from hubbub.protocol.envelope import Envelope
from hubbub.transports.socketio.codec import PLAIN_EVENTS, Payload
from hubbub.transports.socketio.events import read_auth, read_event
from hubbub.transports.socketio.packets import (
    BINARY,
    MOST_ATTACHMENTS,
    RESERVED,
    MalformedPacket,
    Packet,
    PacketReader,
    PacketTooBig,
    PacketType,
    fill_in,
    read_packet,
)

from ..values import changed

LIMIT = 400
"""Bytes of a packet with its attachments."""

DIGITS = "0123456789"


def check(data: bytes) -> list[str]:
    if not data:
        return []
    reader = PacketReader(LIMIT)
    signs: list[str] = []
    text = ""
    kind = b"\xfe"
    for item in re.split(rb"([\xfe\xff])", data):
        if item in (b"\xfe", b"\xff"):
            kind = item
            continue
        try:
            if kind == b"\xfe":
                text = item.decode()
            packet = reader.read(text if kind == b"\xfe" else item)
        except UnicodeDecodeError:
            return signs  # no transport lets it through
        except (MalformedPacket, PacketTooBig) as problem:
            return [*signs, str(problem)[:30]]
        if packet is not None:
            signs.append(_check_packet(packet, text))
    return signs


def _check_packet(packet: Packet, text: str) -> str:
    count = len(packet.attachments)
    assert count <= MOST_ATTACHMENTS
    assert not count or len(text) + sum(map(len, packet.attachments)) <= LIMIT, "it has more than it may have"
    expected = _as_in_javascript(text)
    assert (packet.type, packet.namespace, packet.id, packet.payload, count) == expected
    head = f"{packet.type:d}" + (f"{count}-" if packet.type in BINARY else "")
    number = "" if packet.id is None else str(packet.id)
    again, missing = read_packet(f"{head}{packet.namespace},{number}{packet.payload}")
    assert (again._replace(attachments=packet.attachments), missing) == (packet, count)
    if packet.type is PacketType.CONNECT:
        return _check_login(packet)
    if packet.type in (PacketType.EVENT, PacketType.BINARY_EVENT):
        return f"{packet.type.name} {_check_event(packet)}"
    return packet.type.name


def _as_in_javascript(text: str) -> tuple[PacketType, str, int | None, str, int]:
    """Return what socket.io-parser 4 makes of a text, step by step as it does."""
    kind, place, count = PacketType(int(text[0])), 1, 0
    if kind in BINARY:
        stop = text.index("-")
        count, place = int(text[1:stop]), stop + 1
    namespace = "/"
    if text[place : place + 1] == "/":
        stop = text.find(",", place)
        stop = len(text) if stop < 0 else stop
        namespace, place = text[place:stop], stop + 1
    stop = place
    while stop < len(text) and text[stop] in DIGITS:
        stop += 1
    return kind, namespace, int(text[place:stop]) if stop > place else None, text[stop:], count


def _check_login(packet: Packet) -> str:
    try:
        auth = read_auth(packet)
    except MalformedPacket:
        return "CONNECT unreadable"
    assert isinstance(auth, dict)
    return "CONNECT"


def _check_event(packet: Packet) -> str:
    try:
        message = read_event(packet)
    except MalformedPacket as problem:
        return str(problem)[:30]
    assert isinstance(message, bytes) is bool(packet.attachments)
    codec = JSON if isinstance(message, str) else MESSAGEPACK
    try:
        incoming = codec.read(message)
    except InvalidMessage:
        return "no envelope"
    arguments = _arguments(packet)
    if arguments is None:
        return "read by nobody else"
    name, *values = arguments
    values, room = _placed(values, str(name), bool(packet.attachments))
    assert incoming.id == packet.id
    assert incoming.type == name or not isinstance(name, str)
    assert incoming.type not in RESERVED
    assert incoming.room == room, f"the room is {incoming.room!r}, where it is {room!r}"
    found = codec.decoder(list)(incoming.data or msgspec.Raw(codec.empty))
    assert repr(found) == repr(values), f"{found!r} where it is {values!r}"
    _check_sent(incoming.type, values)
    return f"{min(len(values), 3)} arguments{' of a room' * (room is not None)}"


def _arguments(packet: Packet) -> list[Any] | None:
    """Return an event's name and arguments, placeholders filled in; None if they can't be read."""
    try:
        value: list[Any] = msgspec.json.decode(packet.payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None  # what is wrong lies in the data, which is read by whoever knows its type
    if packet.attachments:
        value = _filled(value, packet.attachments)
    return value


def _filled(value: Any, attachments: tuple[bytes, ...]) -> Any:
    if isinstance(value, list):
        return [_filled(item, attachments) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            return attachments[value["num"]]
        return {name: _filled(item, attachments) for name, item in value.items()}
    return value


def _placed(values: list[Any], name: str, binary: bool) -> tuple[list[Any], str | None]:
    """Return an event's data and its room."""
    last = values[-1] if values else None
    room = None
    if (
        len(values) > 1
        and isinstance(last, dict)
        and last.keys() == {"room"}
        and isinstance(last["room"], str)
    ):
        return _left_out(values[:-1], binary), last["room"]
    if name.startswith("$") and len(values) == 1 and isinstance(last, dict) and not binary:
        found = last.get("room")
        room = found if isinstance(found, str) else None
    return _left_out(values, binary), room


def _left_out(values: list[Any], binary: bool) -> list[Any]:
    return [] if values == [None] and not binary else values


def _check_sent(name: str, values: list[Any]) -> None:
    """What came in may be sent on, and is the same for who gets it."""
    try:
        payload = PLAIN_EVENTS.encode(Envelope(name, data=values))
    except (ValueError, OverflowError, RecursionError):
        # JSON has no such thing, as of numbers beyond 64 bits as keys; whoever sends is told.
        return
    assert isinstance(payload, Payload)
    if not payload:
        assert name in ("$join", "$leave"), f"Nothing was made of {name!r}."
        return  # with events alone, nobody is told of rooms
    packet, missing = read_packet(payload.decode())
    assert missing == len(payload.attachments) <= MOST_ATTACHMENTS
    found = json.loads(packet.payload)
    fill_in(found, payload.attachments) if missing else None
    sent = [name, values] if name.startswith("$") else [name, *values]
    assert repr(found) == repr(sent), f"{found!r} was sent, where it is {sent!r}"


def mutate(data: bytes, chance: random.Random) -> bytes | None:
    """Return a packet whose arguments are well-formed and new, or None if this one is too far from it."""
    found = re.match(rb"([0-6](?:[0-9]+-)?(?:/[^,]*,)?[0-9]*)([^\xfe\xff]*)(.*)", data, re.DOTALL)
    if found is None:
        return None
    try:
        return found[1] + json.dumps(changed(json.loads(found[2]), chance)).encode() + found[3]
    except (ValueError, TypeError, RecursionError):
        return None
