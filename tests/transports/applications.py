"""ASGI applications, for tests that speak its events themselves."""

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

Serving = Callable[[Scope, Receive, Send], Awaitable[None]]


def application(serve_websocket: Serving) -> ASGIApp:
    """Return an ASGI application that starts and stops, and serves WebSockets with a function."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await serve_websocket(scope, receive, send)

    return app


def accepting(serve_websocket: Serving) -> ASGIApp:
    """The same, once the handshake is done."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        await serve_websocket(scope, receive, send)

    return application(serve)
