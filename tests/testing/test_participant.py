import asyncio
import re

import pytest
from pydantic import BaseModel
from websockets.asyncio.server import serve as serve_websockets

from hubbub import Connection, Gap, Hubbub, Joined, Message, Received, Room, State, wire_type
from hubbub.testing import participant as participants

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Typing(Message):
    pass


@wire_type("say")
class OldSay(BaseModel):
    text: str


@pytest.fixture
def hub() -> Hubbub:
    hub = Hubbub()
    chat = hub.room("chat/{name}", history=3, presence=True)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    @chat.on_message
    async def typing(connection: Connection, room: Room, message: Typing) -> None:
        await room.send(message, exclude=connection, ephemeral=True)

    return hub


@pytest.fixture
async def pair(hub, hub_client):
    """Ada and bob, both in the lobby."""
    async with (
        hub_client(hub, token="ada", messages=[Say, Typing]) as ada,
        hub_client(hub, token="bob", messages=[Say, Typing]) as bob,
    ):
        await ada.join("chat/lobby")
        room = await bob.join("chat/lobby")
        yield ada, room


async def test_a_message_is_received_as_its_class(pair):
    ada, room = pair
    await room.send(Say("hi"))
    assert await ada.receive(Say, "chat/lobby") == Say("hi")


async def test_an_event_has_sender_and_offset(pair):
    ada, room = pair
    await room.send(Say("hi"))
    event = await ada.receive_event(Say)
    assert (event.sender, event.offset, event.room) == ("bob", 1, "chat/lobby")


async def test_it_waits_for_what_has_not_arrived_yet(pair):
    ada, room = pair
    waiting = asyncio.create_task(ada.receive(Say))
    await asyncio.sleep(0)
    await room.send(Say("hi"))
    assert (await waiting).text == "hi"


async def test_what_came_before_can_still_be_received_and_in_order(pair):
    ada, room = pair
    for text in ("one", "two"):
        await room.send(Say(text))
    await room.send(Typing())
    assert await ada.receive(Typing) == Typing()
    assert [(await ada.receive(Say)).text for _ in range(2)] == ["one", "two"]
    assert (await ada.receive(Joined)).member.user == "bob"


async def test_a_room_may_be_given_as_an_object(hub, hub_client):
    async with hub_client(hub, token="ada", messages=[Say]) as ada, hub_client(hub, token="bob") as bob:
        lobby, kitchen = await ada.join("chat/lobby"), await ada.join("chat/kitchen")
        for name in ("kitchen", "lobby"):
            await (await bob.join(f"chat/{name}")).send(Say(name))
        assert (await ada.receive(Say, lobby)).text == "lobby"
        assert (await ada.receive(Say, kitchen)).text == "kitchen"


