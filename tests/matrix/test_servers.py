"""What ASGI servers do by themselves is what the table of servers says."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from hubbub.protocol.codes import CloseCode
from hubbub.testing.processes import Process
from matrix.bare import FLOOD
from matrix.narrow import narrowed
from matrix.servers import FACTS, SERVERS, ASGIServer

QUIET = 2.0
"""Seconds after which what has not come is not under way."""


@dataclass(frozen=True)
class Running:
    server: ASGIServer
    process: Process

    def connect(self, path: str, port: int | None = None, **options: object) -> connect:
        url = f"ws://127.0.0.1:{port or self.process.port}{path}"
        given = {"compression": None, "ping_interval": None, "close_timeout": 0.5, "proxy": None, **options}
        return connect(url, **given)

    async def told(self, ask: str = "") -> dict[str, Any]:
        """What the application has seen; who waits for `ask` goes on."""
        async with self.asking(f"/told?{ask}", "Connection: close") as reader:
            return json.loads((await reader.read()).partition(b"\r\n\r\n")[2])

    @asynccontextmanager
    async def asking(
        self, path: str, *headers: str, port: int | None = None
    ) -> AsyncIterator[asyncio.StreamReader]:
        """Send a request, and break the connection off when the body is done with it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.process.port)
        try:
            head = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
            writer.write("\r\n".join(head).encode())
            yield reader
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def until_told(self, name: str) -> Any:
        """Wait until the application has seen something, and return it."""
        async with asyncio.timeout(10):
            while True:
                told = await self.told()
                if name in told:
                    return told[name]

    async def stalls(self, flood: str) -> bool:
        """Tell whether the application that floods gets stuck: not done, it gets no further for long."""
        loop = asyncio.get_running_loop()
        last, since = 0, loop.time()
        async with asyncio.timeout(60):
            while loop.time() - since < QUIET:
                written = (await self.told())["written"].get(flood, 0)
                if written == FLOOD:
                    return False
                if written != last or not written:
                    last, since = written, loop.time()
        return True


@pytest.fixture(scope="module", params=SERVERS, ids=str)
async def running(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Running]:
    async with request.param.process() as process:
        yield Running(request.param, process)


async def ending(websocket: ClientConnection) -> tuple[int, str] | None:
    """Return code and reason of a close frame that comes soon; what comes before is dropped."""
    try:
        async with asyncio.timeout(QUIET):
            while True:
                await websocket.recv()
    except TimeoutError:
        return None
    except websockets.ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


async def lifespan(running: Running) -> bool:
    return bool((await running.told())["lifespan"])


async def denial(running: Running) -> bool:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await running.connect("/deny")
    return refused.value.response.status_code == 429


async def subprotocol(running: Running) -> bool:
    async with running.connect("/stay", subprotocols=["one", "two"]) as websocket:
        return websocket.subprotocol == "two"


async def reason(running: Running) -> bool:
    async with running.connect("/close") as websocket:
        return await ending(websocket) == (4401, "Log in first.")


async def codes(running: Running) -> bool:
    async with running.connect("/close-with-1012") as websocket:
        found = await ending(websocket)
        return found is not None and found[0] == 1012


async def closes_while_receiving(running: Running) -> bool:
    async with running.connect("/close-while-receiving") as websocket:
        assert await websocket.recv() == "receiving"
        found = await ending(websocket)
        return found is not None and found[0] == 4401


async def closes_behind_messages(running: Running) -> bool:
    ask = uuid.uuid4().hex
    async with running.connect(f"/close-behind-messages?{ask}", close_timeout=10) as websocket:
        for _ in range(100):
            await websocket.send("more")
        await running.told(ask)  # what was sent before it is at the server
        found = await ending(websocket)
        return found is not None and found[0] == 4401


async def heard(running: Running) -> list[object]:
    async with running.connect("/hear-the-end") as websocket:
        await websocket.close(4001, "mine")
    return await running.until_told("end")


async def client_s_code(running: Running) -> bool:
    return (await heard(running))[1] == 4001


async def client_s_reason(running: Running) -> bool:
    return (await heard(running))[2] == "mine"


async def slow_websockets(running: Running) -> bool:
    flood = uuid.uuid4().hex
    async with (
        narrowed(running.process.port) as way,
        running.connect(f"/flood?{flood}", port=way.port) as websocket,
    ):
        way.hold()
        stalls = await running.stalls(flood)
        websocket.transport.abort()
        return stalls


async def slow_responses(running: Running) -> bool:
    async with narrowed(running.process.port) as way:
        way.hold()
        flood = uuid.uuid4().hex
        async with running.asking(f"/flood?{flood}", port=way.port):
            return await running.stalls(flood)


async def cuts(running: Running) -> bool:
    async with running.connect("/return") as websocket:
        return await ending(websocket) is not None


async def pings(running: Running) -> bool:
    """A ping frame without payload or with, on a line on which nothing else is said."""
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with running.asking("/stay", *upgrade) as reader:
        await reader.readuntil(b"\r\n\r\n")
        try:
            async with asyncio.timeout(5):
                return (await reader.readexactly(1))[0] & 0x0F == 0x9
        except TimeoutError:
            return False


async def tells_of_the_stop(running: Running) -> bool:
    async with running.server.process() as process:
        stopping = Running(running.server, process)
        async with stopping.connect("/stay", close_timeout=10) as websocket:
            os.kill(process.pid, signal.SIGTERM)
            async with asyncio.timeout(15):
                try:
                    await websocket.recv()
                except websockets.ConnectionClosed as closed:
                    return closed.rcvd is not None and closed.rcvd.code in (
                        CloseCode.GOING_AWAY,
                        CloseCode.SERVICE_RESTART,
                    )
    raise AssertionError("something was said")


PROBES: dict[str, Callable[[Running], Awaitable[bool]]] = {
    "lifespan": lifespan,
    "denial": denial,
    "subprotocol": subprotocol,
    "reason": reason,
    "codes": codes,
    "closes while receiving": closes_while_receiving,
    "closes behind messages": closes_behind_messages,
    "client's code": client_s_code,
    "client's reason": client_s_reason,
    "slow WebSockets": slow_websockets,
    "slow responses": slow_responses,
    "cuts": cuts,
    "pings": pings,
    "tells of the stop": tells_of_the_stop,
}


@pytest.mark.parametrize("fact", FACTS)
async def test_a_server_does_what_the_table_says(running: Running, fact: str):
    assert await PROBES[fact](running) == (running.server.name not in FACTS[fact].lacking)


def test_each_fact_is_probed():
    assert list(PROBES) == list(FACTS)
