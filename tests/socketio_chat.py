"""A chat that serves Socket.IO too, and what its tests say."""

from typing import Any

from hubbub import Connection, Denied, Hubbub, Message, Room, Settings, wire_type


class Say(Message):
    text: str


@wire_type("chat message")
class ChatMessage(Message, array_like=True):
    """``emit("chat message", "hi")``."""

    text: str


class Picture(Message):
    name: str
    pixels: bytes


class Typing(Message):
    pass


class Leave(Message):
    """Closes the connection."""

    code: int
    reason: str = ""


class Whoami(Message):
    pass


def chat_hub(settings: Settings | None = None, *, logins: bool = True, **declared: Any) -> Hubbub:
    """Return a hub with a chat; the token that a client logs in with is its name, ``nobody`` is refused."""
    hub = Hubbub(settings)
    chat = hub.room("chat/{name}", history=1000, presence=True, **declared)

    if logins:

        @hub.authenticate
        async def who(connection: Connection) -> str | None:
            if connection.token == "nobody":
                raise Denied("You are nobody.")
            return connection.token

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> dict[str, str]:
        await room.send(message, exclude=connection)
        return {"said": message.text}

    @chat.on_message
    async def chat_message(room: Room, message: ChatMessage) -> tuple[str, int]:
        position = await room.send(message)
        return message.text, position.offset

    @chat.on_message
    async def picture(room: Room, message: Picture) -> Picture:
        await room.send(message)
        return message

    @chat.on_message
    async def typing(connection: Connection, room: Room, message: Typing) -> None:
        await room.send(message, exclude=connection, ephemeral=True)

    @hub.on_message
    async def echo(connection: Connection, message: ChatMessage) -> list[str]:
        await connection.send(message)
        return [message.text]

    @hub.on_message
    async def leave(connection: Connection, message: Leave) -> None:
        connection.start_close(message.code, message.reason)

    @hub.on_message
    async def whoami(connection: Connection, message: Whoami) -> dict[str, Any]:
        return {
            "user": connection.user,
            "session": connection.session,
            "auth": connection.scope.get("socketio.auth"),
            "agent": connection.request.headers.get("x-agent"),
        }

    return hub


hub = chat_hub()
hub.socketio()
