"""The server puts a client into rooms and takes it out of them, as the client itself could."""

import asyncio
from typing import Any

import pytest

from chat_room import LOBBY, Say, chat_hub, nothing_more, post, said
from hubbub import (
    ConfigurationError,
    Connection,
    ConnectionClosed,
    Denied,
    Hubbub,
    Message,
    Room,
    Rooms,
    Settings,
)
from told import Told
from wire import Client, talk

pytestmark = pytest.mark.anyio


class Enter(Message):
    room: str = LOBBY


class Exit(Message):
    room: str = LOBBY


class Hubs:
    """A hub whose handlers put clients into rooms; what hooks and tasks told."""

    def __init__(self, settings: Settings | None = None, **declared: Any) -> None:
        self.hub = Hubbub(settings)
        self.chat: Rooms = chat_hub(self.hub, **declared)
        self.connections: dict[str, Connection] = {}
        self.told = Told()

        @self.hub.on_message
        async def enter(connection: Connection, message: Enter) -> str:
            self.connections[connection.session] = connection
            return (await connection.join(message.room)).name

        @self.hub.on_message
        async def leave(connection: Connection, message: Exit) -> None:
            await connection.leave(message.room)

    async def connection(self, client: Client) -> Connection:
        await client.ask(type="enter", data={"room": "chat/elsewhere"})
        return self.connections[client.welcome["connection"]]


async def test_a_handler_puts_its_client_into_a_room_and_the_client_is_told_from_where_on(start):
    url = start(Hubs().hub).url
    async with talk(url) as ada, talk(url) as bob:
        before = await post(bob, "before")
        await ada.send(type="enter", id=1)
        assert await ada.receive() == {"type": "$join", "room": LOBBY, "data": before}
        assert await ada.receive() == {"type": "$ack", "id": 1, "data": LOBBY}
        await post(bob, "hi")
        assert await said(ada, 1) == [(2, "hi")]
        # It is in the room as if it had joined it.
        assert (await ada.ask(type="$history", room=LOBBY))["type"] == "$ack"
        await nothing_more(bob)


async def test_who_is_in_the_room_already_is_told_nothing(start):
    url = start(Hubs().hub).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        await ada.send(type="enter", id=1)
        assert await ada.receive() == {"type": "$ack", "id": 1, "data": LOBBY}
        await post(ada, "once")
        assert (await ada.ask(type="$leave", room=LOBBY))["type"] == "$ack"


