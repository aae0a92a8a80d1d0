"""What a client may have under way, how often and how much it may send: alone and over both transports."""

import asyncio
import json

import pytest
import websockets

from chat_room import nothing_more
from echo import Say, echo_hub, is_alive
from fake_transport import FakeTransport, fake_connection
from hubbub import CloseCode, Connection, Denied, Hubbub, Message, Settings
from hubbub.engine.sweep import Sweep
from told import Gate, Told, have_arrived
from wire import talk

pytestmark = pytest.mark.anyio


class Anything(Message):
    data: object


TOO_MANY = (CloseCode.TOO_MANY_MESSAGES, "too many messages")
LONG_RUN = 0.001
"""A rate that gives nothing back within a test."""


# Messages under way


async def take(connection: Connection, line: FakeTransport) -> list[object]:
    """Receive one message; return what the transport was asked for."""
    await connection.recv()
    asked, line.asked = line.asked, []
    return asked


async def test_reading_stops_at_as_many_messages_as_may_wait_and_goes_on_at_half_of_them():
    connection, line = fake_connection(Settings(max_inbox=4), codec=None)
    assert [connection.received(text) for text in "abcd"] == [True, True, True, False]
    assert (line.asked, connection.reading) == (["pause_reading"], False)
    line.asked = []
    assert await take(connection, line) == []
    assert await take(connection, line) == ["resume_reading"]
    assert connection.reading
    assert connection.received("e")


async def test_reading_stops_at_as_many_bytes_as_may_wait_behind_the_first_and_goes_on_at_half_of_them():
    connection, line = fake_connection(Settings(max_inbox_bytes=100), codec=None)
    assert [connection.received(b"x" * size) for size in (1000, 40, 40, 40)] == [True, True, True, False]
    assert (line.asked, connection.reading) == (["pause_reading"], False)
    line.asked = []
    assert await take(connection, line) == []
    assert await take(connection, line) == ["resume_reading"]
    assert [connection.received(b"x" * size) for size in (59, 1)] == [True, False]


async def test_a_text_counts_with_the_bytes_that_its_letters_may_take():
    connection, _ = fake_connection(Settings(max_inbox_bytes=100), codec=None)
    assert [connection.received(text) for text in ("first", "é" * 24, "abc", "d")] == [
        True,
        True,
        True,
        False,
    ]


async def test_until_it_is_logged_in_no_more_bytes_of_a_client_wait_than_one_message_may_have():
    settings = Settings(max_message_before_login=200)
    connection, line = fake_connection(settings)
    assert [connection.received("x" * 150) for _ in range(3)] == [True, True, False]
    connection.admit(settings)
    assert connection.max_message == settings.max_message
    assert await take(connection, line) == ["pause_reading", "resume_reading"]


async def test_large_messages_of_a_client_whose_handler_is_busy_stay_in_its_socket(start):
    hub, gate, told = echo_hub(Settings(max_inbox_bytes=256_000)), Gate(), Told()

    @hub.endpoint("/busy")
    async def busy(connection: Connection) -> None:
        await have_arrived(connection, 5)
        await gate.passed()
        told(connection.messages_in)
        async for _ in connection:
            pass

    url = start(hub).url
    async with websockets.connect(f"{url}/busy", compression=None) as client, talk(url) as other:
        sending = asyncio.create_task(send_all(client, [b"x" * 65_536] * 300))
        # It answers while the other client is stuck, long after the messages that fit have arrived.
        for _ in range(20):
            await is_alive(other)
        gate.open()
        assert await told.next() == 5
        await sending
        await client.close()


async def send_all(client: websockets.ClientConnection, messages: list[bytes]) -> None:
    for message in messages:
        await client.send(message)


# How often


class Clock:
    """A connection and a sweep whose clock is in the test's hands."""

    def __init__(self, rate: float, burst: int, *, ready: bool = True) -> None:
        settings = Settings(max_message_rate=rate, max_message_burst=burst, handshake_timeout=1000.0)
        self.connection, self.line = fake_connection(settings, codec=None)
        self.sweep = Sweep(settings, lambda: [self.connection])
        if ready:
            self.connection.watch.begin(1000.0)
        self.look(0)

    def look(self, moment: float) -> None:
        self.sweep.check(self.connection, 1000.0 + moment)

    def send(self, count: int) -> bool:
        """Have so many messages come in; tell whether all were let in."""
        for _ in range(count):
            self.connection.received("x")
            self.connection.inbox.clear()
        return self.line.closed_with is None


