"""Channels' specification of a channel layer, as tests: for hubbub's on each broker, and for Channels' own.

https://channels.readthedocs.io/en/stable/channel_layer_spec.html
"""

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from integrations.channel_layers import KINDS, Later, layers_of
from integrations.waiting import until

ARRIVES_WITHIN = 5.0
NOT_WITHIN = 0.2

NAMES = [name for name in KINDS if name != "rabbitmq"]
"""RabbitMQ takes so long to start that it has one test of its own."""


@pytest.fixture(params=NAMES)
async def layers(request, tmp_path):
    async with layers_of(request.param, tmp_path) as layers:
        yield layers


@pytest.fixture
def layer(layers):
    return layers()


@pytest.fixture
def later(layers, monkeypatch):
    """Move the layer's time."""
    if not layers.kind.times:
        pytest.skip("its times can't be moved")
    later = Later()
    for module in ("channels.layers", *(f"hubbub.integrations.channels.{name}" for name in TIMED)):
        monkeypatch.setattr(f"{module}.time", later)
    return later


TIMED = ("mailboxes", "queues", "groups", "layer", "station")


async def received(layer, channel):
    async with asyncio.timeout(ARRIVES_WITHIN):
        return await layer.receive(channel)


async def nothing_comes(layer, channel):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(NOT_WITHIN):
            await layer.receive(channel)


class TestMessages:
    async def test_all_that_a_message_may_have_arrives_as_it_was(self, layer):
        message = {
            "type": "kinds",
            "bytes": b"\x00\xff",
            "text": "a \U0001f600",
            "least": -(2**63),
            "most": 2**63 - 1,
            "float": 0.1,
            "list": [1, [2, {"three": None}]],
            "dict": {"true": True, "false": False},
            "none": None,
        }
        for channel in ("normal", await layer.new_channel()):
            await layer.send(channel, message)
            assert await received(layer, channel) == message

    async def test_a_tuple_arrives_as_a_list(self, layers, layer):
        if not layers.kind.types:
            pytest.skip("it does not care for types")
        await layer.send("normal", {"pair": (1, 2)})
        assert await received(layer, "normal") == {"pair": [1, 2]}

    async def test_what_no_message_may_have_is_refused(self, layers, layer):
        if not layers.kind.types:
            pytest.skip("it does not care for types")
        channel = await layer.new_channel()
        for value in ({1: 2}, 2**63, -(2**63) - 1, object(), {1, 2}, [object()], {"deep": {"set": {1}}}):
            message = {"it": value}
            for send, to in ((layer.send, "normal"), (layer.send, channel), (layer.group_send, "group")):
                with pytest.raises(TypeError, match="it"):
                    await send(to, message)

    async def test_a_message_is_a_dict(self, layer):
        with pytest.raises((AssertionError, TypeError)):
            await layer.send("normal", ["no", "dict"])
        await layer.group_add("group", "normal")
        with pytest.raises((AssertionError, AttributeError, TypeError)):
            await layer.group_send("group", "no dict")

    async def test_a_megabyte_arrives(self, layer):
        message = {"type": "large", "text": "x" * 1_000_000}
        channel = await layer.new_channel()
        await layer.send("normal", message)
        await layer.send(channel, message)
        assert await received(layer, "normal") == message
        assert await received(layer, channel) == message

    async def test_what_the_sender_changes_afterwards_is_not_changed_in_the_message(self, layer):
        channel = await layer.new_channel()
        message = {"list": [1]}
        await layer.send(channel, message)
        message["list"].append(2)
        assert await received(layer, channel) == {"list": [1]}


