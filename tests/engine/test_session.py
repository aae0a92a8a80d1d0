import pytest

from hubbub import Connection, Hubbub, Message, Room
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


async def test_a_reply_is_what_the_handler_returns(start):
    hub = Hubbub()

    @hub.on_message
    async def shout(message: Say) -> Say:
        return Say(text=message.text.upper())

    async with talk(start(hub).url) as client:
        answer = await client.ask(type="say", id=1, data={"text": "hi"})
    assert answer == {"type": "$ack", "id": 1, "data": {"text": "HI"}}


async def test_a_broadcast_reaches_all_others(start):
    hub = Hubbub()
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join("chat/lobby")
        await bob.join("chat/lobby")
        assert await ada.ask(type="say", room="chat/lobby", data={"text": "hi"}) == {
            "type": "$ack",
            "id": "asked",
            "room": "chat/lobby",
        }
        assert (await bob.receive())["data"] == {"text": "hi"}