async def test_a_burst_may_come_at_once_and_one_more_closes():
    clock = Clock(rate=10.0, burst=5)
    assert clock.send(5)
    assert not clock.connection.received("one too many")
    assert clock.line.closed_with == TOO_MANY
    assert clock.connection.messages_in == 6


async def test_in_the_long_run_the_rate_may_come():
    clock = Clock(rate=10.0, burst=5)
    assert clock.send(5)
    for second in range(1, 20):
        clock.look(second / 2)
        assert clock.send(5)
    assert not clock.send(1)


async def test_silence_earns_a_burst_and_no_more():
    clock = Clock(rate=8.0, burst=5)
    clock.look(3600)
    assert clock.send(5)
    clock.look(3600.125)
    clock.look(3600.25)
    assert clock.send(2)
    assert not clock.send(1)


async def test_a_connection_that_has_just_come_has_one_burst_and_not_two():
    clock = Clock(rate=1000.0, burst=5, ready=False)
    assert clock.send(5)
    clock.look(0)
    assert not clock.send(1)


async def test_fractions_of_a_message_are_earned_too():
    clock = Clock(rate=0.3, burst=1)
    assert clock.send(1)
    for second in range(1, 4):
        clock.look(second)
    assert clock.connection.allowed == 1
    clock.look(4)
    assert clock.send(1)
    clock.look(6.5)
    assert clock.connection.allowed == 2
    clock.look(7)
    assert clock.send(1)


async def test_control_frames_count_with_the_messages_and_other_signs_of_life_do_not():
    clock = Clock(rate=10.0, burst=5)
    for _ in range(100):
        clock.connection.heard_from()
    clock.connection.heard_from(2)
    assert clock.send(3)
    clock.connection.heard_from(1)
    assert clock.line.closed_with == TOO_MANY
    assert clock.connection.signs == 102


async def test_while_reading_is_paused_nothing_is_used_up_and_a_burst_is_earned():
    settings = Settings(max_message_rate=10.0, max_message_burst=5, max_inbox=5)
    connection, line = fake_connection(settings, codec=None)
    sweep = Sweep(settings, lambda: [connection])
    connection.watch.begin(1000.0)
    sweep.check(connection, 1000.0)
    for _ in range(5):
        connection.received("x")
    assert not connection.reading
    sweep.check(connection, 1001.0)
    for _ in range(5):
        await connection.recv()
    for _ in range(5):
        connection.received("x")
    assert line.closed_with is None


async def test_a_client_that_sends_too_many_is_closed_after_what_came_before_is_handled(start):
    hub, told = Hubbub(Settings(max_message_rate=LONG_RUN, max_message_burst=3)), Told()

    @hub.on_message
    async def say(message: Say) -> None:
        told(message.text)

    url = start(hub).url
    async with talk(url) as client:
        for number in range(8):
            await client.send(type="say", data={"text": str(number)})
        assert await client.closed() == TOO_MANY
    assert [await told.next() for _ in range(3)] == ["0", "1", "2"]
    assert told.silent


async def test_an_endpoint_is_held_to_the_same_rate_and_others_are_not_held_up(start):
    hub, told = echo_hub(Settings(max_message_rate=LONG_RUN, max_message_burst=100)), Told()

    @hub.endpoint("/count")
    async def count(connection: Connection) -> None:
        async for _ in connection:
            told("one")

    url = start(hub).url
    async with websockets.connect(f"{url}/count", compression=None) as client, talk(url) as other:
        await send_all(client, [b""] * 101)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == TOO_MANY
        for _ in range(100):
            await told.next()
        await is_alive(other)
        assert told.silent


async def test_messages_count_before_the_login_too(start):
    hub, gate = Hubbub(Settings(max_message_rate=LONG_RUN, max_message_burst=3)), Gate()

    @hub.authenticate
    async def who(connection: Connection) -> None:
        await gate.passed()

    url = start(hub).url
    async with talk(url, welcome=False) as client:
        for _ in range(4):
            await client.send(type="$ping")
        assert await client.closed() == TOO_MANY
        gate.open()


# What takes as long as many


