"""Code of the application that fails, in any way: its client is told, the log has it, and that is all."""

import asyncio
import decimal
import itertools
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import websockets

from echo import echo_hub, is_alive
from hubbub import CloseCode, Connection, Hubbub, Message, Room
from hubbub.engine.callback import Callback, ends_task
from told import Logs
from wire import Client, talk

pytestmark = pytest.mark.anyio


class Panic(BaseException):
    """As extensions written in Rust raise it."""


PROBLEMS: list[Callable[[], BaseException]] = [
    lambda: ZeroDivisionError("by zero"),
    lambda: SystemExit(3),
    GeneratorExit,
    lambda: Panic("panicked"),
    lambda: StopIteration("no more"),
    StopAsyncIteration,
    asyncio.CancelledError,
    lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("x")]),
    lambda: RecursionError("too deep"),
    MemoryError,
]
"""Each makes a problem anew: one that was raised holds on to where it was."""


class Fail(Message):
    which: int = 0


class Odd(pydantic.BaseModel):
    value: int

    @pydantic.field_validator("value")
    @classmethod
    def check(cls, value: int) -> int:
        raise PROBLEMS[value]()


class OddStruct(Message):
    value: int

    def __post_init__(self) -> None:
        raise PROBLEMS[self.value]()


async def assert_failed(client: Client, logs: Logs, answer: dict[str, Any]) -> None:
    """Check that a client was told no more than where to look, and that one finds it there."""
    assert answer["type"] == "$error"
    connection = client.welcome["connection"]
    assert answer["data"] == {
        "code": "internal",
        "message": f"The server met an error (correlation id {connection}).",
        "retry": False,
    }
    record = logs.of("error", connection=connection)[-1]
    assert record.exc_info
    assert record.correlation_id == connection
    await is_alive(client)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_a_handler_may_raise_anything(start, logs, plain):
    hub = echo_hub()

    async def fail(message: Fail) -> None:
        raise PROBLEMS[message.which]()

    def fail_in_a_thread(message: Fail) -> None:
        raise PROBLEMS[message.which]()

    hub.on_message(fail_in_a_thread if plain else fail)
    url = start(hub).url
    async with talk(url) as client, talk(url) as other:
        for which in range(len(PROBLEMS)):
            await assert_failed(client, logs, await client.ask(type="fail", data={"which": which}))
            await is_alive(other)


async def test_a_validator_may_raise_anything(start, logs):
    hub = echo_hub()

    @hub.on_message
    async def odd(message: Odd) -> None: ...

    @hub.on_message
    async def odd_struct(message: OddStruct) -> None: ...

    async with talk(start(hub).url) as client:
        for which, kind in itertools.product(range(len(PROBLEMS)), ("odd", "odd_struct")):
            answer = await client.ask(type=kind, data={"value": which})
            if isinstance(PROBLEMS[which](), RecursionError):
                # Decoding raises it for what is nested too deeply, and can't tell one from the other.
                assert answer["data"]["code"] == "invalid"
            else:
                await assert_failed(client, logs, answer)


class Exploding(pydantic.BaseModel):
    def model_dump(self, **options: Any) -> dict[str, Any]:
        raise Panic("while it is encoded")


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


REPLIES: list[Callable[[], object]] = [
    object,
    lambda: {1: {2, object()}},
    endless,
    lambda: "\ud800",
    Exploding,
    lambda: {(1, 2): 3},
    lambda: decimal,
]


async def test_a_reply_that_can_not_be_encoded_is_a_failure_of_the_handler(start, logs):
    hub = echo_hub()

    @hub.on_message
    async def fail(message: Fail) -> object:
        return REPLIES[message.which]()

    async with talk(start(hub).url) as client:
        for which in range(len(REPLIES)):
            await assert_failed(client, logs, await client.ask(type="fail", data={"which": which}))


async def test_a_join_hook_may_raise_anything_and_the_room_is_not_joined(start, logs):
    hub = echo_hub()
    room = hub.room("room/{which}", history=5)

    @room.on_join
    async def admit(connection: Connection, which: int) -> None:
        raise PROBLEMS[which]()

    @room.on_message
    async def fail(room: Room, message: Fail) -> None: ...

    async with talk(start(hub).url) as client:
        for which in range(len(PROBLEMS)):
            await assert_failed(client, logs, await client.ask(type="$join", room=f"room/{which}"))
            assert (await client.ask(type="fail", room=f"room/{which}"))["data"]["code"] == "not_joined"


async def test_a_leave_hook_may_raise_anything_and_the_room_is_left(start, logs):
    hub = echo_hub()
    room = hub.room("room/{which}")

    @room.on_leave
    def left(connection: Connection, which: int) -> None:
        raise PROBLEMS[which]()

    async with talk(start(hub).url) as client:
        for which in range(len(PROBLEMS)):
            name = f"room/{which}"
            await client.join(name)
            await assert_failed(client, logs, await client.ask(type="$leave", room=name))
            assert (await client.ask(type="$leave", room=name))["data"]["code"] == "not_joined"
            await client.join(name)
    await logs.wait("disconnect", connection=client.welcome["connection"], code=1000)
    assert len(logs.of("error", during="leave")) == len(PROBLEMS)


@pytest.mark.parametrize("kind", ["authenticate", "on_connect"])
async def test_a_login_that_raises_anything_closes_with_1011(start, logs, kind):
    hub = Hubbub()

    async def hook(connection: Connection) -> None:
        raise PROBLEMS[int(connection.token or 0)]()

    getattr(hub, kind)(hook)
    url = start(hub).url
    for which in range(len(PROBLEMS)):
        async with talk(f"{url}/?token={which}", welcome=False) as client:
            assert await client.closed() == (CloseCode.INTERNAL_ERROR, "internal error")
    assert len(logs.of("error")) == len(PROBLEMS)


async def test_an_endpoint_and_a_disconnect_hook_may_raise_anything(start, logs):
    hub = echo_hub()

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        raise PROBLEMS[int(connection.token or 0)]()

    @hub.endpoint("/fail/{which}")
    async def fail(connection: Connection, which: int) -> None:
        raise PROBLEMS[which]()

    url = start(hub).url
    for which in range(len(PROBLEMS)):
        async with talk(f"{url}/?token={which}") as client:
            await is_alive(client)
        await logs.wait("error", connection=client.welcome["connection"])
        async with websockets.connect(f"{url}/fail/{which}") as websocket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await websocket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "internal error")


# What does end a task


async def test_ctrl_c_and_a_cancellation_of_the_task_pass():
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(KeyboardInterrupt):
        await Callback(interrupted, {})()
    task = asyncio.ensure_future(Callback(waits, {})())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_coroutine_that_is_taken_apart_when_no_loop_runs_ends_as_python_wants_it():
    async def waits() -> None:
        await asyncio.Future(loop=loop)

    loop = asyncio.new_event_loop()
    coroutine = Callback(waits, {})()
    coroutine.send(None)
    coroutine.close()
    loop.close()
    assert ends_task(GeneratorExit())
