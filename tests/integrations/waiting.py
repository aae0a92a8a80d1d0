"""Waiting for what tells nobody when it is so."""

import asyncio
from collections.abc import Callable

WITHIN = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Look again and again until a condition is true, for up to 10 s."""
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
