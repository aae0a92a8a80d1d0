"""Clients that want what is not theirs: other users' inboxes, rooms they are not in, another's name."""

import json

import msgspec
import pytest

from chat_room import LOBBY, Say, chat_hub, nothing_more
from conftest import Serve, Served
from hostile.chance import random_bits
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.protocol.resume import SIGNATURE_SIZE
from wire import Client, talk


def chat(settings: Settings | None = None) -> Hubbub:
    """A chat in which everybody is who their token says; an application that trusts its pattern too much."""
    hub = Hubbub(settings)
    rooms = chat_hub(hub)
    any_pair = hub.room("{kind}/{name}/of/{owner}")

    @rooms.on_message
    @any_pair.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    return hub


@pytest.fixture
def served(start: Serve) -> Served:
    return start(chat())


async def code_of(client: Client, **envelope: object) -> str:
    answer = await client.ask(**envelope)
    assert answer["type"] == "$error", answer
    return answer["data"]["code"]


@pytest.mark.parametrize("name", ["$user/bob", "$user/", "$user/ada", "$", "$user/bob/of/x", "$anything/new"])
async def test_nobody_joins_what_is_the_protocol_s_own(served, name):
    """A pattern of the application that would match them opens no inbox either."""
    async with talk(served.url + "/?token=eve") as eve:
        assert await code_of(eve, type="$join", room=name) == "unknown_room"


@pytest.mark.parametrize("kind", ["$history", "$presence", "$leave", "say"])
async def test_an_inbox_of_somebody_else_is_not_read_and_not_written_to(served, kind):
    async with talk(served.url + "/?token=eve") as eve, talk(served.url + "/?token=bob") as bob:
        assert await code_of(eve, type=kind, room="$user/bob", data={"text": "x"}) == "not_joined"
        await nothing_more(bob)


@pytest.mark.parametrize(
    "user", ["bob/../ada", "../bob", "bob/", "ada/bob", "%62ob", "*", "bob\x00", "$user/bob", "BOB"]
)
async def test_a_user_s_name_leads_to_no_other_inbox(start, user):
    hub = Hubbub()

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return json.loads(connection.request.headers["x-user"])

    url = start(hub).url

    def talk_as(name: str):
        return talk(url, additional_headers={"X-User": json.dumps(name)})

    async with talk_as(user) as eve, talk_as("bob") as bob:
        assert eve.welcome["inbox"]["room"] == f"$user/{user}"
        assert bob.welcome["inbox"]["room"] == "$user/bob"
        for name in ("$user/bob", "$user/ada"):
            assert await code_of(eve, type="$history", room=name) == "not_joined"


async def test_a_room_that_was_not_joined_is_not_read_and_not_written_to(served):
    async with talk(served.url + "/?token=eve") as eve, talk(served.url + "/?token=bob") as bob:
        await bob.join(LOBBY)
        for kind in ("say", "$history", "$presence", "$leave"):
            assert await code_of(eve, type=kind, room=LOBBY, data={"text": "x"}) == "not_joined"
        await nothing_more(bob)


async def test_a_room_that_was_left_is_a_room_that_was_not_joined(served):
    async with talk(served.url + "/?token=eve") as eve:
        await eve.join(LOBBY)
        await eve.ask(type="$leave", room=LOBBY)
        assert await code_of(eve, type="say", room=LOBBY, data={"text": "x"}) == "not_joined"


async def test_a_room_that_refused_is_a_room_that_was_not_joined(start):
    hub = Hubbub()
    chat = chat_hub(hub)

    @chat.on_join
    async def admit(name: str) -> None:
        raise Denied("closed")

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    async with talk(start(hub).url) as eve:
        assert await code_of(eve, type="$join", room=LOBBY) == "denied"
        assert await code_of(eve, type="say", room=LOBBY, data={"text": "x"}) == "not_joined"
        assert await code_of(eve, type="$history", room=LOBBY) == "not_joined"


@pytest.mark.parametrize(
    "forged",
    [
        {"from": "bob", "sender": "bob"},
        {"offset": 999, "epoch": "x"},
        {"exclude": "bob", "key": "k", "keep": None},
        {"session": "s", "connection": "c", "user": "bob", "info": {"admin": True}},
    ],
    ids=lambda forged: ", ".join(forged),
)
async def test_what_the_server_says_of_a_message_is_not_the_client_s_to_say(served, forged):
    """A client that signs with another's name, or gives its message a place in the room."""
    async with talk(served.url + "/?token=eve") as eve, talk(served.url + "/?token=bob") as bob:
        await bob.join(LOBBY)
        await eve.join(LOBBY)
        await eve.send(type="say", room=LOBBY, data={"text": "x"}, **forged)
        assert await bob.receive() == {
            "type": "say", "room": LOBBY, "offset": 1, "from": "eve", "data": {"text": "x"}
        }  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["$welcome", "$ack", "$error", "$joined", "$left", "$gap", "$drain", "$user", "$", "$JOIN", "$join "],
)
async def test_a_client_does_not_speak_for_the_server(served, kind):
    """What only the server says is refused, and reaches nobody."""
    async with talk(served.url + "/?token=eve") as eve, talk(served.url + "/?token=bob") as bob:
        await bob.join(LOBBY)
        await eve.join(LOBBY)
        data = {"code": 4401, "after": 0, "user": "bob"}
        assert await code_of(eve, type=kind, room=LOBBY, data=data) == "unknown_type"
        await nothing_more(bob)


