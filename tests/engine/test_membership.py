import pytest
import websockets

from chat_room import LOBBY, Say, chat_hub, nothing_more, post, said
from hubbub import Connection, Denied, Hubbub, Message, Position, Room, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


# Which rooms can be joined


async def test_a_joined_room_brings_its_messages_with_offset_and_position(start):
    hub = Hubbub()
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        position = await ada.join(LOBBY)
        assert position["offset"] == 0
        assert await post(bob, "hi") == {"epoch": position["epoch"], "offset": 1}
        assert await ada.receive() == {"type": "say", "room": LOBBY, "offset": 1, "data": {"text": "hi"}}
        await nothing_more(bob)


@pytest.mark.parametrize("room", ["lobby", "chat", "chat/", "chat/a/b", "$user/ada", "$anything"])
async def test_rooms_that_are_not_declared_can_not_be_joined(serve, room):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(serve(hub).url) as client:
        assert await client.ask(type="$join", room=room) == {
            "type": "$error",
            "id": "asked",
            "room": room,
            "data": {
                "code": "unknown_room",
                "message": f"There is no room {room!r}.",
                "retry": False,
                "errors": [{"path": "$.room", "message": "Unknown"}],
            },
        }


async def test_no_pattern_lets_a_client_into_the_inbox_of_a_user(serve):
    hub = Hubbub()
    hub.room("{kind}/{name}")
    hub.room("{name}")
    async with talk(serve(hub).url) as client:
        for room in ("$user/ada", "$secret"):
            answer = await client.ask(type="$join", room=room)
            assert answer["data"]["code"] == "unknown_room"
        await client.join("any/thing")


async def test_a_join_needs_a_room(serve):
    hub = Hubbub()
    async with talk(serve(hub).url) as client:
        for kind in ("$join", "$leave", "$history", "$presence"):
            answer = await client.ask(type=kind)
            assert answer["data"]["errors"] == [{"path": "$.room", "message": "Missing"}]


async def test_a_connection_may_be_in_so_many_rooms_and_no_more(start):
    hub = Hubbub(Settings(max_rooms=2))
    chat_hub(hub)
    async with talk(start(hub).url) as client:
        await client.join("chat/1")
        await client.join("chat/2")
        answer = await client.ask(type="$join", room="chat/3")
        assert answer["data"]["code"] == "too_many_rooms"
        await client.join("chat/2")
        assert (await client.ask(type="$leave", room="chat/1"))["type"] == "$ack"
        await client.join("chat/3")


# Hooks


async def test_hooks_are_given_the_connection_the_room_and_the_parts_of_its_name(start):
    hub = Hubbub()
    games = hub.room("game/{number}/{side}")
    told = Told()

    @games.on_join
    async def join(connection: Connection, room: Room, number: int, side: str) -> None:
        told("join", connection.id, room.name, number, side)

    @games.on_leave
    def leave(side: str, number: int, connection: Connection) -> None:
        told("leave", connection.id, number, side)

    async with talk(start(hub).url) as client:
        connection = client.welcome["connection"]
        await client.join("game/7/white")
        assert await told.next() == ("join", connection, "game/7/white", 7, "white")
        assert (await client.ask(type="$leave", room="game/7/white"))["type"] == "$ack"
        assert await told.next() == ("leave", connection, 7, "white")


async def test_a_part_that_can_not_be_converted_is_an_unknown_room(start):
    hub = Hubbub()
    games = hub.room("game/{number}")

    @games.on_join
    async def join(number: int) -> None: ...

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="$join", room="game/seven")
        assert answer["data"]["code"] == "unknown_room"
        assert answer["data"]["message"] == "There is no room 'game/seven'."
        await client.join("game/7")


async def test_a_denied_join_is_answered_and_the_connection_lives(start):
    hub = Hubbub()
    chat = chat_hub(hub)
    told = Told()

    @chat.on_join
    def admit(name: str) -> None:
        if name == "private":
            raise Denied("members only")

    @chat.on_leave
    async def leave(name: str) -> None:
        told(name)

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="$join", room="chat/private")
        assert answer["type"] == "$error"
        assert answer["data"] == {"code": "denied", "message": "members only", "retry": False}
        answer = await client.ask(type="say", room="chat/private", data={"text": "hi"})
        assert answer["data"]["code"] == "not_joined"
        await client.join(LOBBY)
    # Who was never in does not leave.
    assert await told.next() == "lobby"
    assert told.silent


