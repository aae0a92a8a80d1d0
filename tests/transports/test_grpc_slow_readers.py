"""Clients over gRPC that do not read: what their rooms say happens to them, and what they cost."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

from hubbub import Hubbub, Message, Settings
from hubbub.testing.processes import Process
from hubbub.testing.serving import serving
from transports.grpc_calls import Caller, connected, eventually, settled, subscribed

pytestmark = pytest.mark.anyio

SIZE = 16_384
COUNT = 200
LIMIT = 131_072


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


class Tick(Message):
    number: int
    padding: str = ""


def make_hub(**settings: object) -> Hubbub:
    hub = Hubbub(Settings(grpc_port=0, drain=1.0, max_outbox=LIMIT, **settings))  # type: ignore[arg-type]
    for slow in ("disconnect", "drop", "conflate"):
        hub.room(slow, history=COUNT, slow=slow)  # type: ignore[arg-type]
    return hub


async def publish(hub: Hubbub, room: int) -> None:
    for number in range(COUNT):
        key = str(number % 2) if hub.rooms[room].slow == "conflate" else None
        await hub.rooms[room]().send(Tick(number=number, padding="x" * SIZE), key=key)


async def ticks(caller: Caller) -> AsyncIterator[dict]:
    """Yield what arrives, up to the last tick."""
    while True:
        envelope = await caller.receive()
        yield envelope
        if envelope["type"] == "tick" and envelope["data"]["number"] == COUNT - 1:
            return


class TestWhoDoesNotRead:
    async def test_is_disconnected_with_a_position_to_come_back_to(self):
        hub = make_hub()
        async with serving(hub) as served, subscribed(served.grpc, "disconnect") as listener:
            joined = (await listener.receive())["data"]
            await publish(hub, 0)
            numbers = []
            try:
                async for tick in ticks(listener):
                    numbers += [tick["data"]["number"]]
            except grpc.aio.AioRpcError:
                status, _, told = await listener.ended()
            assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.ABORTED, "4513")
            assert numbers == list(range(len(numbers)))
            position = {"epoch": joined["epoch"], "offset": joined["offset"] + len(numbers)}
            async with subscribed(served.grpc, ("disconnect", position)) as again:
                await again.receive()
                rest = [tick["data"]["number"] async for tick in ticks(again)]
            assert numbers + rest == list(range(COUNT))

    async def test_loses_the_oldest_and_is_told_so(self):
        hub = make_hub()
        async with serving(hub) as served, subscribed(served.grpc, "drop") as listener:
            await listener.receive()
            await publish(hub, 1)
            kinds = [envelope["type"] async for envelope in ticks(listener)]
        assert kinds.count("$gap") == 1
        assert 5 < kinds.count("tick") < COUNT

    async def test_is_sent_the_newest_of_each_key(self):
        hub = make_hub()
        async with serving(hub) as served, subscribed(served.grpc, "conflate") as listener:
            await listener.receive()
            await publish(hub, 2)
            numbers = [envelope["data"]["number"] async for envelope in ticks(listener)]
        assert numbers[-2:] == [COUNT - 2, COUNT - 1]
        assert len(numbers) < COUNT

    async def test_holds_up_nobody_else(self):
        hub = make_hub()
        async with (
            serving(hub) as served,
            subscribed(served.grpc, "disconnect"),
            subscribed(served.grpc, "disconnect") as reader,
        ):
            await reader.receive()
            for number in range(COUNT):
                await hub.rooms[0]().send(Tick(number=number, padding="x" * SIZE))
                assert (await reader.receive())["data"]["number"] == number

    async def test_and_does_not_go_either_has_its_place_freed_in_time(self):
        hub = make_hub(close_timeout=0.3)
        async with serving(hub) as served, subscribed(served.grpc, "disconnect") as listener:
            await listener.receive()
            await publish(hub, 0)
            await eventually(lambda: not hub._hub.connections and not len(hub._entrance.counts))


class TestMemory:
    APPLICATION = f"""
from hubbub import Hubbub, Message
hub = Hubbub()
room = hub.room("disconnect", history=1)

class Tick(Message):
    number: int
    padding: str = ""

class Publish(Message):
    count: int

@hub.on_message
async def publish(message: Publish) -> int:
    for number in range(message.count):
        await room().send(Tick(number, "x" * {SIZE}))
    return message.count
"""

    async def test_stalled_readers_cost_less_than_their_limit(self, tmp_path):
        (tmp_path / "app.py").write_text(self.APPLICATION)
        readers, limit = 30, 1_048_576
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        settings = {"grpc_port": port, "max_outbox": limit, "close_timeout": 60}
        process = Process.serving("app:hub", directory=tmp_path, **settings)
        async with process, connected(f"grpc://127.0.0.1:{port}") as publisher, AsyncExitStack() as stack:
            for _ in range(readers):
                reader = await stack.enter_async_context(subscribed(f"grpc://127.0.0.1:{port}", "disconnect"))
                await reader.receive()
            before = process.memory()
            for number in range(10):
                await publisher.ask(type="publish", id=number, data={"count": 100})
            # What waits for them is the same bytes for all; of its own, each has what is in gRPC's buffers.
            assert process.memory() - before < readers * limit / 2
