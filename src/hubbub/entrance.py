"""The entrance: which requests and connections a hub takes in, and what the others are told."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from .engine.connection import Connection
from .engine.hub import Hub
from .engine.pending import Pending
from .engine.transport import Transport
from .protocol.codecs import Codec
from .protocol.codes import CloseCode
from .transports.access import Access
from .transports.admission import CROWDED, RESTARTS, Counts, Proxies, Refusal, Refusals
from .transports.asgi import ASGITransport, Noted
from .transports.daphne import DaphneLine
from .transports.denial import deny
from .transports.native import EXTENSION, WebSocketProtocol
from .transports.over_asgi import Readers, Writers
from .transports.uvicorn import NOTED

Session = Callable[[Connection, str | None], Coroutine[object, object, None]]
"""Returns what speaks hubbub's protocol on a connection, with the subprotocol that its client is told."""


class Entrance:
    """Judges who may come in, and counts who is here: in all, for each address, and before their login.

    `start` starts the hub where nobody has by the time that a client comes.
    """

    def __init__(self, hub: Hub, *, start: Callable[[], Awaitable[None]], session: Session) -> None:
        settings = hub.settings
        self.started = False
        """Whether the hub has started, with its hooks, and not stopped since."""
        self.leaving = False
        """Whether it lets its clients go, and takes in nobody."""
        self.session = session
        self._start = start
        self.counts = Counts(settings.max_connections, settings.max_connections_per_address)
        """WebSockets, by the address of the client as proxies name it."""
        self._hub = hub
        self.access = Access(settings)
        self._proxies = Proxies(settings)
        self._pending = Pending(settings.max_pending)
        self._refusals = Refusals()
        self.readers, self.writers = Readers(), Writers()

    @property
    def unready(self) -> str | None:
        """Why it takes in nobody now; None if it does."""
        if not self.started:
            return "it has not started"
        if self.leaving:
            return "it is about to stop"
        return None if self._hub.running.broker.available else "the broker can't be reached"

    async def ready(self) -> bool:
        """Start the hub if need be; false if it lets its clients go."""
        if not (self.started or self.leaving):
            await self._start()
        return not self.leaving

    def refusal(self, scope: Scope, *, line: bool = False) -> Refusal | None:
        """Return why a request is not taken in, by its host and, of a client's `line`, its origin.

        It is logged.
        """
        refusal = self.access.refusal(scope, line=line)
        if refusal is not None:
            self.log(refusal, scope)
        return refusal

    async def open_line(
        self, scope: Scope, transport: Transport, codec: Codec, subprotocol: str | None = None
    ) -> Coroutine[object, object, None] | Refusal:
        """Let a client in over a line that is no WebSocket (:class:`.transports.admission.OpenLine`)."""
        refusal = self.refusal(scope, line=True)
        if refusal is not None:
            return refusal
        if not await self.ready():
            return RESTARTS
        admitted = self.admit(scope, transport, codec)
        if isinstance(admitted, Refusal):
            return admitted
        return self._carry(*admitted, subprotocol)

    async def _carry(self, connection: Connection, client: str | None, subprotocol: str | None) -> None:
        try:
            await self.session(connection, subprotocol)
        finally:
            self.leave(connection, client)

    def full(self, scope: Scope) -> Refusal | None:
        """Return why there is no place for one more connection. It is logged."""
        refusal = self.counts.refusal(self._proxies.counted_client(scope))
        if refusal is not None:
            self.log(refusal, scope)
        return refusal

    def admit(
        self, scope: Scope, transport: Transport, codec: Codec | None, opened: float = 0.0
    ) -> tuple[Connection, str | None] | Refusal:
        """Return a new connection and the address that it counts for; or why there is no place for it.

        `opened` is when its client came, by the event loop's time in seconds; 0 is now. Whoever is admitted
        has to :meth:`leave`. A refusal is logged.
        """
        connection = Connection(scope, transport, self._hub.flusher, self._hub.settings, codec)
        connection.watch.opened = opened
        client = self._proxies.counted_client(scope)
        refusal = self.counts.add(client)
        if refusal is None and codec is not None and not self._pending.admit(connection):
            self.counts.remove(client)
            refusal = CROWDED
        if refusal is None:
            return connection, client
        self.log(refusal, scope)
        return refusal

    def websocket(self, scope: Scope, receive: Receive, send: Send) -> tuple[Transport, float]:
        """Return the transport of a WebSocket, and when its client came."""
        extensions = scope.get("extensions", {})
        native: WebSocketProtocol | None = extensions.get(EXTENSION)
        if native is not None:
            return native, native.opened
        beneath = send if isinstance(send, DaphneLine) else None
        noted: Noted | None = extensions.get(NOTED)
        transport = ASGITransport(receive, send, self.readers, self.writers, beneath, noted)
        return transport, 0.0 if noted is None else noted.opened

    def leave(self, connection: Connection, client: str | None) -> None:
        """Count a connection and its address no more."""
        self.counts.remove(client)
        self._pending.forget(connection)

    def log(self, refusal: Refusal, scope: Scope) -> None:
        """Log that a request was refused."""
        client = scope.get("client")
        self._refusals.log(refusal, client[0] if client else None)


async def turn_away(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer the opening handshake with a refusal."""
    await refuse(scope, send, refusal.status, refusal.sentence + "\n", refusal.headers)


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    text: str,
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"text/plain; charset=utf-8"),),
) -> None:
    """Answer the opening handshake with a status and a text.

    A server that lets an application answer with 403 only (ASGI specification, "Websocket Denial Response" is
    an extension) would keep those away for good who should come again: they are let in and sent away.
    """
    if await deny(scope, send, status, headers, text.encode()):
        return
    code = 1008
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        code = int(CloseCode.TRY_AGAIN_LATER)
        await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": code, "reason": text.strip()})
