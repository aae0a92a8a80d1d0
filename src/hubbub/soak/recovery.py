"""How long clients take from the loss of a line until they have caught up."""

import asyncio
from collections.abc import Callable, Sequence

from ..load.latencies import Latencies
from .ledger import Log, View

LOOKS_EVERY = 0.005
"""Seconds between two looks at who has caught up: as exact as the figures are."""


class Recoveries:
    """Measures each client that loses its line until it has been shown, or was told that it missed, all that
    its rooms held when it came back. A line that is lost meanwhile does not begin it anew.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.times = Latencies()
        self.gone = Latencies()
        """How long clients were without a line, each time."""
        self.lost = 0
        """How many lines were lost."""
        self.returned = 0
        """How often a client was on the line again."""
        self._now = now
        self._since: dict[int, float] = {}
        self._gone_since: dict[int, float] = {}
        self._behind: dict[int, list[tuple[View, Log, int]]] = {}
        self._changed = asyncio.Event()

    @property
    def away(self) -> int:
        """How many clients have not caught up."""
        return len(self._since)

    def line_lost(self, client: int) -> None:
        """Note that a client has found its line lost."""
        self.lost += 1
        self._behind.pop(client, None)
        now = self._gone_since[client] = self._now()
        self._since.setdefault(client, now)

    def back(self, client: int, views: Sequence[View]) -> None:
        """Note that a client is on the line again."""
        if client in self._gone_since:
            self.gone.add(self._now() - self._gone_since.pop(client))
        if client in self._since:
            self.returned += 1
            self._behind[client] = [(view, view.record.newest, view.record.newest.end) for view in views]
            self._changed.set()

    async def watch(self) -> None:
        """See who has caught up, until cancelled."""
        while True:
            await self._changed.wait()
            for client, goals in list(self._behind.items()):
                if all(view.reached(log, offset) for view, log, offset in goals):
                    del self._behind[client]
                    self.times.add(self._now() - self._since.pop(client))
            if not self._behind:
                self._changed.clear()
            else:
                await asyncio.sleep(LOOKS_EVERY)
