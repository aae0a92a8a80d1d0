"""A chat for any ASGI server: ``uvicorn chat:hub``, ``daphne chat:hub`` and so on."""

from hubbub import Connection, Hubbub, Message, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=200)


class Say(Message):
    """Something that is said."""

    text: str


@chat.on_message
async def say(connection: Connection, room: Room, message: Say) -> None:
    """Pass it on to all others."""
    await room.send(message, exclude=connection)
