"""The entrance: which requests and connections a hub takes in, and what the others are told."""

from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from .engine.connection import Connection
from .engine.hub import Hub
from .engine.pending import Pending
from .engine.transport import Transport
from .protocol.codecs import Codec
from .transports.access import Access
from .transports.admission import CROWDED, Counts, Proxies, Refusal, Refusals
from .transports.asgi import ASGITransport, Readers, Writers
from .transports.native import EXTENSION, WebSocketProtocol
from .transports.uvicorn import OPENED


class Entrance:
    """Judges who may come in, and counts who is here: in all, for each address, and before their login."""

    def __init__(self, hub: Hub) -> None:
        settings = hub.settings
        self.counts = Counts(settings.max_connections, settings.max_connections_per_address)
        """WebSockets, by the address of the client as proxies name it."""
        self._hub = hub
        self._access = Access(settings)
        self._proxies = Proxies(settings)
        self._pending = Pending(settings.max_pending)
        self._refusals = Refusals()
        self._readers, self._writers = Readers(), Writers()

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is not taken in, by its host and its origin; it is logged."""
        refusal = self._access.refusal(scope)
        if refusal is not None:
            self.log(refusal, scope)
        return refusal

    async def admit(
        self, scope: Scope, receive: Receive, send: Send, codec: Codec | None
    ) -> tuple[Connection, str | None] | None:
        """Return a new connection and the address that it counts for; None if it was turned away.

        Whoever is admitted has to :meth:`leave`.
        """
        native: WebSocketProtocol | None = scope.get("extensions", {}).get(EXTENSION)
        transport: Transport = native or ASGITransport(receive, send, self._readers, self._writers)
        connection = Connection(scope, transport, self._hub.flusher, self._hub.settings, codec)
        connection.watch.opened = native.opened if native else _opened(scope)
        client = self._proxies.counted_client(scope)
        refusal = self.counts.add(client)
        if refusal is None and codec is not None and not self._pending.admit(connection):
            self.counts.remove(client)
            refusal = CROWDED
        if refusal is None:
            return connection, client
        self.log(refusal, scope)
        await turn_away(refusal, scope, send)
        return None

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
    """Answer the opening handshake with a status and a text, as far as the server lets an application."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": text.strip()})
        return
    await send({"type": "websocket.http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "websocket.http.response.body", "body": text.encode()})


def _opened(scope: Scope) -> float:
    since: float = scope.get("extensions", {}).get(OPENED, {}).get("since", 0.0)
    return since
