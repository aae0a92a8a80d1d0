"""The load generator: many WebSocket clients in one process that must cost less than the server it loads.

It is what ``hubbub bench`` and hubbub's own benchmarks load servers with. Linux's `epoll` is needed.
"""

from .line import Line, Step, Target
from .numbered import Numbered

__all__ = ["Line", "Numbered", "Step", "Target"]
