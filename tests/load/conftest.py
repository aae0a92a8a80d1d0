"""A hub for loads: typed messages and rooms."""

import pytest

from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.load import Line, Step
from hubbub.load.numbered import Numbered

WELCOME = Step(None, b'"$welcome"')


class Say(Message):
    text: str


@pytest.fixture
def hub() -> Hubbub:
    """Echoes, and sends on in the rooms `bench/...`, to the sender too if it is asked to."""
    hub = Hubbub(Settings(max_message_rate=1e6, max_message_burst=1_000_000))
    bench = hub.room("bench/{name}", history=10)

    @hub.on_message
    async def echo(message: Say) -> Say:
        return message

    @bench.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    return hub


def in_room(number: int) -> Line:
    join = b'{"type":"$join","id":1,"room":"bench/%d"}' % number
    return Line("/", (WELCOME, Step(join, b'"$ack"')))


def to_room(number: int) -> bytes:
    return b'{"type":"say","room":"bench/%d","data":{"text":"hi"}}' % number


LIMITS = {"max_message_rate": 1e6, "max_message_burst": 1_000_000}
SAY = b'{"type":"say","id":1,"data":{"text":"hi"}}'
NUMBERED = Numbered(b'{"type":"say","id":', b',"data":{"text":"hi"}}')
