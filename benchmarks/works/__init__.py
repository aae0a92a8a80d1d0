"""What is measured: one file each."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from benchmarks.activity import Activity, CoreWatch, Watch
from benchmarks.peers import Peer
from benchmarks.servers import Server, serving
from hubbub.load import Target
from hubbub.load.load import Load, without_collection


@dataclass(frozen=True)
class Reading:
    """One measured window."""

    value: float
    """In the work's unit."""
    seconds: float
    """How long the window really was."""
    server: Activity
    generator: Activity
    details: Mapping[str, float] = field(default_factory=dict)
    """What else was seen, for the file."""


class Work(ABC):
    """One kind of work that a peer's server can be given."""

    name: str
    unit: str
    lower_is_better: ClassVar[bool] = False
    limited: ClassVar[bool] = True
    """Whether a generator that is saturated shows less than the server can do."""
    compressed = False
    """Whether the server is to compress."""
    also: ClassVar[Mapping[str, str]] = {}
    """What of a reading's details the table shows, too: the headings, by the detail's name."""

    @abstractmethod
    def can(self, peer: Peer) -> bool:
        """Tell whether the peer does such work at all."""

    def missing(self) -> str | None:
        """Say what is not installed here that the work can't do without."""
        return None

    def serving(self, peer: Peer, core: int) -> AbstractContextManager[Server]:
        """Run what is to be measured, on one core."""
        return serving(peer, core, compressed=self.compressed)

    @abstractmethod
    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        """Load a server that has just been started, and read off what it does.

        Raises `ValueError` if the server answers wrongly, `OSError` if it stops answering.
        """


class RateWork(Work):
    """Messages per second over a window, after a warm-up, under a load that waits for answers."""

    @abstractmethod
    def load(self, peer: Peer, target: Target) -> Load:
        """Connect the clients."""

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        with self.load(peer, target(server)) as load, without_collection():
            load.run(seconds / 4)
            with watched(server) as reading:
                count = load.run(seconds)
            load.finish()
        return reading(lambda took: count / took)


Finish = Callable[..., Reading]
"""Makes the reading of a watched window: from the value, or from what gives it for the window's length."""


@contextmanager
def watched(server: Server) -> Iterator[Finish]:
    """Watch the server and this process; what is given makes a reading of it afterwards.

    Of a server with others beside it they are watched together, with the share of each in the details.
    They wait for each other, so only what is left of their core's time counts as waiting.
    """
    its, own = Watch(server.pid, children=True), Watch(os.getpid(), children=False)
    others = {name: Watch(other.pid, children=True) for name, other in server.others.items()}
    core = CoreWatch(server.core) if others else None
    began = time.perf_counter()
    seen: list[tuple[float, Activity, Activity, dict[str, float]]] = []

    def reading(value: Callable[[float], float], details: Mapping[str, float] | None = None) -> Reading:
        took, server_activity, own_activity, shares = seen[0]
        return Reading(value(took), took, server_activity, own_activity, {**(details or {}), **shares})

    yield reading
    took, activity, mine, shares = time.perf_counter() - began, its.activity(), own.activity(), {}
    if core is not None:
        working = {"server": activity.working}
        working |= {name: watch.activity().working for name, watch in others.items()}
        together = sum(working.values())
        activity = Activity(together, max(0.0, core.busy() - together))
        shares = {f"{name}_working": share for name, share in working.items()}
    seen.append((took, activity, mine, shares))


def target(server: Server) -> Target:
    """Where a peer's server is."""
    return Target("127.0.0.1", server.port)
