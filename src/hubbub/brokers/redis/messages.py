"""How a room message lies in Redis, and how it comes over a channel."""

from struct import Struct

from ..base import Entry
from .names import decoded, encoded

_LENGTH = Struct(">I")


class Unreadable(ValueError):
    """Bytes that are no message of ours."""


def body_of(payload: bytes, sender: str | None) -> bytes:
    """Return payload and sender in one."""
    if sender is None:
        return b"\0" + payload
    name = encoded(sender)
    return b"\1" + _LENGTH.pack(len(name)) + name + payload


def entry_of(offset: int | None, body: bytes) -> Entry:
    """Return the message; :exc:`Unreadable` if it is none."""
    if body[:1] == b"\0":
        return Entry(offset, body[1:], None)
    if body[:1] != b"\1" or len(body) < 5:
        raise Unreadable("it is no message")
    end = 5 + int.from_bytes(body[1:5])
    if end > len(body):
        raise Unreadable("it is cut off")
    try:
        return Entry(offset, body[end:], decoded(body[5:end]))
    except UnicodeDecodeError:
        raise Unreadable("its sender is no text") from None


def spread(data: bytes) -> list[tuple[str, Entry]]:
    """Return epoch and message of each that a channel brought at once; :exc:`Unreadable` if they are none."""
    at, messages = 0, []
    try:
        while at < len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            at += 4
            text = data[at : at + length]
            if len(text) != length:
                raise Unreadable("it is cut off")
            epoch, offset, body = text.split(b" ", 2)
            messages.append((epoch.decode("ascii"), entry_of(None if offset == b"-" else int(offset), body)))
            at += length
    except Unreadable:
        raise
    except Exception as problem:
        raise Unreadable("it is no message") from problem
    return messages
