"""What a broker brings and nobody can read costs a room that message, and nothing else."""

import pytest

from hubbub import Message, Settings
from hubbub.brokers.base import Retention
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.hub import Hub
from hubbub.protocol.codecs import JSON, MESSAGEPACK

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


@pytest.mark.parametrize("codec", [JSON, MESSAGEPACK], ids=["JSON", "MessagePack"])
async def test_history_leaves_it_out_and_says_that_it_is_not_complete(codec, logs):
    broker, hub = MemoryBroker(), Hub(Settings())
    await hub.start(broker)
    kept = Retention(count=10, age=60.0)
    for payload in (b"\xc1", b"\x92\xa1\xff\xc0"):
        await broker.publish("room", payload, sender=None, key=None, keep=kept)
    await hub.publish("room", Say("hi"), keep=kept)
    page = await hub.history("room", None, 10, codec=codec)
    assert [(envelope.type, envelope.offset) for envelope in page.messages] == [("say", 3)]
    assert (page.offset, page.complete) == (3, False)
    assert len(logs.of("error", during="reading history", room="room")) == 2
    await hub.stop()


async def test_history_leaves_out_what_one_codec_can_not_read(logs):
    broker, hub = MemoryBroker(), Hub(Settings())
    await hub.start(broker)
    # Its data has text that is no UTF-8, which goes to members that speak MessagePack as it is.
    await broker.publish("room", b"\x92\xa1a\xa1\xff", sender=None, key=None, keep=Retention(10, 60.0))
    assert not (await hub.history("room", None, 10, codec=JSON)).complete
    assert (await hub.history("room", None, 10, codec=MESSAGEPACK)).complete
    await hub.stop()
