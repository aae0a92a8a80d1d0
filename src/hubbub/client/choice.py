"""Which line comes next, where a client has several ways in: what worked, what failed, what is better."""

from .backoff import HELD

SHORT_LIVES = 3
"""Times in a row that a line is lost soon after it was opened, after which it counts as one that fails."""


class Choice:
    """The lines are numbers from 0, the preferred one, to `count` - 1.

    What worked is where the next attempt begins. What opens and dies, over and over, works only for want of
    a better one: something on the way lets it begin and no more.
    """

    def __init__(self, count: int) -> None:
        self.current = 0
        """What worked last."""
        self._short = [0] * count

    def order(self) -> list[int]:
        """Return all lines in the order in which they are to be tried."""
        lines = range(len(self._short))
        return sorted(lines, key=lambda line: (self._short[line] >= SHORT_LIVES, line != self.current, line))

    def better(self) -> range:
        """Return the lines that would be better than the one that worked last, the best first."""
        return range(self.current)

    def opened(self, line: int) -> None:
        """Note that a line could be opened, and is used."""
        self.current = line

    def lost(self, line: int, after: float) -> None:
        """Note that a line that was used is gone without a word, some seconds after it was opened."""
        self._short[line] = 0 if after >= HELD else self._short[line] + 1
