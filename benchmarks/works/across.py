"""From one instance to another: who publishes is on the one, who subscribes on the other, over a Redis."""

from contextlib import AbstractContextManager
from typing import ClassVar

from benchmarks.pacing import paced
from benchmarks.peers import Peer, text
from benchmarks.servers import Server, redis_missing, serving_across
from benchmarks.works import RateWork, Reading, Work, target, watched
from hubbub.load import Target
from hubbub.load.fanout import SharedFanOutLoad
from hubbub.load.load import Load

SUBSCRIBERS = 10
RATE = 100
TEXT = text(64)


class TwoInstances(Work):
    """Work for a server of each kind: one that publishers are connected to, and one that subscribers are."""

    def can(self, peer: Peer) -> bool:
        return peer.across is not None

    def missing(self) -> str | None:
        return redis_missing()

    def serving(self, peer: Peer, core: int) -> AbstractContextManager[Server]:
        return serving_across(peer, core)


class Across(TwoInstances, RateWork):
    """Deliveries to all subscribers together, with `in_flight` broadcasts on their way at any time."""

    unit = "deliveries/s"

    def __init__(self, subscribers: int, in_flight: int) -> None:
        self.name = f"across instances to {subscribers}, w={in_flight}"
        self._subscribers = subscribers
        self._in_flight = in_flight
        self._through: Target | None = None

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        self._through = target(server.others["publisher"])
        return super().measure(peer, server, seconds)

    def load(self, peer: Peer, target: Target) -> Load:
        assert peer.across is not None
        fanout = peer.across.fanout
        return SharedFanOutLoad(
            target,
            fanout.subscriber,
            fanout.publisher,
            fanout.publish(TEXT),
            fanout.delivery(TEXT),
            self._subscribers,
            self._in_flight,
            through=self._through,
        )


class AcrossLatency(TwoInstances):
    """What half of all deliveries don't exceed, from the moment when the broadcast was due."""

    name = f"latency across instances, {RATE} broadcasts/s to {SUBSCRIBERS}"
    unit = "ms, p50"
    lower_is_better = True
    also: ClassVar[dict[str, str]] = {"p99_ms": "p99"}

    def measure(self, peer: Peer, server: Server, seconds: float) -> Reading:
        assert peer.across is not None
        fanout = peer.across.fanout
        with paced(
            fanout,
            TEXT,
            to=target(server),
            through=target(server.others["publisher"]),
            subscribers=SUBSCRIBERS,
            rate=RATE,
            warm_up=seconds / 4,
        ) as (load, _):
            with watched(server) as reading:
                load.run(seconds)
            load.finish()
        found = load.latencies
        return reading(
            lambda _: found.percentile(50) * 1e3,
            {"p99_ms": found.percentile(99) * 1e3, "max_ms": found.longest * 1e3, "deliveries": len(found)},
        )
