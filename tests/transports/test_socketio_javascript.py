"""Socket.IO as its own client speaks it: socket.io-client 4 of npm."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from hubbub import Hubbub, Position, Settings
from hubbub.brokers.base import History
from hubbub.brokers.memory import MemoryBroker
from hubbub.testing.faults import Cut, FaultProxy
from hubbub.testing.serving import Served, serving
from socketio_chat import Picture, Say, Typing, chat_hub
from transports.socketio_peer import JavaScript, Socket, javascript

pytestmark = pytest.mark.anyio

LOBBY = "chat/lobby"
WAYS = {
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"]},
    "upgrade": {"transports": ["polling", "websocket"]},
}


@pytest.fixture
async def program() -> AsyncIterator[JavaScript]:
    async with javascript() as program:
        yield program


@asynccontextmanager
async def served(hub: Hubbub | None = None, **options: Any) -> AsyncIterator[Served]:
    if hub is None:
        hub = chat_hub()
        hub.socketio(**options)
    async with serving(hub) as found:
        yield found


async def joined(socket: Socket) -> dict[str, Any]:
    [position] = await socket.ask("$join", {"room": LOBBY})
    assert "epoch" in position, position
    return position


@pytest.mark.parametrize("way", WAYS)
async def test_events_and_acknowledgements_are_messages_and_replies_over_each_transport(program, way):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS[way], auth={"token": "ada"})
        bob = program.open(at.http, "bob", options=WAYS[way], auth={"token": "bob"})
        for socket in (ada, bob):
            assert not (await socket.until("connect"))["recovered"]
        if way == "upgrade":
            assert await ada.until("upgrade") == "websocket"
        for socket in (ada, bob):
            await joined(socket)
        assert await ada.ask("say", {"text": "hi"}, {"room": LOBBY}) == [{"said": "hi"}]
        data, about, _ = await bob.event("say")
        assert (data, about) == ({"text": "hi"}, {"room": LOBBY, "offset": 1, "from": "ada"})
        # What is no object is the arguments, both ways.
        assert await bob.ask("chat message", "hello", {"room": LOBBY}) == ["hello", 2]
        text, about, _ = await ada.event("chat message")
        assert (text, about["room"], about["from"]) == ("hello", LOBBY, "bob")
        # The sender was excluded from its own.
        assert ada.events("say") == []


@pytest.mark.parametrize("way", WAYS)
async def test_binary_data_arrives_as_such_both_ways(program, way):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS[way], auth={"token": "ada"})
        await joined(ada)
        pixels = bytes(range(256))
        [reply] = await ada.ask("picture", {"name": "sky", "pixels": pixels}, {"room": LOBBY})
        assert reply == {"name": "sky", "pixels": pixels}
        data, about, _ = await ada.event("picture")
        assert (data, about["offset"]) == ({"name": "sky", "pixels": pixels}, 1)


async def test_socketio_and_native_clients_meet_in_one_room(program):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await joined(ada)
        async with websockets.connect(f"{at.url}?token=bob") as bob:
            await bob.send(json.dumps({"type": "$join", "id": 1, "room": LOBBY}))
            assert [member["user"] for member in (await ada.event("$joined"))[0]] == ["bob"]
            message = {"type": "say", "id": 2, "room": LOBBY, "data": {"text": "from native"}}
            await bob.send(json.dumps(message))
            assert (await ada.event("say"))[0] == {"text": "from native"}
            await ada.ask("picture", {"name": "dot", "pixels": b"\x00\xff"}, {"room": LOBBY})
            while (envelope := json.loads(await bob.recv()))["type"] != "picture":
                pass
            assert envelope["data"] == {"name": "dot", "pixels": "AP8="}
            assert (envelope["from"], envelope["offset"]) == ("ada", 2)
        assert [member["user"] for member in (await ada.event("$left"))[0]] == ["bob"]


async def test_what_can_not_be_done_is_an_acknowledgement_that_says_so(program):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        [answer] = await ada.ask("say", {"text": "hi"}, {"room": LOBBY})
        assert answer["$error"]["code"] == "not_joined"
        [answer] = await ada.ask("nothing of the kind")
        assert answer["$error"]["code"] == "unknown_type"
        await joined(ada)
        [answer] = await ada.ask("say", {"text": 5}, {"room": LOBBY})
        assert answer["$error"]["errors"] == [{"path": "$.text", "message": "Expected `str`, got `int`"}]
        # Without an acknowledgement it is an event.
        ada.emit("nothing of the kind")
        assert (await ada.event("$error"))[0]["code"] == "unknown_type"


async def test_a_login_is_the_token_in_auth_and_a_refused_one_a_connect_error(program):
    async with served() as at:
        options = {**WAYS["websocket"], "extraHeaders": {"x-agent": "tests"}}
        ada = program.open(at.http, "ada", options=options, auth={"token": "ada", "color": "red"})
        [seen] = await ada.ask("whoami")
        assert (seen["user"], seen["agent"]) == ("ada", "tests")
        assert seen["auth"] == {"token": "ada", "color": "red"}
        assert seen["session"] == (await ada.until("connect"))["id"]
        nobody = program.open(at.http, "nobody", options=WAYS["websocket"], auth={"token": "nobody"})
        error = await nobody.until("connect_error")
        assert error["message"] == "You are nobody."
        assert error["data"] == {"code": "denied", "message": "You are nobody.", "retry": False}
        assert not error["active"]


async def test_namespaces_are_hubs_of_their_own_over_one_line(program):
    admin = chat_hub()
    hub = chat_hub()
    hub.socketio(namespaces={"/admin": admin})
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await joined(ada)
        boss = program.open(at.http, "boss", over="ada", namespace="/admin", auth={"token": "boss"})
        await joined(boss)
        await ada.ask("chat message", "for all", {"room": LOBBY})
        await boss.ask("chat message", "for admins", {"room": LOBBY})
        assert [event[0] for event in ada.events("chat message")] == ["for all"]
        assert [event[0] for event in boss.events("chat message")] == ["for admins"]
        unknown = program.open(at.http, "unknown", over="ada", namespace="/unknown")
        assert (await unknown.until("connect_error"))["message"] == "Invalid namespace"
        # One is left, and the other goes on.
        boss.do("disconnect")
        assert await boss.until("disconnect") == "io client disconnect"
        assert await ada.ask("chat message", "still here", {"room": LOBBY}) == ["still here", 2]


async def test_a_code_that_ends_it_is_a_disconnect_and_the_client_stays_away(program):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        ada.emit("leave", {"code": 4401, "reason": "log in again"})
        assert await ada.until("disconnect") == "io server disconnect"
        assert (await ada.event("$close"))[0] == {"code": 4401, "reason": "log in again"}


@pytest.mark.parametrize("way", ["websocket", "polling"])
async def test_a_code_after_which_clients_come_back_closes_the_line_and_they_recover(program, way):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS[way])
        before = await ada.until("connect")
        await joined(ada)
        ada.emit("leave", {"code": 4508})
        assert await ada.until("disconnect") == "transport close"
        again = await ada.until("connect", 2)
        assert (again["recovered"], again["id"]) == (True, before["id"])
        # It is in its room without joining.
        assert (await ada.ask("chat message", "back", {"room": LOBBY}))[0] == "back"
        assert (await ada.event("chat message"))[0] == "back"


async def test_what_was_missed_while_the_line_was_cut_comes_once_and_in_order(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at, FaultProxy("127.0.0.1", at.port) as proxy:
        ada = program.open(
            f"http://127.0.0.1:{proxy.port}", "ada", options=WAYS["websocket"], auth={"token": "ada"}
        )
        await joined(ada)
        lobby = hub.rooms[0](name="lobby")
        for number in range(300):
            await lobby.send(Say(text=str(number)))
            if number % 60 == 30:
                proxy.apply(Cut())
        await ada.event("say", 300)
        assert [event[0]["text"] for event in ada.events("say")] == [str(number) for number in range(300)]
        assert all(connect["recovered"] for connect in ada.values("connect")[1:])
        assert len(ada.values("connect")) > 1


async def test_messages_to_a_user_that_came_meanwhile_are_not_missed(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await ada.until("connect")
        await hub.user("ada").send(Say(text="1"))
        await ada.event("say")
        ada.do("disconnect")
        await ada.until("disconnect")
        for text in ("2", "3"):
            await hub.user("ada").send(Say(text=text))
        ada.do("connect")
        await ada.event("say", 3)
        assert [event[0]["text"] for event in ada.events("say")] == ["1", "2", "3"]
        assert ada.events("say")[2][1] == {"room": "$user/ada", "offset": 3}


async def test_a_message_to_a_user_that_comes_while_the_session_is_taken_up_comes_once(program):
    class Meddling(MemoryBroker):
        """Brings a message while it is asked who had the session."""

        said = False
        armed = False

        async def history(self, room: str, since: Position | None, limit: int) -> History:
            if self.armed:
                self.armed, self.said = False, True
                await hub.user("ada").send(Say(text="3"))
            return await super().history(room, since, limit)

    broker = Meddling()
    hub = chat_hub()
    hub.broker = broker
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await ada.until("connect")
        await hub.user("ada").send(Say(text="1"))
        await ada.event("say")
        ada.do("disconnect")
        await ada.until("disconnect")
        await hub.user("ada").send(Say(text="2"))
        broker.armed = True
        ada.do("connect")
        await ada.event("say", 3)
        assert (await ada.ask("whoami"))[0]["user"] == "ada"
        assert broker.said
        assert [event[0]["text"] for event in ada.events("say")] == ["1", "2", "3"]


async def test_who_comes_back_as_another_user_begins_anew(program):
    async with served() as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await joined(ada)
        [data, offset] = await ada.event("$welcome")
        assert data["user"] == "ada"
        bob = program.open(
            at.http,
            "bob",
            options=WAYS["websocket"],
            auth={"token": "bob", "pid": "taken from ada", "offset": offset},
        )
        assert not (await bob.until("connect"))["recovered"]
        [answer] = await bob.ask("say", {"text": "hi"}, {"room": LOBBY})
        assert answer["$error"]["code"] == "not_joined"


async def test_who_was_away_for_longer_than_history_reaches_is_told_of_the_gap(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        await joined(ada)
        ada.do("disconnect")
        await ada.until("disconnect")
        lobby = hub.rooms[0](name="lobby")
        for number in range(1100):
            await lobby.send(Say(text=str(number)))
        ada.do("connect")
        assert (await ada.until("connect", 2))["recovered"]
        data, about, _ = await ada.event("$gap")
        assert (data["offset"], about) == (100, {"room": LOBBY})
        await ada.event("say", 1000)
        assert [event[1]["offset"] for event in ada.events("say")] == list(range(101, 1101))


async def test_an_offset_that_is_none_of_ours_begins_a_new_session(program):
    async with served() as at:
        ada = program.open(
            at.http, "ada", options=WAYS["websocket"], auth={"pid": "of another server", "offset": "1-2-3"}
        )
        assert not (await ada.until("connect"))["recovered"]
        forged = program.open(
            at.http, "forged", options=WAYS["websocket"], auth={"pid": "x", "offset": "ab12!chat/lobby:e:1"}
        )
        assert not (await forged.until("connect"))["recovered"]
        assert (await forged.event("$welcome"))[0]["resumed"] is False


async def test_plain_clients_are_sent_the_events_data_alone(program):
    async with served(plain=True) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await joined(ada)
        await ada.ask("chat message", "hello", {"room": LOBBY})
        assert ada.values("event") == [["chat message", "hello"]]


async def test_ephemeral_messages_reach_who_is_there(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        await joined(ada)
        await hub.rooms[0](name="lobby").send(Typing(), ephemeral=True)
        assert (await ada.event("typing"))[:2] == [{}, {"room": LOBBY}]


async def test_a_kicked_client_is_told_and_stays_connected(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"], auth={"token": "ada"})
        await joined(ada)
        assert await hub.rooms[0](name="lobby").kick("ada", reason="Enough.") == 1
        data, about = (await ada.event("$kicked"))[:2]
        assert (data["message"], about) == ("Enough.", {"room": LOBBY})
        # It does not come back into the room with its session.
        ada.do("cut")
        assert (await ada.until("connect", 2))["recovered"]
        [answer] = await ada.ask("say", {"text": "hi"}, {"room": LOBBY})
        assert answer["$error"]["code"] == "not_joined"


async def test_a_message_that_is_too_big_ends_the_connection(program):
    hub = chat_hub(Settings(max_message=10_000))
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options={**WAYS["websocket"], "reconnection": False})
        await joined(ada)
        ada.emit("say", {"text": "x" * 20_000}, {"room": LOBBY})
        await ada.until("disconnect")


async def test_who_sends_too_many_messages_is_closed_and_comes_back(program):
    hub = chat_hub(Settings(max_message_rate=10, max_message_burst=20))
    hub.socketio()
    async with served(hub) as at:
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        await joined(ada)
        for _ in range(50):
            ada.emit("whoami")
        assert (await ada.event("$close"))[0]["code"] == 4529
        assert await ada.until("disconnect") == "transport close"
        assert (await ada.until("connect", 2))["recovered"]


async def test_a_server_that_stops_says_so_and_its_clients_come_back_to_the_next_one(program):
    store: dict[str, int] = {}
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        store["port"] = at.port
        ada = program.open(at.http, "ada", options=WAYS["websocket"])
        await joined(ada)
    assert (await ada.event("$drain"))[0].keys() == {"after"}
    assert (await ada.event("$close"))[0]["code"] == 1012
    assert await ada.until("disconnect") == "transport close"
    other = chat_hub()
    other.socketio()
    async with serving(other, port=store["port"]):
        # A broker in memory has forgotten the session.
        assert not (await ada.until("connect", 2))["recovered"]


async def test_the_hubs_of_other_namespaces_let_their_clients_go_too(program):
    hub = chat_hub()
    hub.socketio(namespaces={"/admin": chat_hub()})
    async with served(hub) as at:
        boss = program.open(at.http, "boss", options=WAYS["websocket"], namespace="/admin")
        await joined(boss)
    assert (await boss.event("$drain"))[0].keys() == {"after"}
    assert (await boss.event("$close"))[0]["code"] == 1012


async def test_several_join_at_once_and_all_are_sent_the_same(program):
    hub = chat_hub()
    hub.socketio()
    async with served(hub) as at:
        sockets = [
            program.open(at.http, f"socket {number}", options=WAYS["upgrade"], auth={"token": f"{number}"})
            for number in range(5)
        ]
        await asyncio.gather(*map(joined, sockets))
        for number in range(20):
            await hub.rooms[0](name="lobby").send(Picture(name=str(number), pixels=b"\x01\x02"))
        for socket in sockets:
            await socket.event("picture", 20)
            assert [event[0]["name"] for event in socket.events("picture")] == [str(n) for n in range(20)]
            assert all(event[0]["pixels"] == b"\x01\x02" for event in socket.events("picture"))
