"""Connection state recovery: the text that a client keeps of its last event, and shows when it comes back.

It is the session's token, and the position in each room right after that event: what a bookmark says
(:mod:`...protocol.bookmarks`). A bookmark's text would be made anew for each event and each member; of this
one, the part about a room is the same for all members.
"""

import functools
from collections.abc import Iterable
from urllib.parse import quote, unquote

from ...engine.transport import Listener
from ...errors import InvalidMessage
from ...protocol.bookmarks import LONGEST, Bookmark
from ...protocol.envelope import Position
from ..engineio import Packet
from .chunks import Chunk
from .packets import place_of

LONGEST_NUMBER = 20
"""Digits of a message's offset in its room."""

UNKNOWN = b""
"""What a client keeps that is in too many rooms: it begins a new session when it comes back."""


def offset_of(bookmark: Bookmark) -> bytes:
    """Return what a client is to keep: characters that JSON has as they are."""
    return _text(bookmark.session, bookmark.rooms.items())


def _text(token: str, positions: Iterable[tuple[str, Position]]) -> bytes:
    text = token
    for name, position in positions:
        text += _place(name, position.epoch) + str(position.offset)
    return text.encode() if len(text) <= LONGEST else UNKNOWN


@functools.lru_cache(1024)
def _place(name: str, epoch: str) -> str:
    return f"!{quote(name, safe='/$')}:{quote(epoch, safe='')}:"


def read_offset(text: str) -> Bookmark:
    """Return what a client kept; :exc:`InvalidMessage` for what is not of here."""
    token, *parts = text.split("!") if len(text) <= LONGEST else [""]
    rooms: dict[str, Position] = {}
    try:
        if not token:
            raise ValueError
        for part in parts:
            name, epoch, offset = part.split(":")
            if not (offset.isascii() and offset.isdigit()):
                raise ValueError
            rooms[unquote(name, errors="strict")] = Position(unquote(epoch, errors="strict"), int(offset))
    except ValueError:
        raise InvalidMessage("The offset can't be read; begin a new session.") from None
    return Bookmark(token, rooms)


class Recovery:
    """What one client is given to come back with: an offset behind its events.

    The client keeps that of the last event that it has seen. So the offset behind a room's event is the
    position right after that one, whatever follows it in the same turn.
    """

    __slots__ = ("_beginning", "_beginning_of", "_beginning_with", "_listener", "_names", "_namespace")

    def __init__(self, listener: Listener, namespace: str) -> None:
        self._listener = listener
        self._namespace = namespace
        self._names: frozenset[str] | None = None
        """The rooms that the client's last offset names."""
        self._beginning = b""
        """What offsets of one room alone begin with."""
        self._beginning_of: tuple[str, str] | None = None
        """Of which room and epoch that is."""
        self._beginning_with = ""
        """With which token."""

    def packets(self, chunks: list[Chunk]) -> list[Packet]:
        """Return chunks as packets, with offsets behind those that need one."""
        bookmark = self._listener.bookmark()
        if bookmark is None:
            return [packet for chunk in chunks for packet in chunk.packets]
        rooms = bookmark.rooms
        if rooms.keys() != self._names:
            self._names = frozenset(rooms)
            return self._in_order(chunks, bookmark, changed=True)
        first = chunks[0]
        room = first.room
        if room in rooms and all(chunk.offset is not None and chunk.room == room for chunk in chunks):
            return self._of_one_room(chunks, room, bookmark)
        if len(chunks) == 1 and not _needs_offset(first):
            return list(first.packets)
        return self._in_order(chunks, bookmark, changed=False)

    def _of_one_room(self, chunks: list[Chunk], room: str, last: Bookmark) -> list[Packet]:
        """Return packets of messages of one room: what most of what is written is."""
        positions = last.rooms
        token, epoch = last.session, positions[room].epoch
        if token is self._beginning_with and len(positions) == 1 and self._beginning_of == (room, epoch):
            text = self._beginning
        else:
            text = _text(token, [item for item in positions.items() if item[0] != room])
            text = b'"' + text + _place(room, epoch).encode() if text else UNKNOWN
            if not text or len(text) + LONGEST_NUMBER > LONGEST:
                return [packet for chunk in chunks for packet in chunk.followed_by(b'""')]
            if len(positions) == 1:
                self._beginning, self._beginning_of, self._beginning_with = text, (room, epoch), token
        packets: list[Packet] = []
        for chunk in chunks:
            packets += chunk.followed_by(b'%b%d"' % (text, chunk.offset or 0))
        return packets

    def _in_order(self, chunks: list[Chunk], last: Bookmark, *, changed: bool) -> list[Packet]:
        """Return packets of chunks, right after the last of which a bookmark is.

        `changed` is whether the client is in other rooms than its last offset says.
        """
        positions = dict(last.rooms)
        at = Bookmark(last.session, positions)
        written: list[tuple[Packet, ...]] = []
        known = True
        for chunk in reversed(chunks):
            if not _needs_offset(chunk):
                written.append(chunk.packets)
                continue
            if not known:
                # What was lost before this has no position. The client keeps its offset from before, and what
                # it sees here comes again if it loses its line right now.
                written.append(chunk.followed_by(b"{}") if chunk.ends_in_text else chunk.packets)
                continue
            written.append(chunk.followed_by(b'"%b"' % offset_of(at)))
            changed = changed and chunk.type != "$welcome"
            known = chunk.type != "$gap"
            if chunk.room in positions and chunk.offset is not None:
                epoch = positions[chunk.room].epoch
                positions[chunk.room] = Position(epoch, chunk.offset - 1)
        if changed and known:
            # Before any answer that tells of it: who joined is to be there again.
            text = b'["$bookmark","%b"]' % offset_of(at)
            written.append((Packet(b"2" + place_of(self._namespace) + text),))
        return [packet for packets in reversed(written) for packet in packets]


def _needs_offset(chunk: Chunk) -> bool:
    """Tell whether a client's place is another one after an event, or it may take a text in it for one."""
    if chunk.answers is not None or not chunk.packets:
        return False
    return chunk.offset is not None or chunk.type in ("$welcome", "$gap") or chunk.ends_in_text