async def test_a_client_that_was_put_in_may_join_and_leave_the_room_itself(start):
    url = start(Hubs().hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.ask(type="enter")
        at = await ada.join(LOBBY)
        await post(bob, "one")
        assert await said(ada, 1) == [(1, "one")]
        await ada.join(LOBBY, since=at)
        assert await said(ada, 1) == [(1, "one")]
        assert (await ada.ask(type="$leave", room=LOBBY))["type"] == "$ack"
        await post(bob, "two")
        await nothing_more(ada)


async def test_the_server_takes_a_client_out_of_a_room_and_tells_it(start):
    hubs = Hubs()

    @hubs.chat.on_leave
    async def left(room: Room) -> None:
        hubs.told("left", room.name)

    url = start(hubs.hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join(LOBBY)
        await ada.send(type="exit", id=1)
        assert await ada.receive() == {"type": "$leave", "room": LOBBY}
        assert await ada.receive() == {"type": "$ack", "id": 1}
        assert await hubs.told.next() == ("left", LOBBY)
        await post(bob, "nobody hears it")
        await nothing_more(ada)
        answer = await ada.ask(type="exit")
        assert answer["data"]["code"] == "not_joined"
        await ada.join(LOBBY)


async def test_what_the_application_refuses_is_raised_to_the_handler_and_told_its_client(start):
    hubs = Hubs(Settings(max_rooms=1))

    @hubs.chat.on_join
    async def admit(name: str) -> None:
        if name == "staff":
            raise Denied("For the staff.")

    async with talk(start(hubs.hub).url) as ada:
        for room, code in (
            ("chat/staff", "denied"),
            ("nowhere", "unknown_room"),
            ("$user/x", "unknown_room"),
        ):
            answer = await ada.ask(type="enter", data={"room": room})
            assert (answer["type"], answer["data"]["code"]) == ("$error", code)
        await ada.ask(type="enter", data={"room": "chat/1"})
        answer = await ada.ask(type="enter", data={"room": "chat/2"})
        assert answer["data"]["code"] == "too_many_rooms"


async def test_who_is_banned_is_not_put_in(serve):
    hub = Hubbub()
    chat = hub.room("chat/{name}", bans=True)

    @hub.authenticate
    async def who() -> str:
        return "ada"

    @hub.on_message
    async def enter(connection: Connection, message: Enter) -> None:
        await chat(name="lobby").ban("ada", seconds=60)
        await connection.join(message.room)

    async with talk(serve(hub).url) as ada:
        answer = await ada.ask(type="enter")
        assert answer["data"]["code"] == "banned"


async def test_other_members_see_who_was_put_in(serve):
    hubs = Hubs(presence=True)
    url = serve(hubs.hub).url
    async with talk(url) as bob, talk(url) as ada:
        await bob.join(LOBBY)
        await ada.ask(type="enter")
        name = f"guest:{ada.welcome['connection'][:8]}"
        assert (await bob.receive_type("$joined"))["data"] == [{"user": name}]
        await ada.ask(type="exit")
        assert (await bob.receive_type("$left"))["data"] == [{"user": name}]


# Where it is called


async def test_another_task_of_the_instance_does_it_too(hub_client):
    hubs = Hubs()
    async with hub_client(hubs.hub, messages=[Say]) as ada:
        await ada.request(Enter(room="chat/elsewhere"))
        [connection] = hubs.connections.values()
        rooms = await asyncio.gather(*(connection.join(LOBBY) for _ in range(3)))
        assert {room.name for room in rooms} == {LOBBY}
        await rooms[0].send(Say(text="hi"))
        assert await ada.receive(Say, LOBBY) == Say(text="hi")
        await connection.leave(LOBBY)
        await hubs.chat(name="lobby").send(Say(text="nobody hears it"))
        assert await ada.arrived() == []


@pytest.mark.parametrize("history", [0, 100])
async def test_on_connect_puts_in_right_after_the_welcome_and_loses_nothing_of_it(start, history):
    hub = Hubbub()
    chat_hub(hub, history=history)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        room = await connection.join(LOBBY)
        await room.send(Say(text="a new one"))
        await room.send(Say(text="at once"), ephemeral=True)

    async with talk(start(hub).url) as ada:
        joined = await ada.receive()
        assert (joined["type"], joined["room"], joined["data"]["offset"]) == ("$join", LOBBY, 0)
        assert await said(ada, 1) == [(1, "a new one")]
        assert (await ada.receive())["data"] == {"text": "at once"}
        await nothing_more(ada)


@pytest.mark.parametrize("slow", ["drop", "conflate"])
async def test_so_it_does_in_rooms_that_leave_something_out_for_slow_readers(start, slow):
    hub = Hubbub()
    hub.room("chat/{name}", slow=slow)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        room = await connection.join(LOBBY)
        for text in ("one", "two"):
            await room.send(Say(text=text))

    async with talk(start(hub).url) as ada:
        assert (await ada.receive())["type"] == "$join"
        assert await said(ada, 2) == [(1, "one"), (2, "two")]
        await nothing_more(ada)


async def test_on_connect_may_send_while_it_is_in_rooms(start):
    hub = Hubbub()
    chat_hub(hub)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        await connection.join(LOBBY)
        await connection.send(Say(text="x" * 1000))
        await connection.leave(LOBBY)

    async with talk(start(hub).url) as ada:
        assert [(await ada.receive())["type"] for _ in range(3)] == ["$join", "say", "$leave"]
        await nothing_more(ada)


async def test_who_is_refused_after_it_was_put_in_leaves_the_room(serve):
    hub = Hubbub()
    chat, told = chat_hub(hub), Told()

    @chat.on_leave
    async def left(room: Room) -> None:
        told("left", room.name)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        await connection.join(LOBBY)
        raise Denied("Not today.")

    async with talk(serve(hub).url, welcome=False) as ada:
        assert (await ada.receive())["type"] == "$error"
        assert await ada.closed() == (4403, "Not today.")
    assert await told.next() == ("left", LOBBY)


async def test_a_hook_that_would_wait_for_itself_is_told_so(serve):
    hubs = Hubs()

    @hubs.chat.on_join
    async def joined(connection: Connection, name: str) -> None:
        if name == "elsewhere":
            for change in (connection.join, connection.leave):
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(change(LOBBY))
                except* RuntimeError as group:
                    hubs.told(str(group.exceptions[0])[:26])

    async with talk(serve(hubs.hub).url) as ada:
        await ada.join("chat/elsewhere")
        for _ in range(2):
            assert await hubs.told.next() == "A hook of a room can't hav"
        assert (await ada.ask(type="enter"))["type"] == "$ack"


async def test_a_task_that_a_hook_began_may_do_it_when_the_hook_is_over(serve):
    hubs = Hubs()
    over = asyncio.Event()
    tasks = []

    @hubs.chat.on_join
    async def joined(connection: Connection, name: str) -> None:
        async def later() -> None:
            await over.wait()
            await connection.join("chat/later")

        if name == "lobby":
            tasks.append(asyncio.create_task(later()))

    async with talk(serve(hubs.hub).url) as ada:
        await ada.join(LOBBY)
        tasks[0].get_loop().call_soon_threadsafe(over.set)
        assert (await ada.receive())["room"] == "chat/later"


async def test_an_endpoint_and_a_login_have_no_rooms(serve):
    hub = Hubbub()
    told = Told()

    @hub.authenticate
    async def who(connection: Connection) -> None:
        try:
            await connection.join(LOBBY)
        except ConfigurationError as problem:
            told(str(problem)[:11])

    async with talk(serve(hub).url):
        assert await told.next() == "An endpoint"


async def test_who_is_gone_can_not_be_put_in(hub_client):
    hubs = Hubs()
    async with hub_client(hubs.hub) as ada:
        await ada.request(Enter(room="chat/elsewhere"))
        [connection] = hubs.connections.values()
        await ada.close()
        await connection.wait_closed()
        for change in (connection.join, connection.leave):
            with pytest.raises(ConnectionClosed):
                await change(LOBBY)


async def test_who_goes_while_being_put_in_is_taken_out_again(hub_client):
    hubs = Hubs()
    entered, go_on = asyncio.Event(), asyncio.Event()

    @hubs.chat.on_join
    async def joined(name: str) -> None:
        if name == "lobby":
            entered.set()
            await go_on.wait()

    @hubs.chat.on_leave
    async def left(room: Room) -> None:
        hubs.told("left", room.name)

    async with hub_client(hubs.hub) as ada, hub_client(hubs.hub):
        await ada.request(Enter(room="chat/elsewhere"))
        [connection] = hubs.connections.values()
        putting = asyncio.create_task(connection.join(LOBBY))
        await entered.wait()
        await ada.close()
        await connection.wait_closed()
        go_on.set()
        with pytest.raises(ConnectionClosed):
            await putting
        assert {await hubs.told.next(), await hubs.told.next()} == {
            ("left", LOBBY),
            ("left", "chat/elsewhere"),
        }
        assert not hubs.hub._hub.running.subscriptions.holds(LOBBY)


# Coming back


async def test_a_session_that_is_resumed_has_the_room_that_on_connect_gives_from_where_it_was(start):
    hub = Hubbub()
    chat_hub(hub)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        await connection.join(LOBBY)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        at = (await ada.receive_type("$join"))["data"]
        token = ada.welcome["session"]
        await ada.websocket.close()
        await post(bob, "missed")
        async with talk(url) as again:
            await again.receive_type("$join")
            rooms = {LOBBY: at}
            answer = await again.ask(type="$resume", data={"session": token, "rooms": rooms})
            assert answer["data"]["rooms"] == rooms
            assert await said(again, 1) == [(1, "missed")]
            await nothing_more(again)


async def test_rooms_that_the_client_did_not_know_of_are_in_the_answer_and_come_again(start):
    hub = Hubbub()
    chat_hub(hub)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        if connection.request.query_params.get("in"):
            await (await connection.join(LOBBY)).send(Say(text="hello"))

    url = start(hub).url
    async with talk(url) as ada:
        token = ada.welcome["session"]
        await ada.websocket.close()
        async with talk(url + "?in=1") as again:
            at = (await again.receive_type("$join"))["data"]
            assert await said(again, 1) == [(1, "hello")]
            answer = await again.ask(type="$resume", data={"session": token, "rooms": {}})
            assert answer["data"]["rooms"] == {LOBBY: at}
            assert await said(again, 1) == [(1, "hello")]
            await nothing_more(again)


async def test_a_guest_is_shown_as_who_it_was_once_its_session_is_taken_up(start):
    hub = Hubbub()
    chat_hub(hub, presence=True)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        if connection.request.query_params.get("in"):
            await connection.join(LOBBY)

    url = start(hub).url
    async with talk(url) as ada:
        name, token = f"guest:{ada.welcome['connection'][:8]}", ada.welcome["session"]
        await ada.websocket.close()
        async with talk(url + "?in=1") as again:
            await again.ask(type="$resume", data={"session": token, "rooms": {}})
            answer = await again.ask(type="$presence", room=LOBBY)
            assert answer["data"]["members"] == [{"user": name}]


async def test_the_python_client_has_the_room_and_its_messages_over_lost_lines(hub_client):
    hubs = Hubs()
    async with hub_client(hubs.hub, messages=[Say]) as ada:
        await ada.request(Enter())
        lobby = hubs.chat(name="lobby")
        await lobby.send(Say(text="one"))
        assert await ada.receive(Say, LOBBY) == Say(text="one")
        async with ada.away():
            await lobby.send(Say(text="two"))
        assert await ada.receive(Say, LOBBY) == Say(text="two")
        # The room is there without asking for it.
        room = await ada.join(LOBBY)
        assert room.position.offset == 2
        await ada.request(Exit())
        await lobby.send(Say(text="three"))
        assert await ada.arrived() == []


async def test_the_python_client_has_a_room_that_on_connect_gives_it_as_it_comes_back(hub_client):
    hub = Hubbub()
    chat = chat_hub(hub)
    connected = 0

    @hub.on_connect
    async def connect(connection: Connection) -> None:
        nonlocal connected
        connected += 1
        await connection.join("chat/every time")
        if connected > 1:
            await (await connection.join(LOBBY)).send(Say(text="hello"))

    async with hub_client(hub, messages=[Say]) as ada:
        every = chat(name="every time")
        await every.send(Say(text="one"))
        assert await ada.receive(Say, "chat/every time") == Say(text="one")
        async with ada.away():
            await every.send(Say(text="two"))
        await every.send(Say(text="three"))
        for text in ("two", "three"):
            assert await ada.receive(Say, "chat/every time") == Say(text=text)
        assert await ada.receive(Say, LOBBY) == Say(text="hello")
        assert await ada.arrived() == []


async def test_the_python_client_has_no_room_that_on_connect_takes_it_out_of_again(hub_client):
    hub = Hubbub()
    chat = chat_hub(hub)
    connected = 0

    @hub.on_connect
    async def connect(connection: Connection) -> None:
        nonlocal connected
        connected += 1
        if connected > 1:
            await connection.join("chat/passing")
            await connection.leave("chat/passing")

    async with hub_client(hub, messages=[Say]) as ada:
        await ada.join(LOBBY)
        async with ada.away():
            pass
        await chat(name="passing").send(Say(text="nobody hears it"))
        await chat(name="lobby").send(Say(text="hi"))
        assert await ada.receive(Say) == Say(text="hi")
        assert await ada.arrived() == []
        assert not [line for line in ada.wire if "→" in line and "passing" in line]


async def test_so_it_does_where_the_session_can_not_be_taken_up(hub_client):
    hub = Hubbub(Settings(session_lifetime=0.001))
    chat = chat_hub(hub)

    @hub.on_connect
    async def connect(connection: Connection) -> None:
        await (await connection.join(LOBBY)).send(Say(text="hello"))

    async with hub_client(hub, messages=[Say]) as ada:
        assert await ada.receive(Say, LOBBY) == Say(text="hello")
        async with ada.away():
            await chat(name="lobby").send(Say(text="missed"))
        for text in ("missed", "hello"):
            assert await ada.receive(Say, LOBBY) == Say(text=text)
        assert await ada.arrived() == []


async def test_what_waits_of_a_room_is_yielded_when_the_server_takes_the_client_out(hub_client):
    hubs = Hubs()
    async with hub_client(hubs.hub, messages=[Say]) as ada:
        room = await ada.join(LOBBY)
        await room_says(hubs, "one", "two")
        await ada.request(Exit())
        assert [event.message.text async for event in room] == ["one", "two"]


async def room_says(hubs: Hubs, *texts: str) -> None:
    for text in texts:
        await hubs.chat(name="lobby").send(Say(text=text))
