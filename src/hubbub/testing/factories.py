"""What the pytest plugin's fixtures give a test: what makes servers, clients, proxies and processes."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from ..client import Backoff, Dial
from ..client.backoff import Waits
from ..client.handshake import Headers
from ..client.lines import dialling
from ..client.returning import Token
from ..errors import ConfigurationError
from ..protocol.codecs import JSON
from ..settings import Settings
from .clock import Clock, within
from .faults import FaultProxy, Happened
from .line import InProcess
from .participant import Participant
from .processes import Process
from .serving import Served, serving
from .tap import Tap

CONNECTS_WITHIN = 10.0
"""Real seconds that a client has to connect."""

Place = str | Served | FaultProxy | Process
"""Where something listens: a URL, or what has one."""


def url_of(place: Place) -> str:
    """Return the WebSocket URL of a place."""
    if isinstance(place, str):
        return place
    return place.url if isinstance(place, Served) else place.url()


class HubServer:
    """Serves a hub or another ASGI application on a real socket, in the test's event loop."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock

    def __call__(
        self, app: ASGIApp, *, port: int = 0, settings: Settings | None = None
    ) -> AbstractAsyncContextManager[Served]:
        """Serve an application while the body runs (see :func:`.serving.serving`)."""
        if self._clock is not None:
            self._clock.freeze()
        return serving(app, port=port, settings=settings)


class HubClient:
    """Connects clients to an application in this process, or to a place where one listens.

    The application runs from when its first client comes to when its last one leaves.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._shared: dict[int, _Shared] = {}

    @asynccontextmanager
    async def __call__(
        self,
        to: ASGIApp | Place,
        *,
        token: Token = None,
        messages: Sequence[type] = (),
        url: str = "ws://localhost/",
        headers: Headers = (),
        subprotocol: str = JSON.subprotocol,
        backoff: Waits = Backoff(),  # noqa: B008  # it can't be changed
        outbox: int = 1000,
        inbox: int = 1000,
    ) -> AsyncIterator[Participant]:
        """Connect a client while the body runs; the parameters are those of :func:`hubbub.connect`.

        `to` is a hub or another ASGI application, which is called in this process as `url` says, or else a
        URL or what `hub_server`, `fault_proxy` or `server_process` gave.

        Raises :exc:`ReconnectFailed` if the server refuses the client, :exc:`AssertionError` with the last
        lines on the wire if it can't connect in time.
        """
        if self._clock is not None:
            self._clock.freeze()
        async with self._dialling(to, url, headers, subprotocol) as dial:
            tap = Tap(dial)
            client = Participant(
                tap, token=token, messages=messages, backoff=backoff, outbox=outbox, inbox=inbox
            )
            try:
                async with within(CONNECTS_WITHIN):
                    await client.__aenter__()
            except TimeoutError:
                problem = client.told(f"The client did not connect within {CONNECTS_WITHIN:g} s.")
                raise AssertionError(problem) from None
            try:
                yield client
            finally:
                await client.close()

    @asynccontextmanager
    async def _dialling(
        self, to: ASGIApp | Place, url: str, headers: Headers, subprotocol: str
    ) -> AsyncIterator[Dial]:
        if isinstance(to, Place):
            yield dialling(url_of(to), subprotocol=subprotocol, headers=headers)
            return
        shared = self._shared.setdefault(id(to), _Shared(to))
        async with shared as running:
            yield running.dialling(url, subprotocol=subprotocol, headers=headers)


class _Shared:
    """An application that runs while anybody needs it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._changing = asyncio.Lock()
        self._running: InProcess | None = None
        self._count = 0

    async def __aenter__(self) -> InProcess:
        async with self._changing:
            if self._running is None:
                self._running = await InProcess(self._app).__aenter__()
            self._count += 1
            return self._running

    async def __aexit__(self, *problem: object) -> None:
        async with self._changing:
            self._count -= 1
            if not self._count and self._running is not None:
                running, self._running = self._running, None
                await running.__aexit__(*problem)


class FaultProxyTo(Protocol):
    """The type of the fixture `fault_proxy`: see :func:`proxy_to`."""

    def __call__(
        self, target: Place | int, *, port: int = 0, on_fault: Callable[[Happened], None] | None = None
    ) -> FaultProxy:
        """Return a fault proxy."""


def proxy_to(
    target: Place | int, *, port: int = 0, on_fault: Callable[[Happened], None] | None = None
) -> FaultProxy:
    """Return a fault proxy in front of a place, or of a port of this machine; enter it with `async with`.

    `port` is where it listens; 0 is a free one. `on_fault` is called with every fault as it happens.
    """
    if isinstance(target, int):
        return FaultProxy("127.0.0.1", target, port=port, on_fault=on_fault)
    parts = urlsplit(url_of(target))
    if parts.hostname is None or parts.port is None:
        raise ConfigurationError(f"{url_of(target)} does not say to which host and port.")
    return FaultProxy(parts.hostname, parts.port, port=port, on_fault=on_fault)


class ServerProcess(Protocol):
    """The type of the fixture `server_process`: see :meth:`.processes.Process.serving`."""

    def __call__(
        self,
        target: str,
        *,
        port: int = 0,
        ready: str | None = "/readyz",
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        starts_within: float = 30.0,
        stops_within: float = 15.0,
        **settings: object,
    ) -> Process:
        """Return ``hubbub serve target`` on a free port; enter it with `async with`."""
