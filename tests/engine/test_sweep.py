import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, Hubbub, Message, Settings
from hubbub.engine.sweep import Sweep
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Watched:
    """A connection, its line and a sweep whose clock is in the test's hands; time begins at 1000."""

    def __init__(self, *, ready: bool = True, endpoint: bool = False, **settings: float) -> None:
        values = {"ping_interval": 20.0, "ping_timeout": 10.0, "handshake_timeout": 5.0, "close_timeout": 4.0}
        every = Settings(**{**values, **settings})  # type: ignore[arg-type]
        changes: dict[str, object] = {"codec": None} if endpoint else {}
        self.connection, self.line = fake_connection(every, **changes)  # type: ignore[arg-type]
        self.sweep = Sweep(every, lambda: [self.connection])
        if ready:
            self.connection.watch.begin(1000.0)

    def look(self, *moments: float) -> None:
        for moment in moments:
            self.sweep.check(self.connection, 1000.0 + moment)
            # As the flusher would in the next turn.
            self.connection.outbox.flush()

    @property
    def sent(self) -> list[str]:
        return [envelope["type"] for envelope in self.line.envelopes]


async def test_a_ping_frame_is_sent_after_silence_and_only_one_until_it_is_answered():
    watched = Watched()
    watched.look(19)
    assert watched.line.asked == []
    watched.look(20, 21, 29)
    assert watched.line.asked == ["ping"]
    watched.connection.heard_from()
    watched.look(29.5, 49)
    assert watched.line.asked == ["ping"]
    watched.look(49.5)
    assert watched.line.asked == ["ping", "ping"]
    assert watched.line.closed_with is None


async def test_a_message_is_a_sign_of_life_too():
    watched = Watched()
    watched.look(19)
    watched.connection.received("x")
    watched.look(20, 39)
    assert watched.line.asked == []
    watched.look(40)
    assert watched.line.asked == ["ping"]


async def test_a_ping_that_is_not_answered_in_time_closes():
    watched = Watched()
    watched.look(20, 29.9)
    assert watched.line.closed_with is None
    watched.look(30)
    assert watched.line.closed_with == (4508, "no answer to a ping in time")


async def test_a_silent_line_gets_a_ping_message_just_before_the_heartbeat_is_over():
    watched = Watched(ping_timeout=100.0)
    watched.look(18.9)
    assert watched.sent == []
    watched.look(19)
    assert watched.sent == ["$ping"]
    watched.look(20, 38.5)
    assert watched.sent == ["$ping"]
    watched.look(39)
    assert watched.sent == ["$ping", "$ping"]


async def test_a_line_on_which_something_is_sent_gets_no_ping_message():
    watched = Watched()
    watched.look(10)
    await watched.connection.send(Say(text="hi"))
    watched.connection.outbox.flush()
    watched.look(11, 29)
    assert watched.sent == ["say"]
    watched.look(30)
    assert watched.sent == ["say", "$ping"]


async def test_an_endpoint_gets_ping_frames_and_no_ping_messages():
    watched = Watched(endpoint=True)
    watched.look(20)
    assert watched.line.asked == ["ping"]
    assert watched.line.written == []


async def test_a_slow_reader_gets_no_ping_messages_on_top():
    watched = Watched()
    watched.connection.outbox.pause()
    watched.look(20)
    assert watched.connection.outbox.chunks == []


async def test_a_transport_without_pings_is_not_asked_for_one():
    watched = Watched()
    watched.line.pings = False  # type: ignore[misc]
    watched.look(20, 60)
    assert watched.line.asked == []
    assert watched.line.closed_with is None


async def test_a_client_without_messages_is_let_go_however_alive_its_line_is():
    watched = Watched(idle_timeout=15.0)
    watched.connection.heard_from()
    watched.look(14.9)
    assert watched.line.closed_with is None
    watched.connection.heard_from()
    watched.look(15)
    assert watched.line.closed_with == (4508, "no message in time")


async def test_a_message_begins_the_idle_time_anew():
    watched = Watched(idle_timeout=15.0)
    watched.look(14)
    watched.connection.received("x")
    watched.look(15, 29)
    assert watched.line.closed_with is None
    watched.look(30)
    assert watched.line.closed_with == (4508, "no message in time")


def held_up(watched: Watched) -> None:
    """Have so much come in that nothing more is read."""
    while watched.connection.received("x"):
        pass
    assert not watched.connection.reading


async def test_a_client_whose_handler_is_behind_is_not_held_to_answer():
    watched = Watched(idle_timeout=25.0)
    held_up(watched)
    watched.look(*range(0, 1000, 5))
    assert watched.line.closed_with is None


@pytest.mark.parametrize(
    ("idle_timeout", "ends", "why"),
    [(0, 30, "no answer to a ping in time"), (25.0, 25, "no message in time")],
    ids=["pings", "idle"],
)
async def test_a_client_that_asks_and_takes_no_answers_is_held_to_answer(idle_timeout, ends, why):
    watched = Watched(idle_timeout=idle_timeout)
    held_up(watched)
    watched.connection.outbox.pause()
    watched.look(0, *range(5, ends, 5))
    assert watched.line.closed_with is None
    watched.look(ends)
    assert watched.line.closed_with == (4508, why)


async def test_a_client_that_takes_its_answers_slowly_is_alive():
    watched = Watched(idle_timeout=25.0)
    held_up(watched)
    for moment in range(0, 1000, 15):
        watched.connection.outbox.pause()
        watched.connection.outbox.append(b"an answer", 9)
        watched.look(moment)
        watched.connection.outbox.resume()
    assert watched.line.closed_with is None


