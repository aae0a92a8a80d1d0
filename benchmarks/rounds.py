"""Peers in turn, round after round, so that a slow drift of the machine falls on all of them alike."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.peers import Peer
from benchmarks.works import Reading, Work

TURN_TIMEOUT = 120.0
"""In seconds beside the window itself, for a peer to let all clients in, to get ready and to be checked."""

FAILURES = OSError, ValueError, RuntimeError, ZeroDivisionError, subprocess.SubprocessError
"""What goes wrong with one peer: the others are measured all the same."""


@dataclass(frozen=True)
class Results:
    """The readings of one work: for each peer, in the order of their turns, one reading a round."""

    work: Work
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why not."""

    def values(self, peer: str) -> list[float]:
        return [reading.value for reading in self.readings[peer]]

    def median(self, peer: str) -> float:
        return median(self.values(peer))

    def ratios(self, peer: str) -> list[float]:
        """The first peer's value divided by this peer's, for each round."""
        first = next(iter(self.readings))
        return [mine / its for mine, its in zip(self.values(first), self.values(peer), strict=True)]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in this, the main thread, if what is done here takes longer."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"It took longer than {seconds:.0f} seconds.")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(
    work: Work,
    peers: Sequence[Peer],
    rounds: int,
    seconds: float,
    core: int,
    tell: Callable[[Work, int, Peer, Reading], None],
) -> Results:
    """Measure one work, of the peers that can do it. Each window has a fresh server, on `core`; `tell` hears
    of each reading at once. A peer that fails is left out from then on.
    """
    able = [peer for peer in peers if work.can(peer)]
    results = Results(work, {peer.name: [] for peer in able})
    for turn in range(1, rounds + 1):
        for peer in able:
            if peer.name in results.failures:
                continue
            try:
                with work.serving(peer, core) as server, limited(TURN_TIMEOUT + seconds):
                    reading = work.measure(peer, server, seconds)
                    if reading.value <= 0:
                        raise ValueError("Nothing was measured.")  # nothing can be compared with it
            except FAILURES as error:
                results.failures[peer.name] = "\n".join([str(error), *getattr(error, "__notes__", ())])
                del results.readings[peer.name]
            else:
                results.readings[peer.name].append(reading)
                tell(work, turn, peer, reading)
    return results
