"""How long to wait before each attempt to come back."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Waits = Callable[[], Iterator[float]]
"""Begins a series of seconds, one before each attempt; where it ends, the client stops trying."""

HELD = 10.0
"""Seconds after which a connection has held, so that the back-off begins anew."""


@dataclass(frozen=True)
class Backoff:
    """At once, then after 1, 2, 4 and 8 seconds, each multiplied by a random number between 0 and 1.

    The jitter keeps clients that were lost together from coming back together. With `endless` the last
    wait is repeated for ever, else the client stops after the last one. Any other function that
    returns an iterator of seconds will do in its place.
    """

    waits: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 8.0)
    endless: bool = False
    jitter: bool = True

    def __call__(self) -> Iterator[float]:
        """Begin anew."""
        again = itertools.repeat(self.waits[-1]) if self.endless and self.waits else ()
        for wait in itertools.chain(self.waits, again):
            yield self._spread(wait)

    def _spread(self, wait: float) -> float:
        return wait * random.random() if self.jitter else wait  # noqa: S311  # no secret
