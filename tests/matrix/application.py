"""What is served under every host: one chat, whose limits come from the environment."""

import base64
import os

from hubbub import Connection, Denied, Hubbub, Message, Room

TOKENS = {"token-of-ada": "ada", "token-of-bob": "bob", "token-of-cleo": "cleo"}

LIMITS = {
    "HUBBUB_PROXY_HEADERS": "false",  # or else 127.0.0.1 is a proxy, which does not count
    "HUBBUB_MAX_CONNECTIONS_PER_ADDRESS": "24",
    "HUBBUB_MAX_MESSAGE": "16384",
    "HUBBUB_MAX_MESSAGE_RATE": "200",
    "HUBBUB_MAX_MESSAGE_BURST": "200",
    "HUBBUB_MAX_OUTBOX": "262144",
    "HUBBUB_PING_INTERVAL": "1",
    "HUBBUB_DRAIN": "2",
    "HUBBUB_LOG_LEVEL": "warning",
}
"""The settings, as environment variables: small, so that it takes little to meet them."""

REMEMBERED = 3
"""Messages that the rooms with a short history keep."""


def chat(hub: Hubbub | None = None) -> Hubbub:
    """Return the application, or declare it on a hub."""
    hub = Hubbub() if hub is None else hub
    hub.socketio()
    rooms = hub.room("chat/{name}", history=1000, presence=True)
    short = hub.room("short/{name}", history=REMEMBERED)
    slow = hub.room("slow/{name}", history=10_000)

    @hub.authenticate
    async def who(connection: Connection) -> str:
        user = TOKENS.get(connection.token or "")
        if user is None:
            raise Denied("Log in first.")
        return user

    @rooms.on_join
    async def admit(name: str) -> None:
        if name == "staff":
            raise Denied("This room is for the staff.")

    @rooms.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection if message.to_others else None)

    @short.on_message
    async def say_briefly(room: Room, message: Say) -> None:
        await room.send(message)

    @slow.on_message
    async def pour(room: Room, message: Pour) -> None:
        for number in range(message.first, message.first + message.count):
            # What can be compressed would be no flood.
            filling = base64.b85encode(os.urandom(message.size * 4 // 5)).decode()
            await room.send(Drop(number, filling))

    @hub.on_message
    async def add(message: Add) -> Sum:
        return Sum(message.left + message.right)

    @hub.on_message
    async def fail(message: Fail) -> None:
        raise RuntimeError("a handler that raises, for a test")

    return hub


class Say(Message):
    text: str
    to_others: bool = False


class Pour(Message):
    """Asks for a flood in the room."""

    first: int
    count: int
    size: int


class Drop(Message):
    number: int
    filling: str


class Add(Message):
    left: int
    right: int


class Sum(Message):
    value: int


class Fail(Message):
    pass


hub = chat()
