"""Plain ASGI: under uvicorn as anyone runs it, and under servers that say things in their own way."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvicorn
import websockets
from starlette.types import Message as Event

from client.lines import settled
from hubbub import Connection, ConnectionClosed, Hubbub, Message, Room, Settings
from hubbub.listening import listen
from hubbub.transports.asgi import ASGITransport
from hubbub.transports.asgi import event as sending
from hubbub.transports.over_asgi import Readers, Writers
from wire import talk

pytestmark = pytest.mark.anyio

ARRIVES_WITHIN = 10.0

# Under uvicorn with nothing of hubbub's around it


class Announcing(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listens.set()


class Uvicorn:
    """A plain uvicorn that runs an application in a thread."""

    def __init__(self, app: Hubbub, ws: str, **options: Any) -> None:
        listener = listen(Settings(port=0))
        self.port: int = listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.server = Announcing(uvicorn.Config(app, ws=ws, log_config=None, **options))
        self._thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self._thread.start()
        assert self.server.listens.wait(ARRIVES_WITHIN), "uvicorn did not start"

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(ARRIVES_WITHIN)
        assert not self._thread.is_alive(), "uvicorn did not stop"


@contextmanager
def running(app: Hubbub, ws: str, **options: Any) -> Iterator[Uvicorn]:
    server = Uvicorn(app, ws, **options)
    try:
        yield server
    finally:
        server.stop()


each_protocol = pytest.mark.parametrize("ws", ["hubbub.server:WebSocketProtocol", "websockets-sansio"])


class Say(Message):
    text: str


@each_protocol
async def test_endpoints_are_served_by_plain_uvicorn(ws):
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        await connection.send(
            ("hubbub" in connection.scope["extensions"] and "taken over") or "event by event"
        )
        async for message in connection:
            await connection.send(message)

    with running(hub, ws) as server:
        async with websockets.connect(server.url + "/echo") as websocket:
            assert await websocket.recv() == ("taken over" if ws.startswith("hubbub") else "event by event")
            for message in ("text", b"bytes", "x" * 70_000, b"x" * 1_048_576):
                await websocket.send(message)
                assert await websocket.recv() == message


@pytest.mark.parametrize("compression", [True, False])
async def test_the_fast_path_of_plain_uvicorn_has_the_hub_s_settings(compression):
    hub = Hubbub(Settings(compression=compression))
    with running(hub, "hubbub.server:WebSocketProtocol") as server:
        async with websockets.connect(server.url) as websocket:
            assert bool(websocket.protocol.extensions) == compression


async def test_the_fast_path_of_an_application_without_a_hub_has_the_environment_s(monkeypatch):
    monkeypatch.setenv("HUBBUB_COMPRESSION", "false")

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    with running(app, "hubbub.server:WebSocketProtocol") as server:  # type: ignore[arg-type]
        async with websockets.connect(server.url) as websocket:
            assert websocket.protocol.extensions == []


@each_protocol
async def test_rooms_are_served_by_plain_uvicorn(ws):
    hub = Hubbub()
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    with running(hub, ws) as server:
        async with talk(server.url) as ada, talk(server.url) as bob:
            await ada.join("chat/lobby")
            await bob.join("chat/lobby")
            await ada.send(type="say", room="chat/lobby", data={"text": "hi"})
            assert (await bob.receive())["data"] == {"text": "hi"}


@each_protocol
async def test_plain_uvicorn_closes_with_1012_when_it_stops(ws):
    hub = Hubbub()

    @hub.endpoint("/wait")
    async def wait(connection: Connection) -> None:
        await connection.wait_closed()

    with running(hub, ws) as server:
        async with websockets.connect(server.url + "/wait") as websocket:
            server.server.should_exit = True
            with pytest.raises(websockets.ConnectionClosed) as caught:
                await websocket.recv()
            assert caught.value.rcvd.code == 1012


@pytest.mark.parametrize(
    "message",
    [b"x" * 1001, "x" * 1001, "é" * 501, "🎈" * 251],
    ids=["bytes", "ascii", "two bytes each", "four bytes each"],
)
@each_protocol
async def test_the_hub_s_limit_holds_where_the_server_s_is_larger(ws, message):
    hub = Hubbub(Settings(max_message=1000))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    fits = message[: 1000 * len(message) // len(message.encode() if isinstance(message, str) else message)]
    with running(hub, ws) as server:
        async with websockets.connect(server.url + "/echo") as websocket:
            await websocket.send(fits)
            assert await websocket.recv() == fits
            await websocket.send(message)
            with pytest.raises(websockets.ConnectionClosed) as caught:
                await websocket.recv()
            assert caught.value.rcvd.code == 1009


# Under servers that say things in their own way: what the ASGI specification leaves open, and what older
# versions of it had


class Server:
    """One connection of an ASGI server, in memory. `receives` is what the client did, `sent` what it got."""

    def __init__(self, app: Hubbub, path: str = "/echo") -> None:
        self.receives: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.sent: asyncio.Queue[Event] = asyncio.Queue()
        self.sending: Exception | None = None
        """Raised when the application sends."""
        self.stuck = False
        """Whether nothing gets out any more once the handshake is done."""
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": path,
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
        }
        self.application = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Event:
        event = await self.receives.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def _send(self, event: Event) -> None:
        if self.stuck and event["type"] != "websocket.accept":
            await asyncio.Event().wait()
        if self.sending is not None:
            raise self.sending
        self.sent.put_nowait(event)

    def client(self, *events: Event | Exception) -> None:
        for event in events:
            self.receives.put_nowait(event)

    async def connect(self) -> None:
        self.client({"type": "websocket.connect"})
        assert await self.sent.get() == {"type": "websocket.accept", "subprotocol": None}


class Endpoint:
    """A hub with an endpoint that echoes, and how its connections ended."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.hub = Hubbub(settings)
        self.endings: asyncio.Queue[ConnectionClosed] = asyncio.Queue()
        self.hub.endpoint("/echo")(self.echo)

    async def echo(self, connection: Connection) -> None:
        try:
            while True:
                await connection.send(await connection.recv())
        except ConnectionClosed as closed:
            self.endings.put_nowait(closed)


