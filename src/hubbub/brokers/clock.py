"""The clock of brokers whose times outlive a process, and mean the same to all that share them."""

import time
from collections.abc import Callable


def wall_clock() -> Callable[[], float]:
    """Return a clock that says what time it is, in seconds since 1970, and never goes back."""
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()