class TestNames:
    async def test_a_bad_channel_is_refused(self, layer):
        for name in ("", "=+135!", "two words", "ünicode", "x" * 100, "a!b!c", 7, b"bytes"):
            for call, arguments in (
                (layer.send, (name, {"type": "x"})),
                (layer.receive, (name,)),
                (layer.group_add, ("group", name)),
                (layer.group_discard, ("group", name)),
            ):
                with pytest.raises(TypeError):
                    await call(*arguments)

    async def test_a_bad_group_is_refused(self, layer):
        channel = await layer.new_channel()
        for name in ("", "no!group", "two words", "ünicode", "x" * 100, 7):
            for call, argument in (
                (layer.group_add, channel),
                (layer.group_discard, channel),
                (layer.group_send, {"type": "x"}),
            ):
                with pytest.raises(TypeError):
                    await call(name, argument)

    async def test_a_name_may_have_99_characters(self, layer):
        name = "x" * 99
        await layer.send(name, {"type": "x"})
        assert await received(layer, name) == {"type": "x"}
        channel = await layer.new_channel()
        await layer.group_add(name, channel)
        await layer.group_send(name, {"type": "y"})
        assert await received(layer, channel) == {"type": "y"}

    async def test_new_channels_are_the_process_s_own_and_all_different(self, layer):
        names = {await layer.new_channel() for _ in range(100)}
        assert len(names) == 100
        assert all("!" in name and layer.require_valid_channel_name(name) for name in names)

    async def test_a_prefix_begins_the_name(self, layer):
        assert (await layer.new_channel("my-prefix")).startswith("my-prefix")


class TestChannels:
    async def test_messages_come_in_order(self, layers):
        layer = layers(capacity=100)
        for channel in ("normal", await layer.new_channel()):
            for number in range(20):
                await layer.send(channel, {"number": number})
            assert [(await received(layer, channel))["number"] for _ in range(20)] == list(range(20))

    async def test_who_waits_is_brought_what_is_sent_later(self, layer):
        for channel in ("normal", await layer.new_channel()):
            waiting = asyncio.create_task(received(layer, channel))
            await asyncio.sleep(0)
            await layer.send(channel, {"type": "x"})
            assert await waiting == {"type": "x"}

    async def test_channels_do_not_mix(self, layer):
        first, second = await layer.new_channel(), await layer.new_channel()
        await layer.send(first, {"to": "first"})
        await layer.send(second, {"to": "second"})
        assert await received(layer, second) == {"to": "second"}
        assert await received(layer, first) == {"to": "first"}
        await nothing_comes(layer, first)

    async def test_each_message_goes_to_one_of_those_who_wait(self, layers):
        layer = layers(capacity=100)
        taken = []

        async def take():
            while True:
                taken.append((await layer.receive("normal"))["number"])

        receivers = [asyncio.create_task(take()) for _ in range(5)]
        for number in range(50):
            await layer.send("normal", {"number": number})
        await until(lambda: len(taken) >= 50)
        for receiver in receivers:
            receiver.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)
        assert sorted(taken) == list(range(50))

    async def test_who_waits_no_more_takes_nothing(self, layer):
        for channel in ("normal", await layer.new_channel()):
            await nothing_comes(layer, channel)
            await layer.send(channel, {"type": "x"})
            assert await received(layer, channel) == {"type": "x"}