@asynccontextmanager
async def served(settings: Settings | None = None) -> AsyncIterator[tuple[Server, Endpoint]]:
    endpoint = Endpoint(settings)
    async with asyncio.timeout(ARRIVES_WITHIN), endpoint.hub.lifespan():
        server = Server(endpoint.hub)
        yield server, endpoint
        await server.application


DISCONNECT = {"type": "websocket.disconnect", "code": 1001}


async def test_a_scope_without_what_is_optional_is_enough():
    async with served() as (server, endpoint):
        await server.connect()
        server.client({"type": "websocket.receive", "text": "hi"})
        assert await server.sent.get() == {"type": "websocket.send", "text": "hi"}
        server.client(DISCONNECT)
        assert (await endpoint.endings.get()).code == 1001


@pytest.mark.parametrize(
    ("event", "answer"),
    [
        ({"text": "é", "bytes": None}, {"text": "é"}),
        ({"text": None, "bytes": b"\xff"}, {"bytes": b"\xff"}),
        ({"text": ""}, {"text": ""}),
        ({"bytes": b""}, {"bytes": b""}),
    ],
)
async def test_text_and_bytes_are_told_apart_where_both_keys_are_there(event, answer):
    async with served() as (server, _):
        await server.connect()
        server.client({"type": "websocket.receive", **event})
        assert await server.sent.get() == {"type": "websocket.send", **answer}
        server.client(DISCONNECT)


async def test_a_client_that_is_gone_before_the_handshake_is_a_closed_connection():
    async with served() as (server, endpoint):
        server.client({"type": "websocket.disconnect", "code": 1006})
        assert (await endpoint.endings.get()).code == 1006
    assert server.sent.empty()


@pytest.mark.parametrize("problem", [OSError("gone"), RuntimeError("Unexpected ASGI message")])
async def test_a_client_that_is_gone_during_the_handshake_is_a_closed_connection(problem):
    async with served() as (server, endpoint):
        server.sending = problem
        server.client({"type": "websocket.connect"})
        assert (await endpoint.endings.get()).code == 1006


@pytest.mark.parametrize(
    ("told", "code", "reason"),
    [
        ({"code": 1006}, 1006, ""),
        ({"code": 4000, "reason": "bye"}, 4000, "bye"),
        ({"code": 1000, "reason": None}, 1000, ""),
        ({"code": None}, 1005, ""),
        ({}, 1005, ""),
    ],
)
async def test_a_disconnect_says_what_the_server_knows(told, code, reason):
    async with served() as (server, endpoint):
        await server.connect()
        server.client({"type": "websocket.disconnect", **told})
        closed = await endpoint.endings.get()
    assert (closed.code, closed.reason) == (code, reason)


@pytest.mark.parametrize("problem", [OSError("gone"), RuntimeError("Unexpected ASGI message")])
async def test_a_send_that_the_server_refuses_is_the_end(problem):
    async with served() as (server, endpoint):
        await server.connect()
        server.sending = problem
        server.client({"type": "websocket.receive", "text": "hi"})
        assert (await endpoint.endings.get()).code == 1006


