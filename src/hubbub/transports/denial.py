"""The answer to an opening handshake that opens nothing (ASGI's extension "Websocket Denial Response")."""

from collections.abc import Sequence

from starlette.types import Scope, Send


async def deny(
    scope: Scope, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bool:
    """Answer the handshake with a response; false if the server lets no application do that."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        return False
    await send({"type": "websocket.http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "websocket.http.response.body", "body": body})
    return True
