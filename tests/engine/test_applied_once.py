"""Requests that are sent again because their answer was lost: carried out once, as far as a room shows."""

import asyncio
from collections.abc import Callable

import pytest

from chat_room import LOBBY, Say, chat_hub, nothing_more, said
from hubbub import Connection, Denied, Hubbub, Message, Position, Room, Settings, Unavailable
from hubbub.brokers.base import Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.answers import LARGEST_ANSWER, MAX_ANSWERS
from hubbub.engine.attempt import COUNTED, UNSURE, Attempt
from instances import side_by_side
from told import Gate, Told
from wire import Client, talk

pytestmark = pytest.mark.anyio


class Count(Message):
    value: int


async def again(client: Client, session: str) -> None:
    answer = await client.ask(type="$resume", data={"session": session, "rooms": {LOBBY: None}})
    assert answer["type"] == "$welcome", answer


async def history(client: Client, room: str = LOBBY) -> list[str]:
    answer = await client.ask(type="$history", room=room)
    return [message["data"]["text"] for message in answer["data"]["messages"]]


def speaking(hub: Hubbub, said: Callable[[str], None] = lambda text: None) -> Hubbub:
    """Publish what is said twice, the second time in capitals, in reply to a count of the handler's runs."""
    chat = chat_hub(hub)
    runs = 0

    @chat.on_message
    async def say(room: Room, message: Say) -> Count:
        nonlocal runs
        runs += 1
        await room.send(message)
        await room.send(Say(message.text.upper()))
        said(message.text)
        return Count(runs)

    return hub


async def test_a_request_that_is_sent_again_gets_the_same_answer_and_is_not_run_again(start):
    told = Told()
    url = start(speaking(Hubbub(), told)).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        first = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        session = ada.welcome["session"]
    async with talk(url) as ada:
        await again(ada, session)
        assert await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"}) == first
        second = await ada.ask(type="say", id=2, room=LOBBY, data={"text": "more"})
        assert second["data"] == {"value": 2}
        assert await history(ada) == ["hi", "HI", "more", "MORE"]
    assert [await told.next() for _ in range(2)] == ["hi", "more"]
    assert told.silent


async def test_on_another_instance_a_request_runs_again_and_publishes_nothing_twice(start):
    store = MemoryStore()
    hubs = {name: speaking(Hubbub(broker=MemoryBroker(store))) for name in ("one", "other")}
    url = start(side_by_side(**hubs)).url
    async with talk(f"{url}/one/") as ada:
        await ada.join(LOBBY)
        first = await ada.ask(type="say", id="a", room=LOBBY, data={"text": "hi"})
        session = ada.welcome["session"]
    async with talk(f"{url}/other/") as ada:
        await again(ada, session)
        assert await ada.ask(type="say", id="a", room=LOBBY, data={"text": "hi"}) == first
        assert await history(ada) == ["hi", "HI"]
        await ada.ask(type="say", id="b", room=LOBBY, data={"text": "more"})
        assert await history(ada) == ["hi", "HI", "more", "MORE"]


async def test_a_handler_that_was_cut_short_goes_on_where_it_was(start):
    hub = Hubbub()
    chat = chat_hub(hub)
    fails = True

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)
        if fails:
            raise Unavailable("the broker is away")
        await room.send(Say(message.text.upper()))

    url = start(hub).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        answer = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        assert answer["data"]["retry"]
        # What may be tried again may be so on the same line too.
        fails = False
        answer = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        assert answer["type"] == "$ack"
        assert await history(ada) == ["hi", "HI"]