async def test_a_server_that_fails_is_logged_and_is_the_end(caplog):
    async with served() as (server, endpoint):
        await server.connect()
        server.client(LookupError("of the server"))
        assert (await endpoint.endings.get()).code == 1006
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "of the server" in str(record.exc_info[1])


async def test_a_message_that_is_too_large_is_closed_with_1009_and_nothing_after_it_counts():
    async with served(Settings(max_message=1000)) as (server, endpoint):
        await server.connect()
        server.client(
            {"type": "websocket.receive", "bytes": b"x" * 1001}, {"type": "websocket.receive", "text": "late"}
        )
        closing = await server.sent.get()
        assert closing == {
            "type": "websocket.close",
            "code": 1009,
            "reason": "over the size limit of 1000 bytes",
        }
        assert type(closing["code"]) is int  # Daphne takes no kind of it
        server.client(
            {"type": "websocket.receive", "text": "late too"}, {"type": "websocket.disconnect", "code": 1009}
        )
        assert (await endpoint.endings.get()).sent.code == 1009
    assert server.sent.empty()


@pytest.mark.parametrize(
    ("told", "received"),
    [({"code": 4001, "reason": "mine"}, (4001, "mine")), ({"code": 1006}, None)],
    ids=["with a close of its own", "without"],
)
async def test_a_client_that_leaves_while_it_is_being_closed_is_told_with_both_sides_codes(told, received):
    endpoint = Endpoint()

    closes = asyncio.Event()

    @endpoint.hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        connection.start_close(4000, "bye")
        closes.set()
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        endpoint.endings.put_nowait(closed.value)

    async with asyncio.timeout(ARRIVES_WITHIN), endpoint.hub.lifespan():
        server = Server(endpoint.hub, "/close")
        server.stuck = True
        await server.connect()
        await closes.wait()
        server.client({"type": "websocket.disconnect", **told})
        closed = await endpoint.endings.get()
        await server.application
    assert (closed.sent.code, closed.sent.reason) == (4000, "bye")
    assert (closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)) == received


async def test_a_client_that_does_not_take_the_close_is_let_go_in_time():
    endpoint = Endpoint(Settings(close_timeout=0.1))

    @endpoint.hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.send("before")
        await connection.close(4000, "bye")

    async with asyncio.timeout(ARRIVES_WITHIN), endpoint.hub.lifespan():
        server = Server(endpoint.hub, "/close")
        server.stuck = True
        await server.connect()
        # The application ends all the same, and so cuts the line.
        await server.application
    assert server.sent.empty()


async def test_an_application_that_is_cancelled_leaves_no_task_behind():
    endpoint = Endpoint()
    async with asyncio.timeout(ARRIVES_WITHIN), endpoint.hub.lifespan():
        server = Server(endpoint.hub)
        server.stuck = True
        await server.connect()
        server.client({"type": "websocket.receive", "text": "never answered"})
        reading: list[asyncio.Task[Any]] = []
        while not reading:
            await asyncio.sleep(0)  # the reader begins in the next turn
            reading = [task for task in asyncio.all_tasks() if task.get_name() == "hubbub: read"]
        server.application.cancel()
        await asyncio.wait([server.application, *reading])
        assert server.application.cancelled()


async def test_a_handshake_is_refused_with_a_close_where_the_server_has_no_responses():
    endpoint = Endpoint()
    async with asyncio.timeout(ARRIVES_WITHIN), endpoint.hub.lifespan():
        server = Server(endpoint.hub, "/elsewhere")
        await server.application
    assert await server.sent.get() == {
        "type": "websocket.close",
        "code": 1008,
        "reason": "There is no WebSocket at /elsewhere.",
    }


def asking(**envelope: object) -> Event:
    return {"type": "websocket.receive", "text": json.dumps(envelope)}


async def welcomed(hub: Hubbub, count: int, kind: type[Server] = Server) -> list[Server]:
    """Return lines whose sessions receive by themselves: the first of all waits for the hub's secret."""
    servers = [kind(hub, "/") for _ in range(count + 1)]
    for server in servers:
        await server.connect()
        await server.sent.get()
        await settled()
    first, *others = servers
    first.client(DISCONNECT)
    await first.application
    return others


class Refusing(Server):
    """Its `send` is a plain function, which may raise before there is anything to await."""

    refuses = False

    def _send(self, event: Event) -> Awaitable[None]:  # type: ignore[override]
        if self.refuses:
            raise RuntimeError("the line is gone")
        return super()._send(event)


