"""What a broker's deliveries have to be."""

import asyncio

from ...brokers.base import Entry, Retention
from ...protocol.envelope import Position
from .engines import Engine, Instance, payloads, publish


class Delivery:
    """Order, delivery, messages that are not kept, and repeated keys."""

    # Order and delivery

    async def test_offsets_count_from_one_within_an_epoch(self, one: Instance, other: Instance) -> None:
        await one.broker.subscribe("room")
        positions = [await publish(instance, b"x") for instance in (one, other, one)]
        assert [position.offset for position in positions] == [1, 2, 3]
        assert len({position.epoch for position in positions}) == 1

    async def test_offsets_and_epochs_are_each_rooms_own(self, one: Instance) -> None:
        await one.broker.subscribe("a")
        await one.broker.subscribe("b")
        first = await publish(one, b"x", room="a")
        assert (await publish(one, b"x", room="a")).offset == 2
        second = await publish(one, b"x", room="b")
        assert second.offset == 1
        assert first.epoch != second.epoch

    async def test_a_subscriber_gets_what_was_published_as_it_was(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        assert begins.offset == 0
        payload = bytes(range(256))
        position = await publish(one, payload, sender="ada")
        assert position == Position(begins.epoch, 1)
        await one.inbox.entries("room", 1)
        assert one.inbox.deliveries == [("room", Entry(1, payload, "ada"), begins.epoch)]

    async def test_an_empty_payload_and_no_sender_are_carried(self, one: Instance) -> None:
        await one.broker.subscribe("room")
        await publish(one, b"")
        assert await one.inbox.entries("room", 1) == [Entry(1, b"", None)]
        assert (await one.broker.history("room", None, 1)).entries == [Entry(1, b"", None)]

    async def test_all_instances_get_all_messages_in_the_order_of_their_offsets(self, engine: Engine) -> None:
        instances = [await engine.open() for _ in range(3)]
        for instance in instances:
            await instance.broker.subscribe("room")

        async def publish_some(instance: Instance) -> list[Position]:
            return [await publish(instance, f"{instance.name} {number}".encode()) for number in range(20)]

        published = await asyncio.gather(*(publish_some(instance) for instance in instances))
        offsets = sorted(position.offset for positions in published for position in positions)
        assert offsets == list(range(1, 61))
        first, *others = [await instance.inbox.entries("room", 60) for instance in instances]
        assert [entry.offset for entry in first] == offsets
        assert others == [first, first]
        for instance, positions in zip(instances, published, strict=True):
            for number, position in enumerate(positions):
                assert first[position.offset - 1].payload == f"{instance.name} {number}".encode()

    async def test_a_subscription_says_from_where_on_every_message_arrives(
        self, one: Instance, other: Instance
    ) -> None:
        await publish(one, b"one")
        newest = await publish(one, b"two")
        begins = await other.broker.subscribe("room")
        assert begins == newest
        await publish(one, b"three")
        assert await other.inbox.entries("room", 1) == [Entry(3, b"three", None)]

    async def test_an_instance_gets_only_the_rooms_it_subscribed_to(
        self, one: Instance, other: Instance
    ) -> None:
        await one.broker.subscribe("a")
        await other.broker.subscribe("b")
        await publish(one, b"for b", room="b")
        await publish(one, b"for a", room="a")
        await one.inbox.entries("a", 1)
        await other.inbox.entries("b", 1)
        assert [room for room, _, _ in one.inbox.deliveries] == ["a"]
        assert [room for room, _, _ in other.inbox.deliveries] == ["b"]

    async def test_who_subscribed_twice_gets_a_message_once(self, one: Instance) -> None:
        await one.broker.subscribe("room")
        await publish(one, b"one")
        assert (await one.broker.subscribe("room")).offset == 1
        await publish(one, b"two")
        await publish(one, b"three")
        entries = await one.inbox.entries("room", 3)
        assert [entry.payload for entry in entries] == [b"one", b"two", b"three"]

    async def test_who_unsubscribed_gets_no_more_and_others_do(self, one: Instance, other: Instance) -> None:
        await one.broker.subscribe("room")
        await one.broker.subscribe("marker")
        await other.broker.subscribe("room")
        await one.broker.unsubscribe("room")
        await publish(other, b"x")
        await publish(other, b"x", room="marker")
        await one.inbox.entries("marker", 1)
        assert one.inbox.of("room") == []
        assert len(await other.inbox.entries("room", 1)) == 1

    async def test_who_comes_back_gets_what_follows_its_new_position(self, one: Instance) -> None:
        await one.broker.subscribe("room")
        await publish(one, b"one")
        await one.inbox.entries("room", 1)
        await one.broker.unsubscribe("room")
        await publish(one, b"two")
        begins = await one.broker.subscribe("room")
        assert begins.offset == 2
        await publish(one, b"three")
        assert [entry.offset for entry in await one.inbox.entries("room", 2)] == [1, 3]

    async def test_to_unsubscribe_where_nobody_subscribed_does_nothing(self, one: Instance) -> None:
        await one.broker.unsubscribe("room")
        await one.broker.unsubscribe("room")
        assert (await publish(one, b"x")).offset == 1

    async def test_who_stopped_gets_no_more_and_others_do(self, one: Instance, other: Instance) -> None:
        for instance in (one, other):
            await instance.broker.subscribe("room")
        await one.broker.stop()
        await publish(other, b"x")
        await other.inbox.entries("room", 1)
        assert one.inbox.deliveries == []

    async def test_who_comes_while_others_publish_gets_all_that_follows_its_position(
        self, one: Instance, other: Instance
    ) -> None:
        publishes = [asyncio.ensure_future(publish(one, b"%d" % number)) for number in range(100)]
        await publishes[10]
        begins = await other.broker.subscribe("room")
        await asyncio.gather(*publishes)
        entries = await other.inbox.entries("room", 100 - begins.offset)
        assert [entry.offset for entry in entries] == list(range(begins.offset + 1, 101))

    async def test_a_publish_that_is_cancelled_is_published_whole_or_not_at_all(
        self, one: Instance, other: Instance
    ) -> None:
        begins = await other.broker.subscribe("room")
        publishes = [asyncio.ensure_future(publish(one, b"%d" % number)) for number in range(20)]
        await asyncio.sleep(0)
        for cancelled in publishes[::2]:
            cancelled.cancel()
        positions = await asyncio.gather(*publishes, return_exceptions=True)
        last = await publish(one, b"last")
        entries = await other.inbox.entries("room", last.offset)
        history = await one.broker.history("room", begins, 100)
        assert entries == history.entries
        assert [entry.offset for entry in entries] == list(range(1, last.offset + 1))
        for number, position in enumerate(positions):
            if isinstance(position, Position):
                assert entries[position.offset - 1].payload == b"%d" % number

    async def test_names_senders_and_keys_may_be_any_text(self, one: Instance) -> None:
        names = [
            "",
            "a b",
            "a:b{c}",
            "$user/ada",
            "x" * 255,
            "room\0",
            "'; --",
            "\u00e9\u4e2d\U0001f600",
            "%s*?[",
        ]
        for name in names:
            await one.broker.subscribe(name)
            first = await publish(one, name.encode(), room=name, sender=name, key=name)
            assert await publish(one, b"again", room=name, sender=name, key=name) == first
            assert await one.inbox.entries(name, 1) == [Entry(1, name.encode(), name)]
            await one.broker.enter(name, name, name, name.encode())
            assert await one.broker.members(name) == {name: name.encode()}

    async def test_a_large_payload_is_carried(self, one: Instance) -> None:
        await one.broker.subscribe("room")
        payload = bytes(range(256)) * 4096
        await publish(one, payload)
        assert [entry.payload for entry in await one.inbox.entries("room", 1)] == [payload]
        assert await payloads(one) == [payload]

    async def test_instances_have_names_of_their_own(self, one: Instance, other: Instance) -> None:
        assert one.name == one.broker.instance
        assert one.name != other.name

    # Messages that are not kept

    async def test_a_message_not_kept_arrives_without_offset_and_leaves_no_trace(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        kept = await publish(one, b"kept")
        assert await publish(one, b"gone", keep=None, sender="ada") == kept
        assert (await publish(one, b"kept too")).offset == 2
        assert await one.inbox.entries("room", 3) == [
            Entry(1, b"kept", None),
            Entry(None, b"gone", "ada"),
            Entry(2, b"kept too", None),
        ]
        assert {epoch for _, _, epoch in one.inbox.deliveries} == {begins.epoch}
        assert await payloads(one) == [b"kept", b"kept too"]

    async def test_a_message_not_kept_is_at_the_rooms_newest_position(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        assert await publish(one, b"gone", keep=None) == begins

    async def test_a_message_not_kept_arrives_on_every_instance(self, one: Instance, other: Instance) -> None:
        for instance in (one, other):
            await instance.broker.subscribe("room")
        await publish(one, b"gone", keep=None)
        for instance in (one, other):
            assert await instance.inbox.entries("room", 1) == [Entry(None, b"gone", None)]

    async def test_a_message_not_kept_to_a_room_that_nobody_is_in_is_at_its_newest_position(
        self, one: Instance
    ) -> None:
        assert (await publish(one, b"gone", keep=None)).offset == 0
        newest = await publish(one, b"kept")
        assert await publish(one, b"gone", keep=None) == newest

    # A repeated key

    async def test_a_repeated_key_publishes_nothing_and_returns_the_first_position(
        self, one: Instance, other: Instance
    ) -> None:
        await one.broker.subscribe("room")
        first = await publish(one, b"first", key="k")
        await publish(one, b"between")
        assert await publish(one, b"again", key="k") == first
        assert await publish(other, b"again", key="k") == first
        await publish(other, b"last")
        entries = await one.inbox.entries("room", 3)
        assert [entry.payload for entry in entries] == [b"first", b"between", b"last"]
        assert [entry.offset for entry in entries] == [1, 2, 3]
        assert await payloads(one) == [b"first", b"between", b"last"]

    async def test_of_many_attempts_at_once_one_is_published(self, one: Instance, other: Instance) -> None:
        attempts = [publish(instance, b"x", key="k") for instance in (one, other) * 5]
        positions = await asyncio.gather(*attempts)
        assert {position.offset for position in positions} == {1}
        assert await payloads(one) == [b"x"]

    async def test_a_key_counts_in_its_room_only(self, one: Instance) -> None:
        await publish(one, b"a", room="a", key="k")
        await publish(one, b"b", room="b", key="k")
        assert await payloads(one, "b") == [b"b"]

    async def test_a_key_counts_for_a_message_not_kept(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        for _ in range(2):
            assert await publish(one, b"gone", key="k", keep=None) == begins
        await publish(one, b"last")
        entries = await one.inbox.entries("room", 2)
        assert [entry.payload for entry in entries] == [b"gone", b"last"]

    async def test_a_key_outlives_its_message(self, one: Instance) -> None:
        newest_only = Retention(1, 3600.0)
        first = await publish(one, b"first", key="k", keep=newest_only)
        await publish(one, b"second", keep=newest_only)
        assert await publish(one, b"first", key="k", keep=newest_only) == first
        assert await payloads(one) == [b"second"]

    async def test_a_key_is_known_until_the_window_is_over_and_repeats_do_not_prolong_it(
        self, engine: Engine, one: Instance
    ) -> None:
        await one.broker.subscribe("room")
        first = await publish(one, b"first", key="k")
        for _ in range(2):
            await engine.pass_time(engine.window * 0.4)
            assert await publish(one, b"again", key="k") == first
        await engine.pass_time(engine.window * 0.4)
        assert (await publish(one, b"anew", key="k")).offset == 2
        assert (await publish(one, b"again", key="k")).offset == 2
