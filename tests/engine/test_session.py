import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from echo import MoveCursor, Say, Wave, echo_hub, is_alive
from hubbub import Connection, Hubbub, Message, Room, Settings
from told import Gate, Told, have_arrived
from wire import talk

pytestmark = pytest.mark.anyio


class Post(Message):
    count: int


# Welcome


async def test_a_client_is_welcomed_with_what_it_needs_to_know(start):
    hub = echo_hub(Settings(ping_interval=7.0, max_message=4096))
    async with talk(start(hub).url) as client:
        assert client.welcome.pop("connection") != client.welcome.pop("session")
        assert client.welcome == {
            "protocol": 1, "resumed": False, "heartbeat": 7.0, "max_message": 4096,
            "lifetime": 3600.0, "window": 300.0,
        }  # fmt: skip


@pytest.mark.parametrize("subprotocol", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_both_subprotocols_are_spoken(start, subprotocol):
    async with talk(start(echo_hub()).url, subprotocols=["chat", subprotocol]) as client:
        assert client.websocket.subprotocol == subprotocol
        await is_alive(client)


async def test_json_is_spoken_where_no_known_subprotocol_is_offered(start):
    async with talk(start(echo_hub()).url, subprotocols=["chat"]) as client:
        assert client.websocket.subprotocol is None
        await is_alive(client)


# Messages and replies


async def test_a_reply_is_what_the_handler_returns(start):
    hub = Hubbub()

    @hub.on_message
    async def shout(message: Say) -> Say:
        return Say(text=message.text.upper())

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="say", id=1, data={"text": "hi"})
    assert answer == {"type": "$ack", "id": 1, "data": {"text": "HI"}}


REPLIES: list[tuple[object, object]] = [
    (Say(text="hi"), {"text": "hi"}),
    (MoveCursor(x=1), {"x": 1, "y": 0}),
    ({"a": [1, None]}, {"a": [1, None]}),
    ([Say(text="hi"), MoveCursor(x=1)], [{"text": "hi"}, {"x": 1, "y": 0}]),
    ([], []),
    ("text", "text"),
    (0, 0),
    (False, False),
]


