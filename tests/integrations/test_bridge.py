"""The bridge between hosts that are no ASGI servers and a hub, on real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import websockets
from aiohttp import ClientSession, web
from tornado.httpserver import HTTPServer
from tornado.web import Application

from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.integrations import aiohttp as on_aiohttp
from hubbub.integrations import tornado as on_tornado
from hubbub.integrations.bridge import MOST_WAITING, Arrivals, WebSocketExchange, scope_of
from wire import talk

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def tornado_host(hub: Hubbub, path: str) -> AsyncIterator[int]:
    async with hub.lifespan():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            server = HTTPServer(Application(on_tornado.routes(hub, path), xsrf_cookies=True))
            server.add_socket(listener)
            yield listener.getsockname()[1]
            await hub.drain()
            server.stop()
            await server.close_all_connections()


@asynccontextmanager
async def aiohttp_host(hub: Hubbub, path: str) -> AsyncIterator[int]:
    app = web.Application()
    on_aiohttp.setup(app, hub, path=path)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


each_host = pytest.mark.parametrize("host", [tornado_host, aiohttp_host], ids=["tornado", "aiohttp"])


class Say(Message):
    text: str


class Tell(Message):
    size: int


def chat(**settings: Any) -> Hubbub:
    hub = Hubbub(Settings(drain=1.0, **settings))
    rooms = hub.room("chat/{name}", history=10)

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.endpoint("/echo/{name}")
    async def echo(connection: Connection, name: str) -> None:
        await connection.send(f"{name} at {connection.request.url.path}?{connection.request.url.query}")
        async for message in connection:
            await connection.send(message)

    return hub


@each_host
@pytest.mark.parametrize("path", ["", "/live", "/deep/live/"])
async def test_a_hub_is_at_any_path(host, path):
    root = path.rstrip("/")
    async with host(chat(), path) as port:
        for url in {f"ws://127.0.0.1:{port}{root}/", f"ws://127.0.0.1:{port}{root}"}:
            async with talk(url) as client:
                assert client.websocket.subprotocol is None
        url = f"ws://127.0.0.1:{port}{root}/echo/ad%C3%A4?colour=r%20d"
        async with websockets.connect(url, proxy=None) as endpoint:
            assert await endpoint.recv() == f"adä at {root}/echo/adä?colour=r%20d"
            for message in ("text", b"bytes", "x" * 70_000, "", b""):
                await endpoint.send(message)
                assert await endpoint.recv() == message


@each_host
async def test_subprotocols_and_the_client_s_address(host):
    hub = chat()
    told: list[object] = []

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        told.append(connection.remote_address)

    async with host(hub, "/live") as port:
        url = f"ws://127.0.0.1:{port}/live"
        async with talk(url, subprotocols=["other", "hubbub.v1.msgpack"]) as client:
            assert client.websocket.subprotocol == "hubbub.v1.msgpack"
            assert told == [client.websocket.local_address]


@each_host
async def test_refusals_have_a_status_a_body_and_headers(host):
    async with host(chat(max_connections=1), "/live") as port:
        url = f"ws://127.0.0.1:{port}/live"
        async with talk(url):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url, proxy=None)
            response = refused.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
            assert response.body == b"The server has no place for more connections; try again later.\n"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, proxy=None, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{url}/nowhere", proxy=None)
        assert refused.value.response.status_code == 404


@each_host
async def test_what_is_no_handshake_opens_nothing(host):
    async with host(chat(), "/live") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "GET /live HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readline()).split()[1] in (b"400", b"426")
        writer.close()
        await writer.wait_closed()
        async with talk(f"ws://127.0.0.1:{port}/live") as client:
            assert (await client.ask(type="$ping"))["type"] == "$pong"


@each_host
async def test_posts_are_bounded(host):
    hub = chat(max_message=1000, max_batch_bytes=1000, api_keys="a-key-for-the-tests")
    async with host(hub, "/live") as port, ClientSession() as session:
        url = f"http://127.0.0.1:{port}/live/api/publish"
        headers = {"Authorization": "Bearer a-key-for-the-tests"}
        message = {"room": "chat/lobby", "type": "say", "data": {"text": "hi"}}
        async with session.post(url, json=message, headers=headers) as answer:
            assert answer.status == 200
        message["data"] = {"text": "x" * 5000}
        async with session.post(url, json=message, headers=headers) as answer:
            assert answer.status == 413


@each_host
async def test_a_client_of_a_stream_that_leaves_is_noticed(host):
    hub = chat()
    ended = asyncio.Event()

    @hub.on_disconnect
    async def disconnected() -> None:
        ended.set()

    async with host(hub, "/live") as port, ClientSession() as session:
        accept = {"Accept": "text/event-stream"}
        async with session.get(f"http://127.0.0.1:{port}/live", headers=accept) as answer:
            assert answer.status == 200
            await answer.content.readuntil(b"$line")
        async with asyncio.timeout(10):
            await ended.wait()


@each_host
async def test_a_client_that_answers_no_ping_is_cut_when_its_time_is_over(host):
    async with host(chat(ping_interval=0.3, ping_timeout=1.2), "/live") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "GET /live HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"$welcome")
        async with asyncio.timeout(10):
            # A ping frame without data, and nothing after it but the hub's own heartbeat.
            await reader.readuntil(b"\x89\x00")
            pinged = asyncio.get_running_loop().time()
            rest = await reader.read()
        assert asyncio.get_running_loop().time() - pinged > 1.0
        assert b"\x88" not in rest
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@each_host
async def test_a_client_that_asks_and_never_reads_is_cut_when_its_time_is_over(host):
    hub = chat(ping_interval=0.3, ping_timeout=0.3)
    ended = asyncio.Event()

    @hub.on_message
    async def tell(message: Tell) -> str:
        return "x" * message.size

    @hub.on_disconnect
    async def disconnected() -> None:
        ended.set()

    async with host(hub, "/live") as port:
        client = websockets.connect(
            f"ws://127.0.0.1:{port}/live", max_queue=1, compression=None, ping_interval=None
        )
        async with asyncio.timeout(20), client as websocket:
            for number in range(400):
                await websocket.send(f'{{"type": "tell", "id": {number}, "data": {{"size": 100000}}}}')
            await ended.wait()
            websocket.transport.abort()


class Sending(on_tornado._WebSocket):
    """A WebSocket that sends when it is let."""

    def __init__(self) -> None:
        WebSocketExchange.__init__(self)
        self._state = "open"
        self._reading = False
        self.free = asyncio.Event()

    async def write(self, message: str | bytes) -> None:
        await self.free.wait()
        self.free.clear()


async def test_a_client_that_takes_what_was_waiting_for_it_when_it_was_looked_at_is_alive():
    exchange = Sending()
    for _ in range(3):
        assert not exchange.listens(), "its handler is behind"
        sending = asyncio.create_task(exchange.send({"type": "websocket.send", "text": "x"}))
        await asyncio.sleep(0)
        assert exchange.listens(), "it takes nothing"
        signs = exchange.signs
        exchange.free.set()
        await sending
        assert exchange.signs == signs + 1
    sending = asyncio.create_task(exchange.send({"type": "websocket.send", "text": "x"}))
    exchange.free.set()
    await sending
    assert exchange.signs == signs + 1, "nobody waited for it"


@each_host
async def test_a_client_that_answers_pings_stays(host):
    async with (
        host(chat(ping_interval=0.1, ping_timeout=0.1), "/live") as port,
        talk(f"ws://127.0.0.1:{port}/live") as client,
    ):
        for _ in range(10):
            async with asyncio.timeout(10):
                # Pings of the client's own are answered as well.
                await (await client.websocket.ping())
            while (await client.receive())["type"] != "$ping":
                pass
        assert (await client.ask(type="$ping"))["type"] == "$pong"


@each_host
async def test_an_endpoint_that_raises_closes_with_1011(host):
    hub = chat()

    @hub.endpoint("/fail")
    async def fail(connection: Connection) -> None:
        raise LookupError

    async with (
        host(hub, "") as port,
        websockets.connect(f"ws://127.0.0.1:{port}/fail", proxy=None) as endpoint,
    ):
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await endpoint.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011


class TestArrivals:
    async def test_who_puts_waits_when_there_are_too_many(self):
        arrivals = Arrivals()
        for number in range(MOST_WAITING):
            await arrivals.put({"type": str(number)})
        putting = asyncio.create_task(arrivals.put({"type": "one more"}))
        await asyncio.wait((putting,), timeout=0)
        assert not putting.done()
        assert (await arrivals.take())["type"] == "0"
        await putting

    async def test_the_end_comes_last_and_lets_nobody_wait(self):
        arrivals = Arrivals()
        for _ in range(MOST_WAITING):
            await arrivals.put({"type": "message"})
        putting = asyncio.create_task(arrivals.put({"type": "late"}))
        await asyncio.wait((putting,), timeout=0)
        arrivals.end({"type": "end"})
        await putting
        taken = [(await arrivals.take())["type"] for _ in range(MOST_WAITING + 2)]
        assert taken == ["message"] * MOST_WAITING + ["end", "end"]


def test_a_scope_is_as_asgi_has_it():
    scope = scope_of(
        "websocket",
        method="GET",
        target="/live/a%20b?token=x",
        headers=[(b"sec-websocket-protocol", b"one, two"), (b"sec-websocket-protocol", b"three")],
        secure=True,
        client=("127.0.0.1", 1),
        root_path="/live",
    )
    assert json.dumps(scope["subprotocols"]) == '["one", "two", "three"]'
    assert (scope["scheme"], scope["path"], scope["raw_path"]) == ("wss", "/live/a b", b"/live/a%20b")
    assert scope["query_string"] == b"token=x"