async def test_nobody_signs_as_a_guest_of_their_choice(served):
    """`guest:` and what follows is what the server calls those without a name."""
    async with talk(served.url + "/?token=guest:1234", welcome=False) as eve:
        assert (await eve.receive())["data"]["code"] == "denied"
        assert (await eve.closed())[0] == 4401


async def test_a_login_does_not_make_another_user_of_a_connection(served):
    """Session fixation: what eve has joined and said does not become bob's."""
    async with talk(served.url + "/?token=eve") as eve:
        await eve.join(LOBBY)
        assert await code_of(eve, type="$auth", data={"token": "bob"}) == "denied"
        await eve.send(type="say", room=LOBBY, data={"text": "x"})
        assert (await eve.receive())["from"] == "eve"


async def test_sessions_and_connections_are_not_to_be_guessed(served):
    """Ids in a row, or of little chance, would let one client name another's session."""
    connections, sessions, signatures = [], [], []
    for _ in range(100):
        async with talk(served.url) as client:
            token = bytes.fromhex(client.welcome["session"])
            # The signature comes first: none of it is to be guessed either.
            signatures.append(int.from_bytes(token[:8], "big"))
            sessions.append(int(msgspec.msgpack.decode(token[SIGNATURE_SIZE:])[0], 16))
            connections.append(int(client.welcome["connection"], 16))
    assert [random_bits(ids) for ids in (connections, sessions, signatures)] == [64, 64, 64]


@pytest.mark.parametrize(
    "name", ["r" * 256, "r" * 1_000_000, "", "chat/", "chat//", "/chat/x", "chat/a/b", "chat", "chat/x/"]
)
async def test_a_name_that_is_none_is_refused(served, name):
    async with talk(served.url, max_size=None) as client:
        await client.send(type="$join", id=1, room=name)
        answer = await client.receive()
        assert answer["data"]["code"] in ("invalid", "unknown_room")
        assert len(json.dumps(answer)) < 1000


@pytest.mark.parametrize(
    "name", ["../lobby", "lobby\x00", "lo\nbby", "%2e%2e", "*", "{name}", "l\u043ebby", "lobby "]
)
async def test_an_odd_name_is_a_room_of_its_own(served, name):
    """No name is cut, decoded or folded into another: what eve says in her room, bob does not hear in his."""
    async with talk(served.url) as eve, talk(served.url) as bob:
        await bob.join(LOBBY)
        answer = await eve.ask(type="$join", room=f"chat/{name}")
        if "/" in name:
            assert answer["data"]["code"] == "unknown_room"
        else:
            assert answer["type"] == "$ack"
            await eve.send(type="say", room=f"chat/{name}", data={"text": "x"})
            assert (await eve.receive())["room"] == f"chat/{name}"
        await nothing_more(bob)


async def test_rooms_without_end_are_refused_and_those_that_are_left_make_place(start):
    """A client that joins names it makes up, each of them memory of the server."""
    async with talk(start(chat(Settings(max_rooms=5))).url) as eve:
        for number in range(5):
            await eve.join(f"chat/{number}")
        for number in range(5, 20):
            assert await code_of(eve, type="$join", room=f"chat/{number}") == "too_many_rooms"
        await eve.ask(type="$leave", room="chat/0")
        await eve.join("chat/20")


async def test_rooms_that_were_joined_once_leave_nothing_behind(start):
    """The same, one at a time: names that a client makes up must not add up."""
    store = MemoryStore()
    hub = Hubbub(broker=MemoryBroker(store))
    chat_hub(hub, presence=True)
    async with talk(start(hub).url) as eve:
        for number in range(100):
            await eve.join(f"chat/{number}")
            await eve.ask(type="$leave", room=f"chat/{number}")
        assert store.streams == {}


class Ask(Message):
    user: str


async def test_a_client_reaches_users_only_through_what_the_application_sends(start):
    hub = Hubbub()

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    @hub.on_message
    async def ask(message: Ask) -> None:
        await hub.user(message.user).send(message)

    url = start(hub).url
    async with talk(url + "/?token=bob") as bob, talk(url + "/?token=eve") as eve:
        await eve.ask(type="ask", data={"user": "bob"})
        assert await bob.receive() == {
            "type": "ask", "room": "$user/bob", "offset": 1, "data": {"user": "bob"}
        }  # fmt: skip
        assert await code_of(eve, type="ask", room="$user/bob", data={"user": "bob"}) == "not_joined"
