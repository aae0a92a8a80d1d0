"""What is measured: one file each."""

import gc
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks.activity import Activity, Watch
from benchmarks.peers import Peer
from benchmarks.servers import Server


@dataclass(frozen=True)
class Reading:
    """One measured window."""

    value: float
    """In the work's unit."""
    seconds: float
    """How long the window really was."""
    server: Activity
    generator: Activity


class Work(ABC):
    """One kind of work that a peer's server can be given."""

    name: str
    unit: str

    @abstractmethod
    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        """Load a server that has just been started, and read off what it does.

        Raises `ValueError` if the server answers wrongly, `OSError` if it stops answering.
        """


class Load(ABC):
    """The clients of one window: connected and checked when made."""

    @abstractmethod
    def run(self, seconds: float) -> int:
        """Go on with the load for that long; return how many messages have come in."""

    @abstractmethod
    def finish(self) -> None:
        """Send no more, receive what is under way, and check that it is right."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


class RateWork(Work):
    """Messages per second over a window, after a warm-up, under a load that waits for answers."""

    @abstractmethod
    def load(self, peer: Peer, port: int) -> Load:
        """Connect the clients."""

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        load = self.load(peer, server.port)
        gc.collect()
        gc.disable()
        try:
            load.run(seconds / 4)
            its, own = Watch(server.pid, children=True), Watch(os.getpid(), children=False)
            began = time.perf_counter()
            count = load.run(seconds)
            took = time.perf_counter() - began
            reading = Reading(count / took, took, its.activity(), own.activity())
            load.finish()
        finally:
            gc.enable()
            load.close()
        return reading
