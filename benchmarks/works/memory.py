"""Memory of the server for each connection that has joined a room and says nothing."""

from benchmarks.activity import settled_memory
from benchmarks.peers import Peer
from benchmarks.servers import Server
from benchmarks.works import Reading, Work, target, watched
from hubbub.load.idle import IdleConnections

FIRST = 1000
"""Connections that the server has before it is looked at: what it allocates once doesn't count."""


class Memory(Work):
    """What the server's memory grows by from some connections to many, divided by how many came between."""

    unit = "kB each"
    lower_is_better = True
    limited = False

    def __init__(self, connections: int) -> None:
        self.name = f"memory of {connections} idle connections in a room"
        self._connections = connections
        self._first = min(FIRST, connections // 2)

    def can(self, peer: Peer) -> bool:
        return peer.fanout is not None

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:  # noqa: ARG002  # there is no window
        assert peer.fanout is not None
        idle = IdleConnections(target(server), peer.fanout.subscriber)
        try:
            idle.open(self._first)
            before = settled(server, idle)
            with watched(server) as reading:
                idle.open(self._connections - self._first)
                after = settled(server, idle)
            idle.hold(0)
            if after <= before:
                raise ValueError("The server's memory did not grow; more connections are needed to tell.")
            if len(idle) != self._connections:
                raise ValueError(f"Only {len(idle)} of {self._connections} connections were held.")
        finally:
            idle.close()
        return reading(
            lambda _: (after - before) / (self._connections - self._first),
            {"before_kB": before, "after_kB": after, "connections": self._connections},
        )


def settled(server: Server, idle: IdleConnections) -> int:
    """Return the server's memory in kB, once it has done all that it was asked for and is quiet."""
    idle.ask()
    return settled_memory(server.pid, idle.hold)
