"""Stopping under somebody else's server: the clients are let go when the signal comes, not too late.

ASGI tells an application that the server stops once the WebSockets are closed (ASGI specification, Lifespan),
by some servers without a code that says to come back.
"""

import asyncio
import functools
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType

from .observe.log import fields, logger

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], object]


class Signals:
    """Has the clients let go at the first signal that stops the server, and then the server take the signal.

    A server that hears of signals on its event loop, as asyncio's ``add_signal_handler`` lets it, does so at
    once. A second signal is passed on at once in any case. Where nobody waits for a signal, or the event loop
    is not the main thread's, nothing is done; nor at the SIGINT that :func:`asyncio.run` has the program
    cancelled by, which ends the hub in order.
    """

    def __init__(self, let_go: Callable[[], Awaitable[None]]) -> None:
        self._let_go = let_go
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taken: dict[int, tuple[Handler, Handler]] = {}
        """By signal: the server's handler, and the one in its place."""
        self._heard = False
        """Whether a signal came."""
        self._letting_go: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin, on the running event loop."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        self._heard = False
        self._taken.clear()
        for sig in SIGNALS:
            before = signal.getsignal(sig)
            if callable(before) and before is not signal.default_int_handler and not _cancels(before):
                # Each has its own, so that one which somebody kept leads to what was before it, never round.
                own = functools.partial(self._take, before)
                self._taken[sig] = before, own
                signal.signal(sig, own)

    def leave(self) -> None:
        """Give the signals back."""
        for sig, (before, own) in self._taken.items():
            # Somebody else may have taken it since, and would pass it on to here.
            if signal.getsignal(sig) is own:
                # Not from the thread in which an event loop is closed late.
                with suppress(ValueError):
                    signal.signal(sig, before)
        self._loop = None

    def _take(self, before: Handler, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self._loop.is_closed() or self._heard:
            before(sig, frame)
        else:
            self._heard = True
            self._loop.call_soon_threadsafe(self._begin, before, sig)

    def _begin(self, before: Handler, sig: int) -> None:
        self._letting_go = asyncio.create_task(self._finish(), name="hubbub: drain")
        # By the event loop, which lets it leave the program, and tells what else it raises.
        self._letting_go.add_done_callback(lambda _: before(sig, None))

    async def _finish(self) -> None:
        try:
            await self._let_go()
        except Exception:
            logger.exception("error", extra=fields(during="letting the clients go"))


def _cancels(handler: object) -> bool:
    """Tell whether a handler is that of :func:`asyncio.run`."""
    function = handler.func if isinstance(handler, functools.partial) else None
    return isinstance(getattr(function, "__self__", None), asyncio.Runner)
