"""What hubbub's channel layer promises beyond Channels' specification: rooms, outages, processes that end."""

import asyncio
import os
import subprocess
import sys

import pytest
from channels.exceptions import MessageTooLarge

from hubbub import ConfigurationError, Hubbub, Message, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.control import Relayed, Returned
from hubbub.engine.lines import LineAnswer, LineRequest
from hubbub.integrations.channels import HubbubChannelLayer
from hubbub.integrations.channels.mailboxes import Mailboxes
from hubbub.integrations.channels.options import Mapped, Options, mapped_of
from hubbub.integrations.channels.records import as_publication, from_publication, unpack, written
from hubbub.integrations.channels.station import Station
from hubbub.protocol.codecs import pack
from hubbub.testing.faults import Cut, FaultProxy
from hubbub.testing.servers.redis import RedisServer
from integrations.waiting import until

ARRIVES_WITHIN = 5.0


async def received(layer, channel):
    async with asyncio.timeout(ARRIVES_WITHIN):
        return await layer.receive(channel)


class Said(Message):
    text: str


class Listed(Message, array_like=True):
    text: str


class TestGroupsThatAreRooms:
    """A station and a hub on one store, as they are in a process."""

    @pytest.fixture
    async def hub(self):
        hub = Hubbub(broker=MemoryBroker(MemoryStore()))
        hub.room("chat/{name}", history=10)
        async with hub.lifespan():
            yield hub

    @pytest.fixture
    async def station(self, hub):
        options = Options(60, 86400, lambda channel: 100, mapped_of({"chat_{name}": "chat/{name}"}), hub, 5.0)
        station = Station(MemoryBroker(hub.broker.store), options, Mailboxes(), "here")
        await station.start()
        yield station
        await station.stop()

    async def test_what_is_sent_to_the_group_is_kept_in_the_room(self, hub, station):
        await station.groups.send("chat_lobby", written({"type": "said", "text": "hi"}))
        (kept,) = await hub.rooms[0](name="lobby").history()
        assert (kept.type, kept.data, kept.offset) == ("said", {"text": "hi"}, 1)

    async def test_what_is_published_in_the_room_reaches_the_group_once(self, hub, station):
        await station.groups.add("chat_lobby", "specific.here.a!0")
        await hub.rooms[0](name="lobby").send(Said("hi"))
        await hub.rooms[0](name="lobby").send(Said("typing"), ephemeral=True)
        await station.groups.send("chat_lobby", written({"type": "said", "text": "from the group"}))
        texts = [
            unpack(station.mailboxes.take("specific.here.a!", None).result().message)
            for _ in range(station.mailboxes.count("specific.here.a!"))
        ]
        assert texts == [
            {"type": "said", "text": "hi"},
            {"type": "said", "text": "typing"},
            {"type": "said", "text": "from the group"},
        ]

    async def test_what_no_room_is_declared_for_is_refused(self, hub, station):
        hub.rooms.clear()
        with pytest.raises(ConfigurationError, match="'chat/lobby', which no declared pattern has"):
            await station.groups.send("chat_lobby", written({"type": "said"}))

    @pytest.mark.parametrize("message", [{}, {"type": 7}, {"type": ""}, {"type": "$join"}], ids=str)
    async def test_a_message_in_a_room_has_a_type_of_the_application(self, station, message):
        with pytest.raises(ConfigurationError, match="has a type"):
            await station.groups.send("chat_lobby", written(message))

    async def test_who_is_in_the_room_is_not_told_to_consumers(self, hub, station):
        await station.groups.add("chat_lobby", "specific.here.a!0")
        assert from_publication(pack(("$joined", {"user": "ada"}))) is None

    async def test_the_hub_s_questions_to_all_instances_are_answered(self, hub, station):
        async with asyncio.timeout(1):  # it would wait for 2 s
            assert await hub.disconnect(user="ada") == 0
            assert await hub.connections(user="ada") == []

    async def test_what_hubs_say_to_each_other_is_no_affair_of_its_own(self, station, caplog):
        request = LineRequest("delete", "made-up")
        station.control(pack(Relayed("question", "other", request)))
        station.control(pack(Returned("question", "other", LineAnswer(404))))
        assert not caplog.records

    async def test_what_can_not_be_read_harms_nobody(self, hub, station, caplog):
        await station.groups.add("chat_lobby", "specific.here.a!0")
        for room in ("chat/lobby", "$channels/common", "$channels/process/here", "$channels/queue/normal"):
            station.queues.queue("normal")
            await station.queues.queue("normal").open()
            keep = hub.rooms[0].retention
            await hub.broker.publish(room, b"\xc1", sender=None, key=None, keep=keep)
        await station.groups.send("chat_lobby", written({"type": "said", "text": "hi"}))
        assert station.mailboxes.count("specific.here.a!") == 1


