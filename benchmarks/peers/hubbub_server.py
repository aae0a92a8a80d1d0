"""hubbub as its users run it: typed messages, validated; a room with history; `hubbub serve`."""

import sys
from functools import partial
from pathlib import Path

from benchmarks.peers import Across, Echo, FanOut, Held, Line, Numbered, Peer, Rooms, Step, text
from hubbub import Connection, Hubbub, Message, Room
from hubbub.settings import describe

WELCOME = Step(None, b'"$welcome"')
SHORT = text(13)  # with its envelope as long as what a peer without one is sent


_LIMITS = {
    "max_connections_per_address": "50000",
    "max_message_rate": "1000000",
    "max_message_burst": "1000000",
}
LIMITS = [(setting, _LIMITS[setting.name]) for setting in describe() if setting.name in _LIMITS]
"""Settings that would end the load: it is one client that sends too much."""


def command(port: int, *options: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("hubbub")),
        *("serve", f"{__name__}:hub", "--host", "127.0.0.1", "--port", str(port)),
        *("--ping-interval", "3600"),  # no peer pings during a window
        *(word for setting, value in LIMITS for word in (setting.option, value)),
        *options,
    ]


def in_room(number: int) -> Line:
    return Line("/", (WELCOME, Step(b'{"type":"$join","id":1,"room":"bench/%d"}' % number, b'"$ack"')))


def publish(number: int, text: bytes) -> bytes:
    return b'{"type":"say","room":"bench/%d","data":{"text":"%b"}}' % (number, text)


def delivery(text: bytes) -> bytes:
    return b'"data":{"text":"%b"}' % text


def spread(text: bytes) -> bytes:
    return b'{"type":"spread","data":{"text":"%b"}}' % text


peer = Peer(
    name="hubbub",
    command=lambda port: command(port, "--no-compression"),
    compressed=command,
    echo=Echo(
        Line("/", (WELCOME,)),
        request=Numbered(b'{"type":"say","id":', b',"data":{"text":"%b"}}' % SHORT),
        answer=b'"data":{"text":"%b"}' % SHORT,
    ),
    fanout=FanOut(in_room(0), in_room(0), partial(publish, 0), delivery),
    rooms=Rooms(in_room, in_room, publish, delivery),
    across=Across(
        lambda port, url: command(port, "--no-compression", "--broker", url),
        # Who publishes is in no room, as with the peers.
        FanOut(in_room(0), Line("/", (WELCOME,)), spread, delivery),
    ),
    held=Held(
        in_room(0),
        lambda number: b'{"type":"$join","id":%d,"room":"bench/%d"}' % (number + 2, number + 1),
        b'"$ack"',
    ),
    packages=("hubbub", "websockets", "uvicorn", "uvloop", "msgspec"),
)

hub = Hubbub()
hub.socketio()
bench = hub.room("bench/{name}", history=100)


class Say(Message):
    text: str


class Spread(Message):
    text: str


@hub.on_message
async def publish_in_room(connection: Connection, message: Spread) -> None:  # noqa: ARG001
    await bench(name="0").send(Say(message.text))


@hub.on_message
async def echo(connection: Connection, message: Say) -> Say:  # noqa: ARG001  # what a handler is given
    return message


@bench.on_message
async def say(connection: Connection, room: Room, message: Say) -> None:
    await room.send(message, exclude=connection)
