"""Raw `websockets` on uvloop, at its fastest: no keepalive; with compression, what it does by default."""

import sys
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer


def command(port: int, compression: str) -> list[str]:
    return [sys.executable, "-m", __name__, str(port), compression]


peer = Peer(
    name="websockets",
    command=lambda port: command(port, "none"),
    compressed=lambda port: command(port, "deflate"),
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("websockets", "uvloop"),
)

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    _, action, *room = websocket.request.path.split("/")
    if action == "echo":
        async for message in websocket:
            await websocket.send(message)
        return
    members = rooms[room[0]]
    if action == "publish":
        async for message in websocket:
            broadcast(members, message)
        return
    members.add(websocket)
    try:
        await websocket.send(JOINED.decode())
        await websocket.wait_closed()
    finally:
        members.discard(websocket)


async def main(port: int, compression: str) -> None:
    async with serve(
        handle,
        "127.0.0.1",
        port,
        compression="deflate" if compression == "deflate" else None,
        ping_interval=None,
        backlog=1024,
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