@pytest.mark.parametrize(("limit", "reads"), [(1000, 2), (10, 101), (9, 202)])
async def test_what_is_read_of_history_counts_by_its_messages(start, limit, reads):
    hub = echo_hub(Settings(max_message_rate=LONG_RUN, max_message_burst=1 + 2 * (1 + 100)))
    room = hub.room("lobby", history=1000)
    url = start(hub).url
    async with talk(url) as other, talk(url) as client:
        for number in range(1000):
            await room().send(Say(text=str(number)))
        await client.join("lobby")
        for _ in range(reads):
            await client.ask(type="$history", room="lobby", data={"limit": limit})
        await client.send(type="$history", room="lobby", data={"limit": limit}, id="one too many")
        assert await client.closed() == TOO_MANY
        await is_alive(other)


@pytest.mark.parametrize(
    ("subprotocol", "wide", "plain", "burst"),
    [
        ("hubbub.v1.json", [[]] * 130_000, "x" * 390_000, 3 * (1 + 8)),
        ("hubbub.v1.msgpack", [[]] * 25_000, b"x" * 25_000, 3 * (1 + 7)),
    ],
    ids=["JSON", "MessagePack"],
)
async def test_what_has_to_be_looked_through_counts_by_its_size(start, subprotocol, wide, plain, burst):
    hub = echo_hub(Settings(max_message_rate=LONG_RUN, max_message_burst=burst))

    @hub.on_message
    async def anything(message: Anything) -> None: ...

    url = start(hub).url
    async with talk(url) as other, talk(url, subprotocols=[subprotocol]) as client:
        for number in range(3):
            await client.ask(type="anything", data={"data": plain}, id=f"plain {number}")
            await client.ask(type="anything", data={"data": wide}, id=f"wide {number}")
        await client.send(type="anything", data={"data": wide}, id="one too many")
        assert await client.closed() == TOO_MANY
        await is_alive(other)


async def test_what_is_allowed_at_all_is_answered_however_small_the_burst(start):
    hub = echo_hub(Settings(max_message_rate=LONG_RUN, max_message_burst=4))
    room = hub.room("lobby", history=1000)
    url = start(hub).url
    async with talk(url) as client:
        for number in range(1000):
            await room().send(Say(text=str(number)))
        await client.join("lobby")
        page = await client.ask(type="$history", room="lobby", data={"limit": 1000})
        assert len(page["data"]["messages"]) == 1000
        await client.send(type="$ping")
        await client.send(type="$ping")
        assert await client.closed() == TOO_MANY


# Before the login


def padded(size: int) -> str:
    """Return a ping of so many bytes."""
    ping = json.dumps({"type": "$ping", "id": "padded", "data": {"x": ""}})
    return ping[:-3] + "x" * (size - len(ping)) + ping[-3:]


async def test_until_it_is_logged_in_a_client_may_send_less(start):
    hub, gate, told = Hubbub(Settings(max_message=3000, max_message_before_login=1000)), Gate(), Told()

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        told("asked")
        await gate.passed()
        return connection.token

    served = start(hub)
    for url in (served.url, f"{served.url}/?token=ada"):
        async with talk(url, welcome=False) as client:
            await told.next()
            await client.websocket.send(padded(1001))
            assert (await client.closed())[0] == CloseCode.MESSAGE_TOO_BIG
    async with talk(served.url, welcome=False) as small:
        await told.next()
        await small.websocket.send(padded(1000))
        gate.open()
        assert (await small.receive())["data"]["max_message"] == 3000
        assert await small.receive() == {"type": "$pong", "id": "padded"}
        # A guest who is let in is logged in.
        await small.websocket.send(padded(3000))
        assert await small.receive() == {"type": "$pong", "id": "padded"}
        await nothing_more(small)
        await small.websocket.send(padded(3001))
        assert (await small.closed())[0] == CloseCode.MESSAGE_TOO_BIG


async def test_who_is_refused_was_never_let_send_more(start):
    hub, told = Hubbub(), Told()

    @hub.authenticate
    async def who(connection: Connection) -> str:
        raise Denied("no")

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        told("gone")

    async with talk(start(hub).url, welcome=False) as client:
        assert (await client.closed())[0] == CloseCode.NOT_LOGGED_IN
    assert told.silent


def test_the_limit_before_the_login_is_never_above_the_one_after_it():
    connection, _ = fake_connection(Settings(max_message=1000))
    assert connection.max_message == 1000


def test_an_endpoint_has_no_login_and_takes_whole_messages_at_once():
    connection, _ = fake_connection(Settings(max_message_before_login=1000), codec=None)
    assert connection.max_message == Settings().max_message
