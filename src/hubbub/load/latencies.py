"""How long things took: counted by the microsecond."""

from collections import Counter


class Latencies:
    """Durations. What they take in memory depends on how far they spread, not on how many there are."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        """How many there were, by whole microseconds."""

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[int(seconds * 1e6)] += 1

    def clear(self) -> None:
        """Begin anew."""
        self.counts.clear()

    def __len__(self) -> int:
        return self.counts.total()

    def percentile(self, percent: float) -> float:
        """Return the least duration, in seconds, that so many percent don't exceed; 0 if there is none."""
        wanted = self.counts.total() * percent / 100
        so_far = 0
        for duration in sorted(self.counts):
            so_far += self.counts[duration]
            if so_far >= wanted:
                return duration / 1e6
        return 0.0

    @property
    def longest(self) -> float:
        """The longest, in seconds; 0 if there is none."""
        return max(self.counts, default=0) / 1e6
