"""The event loop of commands that have much to do."""

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes uvloop's event loop, or asyncio's where uvloop does not run, as on Windows."""
    try:
        import uvloop
    except ImportError:  # pragma: no cover  # it is there wherever the tests run
        return asyncio.new_event_loop
    return uvloop.new_event_loop
