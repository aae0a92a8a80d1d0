import asyncio
import functools
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
import msgspec
import pytest
from pydantic import BaseModel

from hubbub import ConfigurationError, Connection, Message, Room, correlation_id
from hubbub.engine import callback
from hubbub.engine.callback import CONNECTION, ROOM, Callback, place_of
from told import Logs

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.anyio

TYPES = {Connection: CONNECTION, Room: ROOM}
OFFERED = ("the connection", "the room", "the message", "1", "2")


class Say(Message):
    text: str


class Move(BaseModel):
    x: int


async def test_each_parameter_gets_what_its_annotation_or_name_asks_for():
    async def handler(second, message: Say, room: Room, first, connection: Connection):
        return second, message, room, first, connection

    callback = Callback(handler, TYPES, ["first", "second"], takes_message=True)
    assert await callback(*OFFERED) == ("2", "the message", "the room", "1", "the connection")
    assert callback.message_class is Say


async def test_a_function_may_want_nothing():
    async def hook():
        return "called"

    assert await Callback(hook, TYPES)(*OFFERED) == "called"


async def test_one_parameter_without_annotation_is_the_connection():
    async def hook(websocket):
        return websocket

    assert await Callback(hook, TYPES)(*OFFERED) == "the connection"


async def test_the_first_parameter_of_an_endpoint_is_the_connection_whatever_its_annotation():
    async def endpoint(websocket: dict, name):
        return websocket, name

    callback = Callback(endpoint, {Connection: CONNECTION}, ["name"], any_connection=True)
    assert await callback("the connection", None, None, "x") == ("the connection", "x")


async def test_named_parts_are_converted_to_what_is_annotated():
    async def hook(first: int, second: Annotated[float, msgspec.Meta(ge=2)], connection):
        return first, second, connection

    assert await Callback(hook, TYPES, ["first", "second"])(*OFFERED) == (1, 2.0, "the connection")


def test_it_tells_whether_named_parts_are_what_is_annotated():
    async def hook(first: int, other): ...

    callback = Callback(hook, TYPES, ["first", "other"])
    assert callback.fits(("7", "x"))
    assert not callback.fits(("x", "7"))


async def test_a_plain_function_runs_in_a_thread_with_the_correlation_id():
    def hook(connection):
        return threading.current_thread(), correlation_id.get()

    token = correlation_id.set("abc")
    try:
        thread, correlation = await Callback(hook, TYPES)(*OFFERED)
    finally:
        correlation_id.reset(token)
    assert thread is not threading.current_thread()
    assert correlation == "abc"


async def test_a_method_is_a_function_too():
    class Game:
        async def join(self, connection: Connection):
            return connection

    assert await Callback(Game().join, TYPES)(*OFFERED) == "the connection"


def test_what_is_no_function_is_an_error_at_declaration():
    def leave(greeting, connection): ...

    with pytest.raises(ConfigurationError, match="neither a function nor a method; write a `def` around it"):
        Callback(functools.partial(leave, "bye"), TYPES)


async def test_a_decorated_function_is_what_the_function_within_is():
    def logged(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            return function(*arguments)

        return wrapper

    @logged
    async def waits(message: Say):
        await asyncio.sleep(0)
        return message

    @logged
    def runs(message: Say):
        return threading.current_thread()

    assert await Callback(waits, TYPES, takes_message=True)(*OFFERED) == "the message"
    assert await Callback(runs, TYPES, takes_message=True)(*OFFERED) is not threading.current_thread()


async def test_a_plain_function_that_a_decorator_made_asynchronous_is_awaited():
    def asynchronous(function):
        @functools.wraps(function)
        async def wrapper(*arguments):
            await asyncio.sleep(0)
            return function(*arguments)

        return wrapper

    @asynchronous
    def runs(message: Say):
        return message

    assert await Callback(runs, TYPES, takes_message=True)(*OFFERED) == "the message"


def test_what_it_returns_is_known_for_descriptions():
    async def move(message: Move) -> Say: ...

    callback = Callback(move, TYPES, takes_message=True)
    assert callback.reply is Say
    assert callback.message_class is Move


@pytest.mark.parametrize(
    "function",
    [
        lambda connection, more: None,
        lambda *arguments: None,
        lambda **arguments: None,
        lambda *, connection: None,
    ],
)
def test_parameters_that_can_not_be_filled_are_an_error_at_declaration(function):
    with pytest.raises(ConfigurationError, match=r"<lambda>.*test_callback.py:"):
        Callback(function, TYPES)


def test_the_error_says_what_there_is_on_offer():
    async def handler(message: Say, count: int): ...

    with pytest.raises(ConfigurationError) as problem:
        Callback(handler, TYPES, ["name"], takes_message=True)
    assert str(problem.value) == (
        f"{place_of(handler)}: the parameter 'count' can't be filled. Annotate it with, or name it for, one "
        "of: Connection, Room, the part 'name', a Message class."
    )


def test_only_one_message_can_be_taken():
    async def handler(one: Say, other: Move): ...

    with pytest.raises(ConfigurationError, match="the parameter 'other' can't be filled"):
        Callback(handler, TYPES, takes_message=True)


def test_a_hook_takes_no_message():
    async def hook(message: Say): ...

    with pytest.raises(ConfigurationError, match="the parameter 'message' can't be filled"):
        Callback(hook, TYPES)


def test_a_message_handler_needs_a_message():
    async def handler(connection: Connection): ...

    with pytest.raises(ConfigurationError, match="needs a parameter annotated with the class of the message"):
        Callback(handler, TYPES, takes_message=True)


def test_an_annotation_that_can_not_be_resolved_is_an_error_at_declaration():
    async def handler(message: "Decimal"): ...

    with pytest.raises(ConfigurationError, match=r"can't be resolved.*Decimal.*TYPE_CHECKING"):
        Callback(handler, TYPES, takes_message=True)


def test_a_place_names_function_file_and_line():
    assert place_of(place_of).startswith("place_of() at ")
    assert place_of(place_of).endswith(f"callback.py:{place_of.__code__.co_firstlineno}")
    assert place_of(functools.partial(place_of, 1)).startswith("functools.partial(<function place_of")


async def test_a_thread_that_nobody_waits_for_any_more_counts_until_it_ends(logs: Logs):
    limiter = anyio.to_thread.current_default_thread_limiter()
    threads, limiter.total_tokens = limiter.total_tokens, 1
    began, may_end, called = threading.Event(), threading.Event(), []

    def hang() -> None:
        began.set()
        may_end.wait()
        raise RuntimeError("too late")

    hanging = asyncio.create_task(Callback(hang, {})())
    await asyncio.to_thread(began.wait)
    queued = asyncio.create_task(Callback(lambda: called.append("queued"), {})())
    try:
        while not limiter.statistics().tasks_waiting:  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0)
        for task in (hanging, queued):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
        while limiter.statistics().tasks_waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert limiter.borrowed_tokens == 1
    finally:
        may_end.set()
    assert await Callback(lambda: "after it", {})() == "after it"
    assert not called
    limiter.total_tokens = threads
    assert str((await logs.wait("error")).exc_info[1]) == "too late"


async def test_a_plain_function_runs_within_what_its_host_wants_around_threads(monkeypatch):
    told = []

    @contextmanager
    def around():
        told.append("before")
        try:
            yield
        finally:
            told.append("after")

    monkeypatch.setattr(callback, "around_threads", [around])

    def hook() -> None:
        told.append("called")
        raise LookupError

    with pytest.raises(LookupError):
        await Callback(hook, TYPES)(*OFFERED)
    assert told == ["before", "called", "after"]
