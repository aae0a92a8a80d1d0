"""Tornado on uvloop."""

import asyncio
import logging
import sys
from collections import defaultdict

import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer

peer = Peer(
    name="tornado",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("tornado", "uvloop"),
)

rooms: defaultdict[str, set[WebSocketHandler]] = defaultdict(set)


class Handler(WebSocketHandler):
    def initialize(self, options: dict[str, object] | None) -> None:
        self._options = options

    def get_compression_options(self) -> dict[str, object] | None:
        return self._options

    def open(self, room: str = "") -> None:
        self.set_nodelay(True)
        self.members = rooms[room]


class Echoer(Handler):
    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message)


class Subscriber(Handler):
    def open(self, room: str = "") -> None:
        super().open(room)
        self.members.add(self)
        self.write_message(JOINED.decode())

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_close(self) -> None:
        self.members.discard(self)


class Publisher(Handler):
    def on_message(self, message: str | bytes) -> None:
        for member in tuple(self.members):
            try:
                member.write_message(message)
            except WebSocketClosedError:
                self.members.discard(member)


async def main(port: int, *, compression: bool) -> None:
    options = {"options": {} if compression else None}
    app = Application(
        [
            ("/echo", Echoer, options),
            ("/subscribe/(.+)", Subscriber, options),
            ("/publish/(.+)", Publisher, options),
        ]
    )
    HTTPServer(app).add_sockets(bind_sockets(port, "127.0.0.1", backlog=2048))
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), compression=sys.argv[2] == "deflate"))
