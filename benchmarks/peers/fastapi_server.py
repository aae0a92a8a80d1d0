"""FastAPI on uvicorn, as its documentation shows it: a loop for each connection, a list for each room."""

import sys
from collections import defaultdict

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks import asgi
from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer

peer = Peer(
    name="fastapi",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("fastapi", "uvicorn", "uvloop", "websockets"),
)

app = FastAPI()
rooms: defaultdict[str, list[WebSocket]] = defaultdict(list)


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@app.websocket("/subscribe/{room}")
async def subscribe(websocket: WebSocket, room: str) -> None:
    await websocket.accept()
    members = rooms[room]
    members.append(websocket)
    try:
        await websocket.send_text(JOINED.decode())
        async for _ in websocket.iter_text():
            pass
    finally:
        members.remove(websocket)


@app.websocket("/publish/{room}")
async def publish(websocket: WebSocket, room: str) -> None:
    await websocket.accept()
    members = rooms[room]
    async for text in websocket.iter_text():
        for member in tuple(members):  # a member may leave while another one is sent to
            try:
                await member.send_text(text)
            except WebSocketDisconnect:
                continue  # its own loop takes it off the list


if __name__ == "__main__":
    asgi.serve(app, int(sys.argv[1]), compression=sys.argv[2] == "deflate")