async def test_a_join_hook_that_fails_leaves_the_client_outside(start):
    hub = Hubbub()
    chat = chat_hub(hub)

    @chat.on_join
    async def admit(name: str) -> None:
        raise ZeroDivisionError

    async with talk(start(hub).url) as client:
        assert (await client.ask(type="$join", room=LOBBY))["data"]["code"] == "internal"
        assert (await client.ask(type="$leave", room=LOBBY))["data"]["code"] == "not_joined"


def leaving(hub: Hubbub) -> tuple[Told, Told]:
    """Have the hub tell which rooms were left, and how connections ended; one hook fails."""
    rooms, ended = Told(), Told()
    chat = chat_hub(hub)

    @chat.on_leave
    async def leave(name: str) -> None:
        rooms(name)
        if name == "bad":
            raise ZeroDivisionError

    @hub.on_disconnect
    async def disconnect(connection: Connection) -> None:
        ended(connection.close_code)

    return rooms, ended


async def test_a_client_that_closes_leaves_every_room(start):
    hub = Hubbub()
    rooms, ended = leaving(hub)
    async with talk(start(hub).url) as client:
        for name in ("a", "bad", "c"):
            await client.join(f"chat/{name}")
    assert [await rooms.next() for _ in range(3)] == ["a", "bad", "c"]
    assert await ended.next() == 1000


async def test_a_client_whose_line_is_lost_leaves_every_room(start, native):
    hub = Hubbub()
    rooms, ended = leaving(hub)
    async with talk(start(hub).url) as client:
        for name in ("a", "c"):
            await client.join(f"chat/{name}")
        client.websocket.transport.abort()
        assert [await rooms.next() for _ in range(2)] == ["a", "c"]
        # Over ASGI, uvicorn says that the client closed without a code.
        assert await ended.next() == (1006 if native else 1005)


async def test_a_client_that_is_kicked_leaves_every_room(start):
    hub = Hubbub()
    rooms, ended = leaving(hub)
    members: list[Connection] = []

    @hub.on_connect
    async def note(connection: Connection) -> None:
        members.append(connection)

    class Kick(Message):
        pass

    @hub.on_message
    async def kick(message: Kick) -> None:
        await members[0].close(4403, "out")

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join(LOBBY)
        await bob.ask(type="kick")
        assert await ada.closed() == (4403, "out")
        assert await rooms.next() == "lobby"
        assert await ended.next() == 4403


async def test_a_leave_hook_that_fails_is_logged_and_keeps_no_other(start, logs):
    hub = Hubbub()
    rooms, ended = leaving(hub)
    async with talk(start(hub).url) as client:
        connection = client.welcome["connection"]
        for name in ("bad", "a"):
            await client.join(f"chat/{name}")
    assert [await rooms.next() for _ in range(2)] == ["bad", "a"]
    assert await ended.next() == 1000
    record = await logs.wait("error", connection=connection, during="leave", room="chat/bad")
    assert "ZeroDivisionError" in str(record.exc_info)


# Leaving


async def test_who_has_left_gets_nothing_more_and_can_not_send(start):
    hub = Hubbub()
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join(LOBBY)
        await bob.join(LOBBY)
        assert await ada.ask(type="$leave", room=LOBBY) == {"type": "$ack", "id": "asked", "room": LOBBY}
        await post(bob, "hi")
        await nothing_more(ada)
        for kind in ("say", "$leave", "$history", "$presence"):
            answer = await ada.ask(type=kind, room=LOBBY, data={"text": "hi"})
            assert answer["data"]["code"] == "not_joined", kind
            assert answer["data"]["errors"] == [{"path": "$.room", "message": "Not joined"}]


async def test_who_has_left_can_come_back(start):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(start(hub).url) as ada:
        await post(ada, "1")
        before = await ada.join(LOBBY)
        await ada.ask(type="$leave", room=LOBBY)
        await post(ada, "2")
        assert await ada.join(LOBBY, since=before) == before
        assert await said(ada, 1) == [(2, "2")]


# The inbox


