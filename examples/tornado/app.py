"""A Tornado application with a hub: ``python app.py 8000``."""

import asyncio
import signal
import sys

import tornado.web

from hubbub import Connection, Hubbub, Message, Room
from hubbub.integrations.tornado import routes

hub = Hubbub()
chat = hub.room("chat/{name}", history=200)


class Say(Message):
    """Something that is said."""

    text: str


@chat.on_message
async def say(connection: Connection, room: Room, message: Say) -> None:
    """Pass it on to all others."""
    await room.send(message, exclude=connection)


class Announce(tornado.web.RequestHandler):
    """Publishes from a request."""

    async def post(self, name: str) -> None:
        """Say something in a room."""
        position = await chat(name=name).send(Say(text=self.get_body_argument("text")))
        self.write({"offset": position.offset})


app = tornado.web.Application([*routes(hub, "/live"), (r"/announce/(\w+)", Announce)])


async def main(port: int) -> None:
    """Serve until a signal ends it; the clients are told when to come back."""
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    async with hub.lifespan():
        app.listen(port, "127.0.0.1")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