class TestMapping:
    def test_named_parts_go_over(self):
        mapped = Mapped("chat_{name}", "chat/{name}")
        assert mapped.room("chat_lobby") == "chat/lobby"
        assert mapped.room("chat_a_b.c-d") == "chat/a_b.c-d"
        assert mapped.room("chat_") is None
        assert mapped.room("other_lobby") is None
        two = Mapped("{kind}.{number}", "shop/{number}/{kind}")
        assert two.room("order.7") == "shop/7/order"

    @pytest.mark.parametrize(
        ("groups", "room"), [("chat_{name}", "chat/lobby"), ("chat", "chat/{name}"), ("{a}_{a}", "x/{a}")]
    )
    def test_both_have_the_same_parts(self, groups, room):
        with pytest.raises(ConfigurationError, match="same named parts"):
            Mapped(groups, room)

    def test_two_groups_are_never_one_room(self):
        with pytest.raises(ConfigurationError, match="can be one room"):
            mapped_of({"a_{name}": "chat/{name}", "b_{other}": "chat/{other}"})

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"text": "hi"}, {"type": "said", "text": "hi"}),
            ({}, {"type": "said"}),
            ([1, 2], {"type": "said", "data": [1, 2]}),
            ({"type": "mine"}, {"type": "said", "data": {"type": "mine"}}),
            ({1: 2}, {"type": "said", "data": {1: 2}}),
        ],
        ids=str,
    )
    def test_data_of_any_shape_becomes_a_message(self, data, message):
        assert unpack(from_publication(pack(("said", data)))) == message

    def test_a_message_comes_back_as_it_was(self):
        message = {"type": "said", "text": "hi", "bytes": b"\x00", "nested": {"type": "x"}}
        assert unpack(from_publication(as_publication(message))) == message

    def test_rooms_need_a_hub(self):
        with pytest.raises(ConfigurationError, match="there is no hub"):
            HubbubChannelLayer("memory://", rooms={"chat_{name}": "chat/{name}"})


class TestLimits:
    async def test_a_message_that_is_too_large_is_refused(self):
        layer = HubbubChannelLayer("memory://")
        with pytest.raises(MessageTooLarge):
            await layer.send("normal", {"text": "x" * (2 * 2**20)})

    async def test_nesting_without_end_is_refused(self):
        layer, value = HubbubChannelLayer("memory://"), []
        for _ in range(200):
            value = [value]
        with pytest.raises(TypeError, match="too deeply"):
            await layer.send("normal", {"value": value})

    async def test_only_new_channel_makes_a_process_s_channels(self):
        layer = HubbubChannelLayer("memory://")
        for name in ("made-up!0", "a.b!0", "a..b!"):
            with pytest.raises(TypeError, match="new_channel"):
                await layer.send(name, {"type": "x"})

    async def test_nobody_receives_from_another_process_s_channel(self):
        layer, other = HubbubChannelLayer("memory://"), HubbubChannelLayer("memory://")
        channel = await other.new_channel()
        with pytest.raises(TypeError, match="only its own process"):
            await layer.receive(channel)
        await other.close()

    async def test_it_says_no_password(self):
        assert str(HubbubChannelLayer("redis://:secret@localhost")) == "HubbubChannelLayer(redis://)"


class TestMailboxes:
    def test_what_was_taken_by_somebody_who_is_gone_is_the_next(self):
        mailboxes = Mailboxes()
        for message in (b"1", b"2"):
            mailboxes.put("a!", "a!0", message, 60)
        taken = mailboxes.take("a!", "a!0").result()
        mailboxes.put_back("a!", taken)
        assert [mailboxes.take("a!", None).result().message for _ in range(2)] == [b"1", b"2"]

    def test_who_waits_no_more_is_passed_over(self):
        mailboxes = Mailboxes()
        gone, waits = mailboxes.take("a!", None), mailboxes.take("a!", "a!0")
        gone.cancel()
        assert mailboxes.wanted("a!")
        mailboxes.put("a!", "a!0", b"1", 60)
        assert waits.result().message == b"1"
        assert not mailboxes.wanted("a!")

    def test_channels_of_what_expired_are_told_once(self):
        mailboxes = Mailboxes()
        mailboxes.put("a!", "a!0", b"1", 0)
        mailboxes.put("b!", "b!0", b"1", 60)
        assert mailboxes.expire() == {"a!0"}
        assert mailboxes.expire() == set()
        assert mailboxes.count("b!") == 1

    async def test_a_message_that_was_handed_over_as_its_receiver_was_cancelled_is_not_lost(self):
        layer = HubbubChannelLayer("memory://")
        channel = await layer.new_channel()
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "x"})
        waiting.cancel()
        await asyncio.wait([waiting])
        message = await received(layer, channel) if waiting.cancelled() else waiting.result()
        assert message == {"type": "x"}
        await layer.close()


