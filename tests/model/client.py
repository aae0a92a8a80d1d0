"""A client as docs/protocol.md describes it; it checks what it is shown as it arrives."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from hubbub import Position
from model.lines import Closed, Line
from model.world import LIFETIME, WINDOW, Ledger, StillLoop

REPLACED = 4409
COMES_BACK = {1006, 1012, 1013}


@dataclass
class Request:
    """A request of the application, and what became of it."""

    number: int
    room: str
    parts: int
    envelope: dict[str, Any]
    sent: float | None = None
    """When it was sent first."""
    outcome: str = "open"
    """Or acknowledged, refused, or unknown."""
    again: bool = False
    """Whether it was sent once more after others, as its answer asked for."""


class Client:
    """One client, over all its lines.

    `user` is who is logged in, None for a guest. Lines that it has left without closing them are in `left`.
    It `counts` its attempts to take its session up, unless it is an old one.
    """

    def __init__(self, user: str | None, loop: StillLoop, ledger: Ledger, *, counts: bool = True) -> None:
        self.user = user
        self.counts = counts
        self._attempts = 0
        self._loop = loop
        self._ledger = ledger
        self._ids = count(1)
        self.line: Line | None = None
        self.left: list[Line] = []
        self.phase = "away"
        """Or greeting, refused, resuming, open."""
        self.session = ""
        self.token: str | None = None
        self.token_until = self._asked_for_token = self._connected = 0.0
        self._greeting: dict[str, Any] = {}
        self._resume = 0
        self.wanted: dict[str, Position | None] = {}
        """The rooms that it is or wants to be in, each with its position."""
        self.asked: dict[str, Position | None] = {}
        """What the last $resume said."""
        self.inbox = None if user is None else f"$user/{user}"
        self._controls: dict[int, tuple[str, str]] = {}
        """Control requests by their id: type and room."""
        self.requests: dict[int, Request] = {}
        self.replaced = 0
        """How often the server closed the line that the client holds for its newest."""
        self._asked_on: list[Line] = []
        """Lines on which it asked for its session."""
        self.cut_while_resuming = False
        self.gaps = 0
        self.received = 0
        self.resumed = 0
        self.refusals = 0

    # What it does

    def connect(self, line: Line) -> None:
        """Go on over another line; one that it has is left as it is."""
        if self.line is not None:
            self.left.append(self.line)
        self.line = line
        self.phase = "greeting"
        self._asked_for_token = self._connected = self._loop.now
        self._controls.clear()

    def lose_line(self) -> None:
        """Have the line cut."""
        assert self.line is not None
        if self.phase == "resuming":
            self.cut_while_resuming = True
        self.line.cut()
        self._lost()

    def leave_line(self) -> None:
        """See that the line is lost, which the server does not."""
        assert self.line is not None
        self.left.append(self.line)
        self._lost()

    def _lost(self) -> None:
        self.line = None
        self.phase = "away"
        self._controls.clear()

    def join(self, room: str) -> None:
        """Join a room, or join it again from where it is."""
        position = self.wanted.setdefault(room, None)
        if self.phase == "open":
            self._join(room, position)

    def leave(self, room: str) -> None:
        del self.wanted[room]
        if self.phase == "open":
            self._control("$leave", room)

    def renew(self) -> None:
        if self.phase == "open" and not self._pending("", "$session"):
            self._asked_for_token = self._loop.now
            self._control("$session")

    def ask(self, kind: str, number: int, room: str | None, lands_in: str, **data: Any) -> None:
        """Make a request of the application; it is sent as soon as it can be."""
        identity = next(self._ids)
        envelope = {"type": kind, "id": identity, "data": {"number": number, **data}}
        if room is not None:
            envelope["room"] = room
        request = self.requests[identity] = Request(number, lands_in, data.get("parts", 1), envelope)
        if self.phase == "open":
            self._send(request)

    def _send(self, request: Request) -> None:
        assert self.line is not None
        if request.sent is None:
            request.sent = self._loop.now
        self.line.send(request.envelope)

    def _join(self, room: str, since: Position | None) -> None:
        data = {} if since is None else {"since": _plain(since)}
        self._control("$join", room, data)

    def _control(self, kind: str, room: str = "", data: dict[str, Any] | None = None) -> None:
        assert self.line is not None
        identity = next(self._ids)
        self._controls[identity] = (kind, room)
        envelope = {"type": kind, "id": identity, "data": data or {}}
        if room:
            envelope["room"] = room
        self.line.send(envelope)

    # What it hears

    def hear(self, most: int) -> None:
        """Take in what has arrived."""
        while self.line is not None and self.line.arrived and most:
            most -= 1
            arrived = self.line.arrived.popleft()
            if isinstance(arrived, Closed):
                self._closed(arrived)
            elif self.phase == "greeting":
                self._greeted(arrived)
            elif self.phase == "refused":
                assert arrived["type"] == "$drain", arrived
            elif self.phase == "resuming":
                self._answered_resume(arrived)
            else:
                self._take(arrived)

    def _closed(self, closed: Closed) -> None:
        assert self.line is not None
        if closed.code == REPLACED:
            # The server can't know that a client that does not count has left a line.
            assert not self.counts, "an earlier attempt of its own has replaced it"
            others = [line for line in self._asked_on if line is not self.line]
            assert any(not line.cut_off for line in others), "it was replaced by nothing"
            self.replaced += 1
        else:
            assert closed.code in COMES_BACK, closed
        self.line.answer_close()
        self._lost()

    def _greeted(self, arrived: dict[str, Any]) -> None:
        if arrived["type"] == "$error":
            # It is closed with 1013 now.
            assert arrived["data"]["code"] == "unavailable", arrived
            self.phase = "refused"
            return
        assert arrived["type"] == "$welcome", arrived
        self._greeting = arrived["data"]
        assert not self._greeting["resumed"]
        assert self._greeting.get("user") == self.user
        if self.token is None:
            self._begin_anew()
            return
        assert self.line is not None
        self._resume = next(self._ids)
        self.asked = dict(self.wanted)
        rooms = {room: position and _plain(position) for room, position in self.asked.items()}
        data: dict[str, Any] = {"session": self.token, "rooms": rooms}
        if self.counts:
            self._attempts += 1
            data["attempt"] = self._attempts
        self.line.send({"type": "$resume", "id": self._resume, "data": data})
        self._asked_on.append(self.line)
        self.phase = "resuming"
        self._asked_for_token = self._loop.now

    def _answered_resume(self, arrived: dict[str, Any]) -> None:
        kind, data = arrived["type"], arrived.get("data")
        if arrived.get("id") != self._resume:
            # What arrives for the inbox comes again; and nothing else may.
            assert kind == "$drain" or arrived.get("room") == self.inbox, arrived
        elif kind == "$error":
            assert data["code"] == "session_refused", data
            assert self._loop.now >= self.token_until, "a token that is of use was refused"
            self.refusals += 1
            self._begin_anew()
        else:
            assert kind == "$welcome", arrived
            self._go_on(data)

    def _go_on(self, data: dict[str, Any]) -> None:
        assert data["resumed"]
        self.resumed += 1
        self._welcomed(data)
        rooms, refused = data.get("rooms", {}), data.get("refused", {})
        assert rooms.keys() | refused.keys() == self.asked.keys()
        for room, position in rooms.items():
            asked = self.asked[room]
            assert asked is None or Position(**position) == asked
            if room in self.wanted:
                self.wanted[room] = Position(**position)
            else:
                self._control("$leave", room)
        for room, failure in refused.items():
            assert failure["code"] == "denied", failure
            self.wanted.pop(room, None)
        for room in self.wanted.keys() - self.asked.keys():
            self._join(room, None)
        for request in self._open_requests():
            if request.sent is None or self._loop.now - request.sent <= WINDOW:
                self._send(request)
            else:
                request.outcome = "unknown"

    def _begin_anew(self) -> None:
        greeting = self._greeting
        self._asked_for_token = self._connected
        self._welcomed(greeting)
        self.session = greeting["connection"]
        if self.inbox is not None and self.wanted.get(self.inbox) is None:
            inbox = greeting["inbox"]
            assert inbox["room"] == self.inbox
            self.wanted[self.inbox] = Position(inbox["epoch"], inbox["offset"])
        elif self.inbox is not None:
            self._join(self.inbox, self.wanted[self.inbox])
        for room, position in self.wanted.items():
            if room != self.inbox:
                self._join(room, position)
        for request in self._open_requests():
            if request.sent is None:
                self._send(request)
            else:
                request.outcome = "unknown"

    def _welcomed(self, data: dict[str, Any]) -> None:
        self._note_token(data)
        self.phase = "open"

    def _note_token(self, data: dict[str, Any]) -> None:
        self.token = data["session"]
        self.token_until = self._asked_for_token + LIFETIME

    def _open_requests(self) -> list[Request]:
        return [request for request in self.requests.values() if request.outcome == "open"]

    def _take(self, arrived: dict[str, Any]) -> None:
        kind = arrived["type"]
        if kind in ("$ack", "$error"):
            if arrived["id"] in self._controls:
                self._take_control(arrived, *self._controls.pop(arrived["id"]))
            else:
                self._take_answer(arrived, self.requests[arrived["id"]])
        elif kind != "$drain":
            self._take_of_room(arrived)

    def _take_control(self, arrived: dict[str, Any], kind: str, room: str) -> None:
        data = arrived.get("data")
        if arrived["type"] == "$ack":
            if kind == "$join" and room in self.wanted and not self._pending(room):
                position, before = Position(**data), self.wanted[room]
                assert before is None or position == before
                self.wanted[room] = position
            elif kind == "$session":
                self._note_token(data)
        elif data["retry"]:
            if kind == "$join" and room in self.wanted:
                self._join(room, self.wanted[room])
            elif kind == "$leave" and room not in self.wanted:
                self._control("$leave", room)
        elif kind == "$join":
            assert data["code"] == "denied", data
            if not self._pending(room):
                self.wanted.pop(room, None)
        else:
            assert (kind, data["code"]) == ("$leave", "not_joined"), data

    def _take_answer(self, arrived: dict[str, Any], request: Request) -> None:
        assert arrived.get("room") == request.envelope.get("room")
        assert request.outcome == "open", "it was answered twice"
        if arrived["type"] == "$ack":
            request.outcome = "acknowledged"
            self._check_published(request)
        elif arrived["data"]["retry"]:
            request.again = True
            self._send(request)
        else:
            assert arrived["data"]["code"] == "not_joined", arrived
            request.outcome = "refused"

    def _check_published(self, request: Request) -> None:
        parts = {published.part for _, published in self._ledger.of(request.number)}
        assert parts == set(range(request.parts)), "acknowledged, and not published"

    def _pending(self, room: str, *kinds: str) -> bool:
        kinds = kinds or ("$join", "$leave")
        return any(of == room and kind in kinds for kind, of in self._controls.values())

    def _take_of_room(self, arrived: dict[str, Any]) -> None:
        room = arrived["room"]
        if self._pending(room):
            # What is joined again comes again; what is left may be on its way.
            return
        assert room in self.wanted, f"{arrived} from a room that it is not in"
        position = self.wanted[room]
        assert position is not None, "it comes before the position after which it comes"
        if arrived["type"] == "$gap":
            told = Position(**arrived["data"])
            assert told.epoch != position.epoch or told.offset > position.offset, "a gap where there is none"
            self.gaps += 1
            self.wanted[room] = told
        elif not arrived["type"].startswith("$"):
            self.received += 1
            published = self._ledger.at(room, position.epoch, arrived["offset"])
            assert arrived["data"] == {"number": published.number, "part": published.part}
            assert published.excluded != self.session, "it is hidden from this session"
            assert arrived["offset"] > position.offset, "it comes twice"
            self.may_lack(room, position, arrived["offset"] - 1)
            self.wanted[room] = Position(position.epoch, arrived["offset"])

    def may_lack(self, room: str, position: Position, upto: int) -> None:
        """Check that all between a position and an offset is hidden from the session."""
        for offset in range(position.offset + 1, upto + 1):
            published = self._ledger.at(room, position.epoch, offset)
            assert published.excluded == self.session, f"{room} {offset} is missing"


def _plain(position: Position) -> dict[str, Any]:
    return {"epoch": position.epoch, "offset": position.offset}