class TestCapacity:
    async def test_a_channel_that_is_full_is_told(self, layer):
        for channel in ("normal", await layer.new_channel()):
            for number in range(3):
                await layer.send(channel, {"number": number})
            with pytest.raises(ChannelFull):
                await layer.send(channel, {"number": 3})

    async def test_what_is_received_makes_room(self, layer):
        for channel in ("normal", await layer.new_channel()):
            for number in range(3):
                await layer.send(channel, {"number": number})
            assert await received(layer, channel) == {"number": 0}
            await layer.send(channel, {"number": 3})
            assert [(await received(layer, channel))["number"] for _ in range(3)] == [1, 2, 3]

    async def test_a_capacity_can_be_for_names_of_a_pattern(self, layers):
        layer = layers(channel_capacity={"one*": 1, "two": 2})
        if layers.kind.name == "Channels in memory":
            layer.channel_capacity = layer.compile_capacities(layer.channel_capacity)  # which it forgets
        for channel, capacity in (("one-only", 1), ("two", 2), ("others", 3)):
            for _ in range(capacity):
                await layer.send(channel, {"type": "x"})
            with pytest.raises(ChannelFull):
                await layer.send(channel, {"type": "x"})

    async def test_channels_with_one_non_local_part_share_their_capacity(self, layers, layer):
        if not layers.kind.virtual:
            pytest.skip("each of its channels has its own")
        channel = await layer.new_channel()
        for number in range(3):
            await layer.send(f"{channel}{number}", {"type": "x"})
        with pytest.raises(ChannelFull):
            await layer.send(f"{channel}3", {"type": "x"})

    async def test_the_non_local_part_receives_what_is_sent_to_any(self, layers, layer):
        if not layers.kind.virtual:
            pytest.skip("it has no such receiver")
        channel = await layer.new_channel()
        await layer.send(f"{channel}a", {"to": "a"})
        await layer.send(f"{channel}b", {"to": "b"})
        everything = layer.non_local_name(channel)
        assert [(await received(layer, everything))["to"] for _ in range(2)] == ["a", "b"]

    async def test_a_group_passes_over_who_is_full(self, layer):
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_add("group", "normal")
        for number in range(5):
            await layer.group_send("group", {"number": number})
        for name in (channel, "normal"):
            assert [(await received(layer, name))["number"] for _ in range(3)] == [0, 1, 2]
        await layer.group_send("group", {"number": 5})
        while (await received(layer, channel))["number"] != 5:
            pass  # where messages take their time, some come when there is room again

    async def test_one_that_is_full_takes_no_place_from_another(self, layers, layer):
        if layers.kind.name == "channels_redis":
            pytest.skip("all consumers of a process share a capacity")
        full, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("group", full)
        for number in range(5):
            await layer.group_send("group", {"number": number})
        await layer.group_add("group", other)
        await layer.group_send("group", {"number": 5})
        assert await received(layer, other) == {"number": 5}


class TestGroups:
    async def test_all_who_are_in_it_receive_and_nobody_else(self, layer):
        first, second, third = [await layer.new_channel() for _ in range(3)]
        for channel in (first, second, third):
            await layer.group_add("group", channel)
        await layer.group_discard("group", second)
        await layer.group_send("group", {"type": "x"})
        assert await received(layer, first) == {"type": "x"}
        assert await received(layer, third) == {"type": "x"}
        await nothing_comes(layer, second)

    async def test_who_is_added_twice_receives_once(self, layer):
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_add("group", channel)
        await layer.group_send("group", {"type": "x"})
        assert await received(layer, channel) == {"type": "x"}
        await nothing_comes(layer, channel)

    async def test_who_is_in_two_groups_receives_of_both(self, layer):
        channel = await layer.new_channel()
        await layer.group_add("one", channel)
        await layer.group_add("two", channel)
        await layer.group_send("one", {"of": "one"})
        assert await received(layer, channel) == {"of": "one"}
        await layer.group_send("two", {"of": "two"})
        assert await received(layer, channel) == {"of": "two"}

    async def test_leaving_what_one_is_not_in_is_nothing(self, layer):
        channel = await layer.new_channel()
        await layer.group_discard("group", channel)
        await layer.group_discard("group", "normal")
        await layer.group_send("group", {"type": "nobody is there"})

    async def test_who_comes_back_receives_again(self, layer):
        channel = await layer.new_channel()
        for number in range(3):
            await layer.group_add("group", channel)
            await layer.group_send("group", {"number": number})
            assert await received(layer, channel) == {"number": number}
            await layer.group_discard("group", channel)

    async def test_a_channel_that_is_no_process_s_own_may_be_in_it(self, layer):
        await layer.group_add("group", "normal")
        await layer.group_send("group", {"number": 1})
        assert await received(layer, "normal") == {"number": 1}
        await layer.group_discard("group", "normal")
        await layer.group_send("group", {"number": 2})
        await nothing_comes(layer, "normal")

    async def test_what_is_sent_to_a_channel_comes_after_what_was_sent_to_its_group(self, layers):
        layer = layers(capacity=100)
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        for number in range(0, 20, 2):
            await layer.group_send("group", {"number": number})
            await layer.send(channel, {"number": number + 1})
        assert [(await received(layer, channel))["number"] for _ in range(20)] == list(range(20))

    async def test_messages_come_in_order(self, layers):
        layer = layers(capacity=100)
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("group", channel)
        for number in range(20):
            await layer.group_send("group", {"number": number})
        for channel in channels:
            assert [(await received(layer, channel))["number"] for _ in range(20)] == list(range(20))


