"""A raw `websockets` server for the tests, in a thread of this process, on a free port."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve

from hubbub.load import Target

Handler = Callable[[ServerConnection], Awaitable[None]]
WITHIN = 10.0


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def send_on(connection: ServerConnection) -> None:
    """Send each message on to all others."""
    async for message in connection:
        broadcast(connection.server.connections - {connection}, message)


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


class PlainServer:
    """A running server."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.port: int = server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.target = Target("127.0.0.1", self.port)
        self._server = server
        self._loop = loop

    def connections(self) -> int:
        """How many are open."""

        async def count() -> int:
            return len(self._server.connections)

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(WITHIN)


@contextmanager
def plain_server(handler: Handler = echo, **options: Any) -> Iterator[PlainServer]:
    started = threading.Event()
    running: list[tuple[PlainServer, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, **{"compression": None, **options}) as server:
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            running.append((PlainServer(server, loop), loop, stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(WITHIN), "the server did not start"
    server, loop, stop = running[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WITHIN)
        assert not thread.is_alive(), "the server did not stop"
