"""aiohttp on uvloop, with texts left as the bytes they came as."""

import sys
from collections import defaultdict

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer

peer = Peer(
    name="aiohttp",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("aiohttp", "uvloop"),
)

COMPRESSION = web.AppKey("compression", bool)
rooms: defaultdict[str, set[web.WebSocketResponse]] = defaultdict(set)


async def upgrade(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(compress=request.app[COMPRESSION], decode_text=False)
    await websocket.prepare(request)
    return websocket


async def echo(request: web.Request) -> web.WebSocketResponse:
    websocket = await upgrade(request)
    async for message in websocket:
        await websocket.send_frame(message.data, WSMsgType.TEXT)
    return websocket


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    websocket = await upgrade(request)
    members = rooms[request.match_info["room"]]
    members.add(websocket)
    try:
        await websocket.send_frame(JOINED, WSMsgType.TEXT)
        async for _ in websocket:
            pass
    finally:
        members.discard(websocket)
    return websocket


async def publish(request: web.Request) -> web.WebSocketResponse:
    websocket = await upgrade(request)
    members = rooms[request.match_info["room"]]
    async for message in websocket:
        for member in tuple(members):  # a member may leave while another one is sent to
            try:
                await member.send_frame(message.data, WSMsgType.TEXT)
            except ConnectionError:
                members.discard(member)
    return websocket


def main(port: int, *, compression: bool) -> None:
    app = web.Application()
    app[COMPRESSION] = compression
    app.router.add_get("/echo", echo)
    app.router.add_get("/subscribe/{room}", subscribe)
    app.router.add_get("/publish/{room}", publish)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        backlog=2048,
        access_log=None,
        print=None,
        shutdown_timeout=0.1,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), compression=sys.argv[2] == "deflate")
