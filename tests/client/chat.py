"""A hub that clients talk to, and what they say to it."""

from hubbub import Connection, Denied, Hubbub, Message, Room, Settings

LOBBY = "chat/lobby"


class Say(Message):
    text: str


class Double(Message):
    value: int


class Doubled(Message):
    value: int


def chat_hub(settings: Settings | None = None, *, presence: bool = True) -> Hubbub:
    """Return it. Into ``chat/staff`` nobody gets, and with the token "nobody" nowhere."""
    hub = Hubbub(settings)
    chat = hub.room("chat/{name}", history=1000, presence=presence)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "nobody":
            raise Denied("Not you.")
        return connection.token

    @chat.on_join
    async def admit(connection: Connection, name: str) -> None:
        if name == "staff":
            raise Denied("This room is for the staff.")

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def double(message: Double) -> Doubled:
        return Doubled(2 * message.value)

    return hub
