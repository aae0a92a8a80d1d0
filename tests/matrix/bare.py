"""An ASGI application without a hub, that tries what a server does with it: the path says what."""

import asyncio
import json
from collections import defaultdict
from typing import Any

from starlette.types import Receive, Scope, Send

FLOOD = 400
LARGE = "." * 65536

told: dict[str, Any] = {"lifespan": False, "written": {}}
"""What the application has seen, for ``GET /told``; ``written`` is of each flood, by its query."""

asked: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)
"""By its query, whether ``GET /told`` was asked."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        told["lifespan"] = True
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        if scope["path"] == "/flood":
            await flood_response(scope, send)
        else:
            asked[scope["query_string"]].set()
            await answer(json.dumps(told), send)
    else:
        await WEBSOCKETS[scope["path"]](scope, receive, send)


async def answer(text: str, send: Send) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def flood_response(scope: Scope, send: Send) -> None:
    flood = scope["query_string"].decode()
    told["written"][flood] = 0
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(FLOOD):
        await send({"type": "http.response.body", "body": LARGE.encode(), "more_body": True})
        told["written"][flood] += 1
    await send({"type": "http.response.body", "body": b""})


async def accepted(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None})


async def deny(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"retry-after", b"5")]})
    await send({"type": "websocket.http.response.body", "body": b"Too many.\n"})


async def close(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)
    await send({"type": "websocket.close", "code": 4401, "reason": "Log in first."})


async def close_with_1012(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)
    await send({"type": "websocket.close", "code": 1012, "reason": "It restarts."})


async def close_while_receiving(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)

    begun = asyncio.Event()

    async def receiving() -> None:
        begun.set()
        await receive()

    waiting = asyncio.create_task(receiving())
    await begun.wait()
    await send({"type": "websocket.send", "text": "receiving"})
    await send({"type": "websocket.close", "code": 4401})
    await waiting


async def close_behind_messages(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)
    await receive()
    await asked[scope["query_string"]].wait()
    await send({"type": "websocket.close", "code": 4401})


async def hear_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    told.pop("end", None)
    await accepted(scope, receive, send)
    message = await receive()
    told["end"] = [message["type"], message.get("code"), message.get("reason")]


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    flood = scope["query_string"].decode()
    told["written"][flood] = 0
    await accepted(scope, receive, send)
    for _ in range(FLOOD):
        await send({"type": "websocket.send", "text": LARGE})
        told["written"][flood] += 1


async def return_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)


async def stay(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(scope, receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass


WEBSOCKETS = {
    "/deny": deny,
    "/close": close,
    "/close-with-1012": close_with_1012,
    "/close-while-receiving": close_while_receiving,
    "/close-behind-messages": close_behind_messages,
    "/hear-the-end": hear_the_end,
    "/flood": flood,
    "/return": return_at_once,
    "/stay": stay,
}
