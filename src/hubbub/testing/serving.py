"""An application on a real socket, served in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass

import msgspec
from starlette.types import ASGIApp

from ..listening import listen, url_of
from ..server import Server, settings_of
from ..settings import Settings
from .clock import Clock, within

STARTS_WITHIN = 10.0
"""Real seconds within which the application has to accept connections."""


@dataclass(frozen=True)
class Served:
    """Where an application is served: `url` for WebSockets, `http` for requests, `grpc` if it is there."""

    url: str
    http: str
    port: int
    grpc: str | None = None


@asynccontextmanager
async def serving(app: ASGIApp, *, port: int = 0, settings: Settings | None = None) -> AsyncIterator[Served]:
    """Serve a hub, or another ASGI application, on 127.0.0.1 while the body runs; then drain and stop.

    It is the server of ``hubbub serve``, with the hub's own settings, or these. `port` 0 takes a free one.
    Raises :exc:`RuntimeError` if the application fails to start, :exc:`TimeoutError` if it takes too long.
    """
    address = {"host": "127.0.0.1", "port": port, "uds": None, "workers": 1, "reload": False}
    applied = msgspec.structs.replace(settings or settings_of(app), **address)
    with listen(applied) as listener:
        http = url_of(listener, applied)
        server = _Server(app, applied)
        task = asyncio.create_task(server.serve_until_left(listener), name="hubbub: test server")
        try:
            await _started(server, task)
            url, port = http.replace("http", "ws", 1), listener.getsockname()[1]
            yield Served(url, http, port, server.grpc.url if server.grpc else None)
        finally:
            server.leave.set()
            clock = Clock.of(asyncio.get_running_loop())
            # It looks again and again whether its connections have ended.
            with clock.running() if clock else nullcontext():
                await asyncio.gather(task, return_exceptions=True)
        task.result()


async def _started(server: "_Server", task: "asyncio.Task[None]") -> None:
    starting = asyncio.create_task(server.ready.wait())
    try:
        async with within(STARTS_WITHIN):
            await asyncio.wait([starting, task], return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        task.cancel()
        await asyncio.wait([task])
        raise TimeoutError(f"The application did not start within {STARTS_WITHIN:g} s.") from None
    finally:
        starting.cancel()
    if task.done():
        await task


class _Server(Server):
    """Tells when it has started, is told when to stop, and leaves signals to the test."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, settings)
        self.ready = asyncio.Event()
        self.leave = asyncio.Event()

    async def serve_until_left(self, listener: socket.socket) -> None:
        """Serve until `leave` is set."""
        try:
            await self.serve([listener])
        except SystemExit:
            # It would end the program, which is pytest.
            raise RuntimeError("The application did not start; the log says why.") from None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        ticks = asyncio.create_task(super().main_loop(), name="hubbub: test server's ticks")
        leave = asyncio.create_task(self.leave.wait())
        try:
            await asyncio.wait([ticks, leave], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ticks.cancel()
            leave.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
