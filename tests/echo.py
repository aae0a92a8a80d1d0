"""A hub that echoes, and its messages."""

from pydantic import BaseModel, Field

from hubbub import Hubbub, Message, Settings, wire_type
from wire import Client, request_numbers


class Say(Message):
    text: str


class MoveCursor(BaseModel):
    x: int = Field(ge=0)
    y: int = Field(0, lt=9)


@wire_type("chat.wave")
class Wave(Message):
    pass


def echo_hub(settings: Settings | None = None) -> Hubbub:
    """A hub that answers "say" with what was said."""
    hub = Hubbub(settings)

    @hub.on_message
    async def say(message: Say) -> Say:
        return message

    return hub


async def is_alive(client: Client) -> None:
    """Check that a client can still talk to an `echo_hub`, and that nothing else is under way to it."""
    alive = f"alive? {next(request_numbers)}"
    await client.send(type="say", id=alive, data={"text": "x"})
    assert await client.receive() == {"type": "$ack", "id": alive, "data": {"text": "x"}}
