"""Socket.IO as an ASGI application: the namespaces of a hub, behind one path."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.types import Receive, Scope, Send

from ...engine.lines import Lines
from ...engine.transport import Transport
from ...settings import Settings
from ..admission import OpenLine, Refusal
from ..engineio import EngineIO, EngineSocket
from .client import Client


class SocketIO:
    """The clients that speak Socket.IO.

    `namespaces` are by name where a client's connection to each is let in. With `plain` clients are sent the
    application's events alone, with nothing behind their data. The rest is for :class:`..engineio.EngineIO`.
    """

    def __init__(
        self,
        namespaces: Mapping[str, OpenLine],
        settings: Settings,
        *,
        plain: bool,
        refusal: Callable[[Scope], Refusal | None],
        websocket: Callable[[Scope, Receive, Send], tuple[Transport, float]],
        cross_origin: Callable[[Scope], list[tuple[bytes, bytes]]] = lambda _: [],
        full: Callable[[Scope], Refusal | None] = lambda _: None,
        lines: Lines | None = None,
        ready: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.namespaces = namespaces
        self.settings = settings
        self.plain = plain
        self._engine = EngineIO(
            self._open,
            settings,
            refusal=refusal,
            websocket=websocket,
            cross_origin=cross_origin,
            full=full,
            lines=lines,
            ready=ready,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http`` or ``websocket``."""
        await self._engine(scope, receive, send)

    def start(self) -> None:
        """Take clients in again, after :meth:`stop`."""
        self._engine.start()

    async def stop(self) -> None:
        """End what there still is."""
        await self._engine.stop()

    def _open(self, socket: EngineSocket) -> Client:
        return Client(self, socket)
