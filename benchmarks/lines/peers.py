"""Who is measured: a server, how clients subscribe to it, and how a broadcast is published there."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from benchmarks.lines.subscribers import Call, Poll, Subscriber, streaming, websocket
from benchmarks.peers import hubbub_server, socketio_server, text
from hubbub.load.connection import Connection
from hubbub.load.frames import masked
from hubbub.load.line import Line, Target
from hubbub.protocol.protobuf import messages

TEXT = text(64)
JOIN = b'{"type":"$join","id":1,"room":"bench/0"}'
SPREAD = b'{"type":"spread","data":{"text":"%b"}}' % TEXT


Publisher = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Connects a publisher at a port; what it yields publishes the text once."""


@dataclass(frozen=True)
class Peer:
    """A server and a kind of line to it."""

    name: str
    kind: str
    """The kind of line: what is of the same kind is compared."""
    command: Callable[[int], list[str]]
    """The command line that serves it at the given port."""
    subscribe: Callable[[int, bytes], Subscriber]
    """Subscribes at the given port to broadcasts that have a text in them."""
    publisher: Publisher
    packages: tuple[str, ...]


def _over_websocket(line: Line, message: bytes) -> Publisher:
    @contextmanager
    def connect(port: int) -> Iterator[Callable[[], None]]:
        connection = Connection(Target("127.0.0.1", port), line)
        frame = masked(message)
        connection.let_go()
        with connection.socket:
            yield lambda: connection.push(frame)

    return connect


def _over_http(path: str) -> Publisher:
    @contextmanager
    def connect(port: int) -> Iterator[Callable[[], None]]:
        line = socket.create_connection(("127.0.0.1", port))
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(TEXT)}\r\n\r\n".encode()
        )

        def publish() -> None:
            # The answers are read for their room in the buffers only.
            with suppress(BlockingIOError):
                line.recv(65_536)
            line.sendall(request + TEXT)

        with line:
            yield publish

    return connect


def _call(method: str, first: bytes, subscribed: bytes) -> Callable[[int, bytes], Subscriber]:
    def subscribe(port: int, mark: bytes) -> Subscriber:
        call = Call(port, mark, method)
        call.say(first, last=True)
        call.until(subscribed)
        return call

    return subscribe


def _over_grpc(method: str, message: bytes, greeting: bytes = b"") -> Publisher:
    @contextmanager
    def connect(port: int) -> Iterator[Callable[[], None]]:
        call = Call(port, TEXT, method)
        if greeting:
            call.until(greeting)
        call.begin()

        def publish() -> None:
            with suppress(BlockingIOError):
                call.count(call.socket.recv(65_536))
            call.say(message)

        with call.socket:
            yield publish

    return connect


def _hubbub(
    kind: str,
    subscribe: Callable[[int, bytes], Subscriber],
    publisher: Publisher | None = None,
    *,
    native: bool = True,
    grpc: bool = False,
) -> Peer:
    def command(port: int) -> list[str]:
        options = ["--no-compression", *([] if native else ["--no-native"])]
        if grpc:
            return [*hubbub_server.command(0, *options), "--grpc-port", str(port)]
        return hubbub_server.command(port, *options)

    return Peer(
        "hubbub" if native else "hubbub, plain ASGI",
        kind,
        command,
        subscribe,
        publisher or _over_websocket(Line("/", (hubbub_server.WELCOME,)), SPREAD),
        hubbub_server.peer.packages,
    )


def _own(module: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", f"benchmarks.lines.{module}", str(port)]


_WEBSOCKET = websocket("/", JOIN, subscribed=b'"$ack"')
_ROOM = b"\x0a\x09\x0a\x07bench/0"
"""A `Subscription` to the room, as protobuf has it."""

PEERS = (
    _hubbub("WebSocket", _WEBSOCKET),
    _hubbub("WebSocket", _WEBSOCKET, native=False),
    _hubbub("SSE", streaming("/?room=bench/0", "text/event-stream", b'"$ack"')),
    Peer(
        "sse-starlette",
        "SSE",
        _own("sse_starlette_server"),
        streaming("/events", "text/event-stream", b"subscribed"),
        _over_http("/publish"),
        ("sse-starlette", "starlette", "uvicorn", "uvloop"),
    ),
    _hubbub("HTTP streaming", streaming("/?room=bench/0", "application/x-ndjson", b'"$ack"')),
    _hubbub("long polling", lambda port, mark: Poll(port, mark, JOIN)),
    _hubbub(
        "gRPC",
        _call("/hubbub.v1.Hubbub/Subscribe", _ROOM, b"$ack"),
        _over_grpc("/hubbub.v1.Hubbub/Connect", messages.message_of(SPREAD), b"$welcome"),
        grpc=True,
    ),
    Peer(
        "grpcio",
        "gRPC",
        _own("grpcio_server"),
        _call("/Plain/Subscribe", b"", b"subscribed"),
        _over_grpc("/Plain/Publish", TEXT),
        ("grpcio",),
    ),
    _hubbub(
        "Socket.IO",
        websocket(
            "/socket.io/?EIO=4&transport=websocket",
            b"40",
            b'421["$join",{"room":"bench/0"}]',
            subscribed=b"431[",
        ),
    ),
    Peer(
        "python-socketio",
        "Socket.IO",
        socketio_server.peer.command,
        websocket("/socket.io/?EIO=4&transport=websocket&room=0", b"40", subscribed=b'40{"sid"'),
        _over_websocket(socketio_server.line(), socketio_server.publish(0, TEXT)),
        socketio_server.peer.packages,
    ),
)
