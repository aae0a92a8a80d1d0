"""The broker is in trouble: unreachable at the start, away while the hub runs, slow, back again, emptied."""

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest

from hubbub import Connection, Hubbub, Message, Room, Settings, Unavailable
from hubbub.brokers.memory import MemoryStore
from hubbub.testing.serving import Served, serving
from troubled import TroubledBroker
from wire import Client, talk

pytestmark = pytest.mark.anyio

LOBBY = "chat/lobby"
AWAY = {"code": "unavailable", "message": "The broker can't be reached.", "retry": True}


class Say(Message):
    text: str


class Ask(Message):
    pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what happens in the engine has no event
            await asyncio.sleep(0.001)


def chat(broker: TroubledBroker, **settings: float) -> Hubbub:
    hub = Hubbub(Settings(lease=0.3, **settings), broker=broker)
    rooms = hub.room("chat/{name}", history=3, presence=True)
    hub.authenticate(lambda connection: connection.token)

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @rooms.on_message
    async def who(room: Room, message: Ask) -> int:
        return len(await room.members())

    return hub


@asynccontextmanager
async def served(broker: TroubledBroker, **settings: float) -> AsyncIterator[tuple[Hubbub, Served]]:
    hub = chat(broker, **settings)
    async with serving(hub) as server:
        yield hub, server


