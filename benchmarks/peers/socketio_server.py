"""python-socketio on uvicorn: events in Socket.IO's protocol, by WebSocket from the start."""

import sys
from urllib.parse import parse_qs

import socketio

from benchmarks import asgi
from benchmarks.peers import Across, Echo, FanOut, Held, Line, Peer, Rooms, Step, text

CONNECT = Step(b"40", b'40{"sid"')
SHORT = text(41)  # with its event as long as what a peer without a protocol of its own is sent


def line(room: int | None = None) -> Line:
    query = "" if room is None else f"&room={room}"
    return Line(f"/socket.io/?EIO=4&transport=websocket{query}", (Step(None, b'0{"sid"'), CONNECT))


def publish(room: int, text: bytes) -> bytes:
    return b'42["publish",{"room":"%d","text":"%b"}]' % (room, text)


def delivery(text: bytes) -> bytes:
    return b'42["say",{"text":"%b"}]' % text


peer = Peer(
    name="socketio",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=Echo(
        line(),
        request=b'420["echo",{"text":"%b"}]' % SHORT,
        answer=b'430[{"text":"%b"}]' % SHORT,
    ),
    fanout=FanOut(line(0), line(), lambda text: publish(0, text), delivery),
    rooms=Rooms(line, lambda _: line(), publish, delivery),
    across=Across(
        lambda port, url: [sys.executable, "-m", __name__, str(port), "plain", url],
        FanOut(line(0), line(), lambda text: publish(0, text), delivery),
    ),
    held=Held(line(), lambda number: b'420["enter",{"room":"%d"}]' % number, b"430["),
    packages=("python-socketio", "python-engineio", "uvicorn", "uvloop", "websockets", "redis"),
)

server = socketio.AsyncServer(
    client_manager=socketio.AsyncRedisManager(sys.argv[3]) if len(sys.argv) > 3 else None,
    async_mode="asgi",
    async_handlers=False,  # a client's events in turn, without a task for each
    http_compression=False,
    ping_interval=3600,
    transports=["websocket"],
    cors_allowed_origins="*",
)


@server.event
async def connect(sid: str, environ: dict[str, str]) -> None:
    for room in parse_qs(environ["QUERY_STRING"]).get("room", ()):
        await server.enter_room(sid, room)


@server.event
async def echo(sid: str, data: dict[str, str]) -> dict[str, str]:  # noqa: ARG001  # what a handler is given
    return data


@server.event
async def enter(sid: str, data: dict[str, str]) -> dict[str, str]:
    await server.enter_room(sid, data["room"])
    return data


@server.on("publish")
async def pass_on(sid: str, data: dict[str, str]) -> None:  # noqa: ARG001
    await server.emit("say", {"text": data["text"]}, room=data["room"])


if __name__ == "__main__":
    asgi.serve(socketio.ASGIApp(server), int(sys.argv[1]), compression=sys.argv[2] == "deflate")