async def test_what_a_second_run_does_not_say_elsewhere_makes_nothing_come_twice(start):
    store, known = MemoryStore(), set()

    def instance() -> Hubbub:
        hub = Hubbub(broker=MemoryBroker(store))
        chat = chat_hub(hub)

        @chat.on_message
        async def say(room: Room, message: Say) -> None:
            if message.text not in known:
                known.add(message.text)
                await chat(name="news").send(message)
            await room.send(message)

        return hub

    url = start(side_by_side(one=instance(), other=instance())).url
    async with talk(f"{url}/one/") as ada:
        await ada.join(LOBBY)
        await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        session = ada.welcome["session"]
    async with talk(f"{url}/other/") as ada:
        await again(ada, session)
        assert (await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"}))["type"] == "$ack"
        assert await history(ada) == ["hi"]
        await ada.join("chat/news")
        assert await history(ada, "chat/news") == ["hi"]


@pytest.mark.parametrize("rounds", [1, 2])
def test_keys_are_a_run_s_own_in_each_of_however_many_rooms(rounds):
    rooms = [f"room {number}" for number in range(COUNTED + 10)]
    runs = [Attempt("session", 1), Attempt("session", 1)]
    keys = [[(room, run.key(room, b"")) for _ in range(rounds) for room in rooms] for run in runs]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == rounds * len(rooms)
    assert runs[0].published is not None
    assert len(runs[0].published) == COUNTED + 1


async def test_publishes_from_a_thread_and_from_a_task_are_of_the_request_too(start):
    store = MemoryStore()

    def instance() -> Hubbub:
        hub = Hubbub(broker=MemoryBroker(store))
        chat = chat_hub(hub)

        @chat.on_message
        def say(room: Room, message: Say) -> None:
            import anyio.from_thread

            anyio.from_thread.run(room.send, message)

        @hub.on_message
        async def count(message: Count) -> None:
            await asyncio.create_task(publish(str(message.value)))

        async def publish(text: str) -> None:
            await chat(name="lobby").send(Say(text))

        return hub

    url = start(side_by_side(one=instance(), other=instance())).url
    session = None
    for name in ("one", "other"):
        async with talk(f"{url}/{name}/") as ada:
            if session is None:
                session = ada.welcome["session"]
                await ada.join(LOBBY)
            else:
                await again(ada, session)
            await ada.ask(type="say", id=1, room=LOBBY, data={"text": "thread"})
            await ada.ask(type="count", id=2, data={"value": 7})
            assert await history(ada) == ["thread", "7"]


async def test_what_hooks_publish_is_of_no_request(start):
    hub = Hubbub()
    chat = chat_hub(hub)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @chat.on_join
    async def joined(room: Room) -> None:
        await room.send(Say("joined"))

    @chat.on_leave
    async def left(room: Room) -> None:
        await room.send(Say("left"))

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await bob.join(LOBBY)
        for _ in range(2):
            await ada.join(LOBBY)
            await ada.ask(type="say", room=LOBBY, data={"text": "hi"})
            await ada.ask(type="$leave", room=LOBBY)
        assert await history(bob) == ["joined", *["joined", "hi", "left"] * 2]


async def test_requests_of_two_sessions_with_one_id_are_two(start):
    url = start(speaking(Hubbub())).url
    async with talk(url) as ada, talk(url) as bob:
        for client in (ada, bob):
            await client.join(LOBBY)
        for client in (ada, bob):
            await client.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        assert await history(ada) == ["hi", "HI", "hi", "HI"]


async def test_messages_without_an_id_are_never_taken_for_the_same(start):
    url = start(speaking(Hubbub())).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        for _ in range(2):
            await ada.send(type="say", room=LOBBY, data={"text": "hi"})
        assert await said(ada, 4) == [(1, "hi"), (2, "HI"), (3, "hi"), (4, "HI")]


async def test_an_id_that_is_used_twice_on_one_line_is_an_error(start):
    url = start(speaking(Hubbub())).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        await ada.ask(type="say", id=1, room=LOBBY, data={"text": "one"})
        answer = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "other"})
        assert answer["data"]["code"] == "invalid"
        assert answer["data"]["errors"] == [{"path": "$.id", "message": "Used already"}]
        # A text and a number are two ids.
        assert (await ada.ask(type="say", id="1", room=LOBBY, data={"text": "two"}))["type"] == "$ack"
        session = ada.welcome["session"]
    async with talk(url) as ada:
        await again(ada, session)
        # The answer that is remembered is that of the first.
        answer = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "one"})
        assert (answer["type"], answer["data"]) == ("$ack", {"value": 1})


