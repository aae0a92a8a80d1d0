"""What is published must reach every member whichever codec they speak, or nobody, and its sender is told."""

import msgspec
import pytest

from hubbub import Connection, Hubbub, InvalidMessage, Message, Room, Settings
from hubbub.brokers.base import Entry, Retention
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.form import form_of
from hubbub.engine.hub import Hub
from hubbub.engine.subscriptions import chunk_of
from hubbub.protocol.codecs import JSON, pack
from hubbub.protocol.envelope import Publication
from hubbub.transports.framing import frame
from wire import talk

pytestmark = pytest.mark.anyio


class Anything(Message):
    value: object = None


def relay(settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings)
    room = hub.room("room", history=10)

    @room.on_message
    async def anything(connection: Connection, room: Room, message: Anything) -> None:
        await room.send(message, exclude=connection)

    return hub


@pytest.mark.parametrize(
    "value",
    [{(1, 2): 3}, {None: 1}, msgspec.msgpack.Ext(5, b"x")],
    ids=["a tuple as a key", "null as a key", "an extension type"],
)
async def test_what_json_can_not_say_is_refused_and_nobody_misses_an_offset(start, value):
    url = start(relay()).url
    async with talk(url, subprotocols=["hubbub.v1.msgpack"]) as sender, talk(url) as reader:
        await sender.join("room")
        await reader.join("room")
        refused = await sender.ask(type="anything", room="room", data={"value": value})
        assert refused["type"] == "$error"
        assert refused["data"]["code"] == "invalid"
        await sender.ask(type="anything", room="room", data={"value": "fine"})
        assert (await reader.receive())["offset"] == 1
        page = (await reader.ask(type="$history", room="room"))["data"]
        assert [message["data"]["value"] for message in page["messages"]] == ["fine"]


async def test_what_is_nested_so_deep_that_it_barely_decodes_is_refused_or_reaches_all(start):
    url = start(relay(Settings(max_depth=10_000))).url
    async with talk(url) as sender, talk(url) as reader:
        await sender.join("room")
        await reader.join("room")
        offset = 0
        for depth in range(880, 1001, 8):
            nested = "[" * depth + "]" * depth
            await sender.websocket.send(
                f'{{"type":"anything","id":{depth},"room":"room","data":{{"value":{nested}}}}}'
            )
            answer = await sender.receive()
            if answer["type"] == "$ack":
                offset += 1
                assert (await reader.receive())["offset"] == offset
            else:
                assert answer["data"]["code"] == "invalid"
        assert 0 < offset < 16


async def test_a_sender_is_not_replayed_what_it_was_excluded_from_but_can_read_it_in_the_record(start):
    async with talk(start(relay()).url) as client:
        epoch = (await client.join("room"))["epoch"]
        await client.ask(type="anything", room="room", data={"value": 1})
        page = (await client.ask(type="$history", room="room"))["data"]
        assert [message["data"]["value"] for message in page["messages"]] == [1]
        await client.send(type="$join", room="room", data={"since": {"epoch": epoch, "offset": 0}})
        assert (await client.receive())["type"] == "$ack"
        assert (await client.ask(type="$ping"))["type"] == "$pong"


def test_should_a_broker_bring_what_a_codec_can_not_carry_members_are_told_of_a_gap():
    data = msgspec.Raw(msgspec.msgpack.encode({(1, 2): 3}))
    publication = Publication("said", data)
    form = form_of(JSON, frame)
    told = chunk_of("room", "e", Entry(7, pack(publication), None), publication, form)
    assert told is not None
    assert told[0][2:] == b'{"type":"$gap","room":"room","data":{"epoch":"e","offset":7}}'
    assert chunk_of("room", "e", Entry(None, pack(publication), None), publication, form) is None


async def test_an_application_that_publishes_what_can_not_be_sent_is_told():
    hub = Hubbub()
    rooms = hub.room("room")
    async with hub.lifespan():
        with pytest.raises(InvalidMessage, match="A 'anything' can't be sent"):
            await rooms().send(Anything({(1, 2): 3}))


async def test_history_leaves_out_what_nobody_can_read_and_says_that_it_is_not_complete(logs):
    broker, hub = MemoryBroker(), Hub(Settings())
    await hub.start(broker)
    kept = Retention(count=10, age=60.0)
    for payload in (b"\xc1", b"\x92\xa1a\xa1\xff"):
        await broker.publish("room", payload, sender=None, key=None, keep=kept)
    await hub.publish("room", Anything(1), keep=kept)
    page = await hub.history("room", None, 10)
    assert [envelope.data for envelope in page.messages] == [{"value": 1}]
    assert (page.offset, page.complete) == (3, False)
    assert len(logs.of("error", during="reading history", room="room")) == 2
    await hub.stop()
