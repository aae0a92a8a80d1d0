"""What members of a room hear."""

import asyncio

from hubbub import Received

ARRIVES_WITHIN = 45.0


async def texts(room, count: int) -> list[str]:
    """Return the next messages of a room; that a gap is among them fails."""
    found = []
    async with asyncio.timeout(ARRIVES_WITHIN):
        while len(found) < count:
            event = await anext(room)
            assert isinstance(event, Received), event
            found.append(event.message.text)
    return found
