"""A client of Engine.IO that says and sees everything itself, for what a library would never do."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection, connect

from hubbub.testing.serving import Served, serving
from transports.engine_echo import Engine

ARRIVES_WITHIN = 10.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> object:
        return json.loads(self.body)


class Request:
    """A request on a connection of its own: what it says has been written, its answer is awaited."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answer(self) -> Answer:
        """Return the answer once it is whole."""
        try:
            async with asyncio.timeout(ARRIVES_WITHIN):
                head = await self._reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
                headers = {}
                for line in lines:
                    name, value = line.split(": ", 1)
                    known = headers.get(name.lower())
                    headers[name.lower()] = value if known is None else f"{known}, {value}"
                body = await self._reader.readexactly(int(headers.get("content-length", 0)))
                return Answer(int(first.split(" ")[1]), headers, body)
        finally:
            await self.leave()

    async def leave(self) -> None:
        """Cut the connection."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Client:
    """Sends requests to an Engine.IO server. `version` is the EIO parameter of its URLs."""

    def __init__(self, served: Served, engine: Engine, version: int = 4) -> None:
        self.served = served
        self.engine = engine
        self.version = version

    async def start(
        self,
        method: str,
        query: str,
        body: bytes = b"",
        headers: Iterable[str] = (),
        *,
        declared: int | None = None,
    ) -> Request:
        """Send a request; `declared` is the length that its body claims to have, if not its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.served.port)
        lines = [
            f"{method} /engine.io/?{query} HTTP/1.1",
            f"Host: 127.0.0.1:{self.served.port}",
            "Connection: close",
            *headers,
        ]
        if body or declared is not None or method == "POST":
            lines.append(f"Content-Length: {len(body) if declared is None else declared}")
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        return Request(reader, writer)

    async def ask(self, method: str, query: str, body: bytes = b"", headers: Iterable[str] = ()) -> Answer:
        """Send a request and return the answer to it."""
        return await (await self.start(method, query, body, headers)).answer()

    def query(self, session_id: str, transport: str = "polling") -> str:
        return f"EIO={self.version}&transport={transport}&sid={session_id}"

    async def open(self, more: str = "") -> str:
        """Open a session that polls; return its id."""
        answer = await self.ask("GET", f"EIO={self.version}&transport=polling{more}")
        assert answer.status == 200, answer
        text = answer.text if self.version == 4 else answer.text.partition(":")[2]
        assert text[0] == "0"
        session_id: str = json.loads(text[1:])["sid"]
        return session_id

    async def poll(self, session_id: str) -> Answer:
        """Ask for packets."""
        return await self.ask("GET", self.query(session_id))

    async def post(self, session_id: str, body: str | bytes, *headers: str) -> Answer:
        """Send packets."""
        data = body.encode() if isinstance(body, str) else body
        return await self.ask("POST", self.query(session_id), data, headers)

    @asynccontextmanager
    async def websocket(self, session_id: str = "", more: str = "") -> AsyncIterator[ClientConnection]:
        """Open a WebSocket: for a session that polls, or for one of its own."""
        query = f"EIO={self.version}&transport=websocket{more}"
        if session_id:
            query += f"&sid={session_id}"
        async with connect(
            f"{self.served.url}/engine.io/?{query}",
            proxy=None,
            ping_interval=None,
            open_timeout=ARRIVES_WITHIN,
        ) as socket:
            yield socket

    @asynccontextmanager
    async def probed(self, session_id: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket for a session, and make its probe."""
        async with self.websocket(session_id) as socket:
            await socket.send("2probe")
            assert await received(socket) == "3probe"
            yield socket


async def received(socket: ClientConnection) -> str | bytes:
    """Return the next message of a WebSocket."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        return await socket.recv()


async def closed(socket: ClientConnection) -> int | None:
    """Wait until the server has closed a WebSocket; return its code."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        await socket.wait_closed()
    return socket.close_code


async def until(condition: Callable[[], object]) -> None:
    """Wait until something on the server is so."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        while not condition():  # noqa: ASYNC110  # what it waits for is no event
            await asyncio.sleep(0.002)


@asynccontextmanager
async def engine_client(engine: Engine, version: int = 4) -> AsyncIterator[Client]:
    """Serve an application, and return a client of it."""
    async with serving(engine, settings=engine.settings) as served:
        yield Client(served, engine, version)
