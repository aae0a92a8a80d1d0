"""What processes say to each other through the broker, and how a channel's message is written down."""

from collections.abc import Mapping

import msgspec
from channels.exceptions import MessageTooLarge

from ...errors import ConfigurationError
from ...protocol.codecs import pack
from ...protocol.envelope import Publication
from ...protocol.publications import packed

LARGEST = 2 * 2**20
"""Bytes that a message may have, as MessagePack. Channels asks for 1 MB as JSON."""

LOWEST, HIGHEST = -(2**63), 2**63 - 1
"""Range of an integer in a message."""

DEEPEST = 100
"""Levels of nesting that a message may have."""


class Sent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """A message to a channel of the process that is told."""

    channel: str
    message: bytes


class Join(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """A channel of the process that is told is to be in a group; it answers with :class:`Done`."""

    group: str
    channel: str
    process: str
    question: str


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    """A channel of the process that is told is to leave a group; it answers with :class:`Done`."""

    group: str
    channel: str
    process: str
    question: str


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """What was asked is done."""

    question: str


class Named(msgspec.Struct, frozen=True, array_like=True, tag="named"):
    """A channel that is no process's own is in a group since a time (Unix time in seconds), or no more."""

    group: str
    channel: str
    since: float
    present: bool


class Flushed(msgspec.Struct, frozen=True, array_like=True, tag="flushed"):
    """All that was before is forgotten. `at` is Unix time in seconds."""

    at: float


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """A message in a queue, at a time (Unix time in seconds)."""

    at: float
    message: bytes


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    """A process takes the message that is at an offset of the queue, unless one before it has."""

    offset: int
    process: str


read_said = msgspec.msgpack.Decoder(Sent | Join | Leave | Done).decode
"""Read what a process is told."""

read_shared = msgspec.msgpack.Decoder(Named | Flushed).decode
"""Read what all processes keep in common."""

read_queued = msgspec.msgpack.Decoder(Put | Claim).decode
"""Read an entry of a queue."""

read_publication = msgspec.msgpack.Decoder(Publication).decode

unpack = msgspec.msgpack.Decoder().decode
"""Read a channel's message."""


def written(message: Mapping[str, object]) -> bytes:
    """Return a channel's message as MessagePack.

    Raises :exc:`TypeError` for what Channels lets into no message, and :exc:`MessageTooLarge`.
    """
    if not isinstance(message, dict):
        raise TypeError(f"A message is a dict, not a {type(message).__name__}.")
    _check(message, "message", DEEPEST)
    text = pack(message)
    if len(text) > LARGEST:
        raise MessageTooLarge(f"The message has {len(text)} bytes; {LARGEST} are allowed.")
    return text


def _check(value: object, path: str, levels: int) -> None:
    kind = type(value)
    if kind is str or value is None or kind is bool or kind is float or kind is bytes:
        return
    if kind is int:
        assert isinstance(value, int)
        if not LOWEST <= value <= HIGHEST:
            raise TypeError(f"{path} does not fit into 64 bits.")
    elif levels == 0:
        raise TypeError(f"{path[:100]}... is nested too deeply.")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}, which is no string.")
            _check(item, f"{path}[{key!r}]", levels - 1)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check(item, f"{path}[{place}]", levels - 1)
    elif not isinstance(value, str | int | float | bytes):
        raise TypeError(f"{path} is a {kind.__name__}, which no message may have.")


def as_publication(message: dict[str, object]) -> bytes:
    """Return a group's message as it is published in a room: its type is the type, all else is the data."""
    kind = message.get("type")
    if not isinstance(kind, str) or not kind or kind.startswith("$"):
        raise ConfigurationError(
            f"A message to a group that is a room has a type, which does not begin with $; {kind!r} is none."
        )
    data = {name: value for name, value in message.items() if name != "type"}
    return packed(kind, data)


def from_publication(payload: bytes) -> bytes | None:
    """Return what a group's channels receive of a room's message; None for what is the room's own affair.

    Data that is no object, or has a ``type`` of its own, comes whole under ``data``.
    """
    publication = read_publication(payload)
    if publication.type.startswith("$"):
        return None
    data = unpack(publication.data)
    if not isinstance(data, dict) or "type" in data or not all(isinstance(name, str) for name in data):
        data = {"data": data}
    return pack({"type": publication.type, **data})
