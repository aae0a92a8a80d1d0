"""Bookmarks: a session and its positions as one short text, for clients that keep one and send it back.

An ``EventSource`` does so with ``Last-Event-ID``, a Socket.IO client with the offset of its last event.
"""

import base64
import binascii

import msgspec

from ..errors import InvalidMessage
from .codecs import UNREADABLE
from .envelope import Position, RoomName

LONGEST = 4096
"""Characters of a bookmark: it travels in a header, of which proxies take 8 kB in all."""


class Bookmark(msgspec.Struct, frozen=True, array_like=True):
    """What takes a session up right after all that was written: its token, and the position in each room."""

    session: str
    rooms: dict[RoomName, Position]

    def text(self) -> str | None:
        """Return the bookmark as letters, digits, ``-`` and ``_``; None if that is longer than may be."""
        positions = {name: (position.epoch, position.offset) for name, position in self.rooms.items()}
        text = base64.urlsafe_b64encode(_pack((self.session, positions))).rstrip(b"=").decode()
        return text if len(text) <= LONGEST else None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, dict[RoomName, tuple[str, int]]]).decode


def read_bookmark(text: str) -> Bookmark:
    """Return the bookmark that a text is; :exc:`InvalidMessage` if it is none."""
    try:
        if len(text) > LONGEST:
            raise ValueError
        session, positions = _unpack(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, *UNREADABLE):
        raise InvalidMessage("The bookmark can't be read; begin a new session.") from None
    rooms = {name: Position(epoch, offset) for name, (epoch, offset) in positions.items() if offset >= 0}
    return Bookmark(session, rooms)
