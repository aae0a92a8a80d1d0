"""A server stream by plain grpcio, as its users write a broadcast: a queue for each subscriber."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import grpc

subscribers: set[asyncio.Queue[bytes]] = set()


async def subscribe(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:  # noqa: ARG001
    queue: asyncio.Queue[bytes] = asyncio.Queue(1000)
    subscribers.add(queue)
    try:
        yield b"subscribed"
        while True:
            yield await queue.get()
    finally:
        subscribers.discard(queue)


async def publish(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:  # noqa: ARG001
    async for text in requests:
        data = json.dumps({"type": "say", "data": {"text": text.decode()}}).encode()
        for queue in subscribers:
            queue.put_nowait(data)
    for nothing in ():
        yield nothing


async def main(port: int) -> None:
    server = grpc.aio.server()
    handlers = {
        "Subscribe": grpc.unary_stream_rpc_method_handler(subscribe),
        "Publish": grpc.stream_stream_rpc_method_handler(publish),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Plain", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