async def test_the_inbox_is_a_room_that_its_user_alone_can_replay(start):
    hub = Hubbub()

    @hub.authenticate
    async def authenticate(connection: Connection) -> str | None:
        return connection.token

    class Notify(Message):
        user: str
        text: str

    @hub.on_message
    async def notify(message: Notify) -> None:
        await hub.user(message.user).send(Say(text=message.text))

    url = start(hub).url
    async with talk(f"{url}/?token=bob") as bob:
        await bob.ask(type="notify", data={"user": "ada", "text": "1"})
        async with talk(f"{url}/?token=ada") as ada:
            inbox = ada.welcome["inbox"]
            assert inbox["room"] == "$user/ada"
            assert inbox["offset"] == 1
        await bob.ask(type="notify", data={"user": "ada", "text": "2"})
        async with talk(f"{url}/?token=ada") as ada:
            since = {"epoch": inbox["epoch"], "offset": inbox["offset"]}
            assert await ada.join("$user/ada", since=since) == since
            assert await said(ada, 1) == [(2, "2")]
            await bob.ask(type="notify", data={"user": "ada", "text": "3"})
            assert await said(ada, 1) == [(3, "3")]
            page = await ada.ask(type="$history", room="$user/ada")
            assert [message["data"]["text"] for message in page["data"]["messages"]] == ["1", "2", "3"]
        assert (await bob.ask(type="$join", room="$user/ada"))["data"]["code"] == "unknown_room"


# A broker that can't be reached


class Failing(MemoryBroker):
    """Refuses the calls that are named in `failing`."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()

    def _check(self, call: str) -> None:
        if call in self.failing:
            raise Unavailable("The broker is away; try again.")

    async def subscribe(self, room: str) -> Position:
        self._check("subscribe")
        return await super().subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        self._check("unsubscribe")
        await super().unsubscribe(room)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        self._check("enter")
        return await super().enter(room, member, connection, details)


@pytest.mark.parametrize("call", ["subscribe", "enter"])
async def test_a_join_that_the_broker_refuses_can_be_tried_again(start, call):
    broker = Failing()
    hub = Hubbub(broker=broker)
    chat_hub(hub, presence=True)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await bob.join(LOBBY)
        broker.failing.add(call)
        # Bob's being there must not help: his is a subscription already.
        room = LOBBY if call == "enter" else "chat/other"
        answer = await ada.ask(type="$join", room=room)
        assert answer["data"] == {
            "code": "unavailable", "message": "The broker is away; try again.", "retry": True,
        }  # fmt: skip
        assert (await ada.ask(type="$leave", room=room))["data"]["code"] == "not_joined"
        broker.failing.clear()
        await ada.join(room)
        answer = await ada.ask(type="$presence", room=room)
        users = [member["user"] for member in answer["data"]["members"]]
        assert f"guest:{ada.welcome['connection'][:8]}" in users
        if room == LOBBY:
            assert (await bob.receive_type("$joined"))["data"][0]["user"] in users


async def test_a_join_that_the_broker_refuses_undoes_what_the_join_hook_did(start, logs):
    broker = Failing()
    hub, told = Hubbub(broker=broker), Told()
    chat = chat_hub(hub)
    chat.on_join(lambda name: told("join", name))

    @chat.on_leave
    def leave(name: str) -> None:
        told("leave", name)
        raise ZeroDivisionError

    broker.failing.add("subscribe")
    async with talk(start(hub).url) as ada:
        assert (await ada.ask(type="$join", room=LOBBY))["data"]["code"] == "unavailable"
        assert await told.next() == ("join", "lobby")
        assert await told.next() == ("leave", "lobby")
        await logs.wait("error", during="leave", room=LOBBY)
    assert told.silent


async def test_a_room_that_the_broker_does_not_let_go_of_is_left_all_the_same(start):
    broker = Failing()
    hub = Hubbub(broker=broker)
    chat = chat_hub(hub, presence=True)
    told = Told()

    @chat.on_leave
    async def leave(name: str) -> None:
        told(name)

    url = start(hub).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        broker.failing.add("unsubscribe")
    assert await told.next() == "lobby"
    async with talk(url) as bob:
        await bob.join(LOBBY)
        members = (await bob.ask(type="$presence", room=LOBBY))["data"]["members"]
        assert [member["user"] for member in members] == [f"guest:{bob.welcome['connection'][:8]}"]
        await post(bob, "hi")


async def test_a_closed_member_is_not_delivered_to(start):
    hub = Hubbub()
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join(LOBBY)
        await bob.join(LOBBY)
        await ada.websocket.close()
        await post(bob, "hi")
        with pytest.raises(websockets.ConnectionClosed):
            await ada.websocket.recv()
