"""uvicorn at its fastest, for the peers that are ASGI applications."""

import uvicorn
from starlette.types import ASGIApp

WEBSOCKETS = "websockets-sansio"
"""The fastest of uvicorn's WebSocket classes, and what that of `hubbub serve --no-native` derives from."""


def serve(app: ASGIApp, port: int, *, compression: bool) -> None:
    """Serve without pings and access log until a signal ends it."""
    uvicorn.run(
        app,
        port=port,
        loop="uvloop",
        http="httptools",
        ws=WEBSOCKETS,
        ws_per_message_deflate=compression,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