class TestUpkeep:
    async def test_whose_messages_nobody_receives_is_in_no_group_any_more(self):
        layer = HubbubChannelLayer("memory://", expiry=0.1, capacity=3)
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "x"})
        station = await layer._home.run(_itself)
        await until(lambda: not station.groups._groups)
        await layer.close()

    async def test_a_queue_that_nobody_uses_is_let_go(self):
        layer = HubbubChannelLayer("memory://", expiry=0.1)
        await layer.send("normal", {"type": "x"})
        station = await layer._home.run(_itself)
        await until(lambda: not station.queues._queues)
        await layer.close()

    async def test_it_begins_anew_after_it_was_closed(self):
        layer = HubbubChannelLayer("memory://")
        channel = await layer.new_channel()
        await layer.close()
        await layer.close()
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "x"})
        assert await received(layer, channel) == {"type": "x"}
        await layer.close()


async def _itself(station):
    return station


class TestOutages:
    async def test_a_broker_that_was_never_there_is_an_error_and_receive_waits_for_it(self, monkeypatch):
        monkeypatch.setattr("hubbub.integrations.channels.layer.AGAIN", 0.05)
        async with RedisServer() as redis:
            await redis.kill()
            layer = HubbubChannelLayer(redis.url)
            waiting = asyncio.create_task(layer.receive("normal"))
            with pytest.raises(Unavailable):
                await layer.group_send("group", {"type": "x"})
            with pytest.raises(Unavailable):
                await layer.new_channel()
            assert not waiting.done()
            await redis.start()
            other = HubbubChannelLayer(redis.url)
            await sent(other, "normal", {"type": "x"})
            async with asyncio.timeout(30):
                assert await waiting == {"type": "x"}
            await layer.close()
            await other.close()

    async def test_a_blink_of_the_broker_loses_no_message_of_a_group(self):
        async with RedisServer() as redis, FaultProxy("127.0.0.1", redis.port) as line:
            here = HubbubChannelLayer(f"redis://127.0.0.1:{line.port}")
            there = HubbubChannelLayer(redis.url)
            channel = await here.new_channel()
            await here.group_add("group", channel)
            await there.group_send("group", {"number": 1})
            assert await received(here, channel) == {"number": 1}
            line.apply(Cut())
            for number in range(2, 10):
                await there.group_send("group", {"number": number})
                await there.send(channel, {"number": -number})
            async with asyncio.timeout(30):
                numbers = [(await here.receive(channel))["number"] for _ in range(16)]
            assert [number for number in numbers if number > 0] == list(range(2, 10))
            assert [number for number in numbers if number < 0] == list(range(-2, -10, -1))
            await here.close()
            await there.close()


async def sent(layer, channel, message):
    """Send as soon as the broker can be reached."""
    async with asyncio.timeout(30):
        while True:
            try:
                await layer.send(channel, message)
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


class TestProcesses:
    async def test_what_is_sent_to_a_process_that_is_gone_holds_nobody_up(self):
        async with RedisServer() as redis:
            finished = await asyncio.to_thread(run, JOINED, redis.url)
            layer = HubbubChannelLayer(redis.url)
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            async with asyncio.timeout(ARRIVES_WITHIN):
                await layer.send(finished.stdout.strip(), {"type": "to nobody"})
                await layer.group_discard("group", finished.stdout.strip())
                await layer.group_send("group", {"type": "to who is left"})
                assert await received(layer, channel) == {"type": "to who is left"}
            await layer.close()

    async def test_a_child_made_by_fork_has_channels_of_its_own(self):
        async with RedisServer() as redis:
            finished = await asyncio.to_thread(run, FORKED, redis.url)
            assert finished.stdout.split() == ["child", "parent"]


def run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, url],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    return finished


JOINED = """
import sys
from asgiref.sync import async_to_sync
from hubbub.integrations.channels import HubbubChannelLayer
layer = HubbubChannelLayer(sys.argv[1])
channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("group", channel)
print(channel)
"""

FORKED = """
import os, sys, warnings
from asgiref.sync import async_to_sync
from hubbub.integrations.channels import HubbubChannelLayer
warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads, in later versions of Python
layer = HubbubChannelLayer(sys.argv[1])
parents = async_to_sync(layer.new_channel)()
if not (child := os.fork()):
    own = async_to_sync(layer.new_channel)()
    assert own.split(".")[1] != parents.split(".")[1]
    async_to_sync(layer.send)(own, {"type": "child"})
    print(async_to_sync(layer.receive)(own)["type"], flush=True)
    async_to_sync(layer.send)(parents, {"type": "parent"})
    async_to_sync(layer.close)()
    os._exit(0)
os.waitpid(child, 0)
print(async_to_sync(layer.receive)(parents)["type"])
"""