@pytest.mark.parametrize("subprotocol", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_a_reply_can_be_of_any_kind(start, subprotocol):
    hub = Hubbub()

    @hub.on_message
    async def post(message: Post) -> Any:
        return REPLIES[message.count][0]

    async with talk(start(hub).url, subprotocols=[subprotocol]) as client:
        for number, (_, data) in enumerate(REPLIES):
            answer = await client.ask(type="post", id=str(number), data={"count": number})
            assert answer == {"type": "$ack", "id": str(number), "data": data}


async def test_a_handler_that_returns_nothing_is_acknowledged_without_data(start):
    hub = Hubbub()

    @hub.on_message
    async def say(message: Say) -> None: ...

    async with talk(start(hub).url) as client:
        assert await client.ask(type="say", id=7, data={"text": "hi"}) == {"type": "$ack", "id": 7}


async def test_a_message_without_an_id_is_not_answered(start):
    async with talk(start(echo_hub()).url) as client:
        await client.send(type="say", data={"text": "hi"})
        await is_alive(client)


async def test_messages_are_typed_by_the_annotation(start):
    hub = Hubbub()

    @hub.on_message
    async def move(message: MoveCursor) -> dict[str, object]:
        return {"moved": [message.x, message.y]}

    @hub.on_message
    async def wave(connection: Connection, message: Wave) -> str:
        assert isinstance(message, Wave)
        return f"{connection.id} waved"

    @hub.on_message
    def say(message: Say) -> str:
        return message.text

    async with talk(start(hub).url) as client:
        assert (await client.ask(type="move_cursor", data={"x": 3}))["data"] == {"moved": [3, 0]}
        # Without fields there need be no data.
        answer = await client.ask(type="chat.wave")
        assert answer["data"] == f"{client.welcome['connection']} waved"
        assert (await client.ask(type="say", data={"text": "plain def"}))["data"] == "plain def"


async def test_handlers_of_a_room_are_given_the_parts_of_its_name(start):
    hub = Hubbub()
    games = hub.room("game/{number}/{side}")

    @games.on_message
    async def say(
        side: str, message: Say, number: int, room: Room, connection: Connection
    ) -> dict[str, object]:
        return {"number": number, "side": side, "room": room.name, "text": message.text, "to": connection.id}

    @games.on_message
    def wave(message: Wave, number: int) -> int:
        return number + 1

    @hub.on_message
    async def hub_say(message: Say) -> str:
        return "the hub's"

    async with talk(start(hub).url) as client:
        await client.join("game/7/white")
        assert await client.ask(type="say", id="e4", room="game/7/white", data={"text": "e4"}) == {
            "type": "$ack",
            "id": "e4",
            "room": "game/7/white",
            "data": {
                "number": 7, "side": "white", "room": "game/7/white", "text": "e4",
                "to": client.welcome["connection"],
            },
        }  # fmt: skip
        assert (await client.ask(type="chat.wave", room="game/7/white"))["data"] == 8
        assert (await client.ask(type="say", data={"text": "e4"}))["data"] == "the hub's"


async def test_a_handler_can_send_to_its_own_connection(start):
    hub = Hubbub()

    @hub.on_message
    async def say(connection: Connection, message: Say) -> str:
        await connection.send(Say(text="first"))
        await connection.send(MoveCursor(x=2))
        return "then the reply"

    async with talk(start(hub).url) as client:
        await client.send(type="say", id=1, data={"text": "x"})
        assert await client.receive() == {"type": "say", "data": {"text": "first"}}
        assert await client.receive() == {"type": "move_cursor", "data": {"x": 2, "y": 0}}
        assert await client.receive() == {"type": "$ack", "id": 1, "data": "then the reply"}


async def test_a_broadcast_reaches_all_others(start):
    hub = Hubbub()
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join("chat/lobby")
        await bob.join("chat/lobby")
        assert await ada.ask(type="say", id="hi", room="chat/lobby", data={"text": "hi"}) == {
            "type": "$ack",
            "id": "hi",
            "room": "chat/lobby",
        }
        assert (await bob.receive())["data"] == {"text": "hi"}


# Order


async def test_messages_of_one_connection_are_handled_one_at_a_time_in_order(start):
    hub = Hubbub()
    running = 0

    @hub.on_message
    async def post(message: Post) -> dict[str, int]:
        nonlocal running
        running += 1
        most = running
        for _ in range(message.count % 3):
            await asyncio.sleep(0)
            most = max(most, running)
        running -= 1
        return {"count": message.count, "most": most}

    async with talk(start(hub).url) as client:
        for number in range(200):
            await client.send(type="post", id=number, data={"count": number})
        for number in range(200):
            answer = await client.receive()
            assert (answer["id"], answer["data"]) == (number, {"count": number, "most": 1})


async def test_a_connection_has_one_task_and_one_context_for_its_hooks_and_handlers(start):
    hub, told = Hubbub(), Told()
    said: ContextVar[str] = ContextVar("said")

    def note(text: str) -> None:
        told(asyncio.current_task(), said.get("nothing"))
        said.set(text)

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        note("connected")

    @hub.on_message
    async def say(message: Say) -> None:
        note(message.text)
        if message.text == "waits":
            await asyncio.sleep(0)

    @hub.on_disconnect
    async def disconnected(connection: Connection) -> None:
        note("over")

    async with talk(start(hub).url) as client:
        for number, text in enumerate(("a", "waits", "b")):
            await client.ask(type="say", id=number, data={"text": text})
    noted = [await told.next() for _ in range(5)]
    assert [text for _, text in noted] == ["nothing", "connected", "a", "waits", "b"]
    # Whatever becomes of that task, the last one is called: it has its own.
    assert len({task for task, _ in noted[:4]}) == 1


async def test_a_handler_that_takes_its_time_holds_up_its_own_client_only(start):
    hub = echo_hub()
    gate, began = Gate(), Told()

    @hub.on_message
    async def wave(message: Wave) -> None:
        began()
        await gate.passed()

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.send(type="chat.wave", id=1)
        await ada.send(type="say", id=2, data={"text": "after it"})
        await began.next()
        for _ in range(10):
            await is_alive(bob)
        gate.open()
        assert (await ada.receive())["id"] == 1
        assert (await ada.receive())["id"] == 2


async def test_a_plain_function_that_blocks_holds_up_its_own_client_only(start):
    hub = echo_hub()
    gate, began = Gate(), Told()

    @hub.on_message
    def wave(message: Wave) -> None:
        began()
        asyncio.run(gate.passed())

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.send(type="chat.wave", id=1)
        await began.next()
        await is_alive(bob)
        gate.open()
        assert (await ada.receive())["id"] == 1


async def test_more_messages_than_an_inbox_holds_wait_in_the_socket_and_come_all_in_order(start):
    hub = Hubbub(Settings(max_inbox=2))
    gate, began = Gate(), Told()

    @hub.on_message
    async def post(connection: Connection, message: Post) -> int:
        if message.count == 0:
            await have_arrived(connection, 3)
            began()
            await gate.passed()
        return message.count

    async with talk(start(hub).url) as client:
        for number in range(100):
            await client.send(type="post", id=number, data={"count": number})
        await began.next()
        gate.open()
        for number in range(100):
            assert (await client.receive())["data"] == number


async def test_whoever_does_not_read_its_answers_is_asked_no_more_questions(start):
    hub = Hubbub(Settings(max_inbox=2))
    handled = 0
    large = "x" * 500_000

    @hub.on_message
    async def post(connection: Connection, message: Post) -> str:
        nonlocal handled
        handled += 1
        return large

    @hub.on_message
    async def wave(message: Wave) -> int:
        return handled

    url = start(hub).url
    async with talk(url, max_size=None, max_queue=1) as ada, talk(url) as bob:
        for number in range(60):
            await ada.send(type="post", id=number, data={"count": number})
        # Ada reads nothing; the answers that fit into buffers are all that is made, and Bob is not held up.
        counts = [(await bob.ask(type="chat.wave"))["data"]]
        while len(counts) < 20 or counts[-1] != counts[-20]:
            counts.append((await bob.ask(type="chat.wave"))["data"])
        assert counts[-1] < 60
        for number in range(60):
            assert (await ada.receive())["id"] == number


async def test_a_lost_line_does_not_stop_a_handler_under_way(start):
    hub = Hubbub()
    began, gate, finished = Told(), Gate(), Told()

    @hub.on_message
    async def wave(message: Wave) -> None:
        began()
        await gate.passed()
        finished("the work is done")

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        finished("the client is gone")

    async with talk(start(hub).url) as client:
        await client.send(type="chat.wave", id=1)
        await began.next()
        client.websocket.transport.abort()
        gate.open()
        assert await finished.next() == "the work is done"
        assert await finished.next() == "the client is gone"


async def test_a_handler_that_fails_because_its_own_client_is_gone_is_no_error(start, logs):
    hub = Hubbub()
    began, gone = Told(), Told()

    @hub.on_message
    async def wave(connection: Connection, message: Wave) -> None:
        began()
        await connection.wait_closed()
        await connection.send(message)

    @hub.on_disconnect
    async def disconnect(connection: Connection) -> None:
        gone()

    async with talk(start(hub).url) as client:
        await client.send(type="chat.wave", id=1)
        await began.next()
    await gone.next()
    assert not [record for record in logs.records if record.levelname == "ERROR"]
