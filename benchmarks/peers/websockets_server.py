"""Raw `websockets` on uvloop, at its fastest: no compression, no keepalive."""

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers import ECHO, FANOUT, Echo, FanOut, Line, Peer

peer = Peer(
    name="websockets",
    command=lambda port: [sys.executable, "-m", __name__, str(port)],
    echo=Echo(Line("/echo"), request=ECHO, answer=ECHO),
    fanout=FanOut(Line("/subscribe"), Line("/publish"), publish=FANOUT),
    packages=("websockets", "uvloop"),
)

subscribers: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    if websocket.request.path == "/echo":
        async for message in websocket:
            await websocket.send(message)
    elif websocket.request.path == "/publish":
        async for message in websocket:
            broadcast(subscribers, message)
    else:
        subscribers.add(websocket)
        try:
            await websocket.wait_closed()
        finally:
            subscribers.discard(websocket)


async def main(port: int) -> None:
    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
