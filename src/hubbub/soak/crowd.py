"""The clients of a soak, together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ..client import Client
from .background import background
from .ledger import Ledger
from .participant import Participant
from .recovery import Recoveries

AT_ONCE = 50
"""Clients that connect at the same time in the beginning."""
LOOKS_EVERY = 0.05
"""Seconds between two looks at how far it is."""


@asynccontextmanager
async def crowd(
    clients: Sequence[tuple[Client, Sequence[str]]],
    ledger: Ledger,
    recoveries: Recoveries,
    show: Callable[[str, float], None],
) -> AsyncIterator[list[Participant]]:
    """Have clients connect and join their rooms, given by their names; they are there until the block ends.

    All have joined when it begins. They are numbered in their order.
    """
    participants: dict[int, Participant] = {}
    gate, over = asyncio.Semaphore(AT_ONCE), asyncio.Event()

    async def participate(number: int, client: Client, names: Sequence[str]) -> None:
        async with AsyncExitStack() as stack:
            async with gate:
                await stack.enter_async_context(client)
                participant = Participant(number, client, ledger, recoveries)
                await participant.join(names)
            await stack.enter_async_context(background(participant.receive(), participant.watch()))
            participants[number] = participant
            await over.wait()

    async with asyncio.TaskGroup() as group, background(recoveries.watch()):
        for number, (client, names) in enumerate(clients):
            group.create_task(participate(number, client, names))
        while len(participants) < len(clients):
            show("connecting", len(participants) / len(clients))
            await asyncio.sleep(LOOKS_EVERY)
        try:
            yield [participants[number] for number in range(len(clients))]
        finally:
            over.set()


async def in_time(condition: Callable[[], bool], patience: float, show: Callable[[float], None]) -> None:
    """Wait until something is so, `patience` seconds at the most; `show` is told what part has passed."""
    began = time.monotonic()
    while not condition() and (waited := time.monotonic() - began) < patience:
        show(waited / patience)
        await asyncio.sleep(LOOKS_EVERY)
