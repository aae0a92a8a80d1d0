"""Socket.IO packets, without I/O (Socket.IO protocol, "Packet encoding").

A packet is a text, and where there is binary data in it as many attachments behind it as the text says. What
the document leaves open is as in the reference, socket.io-parser, or stricter.
"""

import re
from enum import IntEnum
from typing import NamedTuple

import msgspec

from ..engineio.packets import SEPARATOR

MOST_ATTACHMENTS = 10
"""Attachments of a packet: the reference takes no more either."""

LONGEST_NAMESPACE = 255
"""Characters of a namespace's name, with a query where there is one."""

HIGHEST_ID = 2**53 - 1
"""The highest integer that JavaScript has as it is."""

RESERVED = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
"""Names that no event may have: clients take a packet with one for a malformed one."""


class PacketType(IntEnum):
    """What a packet is for: the first character of it."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


BINARY = (PacketType.BINARY_EVENT, PacketType.BINARY_ACK)


class MalformedPacket(ValueError):
    """What a client sent is no packet: its line is closed."""


class PacketTooBig(Exception):
    """A packet and its attachments have more bytes than may be; `namespace` is whose it is."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"A packet of {namespace} is too big.")
        self.namespace = namespace


class Packet(NamedTuple):
    """A client's packet.

    `payload` is JSON: of an event or an acknowledgement an array, its arguments, of CONNECT an object if any.
    The placeholders in it stand for the `attachments`.
    """

    type: PacketType
    namespace: str = "/"
    id: int | None = None
    payload: str = ""
    attachments: tuple[bytes, ...] = ()


_HEAD = re.compile(
    r"""
    (?P<type>[0-6])
    (?:(?<=[56])(?P<attachments>[0-9]{1,4})-)?
    (?:(?P<namespace>/[^,]*)(?:,|\Z))?
    (?P<id>[0-9]*)
    """,
    re.VERBOSE,
)
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def read_packet(text: str) -> tuple[Packet, int]:
    """Return a client's packet and how many attachments belong to it; :exc:`MalformedPacket` if it is none.

    An event's payload is an array that is not empty, an acknowledgement's an array, that of CONNECT an object
    or nothing, of DISCONNECT nothing. What an event is named is for :func:`.events.read_event`.
    """
    head = _HEAD.match(text)
    if head is None:
        raise MalformedPacket("There is no such type of packet.")
    kind, namespace = PacketType(int(head["type"])), head["namespace"] or "/"
    count = int(head["attachments"] or 0)
    if kind in BINARY and not 1 <= count <= MOST_ATTACHMENTS:
        raise MalformedPacket(f"A binary packet has 1 to {MOST_ATTACHMENTS} attachments.")
    if len(namespace) > LONGEST_NAMESPACE or SEPARATOR in namespace:
        raise MalformedPacket("The namespace is too long, or its name can't be in a packet.")
    digits = head["id"]
    if len(digits) > 16 or (digits and int(digits) > HIGHEST_ID):
        raise MalformedPacket("The acknowledgement's id is too high.")
    payload = text[head.end() :]
    if not _is_fitting(kind, payload):
        raise MalformedPacket(f"That is no payload of {kind.name}.")
    return Packet(kind, namespace, int(digits) if digits else None, payload), count


def _is_fitting(kind: PacketType, payload: str) -> bool:
    try:
        if kind is PacketType.DISCONNECT:
            return not payload
        if kind is PacketType.CONNECT:
            return not payload or _object(payload) is not None
        if kind is PacketType.CONNECT_ERROR:
            return bool(payload)
        if kind in (PacketType.EVENT, PacketType.BINARY_EVENT):
            return bool(_array(payload))
        return _array(payload) is not None
    except _UNREADABLE:
        return False


class PacketReader:
    """Puts packets together from what comes in, in order: texts, and attachments behind some of them.

    Nothing is kept but a packet some attachments of which are still to come, and of that no more than
    `limit` bytes.
    """

    __slots__ = ("_attachments", "_missing", "_packet", "_size", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._packet: Packet | None = None
        self._missing = 0
        self._attachments: list[bytes] = []
        self._size = 0

    def read(self, data: str | bytes) -> Packet | None:
        """Return a packet that is whole now, if one is.

        Raises :exc:`MalformedPacket` for what is none, and for text between attachments or data that belongs
        to no packet; :exc:`PacketTooBig`.
        """
        waiting = self._packet
        if isinstance(data, str):
            if waiting is not None:
                raise MalformedPacket("There is text where an attachment should be.")
            packet, count = read_packet(data)
            if count:
                self._packet, self._missing, self._size = packet, count, len(data)
                return None
            return packet
        if waiting is None:
            raise MalformedPacket("There is binary data that belongs to no packet.")
        self._size += len(data)
        if self._size > self.limit:
            raise PacketTooBig(waiting.namespace)
        self._attachments.append(data)
        if len(self._attachments) < self._missing:
            return None
        whole = waiting._replace(attachments=tuple(self._attachments))
        self._packet, self._attachments = None, []
        return whole


def fill_in(arguments: list[object], attachments: tuple[bytes, ...]) -> None:
    """Put attachments where their placeholders are; :exc:`MalformedPacket` for one that there is not.

    No two placeholders stand for the same one: what little a client sent is not to become much.
    """
    used: set[int] = set()
    containers: list[list[object] | dict[str, object]] = [arguments]
    while containers:
        container = containers.pop()
        items = enumerate(container) if isinstance(container, list) else container.items()
        for place, item in items:
            if isinstance(item, dict) and item.get("_placeholder") is True:
                number = item.get("num")
                if type(number) is not int or not 0 <= number < len(attachments) or number in used:
                    raise MalformedPacket("A placeholder stands for no attachment.")
                used.add(number)
                container[place] = attachments[number]  # type: ignore[index]
            elif isinstance(item, dict | list):
                containers.append(item)


def take_out(arguments: list[object]) -> tuple[bytes, ...] | None:
    """Put placeholders where there is binary data, and return that; None if it can't be done.

    It can't where there are more attachments than clients take, or what looks like a placeholder already:
    somebody may have sent it to have it taken for one.
    """
    attachments: list[bytes] = []
    containers: list[list[object] | dict[str, object]] = [arguments]
    while containers:
        container = containers.pop()
        items = enumerate(container) if isinstance(container, list) else container.items()
        for place, item in items:
            if isinstance(item, bytes):
                placeholder = {"_placeholder": True, "num": len(attachments)}
                container[place] = placeholder  # type: ignore[index]
                attachments.append(item)
            elif isinstance(item, dict | list):
                if isinstance(item, dict) and item.get("_placeholder") is True:
                    return None
                containers.append(item)
    return tuple(attachments) if len(attachments) <= MOST_ATTACHMENTS else None


def write_packet(kind: PacketType, namespace: str, payload: bytes = b"") -> bytes:
    """Return a packet that has no id and no attachments."""
    return b"%d" % kind + place_of(namespace) + payload


def place_of(namespace: str) -> bytes:
    """Return how a packet names its namespace."""
    return b"" if namespace == "/" else namespace.encode() + b","
