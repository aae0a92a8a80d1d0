import asyncio
import itertools
from typing import Any

import pytest

from chat_room import LOBBY, Say, chat_hub, nothing_more, post, said
from hubbub import Connection, Hubbub, Position, Room, Settings, Unavailable
from hubbub.brokers.base import History, Receiver
from hubbub.brokers.memory import MemoryBroker
from told import Gate, Told
from wire import talk

pytestmark = pytest.mark.anyio


async def test_joining_since_a_position_replays_exactly_what_was_missed(start):
    hub = Hubbub()
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await post(bob, "1", "2", "3")
        await post(bob, "4", "5")
        assert await ada.join(LOBBY, since=since) == since
        assert await said(ada, 2) == [(4, "4"), (5, "5")]
        await post(bob, "6")
        assert await said(ada, 1) == [(6, "6")]
        await nothing_more(ada)


async def test_the_envelopes_of_a_replay_are_those_of_the_live_messages(start):
    hub = Hubbub()
    chat = chat_hub(hub)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await bob.join(LOBBY)
        await bob.send(type="say", room=LOBBY, data={"text": "hi"})
        live = await bob.receive()
        assert live["from"].startswith("guest:")
        await ada.join(LOBBY, since=since)
        assert await ada.receive() == live


async def test_a_long_replay_comes_in_order_and_whole(start):
    hub = Hubbub()
    chat_hub(hub, history=1000)
    texts = [str(number) for number in range(1, 351)]
    async with talk(start(hub).url) as ada:
        since = await post(ada, "0")
        await post(ada, *texts)
        await ada.join(LOBBY, since=since)
        assert await said(ada, 350) == list(enumerate(texts, 2))
        await nothing_more(ada)


async def test_others_have_their_turns_in_a_long_replay(start, monkeypatch):
    hub, turns, read = Hubbub(), itertools.count(), Told()
    chat_hub(hub, history=1000)
    history = MemoryBroker.history

    async def noted(self: MemoryBroker, *arguments: Any) -> History:
        read(next(turns))
        asyncio.get_running_loop().call_soon(next, turns)
        return await history(self, *arguments)

    monkeypatch.setattr(MemoryBroker, "history", noted)
    async with talk(start(hub).url) as ada:
        since = await post(ada, "0")
        await post(ada, *["x"] * 350)
        await ada.join(LOBBY, since=since)
        await said(ada, 350)
    # Between two reads somebody else had one.
    assert [await read.next() for _ in range(4)] == [0, 2, 4, 6]