async def test_a_login_that_takes_too_long_is_closed():
    watched = Watched(ready=False)
    watched.look(0, 4.9)
    assert watched.line.closed_with is None
    watched.look(5)
    assert watched.line.closed_with == (4508, "the login took too long")


async def test_the_time_of_a_login_counts_from_accept_where_that_is_known():
    watched = Watched(ready=False)
    watched.connection.watch.opened = 998.0
    watched.look(0, 2.9)
    assert watched.line.closed_with is None
    watched.look(3)
    assert watched.line.closed_with == (4508, "the login took too long")


async def test_a_client_that_does_not_answer_the_close_is_cut():
    watched = Watched()
    watched.connection.start_close(1000, "")
    watched.look(0, 3.9)
    assert watched.line.asked == []
    watched.look(4)
    assert watched.line.asked == ["abort"]


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        ({}, 1.0),
        ({"ping_interval": 2.0}, 0.5),
        ({"ping_timeout": 0.4}, 0.1),
        ({"handshake_timeout": 0.8}, 0.2),
        ({"close_timeout": 0.2}, 0.05),
        ({"idle_timeout": 1.0}, 0.25),
    ],
)
def test_it_looks_some_times_within_the_shortest_timeout(settings, interval):
    assert Sweep(Settings(**settings), list).interval == pytest.approx(interval)


async def test_trouble_with_one_connection_leaves_the_heartbeats_of_the_others_alone(logs):
    troubled, whole = asyncio.Event(), asyncio.Event()

    class Troubled(FakeTransport):
        def ping(self) -> None:
            raise RuntimeError("no ping today")

        def abort(self) -> None:
            troubled.set()

    class Whole(FakeTransport):
        def ping(self) -> None:
            if troubled.is_set():
                whole.set()

    settings = Settings(ping_interval=0.02, ping_timeout=60.0)
    connections: list[Connection] = []
    for transport in (Troubled(), Whole(), Whole()):
        connection, _ = fake_connection(settings)
        connection.transport = transport
        connection.watch.begin(asyncio.get_running_loop().time())
        connections.append(connection)
    sweep = Sweep(settings, lambda: connections)
    sweep.start()
    async with asyncio.timeout(5):
        await troubled.wait()
        # The one that got its ping already is asked again once it has been heard from.
        while not whole.is_set():
            connections[1].heard_from()
            await asyncio.sleep(0)
    sweep.stop()
    sweep.stop()
    [record, *_] = logs.of("error", during="heartbeat", connection=connections[0].id)
    assert "no ping today" in str(record.exc_info)


# Over real sockets

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def mute(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a WebSocket by hand, which answers neither pings nor closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HANDSHAKE)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the first byte and the payload of a frame below 64 KiB."""
    async with asyncio.timeout(5):
        first, length = await reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        return first, await reader.readexactly(length)


async def test_a_silent_client_that_answers_pings_stays_connected(start):
    hub = Hubbub(Settings(ping_interval=0.1, ping_timeout=5.0))
    async with talk(start(hub).url) as client:
        for _ in range(3):
            assert await client.receive() == {"type": "$ping"}
        assert (await client.ask(type="$ping", id=1))["type"] == "$pong"


async def test_a_client_that_never_answers_a_ping_is_closed_with_4508(serve):
    served = serve(Hubbub(Settings(ping_interval=0.1, ping_timeout=0.1)))
    async with mute(served.port) as (reader, _):
        frames = [await next_frame(reader)]
        while frames[-1][0] != 0x88:
            frames.append(await next_frame(reader))
    assert (0x89, b"") in frames
    assert frames[-1][1] == (4508).to_bytes(2, "big") + b"no answer to a ping in time"


async def test_a_client_without_messages_is_closed_with_4508(start):
    hub = Hubbub(Settings(idle_timeout=0.2))
    async with talk(start(hub).url) as client:
        assert await client.closed() == (4508, "no message in time")


async def test_a_login_that_hangs_is_closed_with_4508(start):
    hub = Hubbub(Settings(handshake_timeout=0.2))
    told = Told()

    @hub.authenticate
    async def authenticate(connection: Connection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told(connection.close_code)

    async with talk(start(hub).url, welcome=False) as client:
        assert await client.closed() == (4508, "the login took too long")
        assert await told.next() == 4508


async def test_a_client_that_does_not_answer_a_close_is_cut(serve):
    hub = Hubbub(Settings(close_timeout=0.2))
    told = Told()

    @hub.on_message
    async def say(connection: Connection, message: Say) -> None:
        await connection.close(4000, message.text)

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        told(connection.close_code, connection.close_reason)

    payload = json.dumps({"type": "say", "data": {"text": "bye"}}).encode()
    async with mute(serve(hub).port) as (reader, writer):
        # A mask of zeros leaves the payload as it is.
        writer.write(bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload)
        assert await told.next() == (4000, "bye")
        while (frame := await next_frame(reader))[0] != 0x88:
            pass
        assert frame[1] == (4000).to_bytes(2, "big") + b"bye"


@pytest.mark.parametrize(
    ("rate", "burst", "interval"),
    [(500.0, 2000, 1.0), (6000.0, 2000, 1 / 6), (500.0, 100, 0.1), (500.0, 1, 0.05)],
)
def test_it_looks_often_enough_for_who_keeps_to_the_rate_not_to_run_out_of_the_burst(rate, burst, interval):
    settings = Settings(max_message_rate=rate, max_message_burst=burst)
    assert Sweep(settings, list).interval == pytest.approx(interval)
