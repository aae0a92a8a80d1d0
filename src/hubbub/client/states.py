"""The states that a client goes through, for whoever watches."""

import asyncio
from collections import deque
from weakref import WeakSet

from .events import State, StateChange

KEPT = 100
"""Changes that wait for one who watches; past that the oldest are forgotten."""


class Watch:
    """An asynchronous iterator over a client's states: the one that it is in, then each that follows.

    It ends after CLOSED.
    """

    def __init__(self, change: StateChange) -> None:
        self._changes = deque([change], KEPT)
        self._changed = asyncio.Event()
        self._over = False

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> StateChange:
        while not self._changes:
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        change = self._changes.popleft()
        self._over = change.state is State.CLOSED
        return change

    def add(self, change: StateChange) -> None:
        """Have a change yielded."""
        self._changes.append(change)
        self._changed.set()


class States:
    """The state that a client is in, and those who watch it."""

    def __init__(self) -> None:
        self.current = StateChange(State.CONNECTING)
        self._watches: WeakSet[Watch] = WeakSet()

    def change(self, change: StateChange) -> None:
        """Go on to another state."""
        self.current = change
        for watch in self._watches:
            watch.add(change)

    def watch(self) -> Watch:
        """Return an iterator over the states from this one on."""
        watch = Watch(self.current)
        self._watches.add(watch)
        return watch