class TestTimes:
    async def test_a_message_that_nobody_receives_expires(self, layers, later):
        layer = layers(expiry=60)
        for channel in ("normal", await layer.new_channel()):
            await layer.send(channel, {"type": "x"})
            later.offset += 61
            await nothing_comes(layer, channel)

    async def test_what_expired_takes_no_place(self, layers, later):
        layer = layers(expiry=60)
        if layers.kind.name == "Channels in memory":
            pytest.skip("it looks for that only when somebody receives")
        for channel in ("normal", await layer.new_channel()):
            for _ in range(3):
                await layer.send(channel, {"type": "old"})
            later.offset += 61
            await layer.send(channel, {"type": "new"})
            assert await received(layer, channel) == {"type": "new"}

    async def test_a_channel_is_in_a_group_for_so_long_and_no_longer(self, layers, later):
        layer = layers(group_expiry=100, expiry=1000)
        assert layer.group_expiry == 100
        stays, goes = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("group", stays)
        await layer.group_add("group", goes)
        later.offset += 60
        await layer.group_add("group", stays)
        later.offset += 60
        await layer.group_send("group", {"type": "x"})
        assert await received(layer, stays) == {"type": "x"}
        await nothing_comes(layer, goes)

    async def test_it_is_a_day_unless_something_else_is_said(self, layer):
        assert layer.group_expiry == 86400


class TestFlush:
    async def test_no_message_and_no_group_is_left(self, layer):
        assert {"groups", "flush"} <= set(layer.extensions)
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_add("group", "in-the-group")
        await layer.send(channel, {"type": "x"})
        await layer.send("normal", {"type": "x"})
        await layer.flush()
        await layer.group_send("group", {"type": "y"})
        for name in (channel, "normal", "in-the-group"):
            await nothing_comes(layer, name)
        await layer.send(channel, {"type": "after"})
        assert await received(layer, channel) == {"type": "after"}


class TestThreadsAndLoops:
    async def test_synchronous_code_sends_to_who_waits_elsewhere(self, layers, layer):
        if layers.kind.name == "Channels in memory":
            pytest.skip("its queues are of one event loop")
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        waiting = asyncio.create_task(received(layer, channel))

        def view():
            async_to_sync(layer.group_send)("group", {"type": "from a thread"})
            async_to_sync(layer.send)("normal", {"type": "from a thread"})

        thread = threading.Thread(target=view)
        thread.start()
        assert await waiting == {"type": "from a thread"}
        assert await received(layer, "normal") == {"type": "from a thread"}
        await asyncio.to_thread(thread.join)

    def test_each_call_may_have_an_event_loop_of_its_own(self, tmp_path):
        async def make():
            return await stack.__aenter__()

        for name in ("memory", "sqlite"):
            directory = tmp_path / name
            directory.mkdir()
            stack = layers_of(name, directory)
            layers = asyncio.run(make())
            layer = layers()
            channel = async_to_sync(layer.new_channel)()
            async_to_sync(layer.group_add)("group", channel)
            async_to_sync(layer.group_send)("group", {"type": "x"})
            assert async_to_sync(layer.receive)(channel) == {"type": "x"}
            asyncio.run(stack.__aexit__(None, None, None))


