import asyncio
import threading
import time

import anyio
import anyio.to_thread
import pytest

from hubbub import (
    Backoff,
    ConfigurationError,
    Connection,
    Hubbub,
    Message,
    Room,
    Settings,
    State,
    StateChange,
)
from hubbub.testing import clock as clocks
from hubbub.testing.clock import Clock, within

pytestmark = pytest.mark.anyio

INSTANT = 5.0
"""Real seconds that hours of the clock may take, on a machine that is busy."""


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Diary:
    """What happened when, in seconds since it was begun."""

    def __init__(self, clock: Clock) -> None:
        clock.freeze()
        self._clock = clock
        self._began = clock.time()
        self.entries: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        self.entries.append((round(self._clock.time() - self._began, 6), what))


async def spin() -> None:
    """Keep the event loop busy, without end."""
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_time_stands_still_until_it_is_advanced(clock):
    clock.freeze()
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, fired.set)
    with pytest.raises(TimeoutError):
        async with within(0.01):
            await fired.wait()
    await clock.advance(0.001)
    assert fired.is_set()


async def test_hours_pass_in_an_instant(clock):
    began = time.monotonic()
    asleep = asyncio.create_task(asyncio.sleep(7200))
    await clock.advance(7199.9)
    assert not asleep.done()
    await clock.advance(0.1)
    assert asleep.done()
    assert time.monotonic() - began < INSTANT


async def test_each_timer_finds_the_time_it_was_set_for(clock):
    diary = Diary(clock)
    loop = asyncio.get_running_loop()
    for moment in (3, 1, 2.5):
        loop.call_later(moment, diary.note, f"{moment}")
    await clock.advance(2.5)
    diary.note("advanced")
    assert diary.entries == [(1, "1"), (2.5, "2.5"), (2.5, "advanced")]


async def test_what_is_set_for_within_the_span_comes_in_its_turn(clock):
    diary = Diary(clock)

    async def beat(every: float) -> None:
        while True:
            await asyncio.sleep(every)
            diary.note(f"every {every:g}")

    beats = [asyncio.create_task(beat(every)) for every in (1, 1.5)]
    await clock.advance(3)
    assert diary.entries == [
        (1, "every 1"),
        (1.5, "every 1.5"),
        (2, "every 1"),
        (3, "every 1.5"),
        (3, "every 1"),
    ]
    for task in beats:
        task.cancel()
    await asyncio.wait(beats)


async def test_many_small_steps_come_to_the_same_as_a_large_one(clock):
    diary = Diary(clock)

    async def beat() -> None:
        for _ in range(10):
            await asyncio.sleep(0.1)
        diary.note("ten tenths")

    task = asyncio.create_task(beat())
    await clock.advance(1)
    assert diary.entries == [(1, "ten tenths")]
    assert task.done()


async def test_what_follows_from_what_became_due_has_run_too(clock):
    diary = Diary(clock)
    first: asyncio.Queue[str] = asyncio.Queue(1)
    second: asyncio.Queue[str] = asyncio.Queue(1)

    async def hand_on() -> None:
        await second.put(await first.get())

    async def end() -> None:
        diary.note(await second.get())

    tasks = [asyncio.create_task(hand_on()), asyncio.create_task(end())]
    asyncio.get_running_loop().call_later(1, first.put_nowait, "arrived")
    await clock.advance(1)
    assert diary.entries == [(1, "arrived")]
    assert all(task.done() for task in tasks)


async def test_sockets_of_this_loop_are_read_before_time_goes_on(clock):
    diary = Diary(clock)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        asyncio.get_running_loop().call_later(1, writer.write, b"hello\n")
        asyncio.get_running_loop().call_later(1.001, diary.note, "later")

        async def read() -> None:
            diary.note((await reader.readline()).decode().strip())

        task = asyncio.create_task(read())
        await clock.advance(2)
        await task
        writer.close()
        await writer.wait_closed()
    assert diary.entries == [(1, "hello"), (1.001, "later")]


async def test_handlers_in_threads_are_waited_for(clock):
    diary = Diary(clock)
    go_on = threading.Event()

    async def work() -> None:
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_later(0, go_on.set)
        await anyio.to_thread.run_sync(go_on.wait)
        diary.note("worked")

    task = asyncio.create_task(work())
    await clock.advance(5)
    assert task.done()
    assert diary.entries == [(1, "worked")]


async def test_a_thread_that_waits_for_something_else_does_not_stop_time(clock, monkeypatch):
    monkeypatch.setattr(clocks, "THREADS_WITHIN", 0.01)
    go_on = threading.Event()
    task = asyncio.create_task(anyio.to_thread.run_sync(go_on.wait))
    await clock.advance(100)
    assert not task.done()
    go_on.set()
    await task


async def test_time_outs_of_asyncio_and_anyio_see_it(clock):
    never = asyncio.Event()

    async def with_asyncio() -> None:
        async with asyncio.timeout(30):
            await never.wait()

    async def with_anyio() -> None:
        with anyio.fail_after(30):
            await never.wait()

    tasks = [asyncio.create_task(with_asyncio()), asyncio.create_task(with_anyio())]
    await clock.advance(29.9)
    assert not any(task.done() for task in tasks)
    await clock.advance(0.1)
    assert [type(task.exception()) for task in tasks] == [TimeoutError, TimeoutError]


async def test_what_never_rests_is_an_error(clock, monkeypatch):
    monkeypatch.setattr(clocks, "SETTLES_WITHIN", 0.01)

    task = asyncio.create_task(spin())
    with pytest.raises(TimeoutError, match="runs on and on at one moment"):
        await clock.advance(1)
    task.cancel()
    await asyncio.wait([task])
    await clock.advance(1)


