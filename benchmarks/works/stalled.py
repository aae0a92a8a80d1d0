"""What readers that have stopped to read cost the others."""

from benchmarks.pacing import paced
from benchmarks.peers import Peer, text
from benchmarks.servers import Server
from benchmarks.works import Reading, Work, target, watched

READERS = 200
STALLED = READERS // 10
RATE = 100
TEXT = text(1024)


class Stalled(Work):
    """The others' 99th percentile with a tenth of the readers stalled, divided by what it was before."""

    name = f"{STALLED} of {READERS} readers stalled, {RATE} broadcasts/s of {len(TEXT)} bytes"
    unit = "times the p99 of the others"
    lower_is_better = True
    limited = False

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
            subscribers=READERS,
            rate=RATE,
            warm_up=seconds / 4,
            narrow=STALLED,
        ) as (load, readers):
            with watched(server) as reading:
                load.run(seconds)
                before = load.latencies.percentile(99)
                load.stall(readers[:STALLED])
                load.latencies.clear()
                load.run(seconds)
                after = load.latencies.percentile(99)
            load.finish()
        return reading(
            lambda _: after / before, {"p99_before_ms": before * 1e3, "p99_stalled_ms": after * 1e3}
        )
