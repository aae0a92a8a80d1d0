"""An aiohttp application with a hub: ``python app.py 8000``."""

import sys

from aiohttp import web

from hubbub import Connection, Hubbub, Message, Room
from hubbub.integrations.aiohttp import setup

hub = Hubbub()
chat = hub.room("chat/{name}", history=200)


class Say(Message):
    """Something that is said."""

    text: str


@chat.on_message
async def say(connection: Connection, room: Room, message: Say) -> None:
    """Pass it on to all others."""
    await room.send(message, exclude=connection)


async def announce(request: web.Request) -> web.Response:
    """Say something in a room."""
    form = await request.post()
    position = await chat(name=request.match_info["name"]).send(Say(text=str(form["text"])))
    return web.json_response({"offset": position.offset})


app = web.Application()
app.router.add_post("/announce/{name}", announce)
setup(app, hub, path="/live")

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), handler_cancellation=True)
