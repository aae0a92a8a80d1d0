"""Latency at a fixed rate that every peer can keep up with."""

from benchmarks.peers import Peer, text
from benchmarks.servers import Server
from benchmarks.works import Reading, Work, target, watched
from hubbub.load.connection import Connection
from hubbub.load.load import close_all, open_all, without_collection
from hubbub.load.paced import PacedLoad

SUBSCRIBERS = 100
RATE = 200
TEXT = text(64)


class Latency(Work):
    """What 99 of 100 deliveries don't exceed, from the moment when the broadcast was due."""

    name = f"latency, {RATE} broadcasts/s to {SUBSCRIBERS}"
    unit = "ms, p99"
    lower_is_better = True

    def can(self, peer: Peer) -> bool:
        return peer.fanout is not None

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        fanout = peer.fanout
        assert fanout is not None
        where = target(server)
        subscribers = open_all(lambda _: Connection(where, fanout.subscriber), SUBSCRIBERS)
        try:
            publisher = Connection(where, fanout.publisher)
        except BaseException:
            close_all(subscribers)
            raise
        load = PacedLoad([publisher], subscribers, fanout.publish(TEXT), RATE)
        with load, without_collection():
            load.run(seconds / 4)
            load.latencies.clear()
            with watched(server) as reading:
                load.run(seconds)
            load.finish()
        found = load.latencies
        return reading(
            lambda _: found.percentile(99) * 1e3,
            {"p50_ms": found.percentile(50) * 1e3, "max_ms": found.longest * 1e3, "deliveries": len(found)},
        )