async def test_an_advance_can_be_cancelled(clock):
    task = asyncio.create_task(clock.advance(3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await clock.advance(1)


async def test_two_advances_at_once_are_an_error(clock):
    task = asyncio.create_task(clock.advance(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="being advanced already"):
        await clock.advance(1)
    await task


async def test_it_is_not_released_while_it_is_advanced(clock):
    task = asyncio.create_task(clock.advance(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="being advanced"):
        clock.release()
    await task


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_time_goes_forward_only(clock, seconds):
    with pytest.raises(ValueError, match="Time goes forward"):
        await clock.advance(seconds)


async def test_a_loop_has_one_clock(clock):
    clock.freeze()
    clock.freeze()
    with pytest.raises(RuntimeError, match="has a test clock already"):
        Clock().freeze()


async def test_released_time_runs_on_from_where_it_is():
    loop = asyncio.get_running_loop()
    with Clock() as clock:
        late = loop.create_future()
        loop.call_later(3600.01, late.set_result, None)
        await clock.advance(3600)
        then = loop.time()
    await late
    assert loop.time() >= then
    with Clock() as clock:
        assert clock.time() >= then


async def test_released_time_that_was_not_advanced_is_the_systems():
    loop = asyncio.get_running_loop()
    with Clock() as clock:
        clock.freeze()
    assert "time" not in vars(loop)


def test_a_clock_goes_over_to_another_loop():
    clock = Clock()
    for _ in range(2):
        asyncio.run(clock.advance(60))
    clock.release()


def test_uvloop_is_refused_with_a_sentence():
    uvloop = pytest.importorskip("uvloop")

    async def freeze() -> None:
        with pytest.raises(ConfigurationError, match=r"asyncio's own event loop, and this is uvloop's"):
            Clock().freeze()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(freeze())


class TestWithin:
    async def test_it_is_real_time_where_a_clock_stands_still(self, clock):
        clock.freeze()
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await asyncio.Event().wait()

    async def test_it_is_real_time_where_a_clock_is_advanced(self, clock):
        clock.freeze()
        async with within(30):
            await clock.advance(60)

    async def test_it_is_real_time_where_the_loop_is_busy(self, clock):
        clock.freeze()
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await spin()

    async def test_it_is_a_time_out_without_a_clock(self):
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await asyncio.Event().wait()

    async def test_what_ends_in_time_is_not_disturbed_later(self, clock):
        clock.freeze()
        async with within(0.005):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with within(0.01):
                await asyncio.Event().wait()


class Say(Message):
    text: str


class TestOfHubbub:
    """What time means in hubbub, tested in milliseconds."""

    @pytest.fixture
    def hub(self) -> Hubbub:
        hub = Hubbub(Settings(ping_interval=20.0, session_lifetime=600.0, deduplication_window=60.0))
        chat = hub.room("chat/{name}", history=10, history_age=120.0)

        @chat.on_message
        async def say(connection: Connection, room: Room, message: Say) -> None:
            await room.send(message)

        return hub

    async def test_a_silent_line_has_a_heartbeat_and_stays_open_for_hours(self, hub, hub_client, clock):
        async with hub_client(hub, messages=[Say]) as client:
            room = await client.join("chat/lobby")
            await clock.advance(4 * 3600)
            assert client.state.state is State.OPEN
            assert sum('"$ping"' in line for line in client.wire) >= 5
            await room.send(Say("still here"))
            assert (await client.receive(Say)).text == "still here"

    async def test_a_dead_line_is_noticed_after_two_heartbeats(self, hub, hub_client, clock):
        async with hub_client(hub) as client:
            client.stall()
            await clock.advance(39)
            assert not client.state.resumed
            await clock.advance(1)
            assert client.state == StateChange(State.OPEN, resumed=True, line="ws")

    async def test_a_client_that_is_silent_on_a_socket_is_let_go(self, hub, hub_server, clock):
        async with hub_server(hub) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            closed = asyncio.create_task(reader.readuntil(b"no answer to a ping in time"))
            await clock.advance(39)
            assert not closed.done()
            # 20 seconds until it is asked, 20 for its answer, and up to two until it is looked at.
            await clock.advance(3)
            await closed
            writer.close()
            await writer.wait_closed()

    async def test_a_client_backs_off_and_then_stops(self, hub, hub_client, clock):
        async with hub_client(hub, backoff=Backoff((1.0, 2.0, 4.0), jitter=False)) as client:
            diary = Diary(clock)

            async def watch() -> None:
                async for change in client.states():
                    diary.note(change.state.value)

            watching = asyncio.create_task(watch())
            with client.unreachable():
                await clock.advance(60)
            await watching
        assert diary.entries == [
            (0, "open"),
            (0, "waiting"),
            (1, "connecting"),
            (1, "waiting"),
            (3, "connecting"),
            (3, "waiting"),
            (7, "connecting"),
            (7, "closed"),
        ]

    async def test_a_session_that_was_away_for_too_long_is_not_taken_up(self, hub, hub_client, clock):
        async with hub_client(hub) as client:
            async with client.away():
                await clock.advance(599)
            assert client.state.resumed
            async with client.away():
                await clock.advance(601)
            assert not client.state.resumed

    async def test_history_has_an_age(self, hub, hub_client, clock):
        async with hub_client(hub, messages=[Say]) as client:
            room = await client.join("chat/lobby")
            await room.send(Say("old"))
            await clock.advance(60)
            await room.send(Say("new"))
            await clock.advance(61)
            history = await room.history()
            assert [received.message for received in history.messages] == [Say("new")]
