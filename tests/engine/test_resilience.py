"""Trouble stays where it is: with one connection, one hook, one broker call, and for its time only."""

import asyncio
import resource
import socket

import pytest
from pydantic import BaseModel

from hubbub import Connection, Hubbub, Message, Room, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.outbox import Flusher, Outbox
from told import Told
from transports.raw import KEY, masked, request
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


async def cancelled_elsewhere() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def test_a_handler_that_awaits_what_was_cancelled_has_failed_like_any_other(start):
    hub = Hubbub()

    @hub.on_message
    async def say(message: Say) -> None:
        await cancelled_elsewhere()

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="say", data={"text": ""})
        assert answer["data"]["code"] == "internal"
        assert (await client.ask(type="$ping"))["type"] == "$pong"


async def test_a_leave_hook_that_awaits_what_was_cancelled_keeps_no_other(start):
    hub, told = Hubbub(), Told()
    rooms = hub.room("room/{name}", presence=True)

    @rooms.on_leave
    async def leave(name: str) -> None:
        await cancelled_elsewhere()

    @hub.on_disconnect
    async def disconnect(connection: Connection) -> None:
        told([len(await rooms(name=name).members()) for name in "ab"])

    async with talk(start(hub).url) as client:
        await client.join("room/a")
        await client.join("room/b")
    assert await told.next() == [0, 0]


async def test_a_refused_login_leaves_token_and_info_as_they_were(start):
    hub = Hubbub()
    hub.room("room", presence=True)

    @hub.authenticate
    def who(connection: Connection) -> str | None:
        connection.info = {"from": connection.token}
        return connection.token

    @hub.on_message
    def token(connection: Connection, message: Say) -> str | None:
        return connection.token

    async with talk(f"{start(hub).url}/?token=ada") as client:
        assert (await client.ask(type="$auth", data={"token": "bob"}))["data"]["code"] == "denied"
        assert (await client.ask(type="say", data={"text": ""}))["data"] == "ada"
        await client.join("room")
        (member,) = (await client.ask(type="$presence", room="room"))["data"]["members"]
        assert member == {"user": "ada", "info": {"from": "ada"}}


async def test_an_inbox_can_not_be_left(start):
    hub = Hubbub()
    hub.authenticate(lambda connection: "ada")
    async with talk(start(hub).url) as client:
        assert (await client.ask(type="$leave", room="$user/ada"))["data"]["code"] == "denied"


async def test_a_page_of_history_ends_where_its_messages_are_large(start):
    hub = Hubbub(Settings(max_outbox=4000))
    room = hub.room("room", history=10)

    @room.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message, exclude=None)

    async with talk(start(hub).url) as client:
        epoch = (await client.join("room"))["epoch"]
        for number in range(6):
            await client.ask(type="say", room="room", data={"text": str(number) * 1500})

        async def page(**data) -> tuple[list[str], int]:
            answer = (await client.ask(type="$history", room="room", data=data))["data"]
            return [message["data"]["text"][0] for message in answer["messages"]], answer["offset"]

        assert await page() == (["4", "5"], 6)
        assert await page(since={"epoch": epoch, "offset": 0}) == (["0", "1"], 2)
        assert await page(since={"epoch": epoch, "offset": 2}) == (["2", "3"], 4)
        assert await page(since={"epoch": epoch, "offset": 6}) == ([], 6)


class Points(BaseModel):
    points: list[int]


async def test_however_much_is_wrong_with_a_message_the_answer_is_short(start):
    hub = Hubbub()

    @hub.on_message
    async def points(message: Points) -> None: ...

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="points", data={"points": ["a"] * 1000})
        assert len(answer["data"]["errors"]) == 20


async def test_a_number_that_no_codec_can_carry_is_refused(start):
    hub = Hubbub()
    room = hub.room("room")

    class Count(Message):
        number: object

    @room.on_message
    async def count(room: Room, message: Count) -> None:
        await room.send(message)

    async with talk(start(hub).url) as client:
        await client.join("room")
        answer = await client.ask(type="count", room="room", data={"number": 10**30})
        assert answer["data"]["code"] == "invalid"


