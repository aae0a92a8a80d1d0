"""How far a soak is, for whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a soak is."""

    stage: str
    done: float
    """0 to 1."""
    published: int = 0
    breaches: int = 0


Watcher = Callable[[Progress], None]
"""Is shown, some 20 times a second, how far it is."""


def unwatched(_: Progress) -> None:
    """Nobody wants to know."""
