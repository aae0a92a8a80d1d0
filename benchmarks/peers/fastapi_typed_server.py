"""FastAPI that does what hubbub's echo does: typed messages, checked with pydantic, answered by number."""

import sys
from typing import Literal

from fastapi import WebSocket
from pydantic import BaseModel

from benchmarks import asgi
from benchmarks.peers import Echo, Line, Numbered, Peer
from benchmarks.peers.fastapi_server import app
from benchmarks.peers.hubbub_server import SHORT

peer = Peer(
    name="fastapi-typed",
    command=lambda port: [sys.executable, "-m", __name__, str(port)],
    echo=Echo(
        Line("/typed"),
        request=Numbered(b'{"type":"say","id":', b',"data":{"text":"%b"}}' % SHORT),
        answer=b'"data":{"text":"%b"}' % SHORT,
    ),
    packages=("fastapi", "pydantic", "uvicorn", "uvloop", "websockets"),
)


class Text(BaseModel):
    text: str


class Say(BaseModel):
    type: Literal["say"]
    id: int
    data: Text


class Acknowledged(BaseModel):
    type: Literal["$ack"] = "$ack"
    id: int
    data: Text


@app.websocket("/typed")
async def typed(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        say = Say.model_validate_json(text)
        await websocket.send_text(Acknowledged(id=say.id, data=say.data).model_dump_json())


if __name__ == "__main__":
    asgi.serve(app, int(sys.argv[1]), compression=False)