async def test_a_refusal_is_remembered_and_what_may_be_tried_again_is_not(start):
    hub = Hubbub()
    runs = 0

    @hub.on_message
    async def say(message: Say) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise Denied("no")
        if runs == 2:
            raise Unavailable("away")

    url = start(hub).url
    async with talk(url) as ada:
        denied = await ada.ask(type="say", id="denied", data={"text": "x"})
        unavailable = await ada.ask(type="say", id="unavailable", data={"text": "x"})
        session = ada.welcome["session"]
    async with talk(url) as ada:
        await again(ada, session)
        assert await ada.ask(type="say", id="denied", data={"text": "x"}) == denied
        assert unavailable["data"]["code"] == "unavailable"
        assert (await ada.ask(type="say", id="unavailable", data={"text": "x"}))["type"] == "$ack"


async def test_an_answer_that_never_reached_its_line_is_remembered(start):
    hub = Hubbub()
    gate, began, ended = Gate(), Told(), Told()

    @hub.on_message
    async def say(connection: Connection, message: Say) -> Count:
        began()
        await gate.passed()
        await connection.wait_closed()
        ended()
        return Count(7)

    url = start(hub).url
    async with talk(url) as ada:
        session = ada.welcome["session"]
        await ada.send(type="say", id=1, data={"text": "x"})
        await began.next()
        ada.websocket.transport.abort()
    gate.open()
    await ended.next()
    async with talk(url) as ada:
        await again(ada, session)
        assert (await ada.ask(type="say", id=1, data={"text": "x"}))["data"] == {"value": 7}
    assert began.silent


async def test_only_the_newest_answers_and_no_large_ones_are_remembered(start):
    hub = Hubbub()
    runs = Told()

    @hub.on_message
    async def say(message: Say) -> Say:
        runs(message.text[:9])
        return message

    url = start(hub).url
    large = "large" + "x" * LARGEST_ANSWER
    async with talk(url) as ada:
        session = ada.welcome["session"]
        await ada.ask(type="say", id="large", data={"text": large})
        for number in range(2 * MAX_ANSWERS + 1):
            await ada.ask(type="say", id=number, data={"text": str(number)})
    for _ in range(2 * MAX_ANSWERS + 2):
        await runs.next()
    async with talk(url) as ada:
        await again(ada, session)
        for number in (MAX_ANSWERS, 2 * MAX_ANSWERS):
            await ada.ask(type="say", id=number, data={"text": str(number)})
        assert runs.silent
        await ada.ask(type="say", id=0, data={"text": "0"})
        await ada.ask(type="say", id="large", data={"text": large})
    assert [await runs.next() for _ in range(2)] == ["0", "largexxxx"]


async def test_of_all_sessions_that_have_ended_so_many_answers_are_remembered(start, monkeypatch):
    monkeypatch.setattr("hubbub.engine.sessions.MAX_ANSWERS_OF_ENDED", 4)
    hub, runs, left = Hubbub(), Told(), Told()

    @hub.on_message
    async def say(message: Say) -> Say:
        runs(message.text)
        return message

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        left()

    url = start(hub).url
    sessions = []
    for name in ("one", "two", "three"):
        async with talk(url) as client:
            sessions.append(client.welcome["session"])
            for number in range(2):
                await client.ask(type="say", id=number, data={"text": name})
                assert await runs.next() == name
        assert await left.next() == ()
    for session, name in reversed([*zip(sessions, ("one", "two", "three"), strict=True)]):
        async with talk(url) as client:
            await again(client, session)
            await client.ask(type="say", id=0, data={"text": name})
            if name == "one":
                assert await runs.next() == "one"
            assert runs.silent
        assert await left.next() == ()


async def test_after_the_window_an_answer_is_forgotten(start):
    hub, left = speaking(Hubbub(Settings(deduplication_window=1e-6))), Told()

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        left()

    url = start(hub).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        session = ada.welcome["session"]
    assert await left.next() == ()
    async with talk(url) as bob:
        # Another session's end, after hers, is when what is too old is forgotten.
        await bob.join(LOBBY)
        await bob.ask(type="say", id=1, room=LOBBY, data={"text": "bob"})
    assert await left.next() == ()
    async with talk(url) as ada:
        await again(ada, session)
        answer = await ada.ask(type="say", id=1, room=LOBBY, data={"text": "hi"})
        assert answer["data"] == {"value": 3}
        assert await history(ada) == ["hi", "HI", "bob", "BOB", "hi", "HI"]


