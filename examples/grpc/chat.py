"""A chat that gRPC clients take part in. Serve it: hubbub serve chat:hub --grpc-port 50051"""

from typing import Annotated

from hubbub import Connection, Denied, Hubbub, Message, Meta, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=200)

USERS = {"token-of-ada": "ada", "token-of-bob": "bob"}


class Say(Message):
    text: Annotated[str, Meta(min_length=1, max_length=2000)]


@hub.authenticate
async def who(connection: Connection) -> str:
    if connection.token not in USERS:
        raise Denied("This token is not valid.")
    return USERS[connection.token]


@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)
