"""hubbub as its users run it: typed messages, validated; a room with history; `hubbub serve`."""

import sys
from pathlib import Path

from benchmarks.peers import FANOUT, Echo, FanOut, Line, Peer, Step, text
from hubbub import Connection, Hubbub, Message, Room

WELCOME = Step(None, b'"$welcome"')
JOIN = Step(b'{"type":"$join","id":1,"room":"bench/1"}', b'"$ack"')
SHORT = text(24)  # with its envelope as long as what a peer without one is sent

peer = Peer(
    name="hubbub",
    command=lambda port: [
        str(Path(sys.executable).with_name("hubbub")),
        *("serve", f"{__name__}:hub", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    ],
    echo=Echo(
        Line("/", (WELCOME,)),
        request=b'{"type":"say","id":1,"data":{"text":"%b"}}' % SHORT,
        answer=b'"data":{"text":"%b"}' % SHORT,
    ),
    fanout=FanOut(
        Line("/", (WELCOME, JOIN)),
        Line("/", (WELCOME, JOIN)),
        publish=b'{"type":"say","room":"bench/1","data":{"text":"%b"}}' % FANOUT,
        delivery=b'"data":{"text":"%b"}' % FANOUT,
    ),
    packages=("hubbub", "websockets", "uvicorn", "uvloop", "msgspec"),
)

hub = Hubbub()
bench = hub.room("bench/{name}", history=100)


class Say(Message):
    text: str


@hub.on_message
async def echo(connection: Connection, message: Say) -> Say:  # noqa: ARG001  # what a handler is given
    return message


@bench.on_message
async def say(connection: Connection, room: Room, message: Say) -> None:
    await room.send(message, exclude=connection)