async def test_a_room_shows_each_message_once_however_often_the_line_is_cut_after_it(start):
    hub = Hubbub()
    chat = chat_hub(hub, history=1000)
    handled = Told()

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message)
        connection.transport.abort()
        handled()

    url = start(hub).url
    async with talk(url) as reader:
        await reader.join(LOBBY)
        async with talk(url) as ada:
            session = ada.welcome["session"]
            await ada.join(LOBBY)
            await ada.send(type="say", id=0, room=LOBBY, data={"text": "0"})
            await handled.next()
        for number in range(1, 50):
            async with talk(url) as ada:
                await again(ada, session)
                # The one before it, whose answer was lost, and one more.
                answer = await ada.ask(type="say", id=number - 1, room=LOBBY, data={"text": str(number - 1)})
                assert answer["type"] == "$ack"
                await ada.send(type="say", id=number, room=LOBBY, data={"text": str(number)})
                await handled.next()
        assert await said(reader, 50) == [(number + 1, str(number)) for number in range(50)]
        await nothing_more(reader)


class Away(MemoryBroker):
    """Fails to publish some of what it is asked to, in a room: before or after it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: list[str] = []
        self.keys: list[str | None] = []

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        self.keys.append(key)
        how = self.failing.pop(0) if self.failing else ""
        if how == "before":
            raise Unavailable("away")
        position = await super().publish(room, payload, sender=sender, key=key, keep=keep)
        if how == "after":
            raise Unavailable("away")
        if how == "never":
            await asyncio.Event().wait()
        return position


async def insist(room: Room, text: str) -> None:
    """Send until it is acknowledged, as a handler may do."""
    while True:
        try:
            async with asyncio.timeout(0.05):
                await room.send(Say(text))
        except (Unavailable, TimeoutError):
            continue
        return


@pytest.mark.parametrize(
    "failing", [["before"], ["after"], ["never"], ["after", "before", "never"], ["", "", "after"]]
)
async def test_a_handler_that_tries_again_publishes_once(start, failing):
    broker = Away()
    hub = Hubbub(broker=broker)
    chat = chat_hub(hub)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        for text in ("one", "one", "two"):
            await insist(room, text)

    async with talk(start(hub).url) as ada:
        await ada.join(LOBBY)
        broker.failing = failing
        await ada.ask(type="say", room=LOBBY, data={"text": ""})
        assert await history(ada) == ["one", "one", "two"]
    assert len(set(broker.keys)) == 3


async def test_what_a_handler_sends_instead_has_a_key_of_its_own(start):
    broker = Away()
    hub = Hubbub(broker=broker)
    chat = chat_hub(hub)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        try:
            await room.send(message)
        except Unavailable:
            await room.send(Say("something else"))
            await room.send(message)

    async with talk(start(hub).url) as ada:
        await ada.join(LOBBY)
        broker.failing = ["after"]
        await ada.ask(type="say", room=LOBBY, data={"text": "hi"})
        assert await history(ada) == ["hi", "something else"]


def test_a_run_remembers_only_so_many_publishes_that_failed():
    run = Attempt("session", 1)
    keys = [run.key("room", b"%d" % number) for number in range(UNSURE + 1)]
    for number, key in enumerate(keys):
        run.unsure_of("room", b"%d" % number, key)
    assert [run.key("room", b"%d" % number) for number in range(UNSURE)] == keys[:-1]
    assert run.key("room", b"%d" % UNSURE) not in keys


def test_the_same_message_in_another_room_is_another_one():
    run = Attempt("session", 1)
    key = run.key("room", b"hi")
    run.unsure_of("room", b"hi", key)
    run.unsure_of("room", b"hi", run.key("room", b"hi there"))
    assert run.key("other", b"hi") == key  # keys are a room's own
    assert run.key("other", b"hi") != key
    assert run.key("room", b"hi") == key