async def test_a_slow_handler_is_not_taken_for_a_dead_client(serve):
    hub = Hubbub(Settings(ping_interval=0.2, ping_timeout=0.2, max_inbox=2))
    told = Told()
    hub.on_disconnect(lambda connection: told(connection.why_ended[0]))

    @hub.on_message
    async def say(message: Say) -> str:
        await asyncio.sleep(1.2 if message.text == "slow" else 0)
        return message.text

    async with talk(serve(hub).url) as client:
        for number in range(6):
            await client.send(type="say", id=number, data={"text": "slow" if number == 0 else "quick"})
        for number in range(6):
            assert (await client.receive_type("$ack"))["id"] == number
    assert await told.next() == 1000


async def test_pings_of_a_client_that_reads_nothing_cost_no_memory(serve):
    hub = Hubbub()
    served = serve(hub)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = masked(0x89, b"x" * 125) * 500
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.sendall(
            request(
                "/",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {KEY}",
                "Sec-WebSocket-Version: 13",
            )
        )
        await asyncio.to_thread(line.recv, 4096)

        def send() -> None:
            for _ in range(1000):
                line.sendall(flood)

        await asyncio.to_thread(send)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 40_000, "kilobytes more"


async def test_a_join_that_fails_after_its_hook_is_undone_by_the_leave_hook(start):
    class Away(MemoryBroker):
        async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
            raise Unavailable("The broker is away.")

    hub, told = Hubbub(broker=Away()), Told()
    room = hub.room("room", presence=True)
    room.on_join(lambda: told("join"))
    room.on_leave(lambda: told("leave"))
    async with talk(start(hub).url) as client:
        assert (await client.ask(type="$join", room="room"))["data"]["code"] == "unavailable"
        assert [await told.next(), await told.next()] == ["join", "leave"]
    assert told.silent


async def test_an_outbox_that_can_not_be_written_holds_up_no_other(caplog):
    class Broken:
        def write(self, chunks):
            raise ValueError("broken")

    class Working:
        def __init__(self):
            self.written = []

        def write(self, chunks):
            self.written += chunks

    flusher, working, closed = Flusher(), Working(), asyncio.Event()
    broken = Outbox(Broken(), flusher, 100, closed.set)
    fine = Outbox(working, flusher, 100, closed.set)
    broken.append(b"a", 1)
    fine.append(b"b", 1)
    async with asyncio.timeout(5):
        await closed.wait()
    assert working.written == [b"b"]
    fine.append(b"c", 1)
    await asyncio.sleep(0)
    assert working.written == [b"b", b"c"]
    assert "broken" in caplog.text


async def test_one_instance_that_can_not_take_a_message_keeps_no_other(caplog):
    from hubbub.brokers.base import Retention
    from hubbub.brokers.memory import MemoryStore

    class Deaf:
        def deliver(self, room, entry, epoch):
            raise ValueError("deaf")

        def control(self, payload): ...

    class Hears:
        heard = 0

        def deliver(self, room, entry, epoch):
            self.heard += 1

        def control(self, payload): ...

    store, hears = MemoryStore(), Hears()
    one, other = MemoryBroker(store), MemoryBroker(store)
    await one.start(Deaf())
    await other.start(hears)
    await one.subscribe("room")
    await other.subscribe("room")
    position = await one.publish("room", b"x", sender=None, key=None, keep=Retention(1, 60.0))
    assert (position.offset, hears.heard) == (1, 1)
    assert "deaf" in caplog.text


async def test_who_publishes_in_a_loop_lets_others_have_their_turn():
    hub = Hubbub()
    rooms = hub.room("room")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with hub.lifespan():
        counting = asyncio.create_task(count())
        for _ in range(1000):
            await rooms().send(Say("x"))
        counting.cancel()
    assert turns >= 5