@pytest.mark.parametrize("subprotocol", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_a_replay_of_more_than_an_outbox_holds_waits_for_its_reader(start, subprotocol):
    hub = Hubbub(Settings(max_outbox=65536))
    chat_hub(hub, history=1000)
    large = "x" * 20000
    url = start(hub).url
    async with talk(url, subprotocols=[subprotocol], max_size=None) as ada, talk(url) as bob:
        since = await post(bob, "0")
        for _ in range(30):
            await post(bob, *[large] * 10)
        await ada.join(LOBBY, since=since)
        assert [offset for offset, _ in await said(ada, 300)] == list(range(2, 302))
        await nothing_more(ada)


async def test_without_a_position_only_what_is_new_comes(start):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(start(hub).url) as ada:
        await post(ada, "old")
        assert (await ada.join(LOBBY))["offset"] == 1
        await ada.send(type="post", data={"texts": ["new"]})
        assert await said(ada, 1) == [(2, "new")]


async def test_what_was_not_kept_is_not_replayed_and_is_no_gap(start):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(start(hub).url) as ada:
        since = await post(ada, "1")
        await post(ada, "typing", ephemeral=True)
        await post(ada, "2")
        await ada.join(LOBBY, since=since)
        assert await said(ada, 1) == [(2, "2")]
        await nothing_more(ada)


async def test_joining_again_replays_again_and_doubles_nothing(start):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(start(hub).url) as ada:
        start_position = await ada.join(LOBBY)
        await post(ada, "1")
        await ada.join(LOBBY, since=start_position)
        assert await said(ada, 1) == [(1, "1")]
        assert (await ada.join(LOBBY))["offset"] == 1
        await nothing_more(ada)
        await post(ada, "2")
        await nothing_more(ada)


async def test_a_client_is_not_replayed_what_it_was_excluded_from(start):
    hub = Hubbub()
    chat = chat_hub(hub)

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await ada.join(LOBBY)
        await ada.ask(type="say", room=LOBBY, data={"text": "mine"})
        await post(bob, "another's")
        await ada.join(LOBBY, since=since)
        assert await said(ada, 1) == [(2, "another's")]
        await nothing_more(ada)
        await bob.join(LOBBY, since=since)
        assert await said(bob, 2) == [(1, "mine"), (2, "another's")]


# Gaps


async def test_a_gap_is_told_where_history_no_longer_reaches(start):
    hub = Hubbub()
    chat_hub(hub, history=2)
    async with talk(start(hub).url) as ada:
        since = await post(ada, "1")
        await post(ada, "2", "3", "4", "5")
        assert await ada.join(LOBBY, since=since) == since
        gap = await ada.receive()
        assert gap == {"type": "$gap", "room": LOBBY, "data": {"epoch": since["epoch"], "offset": 3}}
        assert await said(ada, 2) == [(4, "4"), (5, "5")]
        await post(ada, "6")
        await nothing_more(ada)


async def test_no_gap_is_told_where_history_just_reaches(start):
    hub = Hubbub()
    chat_hub(hub, history=2)
    async with talk(start(hub).url) as ada:
        since = await post(ada, "1", "2", "3")
        await post(ada, "4", "5")
        await ada.join(LOBBY, since=since)
        assert await said(ada, 2) == [(4, "4"), (5, "5")]


@pytest.mark.parametrize("since", [{"epoch": "another", "offset": 1}, {"epoch": None, "offset": 99}])
async def test_a_position_that_can_not_be_of_this_room_is_a_gap_before_everything_kept(start, since):
    hub = Hubbub()
    chat_hub(hub)
    async with talk(start(hub).url) as ada:
        newest = await post(ada, "1", "2")
        await ada.join(LOBBY, since={**since, "epoch": since["epoch"] or newest["epoch"]})
        gap = await ada.receive()
        assert gap == {"type": "$gap", "room": LOBBY, "data": {"epoch": newest["epoch"], "offset": 0}}
        assert await said(ada, 2) == [(1, "1"), (2, "2")]


async def test_in_a_room_without_history_all_that_was_missed_is_a_gap(start):
    hub = Hubbub()
    chat_hub(hub, history=0)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await bob.join(LOBBY)
        since = await post(ada, "1")
        await ada.join(LOBBY, since=since)
        await nothing_more(ada)
        await ada.ask(type="$leave", room=LOBBY)
        newest = await post(ada, "2", "3")
        await ada.join(LOBBY, since=since)
        assert await ada.receive() == {"type": "$gap", "room": LOBBY, "data": newest}
        assert newest["offset"] == 3
        await nothing_more(ada)


# Publishing while others catch up


class SlowHistory(MemoryBroker):
    """Reads history at once, and hands it over when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = Told(), Gate()

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        found = await super().history(room, since, limit)
        self.asked()
        await self.gate.passed()
        return found


async def test_messages_that_race_a_replay_come_in_order_and_once(start):
    broker = SlowHistory()
    hub = Hubbub(broker=broker)
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await post(bob, "1")
        await post(bob, "2")
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        assert await ada.receive() == {"type": "$ack", "id": 1, "room": LOBBY, "data": since}
        await broker.asked.next()
        await post(bob, "3")
        await post(bob, "typing", ephemeral=True)
        await post(bob, "4")
        broker.gate.open()
        assert await said(ada, 3) == [(2, "2"), (3, "3"), (4, "4")]
        await post(bob, "5")
        assert await said(ada, 1) == [(5, "5")]
        await nothing_more(ada)


async def test_messages_that_age_out_during_a_replay_are_told_as_a_gap(start):
    broker = SlowHistory()
    hub = Hubbub(broker=broker)
    chat_hub(hub, history=2)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await post(bob, "1")
        await post(bob, "2")
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        await broker.asked.next()
        await post(bob, "3", "4", "5")
        broker.gate.open()
        assert (await ada.receive())["type"] == "$ack"
        assert await said(ada, 1) == [(2, "2")]
        assert (await ada.receive())["data"] == {"epoch": since["epoch"], "offset": 3}
        assert await said(ada, 2) == [(4, "4"), (5, "5")]


async def test_a_line_that_is_lost_during_a_replay_ends_it(start):
    broker = SlowHistory()
    hub = Hubbub(broker=broker)
    chat = chat_hub(hub)
    told = Told()

    @chat.on_leave
    async def leave(name: str) -> None:
        told(name)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        since = await post(bob, "1")
        await post(bob, "2")
        await ada.send(type="$join", room=LOBBY, data={"since": since})
        await broker.asked.next()
        ada.websocket.transport.abort()
        broker.gate.open()
        assert await told.next() == "lobby"
        # The room goes on without it.
        await bob.join(LOBBY)
        await post(bob, "3")


class LateFeed(SlowHistory):
    """Delivers a room's messages only after a gate is open: its history is ahead of its feed."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = Gate()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, receiver: Receiver) -> None:
        feed, tasks = self.feed, self._tasks

        class Late:
            """Passes deliveries on, in order, when the gate is open."""

            def __init__(self) -> None:
                self.waiting: list[tuple[Any, ...]] = []

            def deliver(self, *delivery: Any) -> None:
                self.waiting.append(delivery)
                task = asyncio.create_task(self.pass_on())
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            async def pass_on(self) -> None:
                await feed.passed()
                receiver.deliver(*self.waiting.pop(0))

            def control(self, payload: bytes) -> None: ...

        await super().start(Late())


async def test_what_the_feed_is_behind_with_is_not_brought_again(start):
    broker = LateFeed()
    broker.gate.open()
    hub = Hubbub(broker=broker)
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob, talk(url) as eve:
        await bob.join(LOBBY)
        # Of these the feed has brought nothing yet, but ada has seen two: on another instance.
        since = await post(eve, "1", "2")
        await post(eve, "3")
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        assert (await ada.receive())["type"] == "$ack"
        await broker.asked.next()
        broker.feed.open()
        assert await said(ada, 1) == [(3, "3")]
        assert await said(bob, 3) == [(1, "1"), (2, "2"), (3, "3")]
        await post(eve, "4")
        assert await said(ada, 1) == [(4, "4")]
        await nothing_more(ada)


async def test_a_feed_that_catches_up_while_history_is_read_is_not_waited_for(start):
    broker = LateFeed()
    hub = Hubbub(broker=broker)
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob, talk(url) as eve:
        await bob.join(LOBBY)
        since = await post(eve, "1", "2")
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        assert (await ada.receive())["type"] == "$ack"
        await broker.asked.next()
        broker.feed.open()
        assert await said(bob, 2) == [(1, "1"), (2, "2")]
        broker.gate.open()
        # The join is over, and not only when the next message comes.
        await nothing_more(ada)
        await post(eve, "3")
        assert await said(ada, 1) == [(3, "3")]


async def test_a_line_that_is_lost_while_the_feed_is_behind_ends_the_replay(start):
    broker = LateFeed()
    broker.gate.open()
    hub = Hubbub(broker=broker)
    chat = chat_hub(hub)
    told = Told()

    @chat.on_leave
    async def leave(name: str) -> None:
        told(name)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob, talk(url) as eve:
        await bob.join(LOBBY)
        since = await post(eve, "1", "2")
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        assert (await ada.receive())["type"] == "$ack"
        await broker.asked.next()
        ada.websocket.transport.abort()
        assert await told.next() == "lobby"
        broker.feed.open()
        assert await said(bob, 2) == [(1, "1"), (2, "2")]


async def test_who_can_not_be_replayed_what_it_missed_is_told_to_come_back(start):
    broker = Refusing()
    hub = Hubbub(broker=broker)
    chat_hub(hub)
    url = start(hub).url
    async with talk(url) as ada:
        since = await post(ada, "1")
        await post(ada, "2")
        broker.refuses = True
        await ada.send(type="$join", room=LOBBY, id=1, data={"since": since})
        assert (await ada.receive())["type"] == "$ack"
        assert await ada.closed() == (1013, "history can't be read now")
    broker.refuses = False
    async with talk(url) as ada:
        await ada.join(LOBBY, since=since)
        assert await said(ada, 1) == [(2, "2")]


class Refusing(MemoryBroker):
    """Can't read history while `refuses` is set."""

    refuses = False

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        if self.refuses:
            raise Unavailable("The broker is away; try again.")
        return await super().history(room, since, limit)
