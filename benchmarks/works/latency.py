"""Latency at a fixed rate that every peer can keep up with."""

from benchmarks.pacing import paced
from benchmarks.peers import Peer, text
from benchmarks.servers import Server
from benchmarks.works import Reading, Work, target, watched

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
        with paced(
            fanout,
            TEXT,
            to=where,
            through=where,
            subscribers=SUBSCRIBERS,
            rate=RATE,
            warm_up=seconds / 4,
        ) as (load, _):
            with watched(server) as reading:
                load.run(seconds)
            load.finish()
        found = load.latencies
        return reading(
            lambda _: found.percentile(99) * 1e3,
            {"p50_ms": found.percentile(50) * 1e3, "max_ms": found.longest * 1e3, "deliveries": len(found)},
        )
