"""What a stream's request asks for is said in its order, and nothing comes twice or is lost by it."""

import json
from typing import Any

import pytest

from hubbub.protocol.bookmarks import Bookmark
from hubbub.protocol.envelope import Position
from hubbub.transports.http_lines.opening import Opening

WELCOME = {"type": "$welcome", "data": {"inbox": {"room": "$user/ada", "epoch": "e", "offset": 7}}}
AT = {"chat/one": Position("e", 1), "$user/ada": Position("e", 5)}


class Client:
    """A stream's request, and what was said for it."""

    def __init__(self, *rooms: str, bookmark: Bookmark | str | None = None) -> None:
        self.said: list[dict[str, Any]] = []
        text = bookmark.text() if isinstance(bookmark, Bookmark) else bookmark
        self.opening = Opening(rooms, text, lambda message: self.said.append(json.loads(message)))
        self.opening.begin()

    def told(self, **envelope: Any) -> bool:
        return self.opening.passes(json.dumps(envelope).encode())

    def joins(self) -> dict[str, object]:
        found = [envelope for envelope in self.said if envelope["type"] == "$join"]
        return {envelope["room"]: envelope["data"].get("since") for envelope in found}


def test_rooms_alone_are_joined_at_once():
    client = Client("chat/one", "chat/two", "chat/one")
    assert client.joins() == {"chat/one": None, "chat/two": None}
    assert client.opening.said
    for number, kind in ((1, "$ack"), (2, "$error")):
        assert not client.opening.over
        assert client.told(type=kind, id=f"$join {number}")
    assert client.opening.over


def test_a_session_is_asked_for_when_the_client_is_known():
    client = Client("chat/two", bookmark=Bookmark("token", AT))
    assert client.said == []
    assert client.told(**WELCOME)
    assert client.said == [
        {
            "type": "$resume",
            "id": "$resume",
            "data": {
                "session": "token",
                "attempt": 0,
                "rooms": {
                    "chat/one": {"epoch": "e", "offset": 1},
                    "$user/ada": {"epoch": "e", "offset": 5},
                },
            },
        }
    ]
    assert not client.opening.said
    assert client.told(type="$welcome", id="$resume")
    assert client.joins() == {"chat/two": None}
    assert client.opening.said
    assert client.told(type="$ack", id="$join 1")
    assert client.opening.over


def test_what_comes_into_the_inbox_meanwhile_comes_again_and_is_told_once():
    client = Client(bookmark=Bookmark("token", AT))
    assert client.told(**WELCOME)
    assert not client.told(type="note", room="$user/ada", offset=8)
    assert client.told(type="news")
    assert client.told(type="$welcome", id="$resume")
    assert client.told(type="note", room="$user/ada", offset=8)


def test_so_it_does_where_the_session_is_refused():
    client = Client(bookmark=Bookmark("token", AT))
    assert client.told(**WELCOME)
    assert not client.told(type="note", room="$user/ada", offset=8)
    assert client.told(type="$error", id="$resume")
    assert client.joins() == {
        "chat/one": {"epoch": "e", "offset": 1},
        "$user/ada": {"epoch": "e", "offset": 5},
    }
    assert client.opening.positions == AT
    assert not client.told(type="note", room="$user/ada", offset=9)
    assert client.told(type="$ack", id="$join 1", room="chat/one")
    assert client.told(type="say", room="chat/one", offset=2)
    assert client.told(type="$ack", id="$join 2", room="$user/ada")
    assert client.opening.over
    assert client.opening.positions == {}
    assert client.told(type="note", room="$user/ada", offset=8)


def test_an_inbox_that_the_bookmark_does_not_know_goes_on_where_the_welcome_says():
    client = Client(bookmark=Bookmark("token", {}))
    assert client.told(**WELCOME)
    assert client.said[0]["data"]["rooms"] == {"$user/ada": {"epoch": "e", "offset": 7}}


def test_names_of_the_protocol_s_own_in_a_bookmark_are_nobody_s():
    rooms = {"$user/eve": Position("e", 1), "$session/x": Position("e", 1)}
    client = Client(bookmark=Bookmark("token", rooms))
    assert client.told(type="$welcome", data={})
    assert client.said[0]["data"]["rooms"] == {}


@pytest.mark.parametrize("bookmark", ["nonsense", "", Bookmark("token", {"chat/one": Position("e" * 65, 1)})])
def test_what_can_t_be_read_is_no_room(bookmark):
    client = Client("chat/one", bookmark=bookmark)
    assert client.told(type="$welcome", data={})
    assert client.said[0]["data"]["rooms"] == {}
    assert client.told(type="$error", id="$resume")
    assert client.joins() == {"chat/one": None}


def test_a_login_that_is_refused_asks_for_nothing():
    client = Client(bookmark=Bookmark("token", AT))
    assert client.told(type="$error", data={"code": "denied"})
    assert client.said == []


def test_a_heartbeat_is_nothing_to_note():
    assert Client("chat/one").opening.passes(b"")
