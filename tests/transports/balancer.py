"""A proxy that sends each connection to the next server in turn, and remembers nothing."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[int]:
    """Listen on a port and hand each connection to the next of others, in turn."""
    turns = itertools.cycle(ports)
    lines = set()

    async def pipe(reader, writer):
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # Either end may cut it.
        finally:
            writer.close()

    async def carry(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", next(turns))
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    def connected(reader, writer):
        line = asyncio.create_task(carry(reader, writer))
        lines.add(line)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*lines)
