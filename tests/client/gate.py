"""A proxy as companies have them: WebSockets and streams pass, or become what it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
FORBIDDEN = REFUSED.replace(b"400 Bad Request", b"403 Forbidden")


class Gate:
    """What becomes of connections, by what their first request is: a WebSocket's, a stream's, or another.

    Of `websockets` and `streams`, "pass" lets them through, "refuse" answers 400, "forbid" 403, "mute" lets
    the head of the answer through and nothing after it, and "cut" ends the connection in its place.
    """

    def __init__(self, port: int) -> None:
        self.backend = port
        self.port = 0
        self.websockets = "pass"
        self.streams = "pass"
        self.asked: list[str] = []
        """What was asked for: "websocket", "stream" or "other"."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def url(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.port}"

    def lose_all(self) -> None:
        """Break every connection off."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Have nothing pass any more, and no connection end."""
        self._flowing.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            # Whoever cancels it waits for it.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        kind, rule = "other", "pass"
        if b"upgrade: websocket" in head.lower():
            kind, rule = "websocket", self.websockets
        elif b"text/event-stream" in head or (b"application/x-ndjson" in head and head.startswith(b"GET")):
            kind, rule = "stream", self.streams
        self.asked.append(kind)
        if rule in ("refuse", "forbid"):
            writer.write(REFUSED if rule == "refuse" else FORBIDDEN)
            await writer.drain()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.backend)
        self._writers.add(there)
        try:
            there.write(head)
            if rule in ("mute", "cut"):
                writer.write(await there_reader.readuntil(b"\r\n\r\n"))
                if rule == "mute":
                    await reader.read()
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, there))
                tasks.create_task(self._copy(there_reader, writer))
        finally:
            self._writers.discard(there)
            there.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        self.lose_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def gate_to(port: int) -> AsyncIterator[Gate]:
    """Stand before a port of this machine while the body runs."""
    gate = Gate(port)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        await gate.close()
