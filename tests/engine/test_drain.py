import asyncio
import http.client
import json
from contextlib import closing

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.engine.drain import drain
from hubbub.engine.hub import Hub
from told import Gate, Told, have_arrived
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Polite(FakeTransport):
    """A client that answers a close in the next turn."""

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        asyncio.get_running_loop().call_soon(self.end)


class Deaf(FakeTransport):
    """A client that answers nothing."""


def hub_with(count: int, line: type[FakeTransport] = Polite) -> tuple[Hub, list[FakeTransport]]:
    hub, lines = Hub(Settings()), []
    for _ in range(count):
        connection, _ = fake_connection(flusher=hub.flusher)
        transport = line()
        connection.transport = connection.outbox.writer = transport
        transport.listener = connection
        hub.connections[connection.id] = connection
        lines.append(transport)
        waiting = asyncio.create_task(connection.recv())
        # It ends with ConnectionClosed, which the test has no interest in.
        waiting.add_done_callback(lambda task: task.cancelled() or task.exception())
    return hub, lines


class Prompt(FakeTransport):
    """A client that leaves as soon as it is told to."""

    def write(self, chunks) -> None:
        super().write(chunks)
        asyncio.get_running_loop().call_soon(self.end)


async def test_a_drain_ends_as_soon_as_everybody_has_left():
    hub, lines = hub_with(1000, Prompt)
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await drain(hub, 60.0)
    assert asyncio.get_running_loop().time() - began < 3.0
    assert sum(line.closed_with is not None for line in lines) <= 100


async def test_a_drain_that_is_cancelled_leaves_no_task_behind():
    hub, _ = hub_with(1, Deaf)
    draining = asyncio.create_task(drain(hub, 60.0))
    await asyncio.sleep(0.01)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "hubbub: drain"]


async def test_every_client_is_told_and_closed():
    hub, lines = hub_with(3)
    await asyncio.sleep(0)
    await drain(hub, 10.0)
    for line in lines:
        assert [envelope["type"] for envelope in line.envelopes] == ["$drain"]
        assert line.closed_with == (1012, "the server restarts")
        assert line.asked == []


async def test_few_clients_come_back_at_once_and_many_spread_their_return():
    hub, few = hub_with(2)
    await asyncio.sleep(0)
    await drain(hub, 10.0)
    assert all(0 <= line.envelopes[0]["data"]["after"] <= 10.0 * 2 / 2000 for line in few)
    hub, many = hub_with(2000)
    await asyncio.sleep(0)
    await drain(hub, 0.2)
    after = [line.envelopes[0]["data"]["after"] for line in many]
    assert all(0 <= seconds <= 0.2 for seconds in after)
    assert max(after) - min(after) > 0.1
    assert len(set(after)) > 100


async def test_many_clients_are_closed_in_batches():
    hub, lines = hub_with(250)
    await asyncio.sleep(0)
    running = asyncio.create_task(drain(hub, 5.0))
    await asyncio.sleep(0)
    # The first batch, while the drain waits for its next turn.
    assert sum(line.closed_with is not None for line in lines) == 100
    await running
    assert all(line.closed_with == (1012, "the server restarts") for line in lines)


async def test_who_does_not_close_is_cut_when_the_time_is_over():
    hub, lines = hub_with(2, Deaf)
    await asyncio.sleep(0)
    await drain(hub, 0.05)
    assert [line.asked for line in lines] == [["abort"], ["abort"]]


# Over real sockets


class Draining:
    """A hub whose handler of "say" holds until the gate is open, and tells when it has begun."""

    def __init__(self, **settings: float) -> None:
        self.hub = Hubbub(Settings(**settings))  # type: ignore[arg-type]
        self.gate, self.began, self.gone = Gate(), Told(), Told()

        @self.hub.on_message
        async def say(connection: Connection, message: Say) -> Say:
            if message.text == "first":
                await have_arrived(connection, 3)
                self.began()
                await self.gate.passed()
            return message

        @self.hub.on_disconnect
        async def gone(connection: Connection) -> None:
            self.gone(connection.close_code)


async def test_a_client_is_told_when_to_come_back_and_then_closed(start):
    served = start(Hubbub())
    async with talk(served.url) as client:
        served.begin_to_stop()
        told = await client.receive()
        assert told["type"] == "$drain"
        assert told["data"]["after"] >= 0
        assert await client.closed() == (1012, "the server restarts")


