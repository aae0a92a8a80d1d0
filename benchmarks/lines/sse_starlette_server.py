"""Server-Sent Events by sse-starlette, as its users write a broadcast: a queue for each subscriber."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import asgi

subscribers: set[asyncio.Queue[str]] = set()


async def listen() -> AsyncIterator[dict[str, str]]:
    queue: asyncio.Queue[str] = asyncio.Queue(1000)
    subscribers.add(queue)
    try:
        yield {"data": "subscribed"}
        while True:
            yield {"data": await queue.get()}
    finally:
        subscribers.discard(queue)


async def events(request: Request) -> EventSourceResponse:  # noqa: ARG001
    return EventSourceResponse(listen(), ping=3600)


async def publish(request: Request) -> Response:
    text = (await request.body()).decode()
    data = json.dumps({"type": "say", "data": {"text": text}})
    for queue in subscribers:
        queue.put_nowait(data)
    return Response(status_code=204)


app = Starlette(routes=[Route("/events", events), Route("/publish", publish, methods=["POST"])])

if __name__ == "__main__":
    asgi.serve(app, int(sys.argv[1]), compression=False)
