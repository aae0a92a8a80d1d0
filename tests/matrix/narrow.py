"""A way to a server through which little fits, so that a client that does not read is soon noticed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

ROOM = 4096
"""Bytes that wait between the server and the client, about."""


class Narrow:
    """A TCP proxy, whose direction to the client can be held; `port` is where it listens."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.WriteTransport] = set()
        self.port = 0

    def hold(self) -> None:
        """Let nothing more through to the clients."""
        self._flowing.clear()

    def let_go(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._carriers.add(task)
        task.add_done_callback(self._carriers.discard)
        upstream = socket.socket()
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        upstream.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(upstream, ("127.0.0.1", self._target))
            server_reader, server_writer = await asyncio.open_connection(sock=upstream, limit=ROOM)
        except BaseException:
            upstream.close()
            writer.close()
            raise
        ends = {writer.transport, server_writer.transport}
        self._ends |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, server_writer, None))
                group.create_task(self._carry(server_reader, writer, self._flowing))
        finally:
            self._ends -= ends
            for end in ends:
                end.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event | None
    ) -> None:
        with suppress(OSError):
            while True:
                if flowing is not None:
                    await flowing.wait()
                data = await reader.read(ROOM)
                if flowing is not None:
                    await flowing.wait()
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
            return
        writer.transport.abort()

    async def stop(self) -> None:
        """Break off what is left."""
        self._flowing.set()
        for end in self._ends:
            end.abort()
        await asyncio.gather(*self._carriers)


@asynccontextmanager
async def narrowed(target: int) -> AsyncIterator[Narrow]:
    """Serve a way to a port while the body runs."""
    way = Narrow(target)
    server = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        await way.stop()