@pytest.mark.parametrize("kind", [Say, OldSay])
@pytest.mark.parametrize("subprotocol", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_a_class_that_the_client_was_not_given_is_received_all_the_same(
    hub, hub_client, kind, subprotocol
):
    options = {"subprotocol": subprotocol}
    async with hub_client(hub, **options) as one, hub_client(hub, **options) as other:
        await one.join("chat/lobby")
        await (await other.join("chat/lobby")).send(Say("hi"))
        assert await one.receive(kind) == kind(text="hi")


async def test_a_failure_says_what_arrived_instead_and_what_was_on_the_wire(pair):
    ada, room = pair
    await room.send(Say("hi"))
    with pytest.raises(AssertionError) as failed:
        await ada.receive(Typing, "chat/lobby", timeout=0.05)
    told = str(failed.value)
    assert told.startswith("No Typing from chat/lobby arrived within 0.05 s.\n")
    assert "Received(room='chat/lobby', message=Say(text='hi'), type='say', sender='bob', offset=1)" in told
    assert "The client is open, logged in as ada." in told
    assert re.search(r'^  → \{"type":"\$join","id":\d+,"room":"chat/lobby"', told, re.MULTILINE)
    assert re.search(r'^  ← \{"type":"say","room":"chat/lobby","offset":1', told, re.MULTILINE)


async def test_a_failure_after_the_end_says_that_it_is_over(hub, hub_client):
    async with hub_client(hub) as client:
        await client.close()
        with pytest.raises(
            AssertionError, match=r"(?s)No Say arrived: the client is closed.*is closed, a guest"
        ):
            await client.receive(Say)


async def test_only_a_message_has_an_event_around_it(hub, hub_client):
    async with hub_client(hub, token="ada") as ada:
        await ada.join("chat/lobby")
        async with hub_client(hub, token="bob") as bob:
            await bob.join("chat/lobby")
            with pytest.raises(TypeError, match="Joined is no message's class"):
                await ada.receive_event(Joined)


async def test_too_many_events_that_nobody_wants_are_a_failure(pair, monkeypatch):
    monkeypatch.setattr(participants, "MOST_KEPT", 3)
    ada, room = pair
    for number in range(3):
        await room.send(Say(f"{number}"))
    with pytest.raises(AssertionError, match="3 other events arrived"):
        await ada.receive(Typing)


class TestArrived:
    async def test_it_is_everything_that_was_not_received_in_order(self, pair):
        ada, room = pair
        for text in ("one", "two", "three"):
            await room.send(Say(text))
        assert (await ada.receive(Say)).text == "one"
        await ada.receive(Joined)  # which may come before the messages or after them
        said = await ada.arrived()
        assert [event.message for event in said if isinstance(event, Received)] == [Say("two"), Say("three")]
        assert await ada.arrived() == []

    async def test_it_tells_that_something_did_not_arrive(self, pair):
        ada, _ = pair
        await ada.receive(Joined)
        assert await ada.arrived() == []

    async def test_it_fails_if_the_server_does_not_answer(self, pair):
        ada, _ = pair
        ada.stall()
        with pytest.raises(AssertionError, match=r"did not answer within 0\.05 s"):
            await ada.arrived(timeout=0.05)


class TestTheLine:
    async def test_a_client_whose_line_is_cut_comes_back_and_loses_nothing(self, pair):
        ada, room = pair
        async with ada.away():
            for text in ("one", "two"):
                await room.send(Say(text))
        assert [(await ada.receive(Say)).text for _ in range(2)] == ["one", "two"]

    async def test_who_was_away_for_too_long_is_told_of_the_gap(self, pair):
        ada, room = pair
        async with ada.away():
            for number in range(5):
                await room.send(Say(f"{number}"))
        gap = await ada.receive(Gap)
        assert gap.position is not None
        assert gap.position.offset == 2
        assert [(await ada.receive(Say)).text for _ in range(3)] == ["2", "3", "4"]

    async def test_states_are_waited_for(self, pair):
        ada, _ = pair
        ada.cut()
        await ada.until(State.CONNECTING, State.WAITING)
        await ada.until(State.OPEN)
        with pytest.raises(AssertionError, match=r"was not closed within 0\.05 s"):
            await ada.until(State.CLOSED, timeout=0.05)

    async def test_over_a_socket_it_is_a_proxys_work(self, hub, hub_server, hub_client):
        async with hub_server(hub) as server, hub_client(server) as client:
            with pytest.raises(RuntimeError, match="use a fault proxy"):
                client.cut()


async def test_what_is_no_hubbub_says_text_and_bytes(hub_client):
    async def serve(connection) -> None:
        await connection.send("text")
        await connection.send(b"bytes")
        await connection.wait_closed()

    async with serve_websockets(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with hub_client(f"ws://127.0.0.1:{port}") as client:
            assert await client.receive(bytes) == b"bytes"
            assert await client.receive(str) == "text"
            with pytest.raises(AssertionError, match=r"(?s)No Say from chat/lobby.*← text\n  ← b'bytes'"):
                await client.receive(Say, "chat/lobby", timeout=0.05)