async def test_a_send_that_raises_before_there_is_anything_to_await_is_the_end(caplog):
    hub = Hubbub()

    @hub.on_message
    async def say(connection: Connection, message: Say) -> str:
        return message.text

    async with asyncio.timeout(ARRIVES_WITHIN), hub.lifespan():
        [server] = await welcomed(hub, 1, Refusing)
        server.refuses = True
        server.client(asking(type="say", id="1", data={"text": "a"}))
        await server.application
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_speaks_and_is_spoken_to_in_one_turn_is_no_slow_reader():
    hub = Hubbub(Settings(max_message_burst=10_000))
    chat = hub.room("chat", slow="conflate")
    paused: list[bool] = []

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        paused.append(connection.outbox.paused)
        await room.send(message, key="always the same")

    async with asyncio.timeout(ARRIVES_WITHIN), hub.lifespan():
        servers = await welcomed(hub, 5)
        for server in servers:
            server.client(asking(type="$join", id="join", room="chat"))
        await settled()
        for number in range(20):
            for server in servers:
                server.client(asking(type="say", id=f"{number}", room="chat", data={"text": "x"}))
                if number % 2:
                    await asyncio.sleep(0)
        await settled()
        assert "hubbub: read" not in {task.get_name() for task in asyncio.all_tasks()}
        for server in servers:
            events = [server.sent.get_nowait() for _ in range(server.sent.qsize())]
            kinds = [json.loads(event["text"])["type"] for event in events]
            assert (kinds.count("say"), kinds.count("$ack")) == (100, 21)
            server.client(DISCONNECT)
            await server.application
    assert not any(paused)


class Held:
    """A listener and a `send` that waits, as for a client that reads slowly."""

    max_message = 1000

    def __init__(self) -> None:
        self.sent: list[Event] = []
        self.ending: Any = None
        self.may_send = asyncio.Event()
        self.receiving = 0
        self.asked = asyncio.Event()
        self.closes_while_receiving = True
        self.closed = asyncio.Event()
        self.ended_at = asyncio.Event()

    async def receive(self) -> Event:
        if not self.sent:
            return {"type": "websocket.connect"}
        self.receiving += 1
        self.asked.set()
        try:
            await self.closed.wait()
        finally:
            self.receiving -= 1
        return {"type": "websocket.disconnect", "code": 1005}

    async def send(self, event: Event) -> None:
        if event["type"] == "websocket.close":
            if self.receiving and not self.closes_while_receiving:
                await asyncio.Event().wait()
            self.closed.set()
        if event["type"] == "websocket.send":
            await self.may_send.wait()
            if event.get("text") == "broken":
                raise ValueError("broken")
        self.sent.append(event)

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def ended(self, ending: Any) -> None:
        self.ending = ending
        self.ended_at.set()


async def test_nothing_follows_what_waited_when_the_close_began():
    held = Held()
    transport = ASGITransport(held.receive, held.send, Readers(), Writers())
    await transport.accept(held, None)  # type: ignore[arg-type]
    transport.write([sending(b"before", False)])
    transport.close(4513, "reads too slowly")
    transport.write([sending(b"after", False)])
    held.may_send.set()
    async with asyncio.timeout(ARRIVES_WITHIN):
        await held.ended_at.wait()
    assert [told.get("text", told["type"]) for told in held.sent] == [
        "websocket.accept",
        "before",
        "websocket.close",
    ]


@pytest.mark.parametrize("by", ["a task", "the session"])
async def test_nobody_receives_when_the_close_is_sent(by):
    held = Held()
    held.closes_while_receiving = False  # Granian
    transport = ASGITransport(held.receive, held.send, Readers(), Writers())
    await transport.accept(held, None)  # type: ignore[arg-type]
    session = asyncio.create_task(transport.pull()) if by == "the session" else None
    async with asyncio.timeout(ARRIVES_WITHIN):
        await held.asked.wait()
        transport.close(1000, "")
        await held.ended_at.wait()
        assert session is None or not await session
    assert not transport.pulling


async def test_a_send_that_fails_in_any_way_is_logged_and_is_the_end(caplog):
    held = Held()
    transport = ASGITransport(held.receive, held.send, Readers(), Writers())
    await transport.accept(held, None)  # type: ignore[arg-type]
    held.may_send.set()
    transport.write([sending(b"broken", False), sending(b"lost", False)])
    async with asyncio.timeout(ARRIVES_WITHIN):
        await held.ended_at.wait()
    assert held.ending.received is None
    assert "ValueError: broken" in caplog.text
