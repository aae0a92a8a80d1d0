"""Drain: a stopping server lets its clients go, spread over time, after their messages are handled."""

import asyncio
import random

from ..protocol.envelope import Drain, Envelope
from .connection import Connection
from .hub import Hub

BATCHES = 20
"""Batches in which many connections are closed."""

SMALLEST_BATCH = 100
"""So few connections are closed at once: coming back, they are no load."""


async def drain(hub: Hub, seconds: float) -> None:
    """Tell every client when to come back, and close with 1012, all within `seconds`.

    Each is told a time of its own, so that their return is spread over the same span. Returns as soon as
    all connections are closed, or when the time is over.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    connections = list(hub.connections.values())
    random.shuffle(connections)
    spread = seconds * min(1.0, len(connections) / (SMALLEST_BATCH * BATCHES))
    for connection in connections:
        after = round(random.uniform(0, spread), 3)  # noqa: S311  # spreads load, keeps no secret
        connection.deliver(Envelope("$drain", data=Drain(after)))
    size = max(SMALLEST_BATCH, -(-len(connections) // BATCHES))
    closed = asyncio.create_task(_all_closed(connections), name="hubbub: drain")
    try:
        for start in range(0, len(connections), size):
            if start:
                # Half of the time is for closing, the other half for what is still being handled.
                await asyncio.wait((closed,), timeout=seconds / 2 / BATCHES)
            if closed.done():
                break
            for connection in connections[start : start + size]:
                connection.shut_down()
        await asyncio.wait((closed,), timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not closed.done():
            for connection in connections:
                connection.transport.abort()
    finally:
        closed.cancel()
        await asyncio.wait((closed,))


async def _all_closed(connections: list[Connection]) -> None:
    for connection in connections:
        await connection.wait_closed()
