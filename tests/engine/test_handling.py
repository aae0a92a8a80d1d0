"""Messages are handled as they come in, or in their task, and nobody can tell which."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from types import SimpleNamespace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_transport import fake_connection
from hubbub.engine import handling
from hubbub.engine.handling import Handling
from hubbub.engine.transport import Served
from hubbub.errors import ConnectionClosed

pytestmark = pytest.mark.anyio

ENDS_WITHIN = 10.0

SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


class Line:
    """A connection whose messages are handled by a coroutine function of the test's, in their own task."""

    def __init__(self, handle, *, context: bool = True) -> None:
        self.told: list[object] = []
        self.connection, self.transport = fake_connection()
        own = copy_context()
        self.answer = lambda message: handle(self, message)
        self.task = asyncio.get_running_loop().create_task(self.handled(), context=own)
        self.transport.served_by = Served(self.task, own) if context else None

    async def handled(self) -> None:
        await Handling(self.connection, self).run()

    async def call(self, *calls: Callable[[], object]) -> list[object]:
        """Have the event loop call; return what was told by then, before anything else ran."""
        done = asyncio.get_running_loop().create_future()

        def call() -> None:
            for each in calls:
                each()
            done.set_result(list(self.told))

        await self.waiting()
        asyncio.get_running_loop().call_soon(call)
        return await done

    async def come(self, *messages: str) -> list[object]:
        """Have messages come in; return what was told by then, before anything else ran."""
        return await self.call(
            *(lambda message=message: self.connection.received(message) for message in messages)
        )

    async def waiting(self) -> None:
        """Return once the task has begun to wait."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def until(self, *told: object) -> None:
        async with asyncio.timeout(ENDS_WITHIN):
            while self.told != list(told):
                assert not self.task.done(), (self.task, self.told)
                await asyncio.sleep(0)

    async def cancelled(self, message: str, turns: int) -> None:
        """Cancel the task so many turns after a message came in, and see it end by that."""
        if turns:
            await self.come(message)
            for _ in range(turns - 1):
                await asyncio.sleep(0)
            self.task.cancel()
        else:
            await self.call(lambda: self.connection.received(message), self.task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await self.task

    async def end(self) -> None:
        """End the line, and see the task end by that."""
        self.transport.end()
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(ENDS_WITHIN):
                await self.task


async def tell(line: Line, message: str) -> None:
    line.told.append(message)


async def test_a_message_whose_handler_need_not_wait_is_handled_as_it_comes_in():
    line = Line(tell)
    assert await line.come("a") == ["a"]
    assert await line.come("b") == ["a", "b"]
    await line.end()


async def test_messages_that_come_in_together_are_handled_in_one_turn(monkeypatch):
    monkeypatch.setattr(handling, "SLICE", 60.0)
    line = Line(tell)

    def together() -> None:
        line.connection.received("a", more=True)
        line.connection.received("b", more=True)
        line.connection.received("c")

    assert await line.call(together) == []
    assert await line.call() == ["a", "b", "c"]
    await line.end()


@pytest.mark.parametrize(("takes", "at_once"), [(0.001, 4), (0.002, 2), (1.0, 1)])
async def test_messages_that_take_long_leave_others_their_turns(monkeypatch, takes, at_once):
    clock, eighth, loop = SimpleNamespace(now=0.0, turn=0), asyncio.Event(), asyncio.get_running_loop()
    monkeypatch.setattr(handling, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(handling, "SLICE", 0.0035)

    async def handle(line: Line, message: str) -> None:
        clock.now += takes
        line.told.append(clock.turn)
        if message == "eighth":
            eighth.set()

    def others() -> None:
        clock.turn += 1
        if not eighth.is_set():
            loop.call_soon(others)

    line = Line(handle)
    others()
    names = ["x"] * 7 + ["eighth"]
    await line.call(lambda: [line.connection.received(name, more=True) for name in names])
    async with asyncio.timeout(ENDS_WITHIN):
        await eighth.wait()
    assert list(Counter(line.told).values()) == [at_once] * (8 // at_once)
    await line.end()


async def test_a_message_that_a_task_hands_over_is_for_the_handler_s_task():
    line = Line(tell, context=False)
    assert await line.come("a") == []
    await line.until("a")
    await line.end()


async def test_where_middleware_has_a_task_of_its_own_messages_are_for_the_handler_s_task():
    line = Line(tell)
    line.task.cancel()
    line.task = asyncio.create_task(line.handled())
    assert await line.come("a") == []
    await line.until("a")
    await line.end()


async def test_a_handler_that_waits_goes_on_in_the_same_task_and_context():
    gate = asyncio.Event()

    async def handle(line: Line, message: str) -> None:
        task = asyncio.current_task()
        before = SEEN.get()
        token = SEEN.set(message)
        await gate.wait()
        assert asyncio.current_task() is task is line.task
        line.told.append((before, SEEN.get()))
        SEEN.reset(token)  # raises in any other context

    line = Line(handle)
    assert await line.come("a", "b") == []
    gate.set()
    await line.until(("nothing", "a"), ("nothing", "b"))
    assert SEEN.get() == "nothing"
    await line.end()


async def test_what_a_handler_sets_in_its_context_the_next_one_sees():
    async def handle(line: Line, message: str) -> None:
        line.told.append(SEEN.get())
        SEEN.set(message)
        if message == "wait":
            await asyncio.sleep(0)

    line = Line(handle)
    for message in ("a", "wait", "b", "c"):
        await line.come(message)
    await line.until("nothing", "a", "wait", "b")
    await line.end()


async def test_a_handler_waits_for_whatever_there_is_to_wait_for():
    async def handle(line: Line, message: str) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        await anyio.to_thread.run_sync(lambda: None)
        with pytest.raises(LookupError):
            await asyncio.create_task(fail())
        line.told.append(message)

    async def fail() -> None:
        raise LookupError

    line = Line(handle)
    await line.come("a")
    await line.until("a")
    assert await line.come("b") == ["a"]
    await line.until("a", "b")
    await line.end()


async def test_handlers_of_several_lines_may_wait_for_one_future():
    future = asyncio.get_running_loop().create_future()

    async def handle(line: Line, message: str) -> None:
        line.told.append(await future)

    lines = [Line(handle) for _ in range(3)]
    await lines[0].call(*(lambda line=line: line.connection.received("a") for line in lines))
    await lines[0].waiting()
    future.set_result("there")
    for line in lines:
        await line.until("there")
        await line.end()


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_reaches_the_handler_at_any_time(turns):
    async def handle(line: Line, message: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            line.told.append("cancelled")
            raise

    line = Line(handle)
    await line.cancelled("a", turns)
    assert line.told == ["cancelled"]


@pytest.mark.parametrize("turns", range(3))
async def test_a_cancellation_reaches_what_the_handler_waits_for(turns):
    inner: list[asyncio.Task[None]] = []

    async def handle(line: Line, message: str) -> None:
        inner.extend(asyncio.create_task(asyncio.sleep(60)) for _ in range(2))
        await asyncio.gather(*inner)

    line = Line(handle)
    await line.cancelled("a", turns)
    assert all(task.cancelled() for task in inner)


async def test_a_time_limit_that_is_over_at_once_takes_no_message_with_it():
    async def handle(line: Line, message: str) -> None:
        if message == "a":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await line.connection.recv()
        line.told.append(message)

    line = Line(handle)
    await line.come("a")
    await line.until("a")
    assert await line.come("b") == ["a", "b"]
    await line.end()


async def test_a_handler_that_cancels_its_task_and_fails_so_is_no_failure_of_the_line():
    async def handle(line: Line, message: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise asyncio.CancelledError

    line = Line(handle)
    await line.call(lambda: line.told.append(line.connection.received("a")))
    with pytest.raises(asyncio.CancelledError):
        await line.task
    assert line.told == [True]


async def test_what_waits_for_a_client_that_does_not_read_is_left_to_the_session_s_next_line():
    async def handle(line: Line, message: str) -> None:
        line.told.append(message)
        line.connection.pause_writing()

    line = Line(handle)
    await line.come("a", "b")
    await line.waiting()
    line.connection.replaced()
    await line.end()
    assert line.told == ["a"]


async def test_nothing_of_a_handler_that_met_an_error_waits_for_the_garbage_collector():
    async def handle(line: Line, message: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        line.told.append(message)

    line = Line(handle)
    await line.come("a")
    await line.until("a")
    gc.collect()
    gc.disable()
    try:
        await line.come("b")
        await line.until("a", "b")
        await line.waiting()
        assert gc.collect() == 0
    finally:
        gc.enable()
    await line.end()


async def test_a_handler_that_cancels_its_task_is_the_last_one():
    async def handle(line: Line, message: str) -> None:
        line.told.append(message)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    line = Line(handle)
    assert await line.come("a") == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await line.task


@pytest.mark.parametrize("seconds", [0, 0.001])
@pytest.mark.parametrize("limit", [asyncio.timeout, anyio.fail_after])
async def test_a_time_limit_holds_from_the_first_step_on(limit, seconds):
    async def handle(line: Line, message: str) -> None:
        if message == "a":
            with pytest.raises(TimeoutError):
                await limited()
        line.told.append(message)

    async def limited() -> None:
        if limit is asyncio.timeout:
            async with asyncio.timeout(seconds):
                await asyncio.Event().wait()
        else:
            with anyio.fail_after(seconds):
                await anyio.sleep_forever()

    line = Line(handle)
    await line.come("a", "b")
    await line.until("a", "b")
    assert line.task.cancelling() == 0
    await line.end()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [LookupError, asyncio.CancelledError, BaseException])
async def test_what_a_handler_raises_ends_the_task(kind, waits):
    async def handle(line: Line, message: str) -> None:
        if waits:
            await asyncio.sleep(0)
        raise kind

    line = Line(handle)
    await line.come("a")
    with pytest.raises(kind):
        await line.task


async def test_one_message_of_a_turn_is_handled_as_it_comes_in_and_the_others_in_the_task():
    line = Line(tell)
    assert await line.come("a", "b", "c") == ["a"]
    await line.until("a", "b", "c")
    assert await line.come("d") == ["a", "b", "c", "d"]
    await line.end()


async def test_where_something_is_to_be_written_a_message_is_for_the_task():
    line = Line(tell)
    assert await line.call(line.connection.outbox.queue, lambda: line.connection.received("a")) == []
    await line.until("a")
    await line.end()


async def test_whoever_reads_no_answers_is_asked_for_no_more_questions():
    async def handle(line: Line, message: str) -> None:
        line.told.append(message)
        line.connection.pause_writing()

    line = Line(handle)
    assert await line.come("a") == ["a"]
    line.connection.resume_writing()
    await line.come("b", "c")
    await line.waiting()
    assert line.told == ["a", "b"]
    line.connection.resume_writing()
    await line.until("a", "b", "c")
    line.connection.resume_writing()
    await line.end()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_server_that_stops_within_a_handler_closes_after_it(waits):
    async def handle(line: Line, message: str) -> None:
        line.connection.shut_down()
        assert line.transport.closed_with is None
        if waits:
            await asyncio.sleep(0)
        line.told.append(message)

    line = Line(handle)
    await line.come("a")
    await line.waiting()
    assert line.told == ["a"]
    assert line.transport.closed_with == (1012, "the server restarts")
    await line.end()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_line_that_ends_within_a_handler_ends_the_task_after_it(waits):
    async def handle(line: Line, message: str) -> None:
        line.transport.end()
        if waits:
            await asyncio.sleep(0)
        line.told.append(message)

    line = Line(handle)
    await line.come("a")
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(ENDS_WITHIN):
            await line.task
    assert line.told == ["a"]


async def test_a_handler_may_receive_the_next_message_itself():
    async def handle(line: Line, message: str) -> None:
        line.told.append((message, await line.connection.recv()))

    line = Line(handle)
    await line.come("a")
    await line.come("b")
    await line.until(("a", "b"))
    await line.come("c", "d")
    await line.until(("a", "b"), ("c", "d"))
    await line.end()


async def test_a_task_that_is_taken_apart_takes_the_handler_with_it():
    async def handle(line: Line, message: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            line.told.append("over")

    line = Line(handle)
    line.task.cancel()
    await line.waiting()
    own = copy_context()
    line.task = asyncio.get_running_loop().create_task(line.handled(), context=own)
    line.transport.served_by = Served(line.task, own)
    await line.come("a")
    await line.waiting()
    line.task.get_coro().close()
    assert line.told == ["over"]


TURNS = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=12)
"""Messages by the turn of the event loop in which they come in; each says how often its handler waits."""


@given(TURNS, st.booleans())
def test_messages_are_handled_one_at_a_time_in_order(turns, context):
    async def handle(line: Line, message: str) -> None:
        line.told.append(("begins", message))
        for _ in range(int(message.partition(" ")[0])):
            await asyncio.sleep(0)
        line.told.append(("ends", message))

    async def play() -> None:
        line, loop, sent = Line(handle, context=context), asyncio.get_running_loop(), []
        for turn in turns:
            for waits in turn:
                sent.append(f"{waits} {len(sent)}")
                loop.call_soon(line.connection.received, sent[-1])
            await asyncio.sleep(0)
        await line.until(*(step for message in sent for step in (("begins", message), ("ends", message))))
        await line.end()

    asyncio.run(play())
