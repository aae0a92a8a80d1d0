"""Peers in turn, round after round, so that a slow drift of the machine falls on all of them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.peers import Peer
from benchmarks.servers import serving
from benchmarks.works import Reading, Work


@dataclass(frozen=True)
class Results:
    """The readings of one work: for each peer, in the order of their turns, one reading a round."""

    work: Work
    readings: dict[str, list[Reading]] = field(default_factory=dict)

    def values(self, peer: str) -> list[float]:
        return [reading.value for reading in self.readings[peer]]

    def median(self, peer: str) -> float:
        return median(self.values(peer))

    def ratios(self, peer: str) -> list[float]:
        """The first peer's value divided by this peer's, for each round."""
        first = next(iter(self.readings))
        return [mine / its for mine, its in zip(self.values(first), self.values(peer), strict=True)]


def measure(
    work: Work,
    peers: Sequence[Peer],
    rounds: int,
    seconds: float,
    core: int,
    tell: Callable[[Work, int, Peer, Reading], None],
) -> Results:
    """Measure one work. Each window has a fresh server, on `core`; `tell` hears of each reading at once."""
    results = Results(work, {peer.name: [] for peer in peers})
    for number in range(1, rounds + 1):
        for peer in peers:
            with serving(peer, core) as server:
                reading = work.measure(peer, server, seconds)
            results.readings[peer.name].append(reading)
            tell(work, number, peer, reading)
    return results