def probe(served: Served, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


async def say(client: Client, text: str) -> dict:
    return await client.ask(type="say", room=LOBBY, data={"text": text})


class TestUnreachableAtTheStart:
    async def test_the_hub_starts_is_alive_and_not_ready_until_the_broker_is_there(self):
        broker = TroubledBroker(away=True)
        async with served(broker) as (_, server):
            assert await asyncio.to_thread(probe, server, "/healthz") == (200, "alive\n")
            status, text = await asyncio.to_thread(probe, server, "/readyz")
            assert (status, text) == (503, "not ready: the broker can't be reached\n")
            broker.come_back()
            assert await asyncio.to_thread(probe, server, "/readyz") == (200, "ready\n")
            async with talk(server.url) as client:
                await client.join(LOBBY)

    @pytest.mark.parametrize("query", ["", "/?token=ada"])
    async def test_a_client_is_told_to_come_back_later(self, query, logs):
        broker = TroubledBroker(away=True)
        async with served(broker) as (_, server):
            async with talk(server.url + query, welcome=False) as client:
                assert await client.receive() == {"type": "$error", "data": AWAY}
                assert await client.closed() == (1013, "the broker can't be reached now")
            broker.come_back()
            async with talk(server.url + query):
                pass
        assert not [record for record in logs.records if record.exc_info]

    async def test_all_who_come_at_once_share_one_request_for_the_secret(self):
        broker = TroubledBroker()
        broker.slow = True
        async with served(broker) as (_, server):

            async def come() -> None:
                async with talk(server.url):
                    pass

            coming = [asyncio.create_task(come()) for _ in range(5)]
            await until(lambda: broker.calls.get("secret") == 1)
            broker.let_go()
            await asyncio.gather(*coming)
            await come()
            assert broker.calls["secret"] == 1

    async def test_a_broker_that_says_nothing_is_waited_for_as_long_as_the_setting_says(self):
        broker = TroubledBroker()
        broker.slow = True
        async with served(broker, broker_timeout=0.05) as (_, server):
            async with talk(server.url, welcome=False) as client:
                told = await client.receive()
                assert told["data"]["message"] == "The broker did not answer within 0.05 s."
                assert (await client.closed())[0] == 1013
            broker.let_go()
            async with talk(server.url):
                pass

    async def test_a_client_that_leaves_takes_the_secret_from_nobody(self):
        broker = TroubledBroker()
        broker.slow = True
        async with served(broker) as (_, server):
            async with talk(server.url, welcome=False):
                await until(lambda: broker.calls.get("secret") == 1)
            coming = asyncio.create_task(talk(server.url).__aenter__())
            broker.let_go()
            client = await coming
            await client.websocket.close()

    async def test_a_hub_stops_while_it_waits_for_the_secret(self):
        broker = TroubledBroker()
        broker.slow = True
        async with served(broker, drain=0.05) as (_, server), talk(server.url, welcome=False):
            await until(lambda: broker.calls.get("secret") == 1)

    async def test_a_startup_hook_may_go_on_without_what_it_could_not_publish(self):
        broker = TroubledBroker(away=True)
        hub, problems = chat(broker), []

        @hub.on_startup
        async def announce() -> None:
            try:
                await hub.user("ada").send(Say("up"))
            except Unavailable as problem:
                problems.append(str(problem))

        async with hub.lifespan():
            assert problems == ["The broker can't be reached."]

    async def test_a_hook_that_publishes_as_a_client_comes_sends_it_away_until_later(self, logs):
        broker = TroubledBroker()
        hub = chat(broker)
        gone: list[str] = []

        @hub.on_connect
        async def announce(connection: Connection) -> None:
            await hub.user("ops").send(Say("one more"))

        hub.on_disconnect(lambda connection: gone.append(connection.id))
        async with serving(hub) as server:
            broker.go_away()
            async with talk(server.url, welcome=False) as client:
                assert (await client.receive())["data"] == AWAY
                assert (await client.closed())[0] == 1013
            broker.come_back()
        assert not gone
        assert not [record for record in logs.records if record.exc_info]


class TestAwayWhileItRuns:
    async def test_connections_stay_and_every_request_is_answered_at_once(self, logs):
        broker = TroubledBroker()
        async with (
            served(broker) as (hub, server),
            talk(f"{server.url}/?token=ada") as ada,
        ):
            await ada.join(LOBBY)
            broker.go_away()
            assert (await say(ada, "lost"))["data"] == AWAY
            for kind in ("$history", "$presence"):
                assert (await ada.ask(type=kind, room=LOBBY))["data"] == AWAY, kind
            assert (await ada.ask(type="ask", room=LOBBY))["data"] == AWAY
            assert (await ada.ask(type="$join", room="chat/other"))["data"] == AWAY
            assert (await ada.ask(type="$ping"))["type"] == "$pong"
            assert (await ada.ask(type="$session"))["type"] == "$ack"
            with pytest.raises(Unavailable):
                await hub.user("ada").send(Say("lost"))
            with pytest.raises(Unavailable):
                await hub.rooms[0](name="lobby").members()
            broker.come_back()
            assert (await say(ada, "there"))["type"] == "$ack"
            assert (await ada.ask(type="ask", room=LOBBY))["data"] == 1
            await ada.join("chat/other")
        assert not [record for record in logs.records if record.exc_info]

    async def test_what_others_published_meanwhile_is_delivered_when_it_is_back(self):
        store = MemoryStore(lease=0.3)
        cut_off, other = TroubledBroker(store), TroubledBroker(store)
        async with (
            served(cut_off) as (_, server),
            served(other) as (hub, _),
            talk(server.url) as ada,
        ):
            await ada.join(LOBBY)
            cut_off.go_away()
            for text in ("one", "two"):
                await hub.rooms[0](name="lobby").send(Say(text))
            cut_off.come_back()
            told = [await ada.receive_type("say") for _ in range(2)]
            assert [(one["offset"], one["data"]["text"]) for one in told] == [(1, "one"), (2, "two")]

    async def test_members_are_told_of_the_gap_when_too_much_was_missed(self):
        store = MemoryStore(lease=0.3)
        cut_off, other = TroubledBroker(store), TroubledBroker(store)
        async with (
            served(cut_off) as (_, server),
            served(other) as (hub, _),
            talk(server.url) as ada,
        ):
            await ada.join(LOBBY)
            cut_off.go_away()
            for number in range(5):
                await hub.rooms[0](name="lobby").send(Say(str(number)))
            cut_off.come_back()
            assert (await ada.receive_type("$gap"))["data"]["offset"] == 2
            assert [(await ada.receive())["offset"] for _ in range(3)] == [3, 4, 5]

    async def test_an_emptied_broker_is_a_gap_for_every_member_at_once(self):
        broker = TroubledBroker()
        async with served(broker) as (_, server), talk(server.url) as ada:
            before = await ada.join(LOBBY)
            assert (await say(ada, "forgotten"))["type"] == "$ack"
            broker.empty()
            gap = await ada.receive_type("$gap")
            assert gap["data"]["offset"] == 0
            assert gap["data"]["epoch"] != before["epoch"]
            assert (await say(ada, "new"))["type"] == "$ack"
            page = (await ada.ask(type="$history", room=LOBBY))["data"]
            assert [message["data"]["text"] for message in page["messages"]] == ["new"]

    async def test_a_room_that_was_left_meanwhile_is_given_back_when_it_is_back(self):
        broker = TroubledBroker()
        async with served(broker) as (_, server), talk(server.url) as ada:
            await ada.join(LOBBY)
            broker.go_away()
            assert (await ada.ask(type="$leave", room=LOBBY))["type"] == "$ack"
            assert (await say(ada, "outside"))["data"]["code"] == "not_joined"
            assert broker.store.stream(LOBBY).members
            broker.come_back()
            await until(lambda: not broker.store.stream(LOBBY).subscribers)
            await until(lambda: not broker.store.stream(LOBBY).members)

    async def test_a_room_that_was_left_and_joined_again_meanwhile_goes_on(self):
        broker = TroubledBroker()
        async with served(broker) as (hub, server), talk(server.url) as ada:
            await ada.join(LOBBY)
            broker.go_away()
            await ada.ask(type="$leave", room=LOBBY)
            assert (await ada.ask(type="$join", room=LOBBY))["data"] == AWAY
            broker.come_back()
            await ada.join(LOBBY)
            await until(lambda: broker.calls.get("renew", 0) > 1)
            await hub.rooms[0](name="lobby").send(Say("hi"))
            assert (await ada.receive_type("say"))["data"] == {"text": "hi"}

    async def test_a_client_that_goes_meanwhile_is_gone_when_it_is_back(self, logs):
        broker = TroubledBroker()
        async with served(broker) as (_, server):
            async with talk(f"{server.url}/?token=ada") as ada:
                await ada.join(LOBBY)
                broker.go_away()
            await logs.wait("disconnect")
            broker.come_back()
            await until(lambda: not broker.store.stream(LOBBY).members)
            await until(lambda: not broker.store.stream("$user/ada").subscribers)

    async def test_a_session_is_taken_up_later(self):
        broker = TroubledBroker()
        async with served(broker) as (_, server):
            async with talk(server.url) as ada:
                await ada.join(LOBBY)
            broker.go_away()
            resume = {"session": ada.welcome["session"], "rooms": {LOBBY: None}}
            async with talk(server.url) as ada:
                await ada.send(type="$resume", id=1, data=resume)
                assert (await ada.closed())[0] == 1013
            broker.come_back()
            async with talk(server.url) as ada:
                assert (await ada.ask(type="$resume", data=resume))["data"]["resumed"]


class TestReplays:
    async def test_a_feed_that_does_not_come_after_history_is_not_waited_for_without_end(self):
        store = MemoryStore(lease=10)
        dead, other = TroubledBroker(store), TroubledBroker(store)
        async with (
            served(dead, broker_timeout=0.1) as (_, server),
            served(other) as (hub, _),
            talk(server.url) as ada,
            talk(server.url) as bob,
        ):
            begins = await ada.join(LOBBY)
            # Its history can be read, and its feed has died.
            dead.deliver = lambda *entry: None  # type: ignore[method-assign]
            await hub.rooms[0](name="lobby").send(Say("hi"))
            later = {"epoch": begins["epoch"], "offset": 1}
            await bob.join(LOBBY, since=later)
            assert await bob.closed() == (1013, "history can't be read now")

    async def test_a_new_epoch_that_is_told_ends_the_wait(self):
        store = MemoryStore(lease=10)
        dead, other = TroubledBroker(store), TroubledBroker(store)
        async with (
            served(dead) as (_, server),
            served(other) as (hub, _),
            talk(server.url) as ada,
            talk(server.url) as bob,
        ):
            begins = await ada.join(LOBBY)
            dead.deliver = lambda *entry: None  # type: ignore[method-assign]
            await hub.rooms[0](name="lobby").send(Say("hi"))
            await bob.join(LOBBY, since={"epoch": begins["epoch"], "offset": 1})
            reads = dead.calls["history"]
            del dead.deliver
            dead.empty()
            assert (await bob.receive_type("$gap"))["data"]["offset"] == 0
            assert dead.calls["history"] > reads
            await hub.rooms[0](name="lobby").send(Say("after"))
            assert (await bob.receive_type("say"))["data"] == {"text": "after"}


class TestTheSecret:
    async def test_an_emptied_broker_is_asked_for_it_again_and_tokens_from_before_stay_of_use(self):
        store = MemoryStore(lease=0.3)
        broker, other = TroubledBroker(store), TroubledBroker(store)
        async with served(broker) as (_, server):
            async with talk(server.url) as ada:
                await ada.join(LOBBY)
            store.secret = bytes(32)
            broker.empty()
            await until(lambda: broker.calls["secret"] == 2)
            # An instance that starts now knows the new one only.
            async with served(other) as (_, second):
                resume = {"session": ada.welcome["session"], "rooms": {LOBBY: None}}
                async with talk(server.url) as ada:
                    answer = await ada.ask(type="$resume", data=resume)
                    assert answer["data"]["resumed"]
                resume["session"] = answer["data"]["session"]
                async with talk(second.url) as ada:
                    assert (await ada.ask(type="$resume", data=resume))["data"]["resumed"]

    async def test_it_is_asked_for_until_the_broker_tells_it(self):
        broker = TroubledBroker()
        async with served(broker) as (_, server):
            async with talk(server.url):
                pass
            broker.store.secret = bytes(32)
            secret, broker.secret = broker.secret, broker.no_secret  # type: ignore[method-assign]
            broker.empty()
            asked = broker.calls["secret"]
            await until(lambda: broker.calls["secret"] > asked + 1)
            broker.secret = secret  # type: ignore[method-assign]
            asked = broker.calls["secret"]
            await until(lambda: broker.calls["secret"] == asked + 1)
            async with talk(server.url):
                pass
