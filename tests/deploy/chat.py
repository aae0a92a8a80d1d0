"""What the instances behind the proxies serve."""

import os

from hubbub import Connection, Hubbub, Message, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=10_000)


class Say(Message):
    text: str


class Where(Message):
    """Asks which process it has come to, and from where."""


class Place(Message):
    process: int
    client: str


@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)


@hub.on_message
async def where(connection: Connection, message: Where) -> Place:
    return Place(os.getpid(), str(connection.remote_address[0]))
