"""A chat for clients of Socket.IO. Run it with ``hubbub serve app:app`` and open http://localhost:8000."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from hubbub import Connection, Denied, Hubbub, Message, Room, wire_type

PAGE = Path(__file__).with_name("index.html")

hub = Hubbub()
chat = hub.room("chat/{name}", history=200, presence=True)
hub.socketio()


@wire_type("chat message")
class ChatMessage(Message, array_like=True):
    """What pages emit: ``emit("chat message", "hi", {room: "chat/lobby"})``."""

    text: str


@hub.authenticate
async def who(connection: Connection) -> str:
    """Take the name that the page sends as `auth` for the user; an application of your own checks a token."""
    if not connection.token:
        raise Denied("Say who you are.")
    return connection.token


@chat.on_message
async def chat_message(room: Room, message: ChatMessage) -> int:
    """Show a message to everybody in the room; the sender is told how manieth it was."""
    position = await room.send(message)
    return position.offset


async def page(_: object) -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE)


app = Starlette(routes=[Route("/", page), Mount("/", hub)], lifespan=hub.lifespan)
