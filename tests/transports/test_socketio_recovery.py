"""What a Socket.IO client keeps of its last event: right after it, whatever follows."""

from typing import Any

import pytest

from hubbub.engine.transport import Listener
from hubbub.errors import InvalidMessage
from hubbub.protocol.bookmarks import Bookmark
from hubbub.protocol.envelope import Envelope, Position
from hubbub.transports.engineio import Packet
from hubbub.transports.socketio.chunks import Chunk, framing_of
from hubbub.transports.socketio.codec import EVENTS
from hubbub.transports.socketio.recovery import Recovery, offset_of, read_offset


class Kept(Listener):
    """A listener that is at a place."""

    def __init__(self, **rooms: int) -> None:
        self.at(**rooms)

    def at(self, **rooms: int) -> None:
        self.rooms = {name: Position("e", offset) for name, offset in rooms.items()}

    def bookmark(self) -> Bookmark:
        return Bookmark("0a1b", self.rooms)


def chunk(kind: str, **values: Any) -> Chunk:
    found = framing_of("/")(EVENTS.encode(Envelope(kind, **values)), False)
    assert isinstance(found, Chunk)
    return found


def said(room: str, offset: int) -> Chunk:
    return chunk("say", room=room, offset=offset, data={})


def places(packets: list[Packet]) -> list[dict[str, int] | None]:
    """Return where a client that loses its line after each of the packets goes on, as far as it says."""
    found: list[dict[str, int] | None] = []
    for packet in packets:
        text = packet.payload.decode()
        if text.startswith("2") and '"0a1b' in text:
            offset = text[text.rindex('"', 0, -2) + 1 : -2]
            found.append({name: at.offset for name, at in read_offset(offset).rooms.items()})
        else:
            found.append(None)
    return found


def begun(**rooms: int) -> tuple[Recovery, Kept]:
    """Return a client's recovery that was welcomed in some rooms."""
    kept = Kept(**rooms)
    recovery = Recovery(kept, "/")
    assert places(recovery.packets([chunk("$welcome", data={})])) == [rooms]
    return recovery, kept


def test_an_offset_says_what_a_bookmark_does():
    bookmark = Bookmark("0a1b", {"chat/ü: x!": Position("é:!", 7), "$user/ada": Position("e", 0)})
    assert read_offset(offset_of(bookmark).decode()) == bookmark
    assert b'"' not in offset_of(bookmark)
    assert read_offset("0a1b") == Bookmark("0a1b", {})


@pytest.mark.parametrize("text", ["", "!", "a!b", "a!b:c", "a!b:c:-1", "a!b:c:x", "a!b:%ff:1", "x" * 5000])
def test_a_text_that_is_no_offset_is_refused(text):
    with pytest.raises(InvalidMessage):
        read_offset(text)


def test_each_message_has_the_place_right_after_it():
    recovery, kept = begun(a=3)
    kept.at(a=6)
    assert places(recovery.packets([said("a", 4), said("a", 5), said("a", 6)])) == [
        {"a": 4},
        {"a": 5},
        {"a": 6},
    ]


def test_messages_of_several_rooms_have_the_places_in_all():
    recovery, kept = begun(a=3, b=7)
    kept.at(a=5, b=9)
    assert places(recovery.packets([said("a", 4), said("b", 8), said("a", 5), said("b", 9)])) == [
        {"a": 4, "b": 7},
        {"a": 4, "b": 8},
        {"a": 5, "b": 8},
        {"a": 5, "b": 9},
    ]


def test_answers_and_what_has_no_place_are_as_they_are():
    recovery, _ = begun(a=3)
    packets = recovery.packets([chunk("$ack", id=1, data={}), chunk("note", data={}), chunk("$ping")])
    assert [packet.payload for packet in packets] == [b"31[{}]", b'2["note",{}]']


def test_a_text_at_the_end_is_not_taken_for_an_offset():
    recovery, _ = begun(a=3)
    assert places(recovery.packets([chunk("note", data=["text"])])) == [{"a": 3}]


def test_who_joined_is_told_so_before_the_answer():
    recovery, kept = begun()
    kept.at(a=8)
    packets = recovery.packets([chunk("$ack", id=1, data={}), said("a", 8)])
    assert packets[0].payload.startswith(b'2["$bookmark",')
    assert places(packets) == [{"a": 7}, None, {"a": 8}]
    assert places(recovery.packets([chunk("$ack", id=2, data={})])) == [None]


def test_who_left_is_not_there_again():
    recovery, kept = begun(a=3, b=1)
    kept.at(b=1)
    assert places(recovery.packets([chunk("$ack", id=1, data={})])) == [{"b": 1}, None]


def test_a_loss_is_told_again_if_it_was_not_heard():
    recovery, kept = begun(a=3)
    kept.at(a=9)
    gap = chunk("$gap", room="a", data=Position("e", 8))
    assert places(recovery.packets([said("a", 4), gap, said("a", 9)])) == [None, {"a": 8}, {"a": 9}]
    assert places(recovery.packets([chunk("note", data=["text"]), gap]))[0] is None


def test_who_is_in_more_rooms_than_an_offset_holds_begins_anew():
    rooms = {f"room{number}" * 10: 1 for number in range(100)}
    kept = Kept(**rooms)
    recovery = Recovery(kept, "/")
    [welcome] = recovery.packets([chunk("$welcome", data={})])
    assert welcome.payload.endswith(b',""]')
    first = next(iter(rooms))
    [message] = recovery.packets([said(first, 1)])
    assert message.payload.endswith(b',""]')