async def test_what_is_under_way_and_what_has_arrived_is_handled_first(start):
    draining = Draining()
    served = start(draining.hub)
    async with talk(served.url) as client:
        for number, text in enumerate(["first", "second", "third"]):
            await client.send(type="say", id=number, data={"text": text})
        await draining.began.next()
        served.begin_to_stop()
        assert (await client.receive())["type"] == "$drain"
        draining.gate.open()
        for number, text in enumerate(["first", "second", "third"]):
            assert await client.receive() == {"type": "$ack", "id": number, "data": {"text": text}}
        assert await client.closed() == (1012, "the server restarts")
        assert await draining.gone.next() == 1012


async def test_after_the_deadline_connections_are_cut(start):
    hub = Hubbub(Settings(drain=0.3))
    began, gone = Told(), Told()

    @hub.on_message
    async def say(message: Say) -> None:
        began()
        await asyncio.Event().wait()

    @hub.on_disconnect
    async def leave(connection: Connection) -> None:
        gone(connection.close_code)

    served = start(hub, drain=0.3)
    async with talk(served.url) as client:
        await client.send(type="say", data={"text": "never answered"})
        await began.next()
        served.begin_to_stop()
        assert (await client.receive())["type"] == "$drain"
        code, _ = await client.closed()
        assert code in (1006, 1012)
        # Even then the hooks run.
        assert await gone.next() == 1006


async def test_an_endpoint_is_closed_at_once(start):
    hub = Hubbub()
    told = Told()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        await connection.send("ready")
        try:
            async for message in connection:
                await connection.send(message)
        finally:
            told(connection.close_code)

    served = start(hub)
    async with websockets.connect(f"{served.url}/echo") as websocket:
        await websocket.recv()
        served.begin_to_stop()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "the server restarts")
        assert await told.next() == 1012


def get(client: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    client.request("GET", path)
    response = client.getresponse()
    return response.status, response.read().decode()


async def test_a_draining_server_is_alive_but_not_ready(start):
    draining = Draining()
    served = start(draining.hub)
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)) as probe:
        assert await asyncio.to_thread(get, probe, "/readyz") == (200, "ready\n")
        async with talk(served.url) as client:
            for text in ["first", "second", "third"]:
                await client.send(type="say", data={"text": text})
            await draining.began.next()
            served.begin_to_stop()
            assert (await client.receive())["type"] == "$drain"
            assert await asyncio.to_thread(get, probe, "/readyz") == (503, "not ready: it is about to stop\n")
            assert await asyncio.to_thread(get, probe, "/healthz") == (200, "alive\n")
            draining.gate.open()
            assert await client.closed() == (1012, "the server restarts")


async def test_a_draining_hub_takes_no_new_connections(start):
    draining = Draining()
    tasks: list[asyncio.Task[None]] = []

    async def begin(request: Request) -> PlainTextResponse:
        tasks.append(asyncio.create_task(draining.hub.drain()))
        return PlainTextResponse("draining\n")

    host = Starlette(
        routes=[Route("/drain", begin), Mount("/live", draining.hub)], lifespan=draining.hub.lifespan
    )
    served = start(host)
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)) as probe:
        async with talk(f"{served.url}/live/") as client:
            for text in ["first", "second", "third"]:
                await client.send(type="say", data={"text": text})
            await draining.began.next()
            await asyncio.to_thread(get, probe, "/drain")
            assert (await client.receive())["type"] == "$drain"
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(f"{served.url}/live/")
            assert refused.value.response.status_code == 503
            assert b"come back in a moment" in refused.value.response.body
            draining.gate.open()
            assert await client.closed() == (1012, "the server restarts")


async def test_what_others_publish_while_the_server_drains_still_arrives(start):
    hub = Hubbub()
    chat = hub.room("chat/{name}")
    gate, began = Gate(), Told()

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        began()
        await gate.passed()
        await room.send(message)

    served = start(hub)
    async with talk(served.url) as ada:
        await ada.join("chat/lobby")
        await ada.send(type="say", room="chat/lobby", id=1, data={"text": "last words"})
        await began.next()
        served.begin_to_stop()
        assert (await ada.receive())["type"] == "$drain"
        gate.open()
        assert json.dumps((await ada.receive())["data"]) == '{"text": "last words"}'
        assert (await ada.receive())["type"] == "$ack"
        assert await ada.closed() == (1012, "the server restarts")
