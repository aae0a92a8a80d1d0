"""Openings: what a stream's request asks for beside the line, a session to take up and rooms to be in."""

from collections.abc import Callable, Iterable

import msgspec

from ...errors import InvalidMessage
from ...protocol.bookmarks import Bookmark, read_bookmark
from ...protocol.codecs import JSON
from ...protocol.envelope import ABSENT, Envelope, Inbox, Join, Position, Resume

RESUME = "$resume"
"""Id of the request that takes a session up; the answer to it, the second ``$welcome``, has it again."""

LONGEST_EPOCH = 64
"""Characters that the protocol has for an epoch; a longer one is nobody's."""


class _Told(msgspec.Struct, frozen=True, gc=False):
    """What has to be known of an envelope to a client."""

    type: str
    id: int | str | None = None
    room: str | None = None
    data: msgspec.Raw = ABSENT


_position = msgspec.json.Decoder(Position).decode


class _Welcome(msgspec.Struct, frozen=True):
    inbox: Inbox | None = None


_told = msgspec.json.Decoder(_Told).decode
_welcome = msgspec.json.Decoder(_Welcome).decode


class Opening:
    """Says for a client what its request asked for, each thing in its time: `say` is given envelopes.

    First, if there is a `bookmark`, its session is asked for. If that can't be taken up, its rooms are
    joined, each from its position, so that what was missed comes, or a ``$gap``. Then the `rooms` are joined
    in which the client is not yet. A room that the server puts the client in meanwhile, in `on_connect`, is
    treated as the inbox is.
    """

    def __init__(self, rooms: Iterable[str], bookmark: str | None, say: Callable[[str], None]) -> None:
        self._say = say
        self._rooms = list(dict.fromkeys(rooms))
        self._bookmark = None if bookmark is None else _read(bookmark)
        self._given: dict[str, Position] = {}
        """Rooms that the client is in without asking: where their messages began."""
        self._resuming = False
        self._asked: dict[str, str] = {}
        """Rooms by the id of the request to join them, until it is answered."""
        self.positions: dict[str, Position] = {}
        """Where the client is in rooms that are yet to be joined."""

    @property
    def said(self) -> bool:
        """Whether all was said; until then the client's own messages have to wait."""
        return self._bookmark is None

    @property
    def over(self) -> bool:
        """Whether all was answered."""
        return self._bookmark is None and not self._asked

    def begin(self) -> None:
        """Say what can be said at once."""
        if self._bookmark is None:
            self._join(dict.fromkeys(self._rooms))

    def passes(self, payload: bytes) -> bool:
        """Take note of an envelope to the client; false if it is not to be told.

        What arrives in a room before that goes on where it was comes again, in its place.
        """
        if not payload:
            return True
        told = _told(payload)
        if self._bookmark is None:
            name = self._asked.pop(str(told.id), None)
            if name is None:
                return told.room is None or told.room not in self.positions
            self.positions.pop(name, None)
        elif not self._resuming:
            if told.type == "$welcome":
                self._resume(self._bookmark, _welcome(told.data).inbox)
        elif told.id == RESUME:
            self._answered(self._bookmark, taken_up=told.type == "$welcome")
        elif told.type == "$join" and told.room is not None:
            self._given[told.room] = _position(told.data)
        elif told.type in ("$leave", "$kicked"):
            self._given.pop(told.room or "", None)
        else:
            return told.room is None or told.room not in self._given
        return True

    def _resume(self, bookmark: Bookmark, inbox: Inbox | None) -> None:
        rooms = {name: since for name, since in bookmark.rooms.items() if not name.startswith("$")}
        if inbox is not None:
            self._given[inbox.room] = at = Position(inbox.epoch, inbox.offset)
            rooms[inbox.room] = bookmark.rooms.get(inbox.room, at)
        self._bookmark, self._resuming = Bookmark(bookmark.session, rooms), True
        self._ask("$resume", RESUME, None, Resume(bookmark.session, dict(rooms)))

    def _answered(self, bookmark: Bookmark, *, taken_up: bool) -> None:
        self._bookmark = None
        joins: dict[str, Position | None] = dict.fromkeys(self._rooms)
        rooms = bookmark.rooms | {name: at for name, at in self._given.items() if name not in bookmark.rooms}
        if taken_up:
            joins = {name: None for name in joins if name not in rooms}
        else:
            self.positions = rooms
            joins |= rooms
        self._join(joins)

    def _join(self, rooms: dict[str, Position | None]) -> None:
        names = {f"$join {number}": name for number, name in enumerate(rooms, 1)}
        self._asked = names
        for request, name in names.items():
            self._ask("$join", request, name, Join(rooms[name]))

    def _ask(self, kind: str, request: str, room: str | None, data: object) -> None:
        self._say(JSON.encode(Envelope(kind, id=request, room=room, data=data)).decode())


def _read(text: str) -> Bookmark:
    try:
        session, rooms = msgspec.structs.astuple(read_bookmark(text))
        return Bookmark(session, {name: at for name, at in rooms.items() if len(at.epoch) <= LONGEST_EPOCH})
    except InvalidMessage:
        # It has to be said that there is a loss, and nobody's session is what the server refuses.
        return Bookmark("", {})
