"""Fan-out: one publisher, many subscribers, a fixed number of broadcasts in flight."""

from benchmarks.peers import Peer, text
from benchmarks.works import RateWork
from hubbub.load import Target
from hubbub.load.fanout import SharedFanOutLoad
from hubbub.load.load import Load

TEXTS = 64
"""Of 1 kB: more than the 32 KiB that a compressor with context takeover looks back on, so that nobody
finds a message among those before it.
"""


class FanOut(RateWork):
    """Deliveries to all subscribers together, with `in_flight` broadcasts on their way at any time."""

    unit = "deliveries/s"

    def __init__(self, subscribers: int, in_flight: int, size: int = 64, *, compressed: bool = False) -> None:
        self.compressed = compressed
        self.name = f"fan-out to {subscribers}, w={in_flight}"
        if size != 64 or compressed:
            self.name += f", {size} bytes{' compressed' if compressed else ''}"
        self._subscribers = subscribers
        self._in_flight = in_flight
        self._texts = [text(size, number) for number in range(TEXTS if compressed else 1)]

    def can(self, peer: Peer) -> bool:
        return peer.fanout is not None and (peer.compressed is not None or not self.compressed)

    def load(self, peer: Peer, target: Target) -> Load:
        fanout = peer.fanout
        assert fanout is not None
        return SharedFanOutLoad(
            target,
            fanout.subscriber,
            fanout.publisher,
            fanout.publish(self._texts[0]),
            fanout.delivery(self._texts[0]),
            self._subscribers,
            self._in_flight,
            others=[fanout.publish(text) for text in self._texts[1:]],
            deflate=self.compressed,
        )