class TestSeveralProcesses:
    """Two layers stand for two processes."""

    @pytest.fixture
    def both(self, layers):
        if not layers.kind.shared:
            pytest.skip("it is for one process")
        return layers(), layers()

    async def test_a_channel_of_one_is_sent_to_by_the_other(self, both):
        here, there = both
        channel = await here.new_channel()
        waiting = asyncio.create_task(received(here, channel))
        await there.send(channel, {"type": "x"})
        assert await waiting == {"type": "x"}

    async def test_what_is_large_arrives(self, both):
        here, there = both
        channel = await here.new_channel()
        message = {"type": "large", "text": "x" * 1_000_000}
        await there.send(channel, message)
        assert await received(here, channel) == message

    async def test_a_group_has_channels_of_both(self, both):
        channels = [await layer.new_channel() for layer in both]
        for layer, channel in zip(both, channels, strict=True):
            await layer.group_add("group", channel)
        await both[0].group_send("group", {"type": "x"})
        for layer, channel in zip(both, channels, strict=True):
            assert await received(layer, channel) == {"type": "x"}

    async def test_one_may_put_a_channel_of_the_other_into_a_group_and_take_it_out(self, both):
        here, there = both
        channel = await here.new_channel()
        await there.group_add("group", channel)
        await there.group_send("group", {"number": 1})
        assert await received(here, channel) == {"number": 1}
        await there.group_discard("group", channel)
        await there.group_send("group", {"number": 2})
        await nothing_comes(here, channel)

    async def test_a_message_waits_for_a_receiver_in_any_process(self, layers, both):
        if not layers.kind.once:
            pytest.skip("it may bring a message twice, where two processes receive")
        here, there = both
        await here.send("normal", {"number": 1})
        assert await received(there, "normal") == {"number": 1}
        await there.send("normal", {"number": 2})
        assert await received(here, "normal") == {"number": 2}

    async def test_each_message_goes_to_one_process_only(self, layers, both):
        if not layers.kind.once:
            pytest.skip("it may bring a message twice, where two processes receive")
        here, there = layers(capacity=100), layers(capacity=100)
        taken = []

        async def take(layer):
            while True:
                taken.append((await layer.receive("normal"))["number"])

        receivers = [asyncio.create_task(take(layer)) for layer in (here, there)]
        for number in range(30):
            await here.send("normal", {"number": number})
        await until(lambda: len(taken) >= 30)
        for receiver in receivers:
            receiver.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)
        assert sorted(taken) == list(range(30))

    async def test_a_queue_that_is_full_is_full_for_all(self, both):
        here, there = both
        for number in range(3):
            await here.send("normal", {"number": number})
        with pytest.raises(ChannelFull):
            await there.send("normal", {"number": 3})

    async def test_a_channel_that_is_no_process_s_own_is_in_a_group_for_all(self, both):
        here, there = both
        await here.group_add("group", "normal")
        await there.new_channel()
        await there.group_send("group", {"type": "x"})
        assert await received(here, "normal") == {"type": "x"}


@pytest.mark.timeout(180)
async def test_it_is_one_on_rabbitmq_too(tmp_path):
    async with layers_of("rabbitmq", tmp_path) as layers:
        here, there = layers(), layers()
        channels = [await layer.new_channel() for layer in (here, there)]
        await here.group_add("group", channels[0])
        await here.group_add("group", channels[1])
        await there.group_send("group", {"type": "x"})
        assert await received(here, channels[0]) == {"type": "x"}
        assert await received(there, channels[1]) == {"type": "x"}
        for number in range(3):
            await here.send("normal", {"number": number})
        with pytest.raises(ChannelFull):
            await here.send("normal", {"number": 3})
        assert await received(there, "normal") == {"number": 0}
        assert await received(here, "normal") == {"number": 1}
        await there.send(channels[0], {"to": "here"})
        assert await received(here, channels[0]) == {"to": "here"}
        await here.flush()
        await nothing_comes(here, "normal")
