"""A chat, and what its tests say and expect."""

from typing import Any

from hubbub import Hubbub, Message, Position, Rooms
from wire import Client

LOBBY = "chat/lobby"


class Say(Message):
    text: str


class Post(Message):
    """Publishes to the lobby, from outside of the room."""

    texts: list[str]
    ephemeral: bool = False


def chat_hub(hub: Hubbub, history: int = 100, presence: bool = False) -> Rooms:
    """Declare a chat, and a way to publish to it without being a member."""
    chat = hub.room("chat/{name}", history=history, presence=presence)

    @hub.on_message
    async def post(message: Post) -> Position:
        for text in message.texts:
            position = await chat(name="lobby").send(Say(text=text), ephemeral=message.ephemeral)
        return position

    return chat


async def post(client: Client, *texts: str, ephemeral: bool = False) -> dict[str, Any]:
    """Publish to the lobby; return the position of the last message."""
    answer = await client.ask(type="post", data={"texts": texts, "ephemeral": ephemeral})
    assert answer["type"] == "$ack", answer
    return answer["data"]


async def said(client: Client, count: int) -> list[tuple[int, str]]:
    """Return offset and text of the next messages."""
    found = []
    for _ in range(count):
        envelope = await client.receive()
        assert envelope["type"] == "say", envelope
        found.append((envelope["offset"], envelope["data"]["text"]))
    return found


async def nothing_more(client: Client) -> None:
    """Check that nothing is under way to a client."""
    await client.send(type="$ping", id="nothing more")
    assert await client.receive() == {"type": "$pong", "id": "nothing more"}
