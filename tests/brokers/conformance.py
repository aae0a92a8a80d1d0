"""The broker contract as tests. A driver's own tests inherit :class:`BrokerConformance`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from brokers.engines import Engine, Instance
from hubbub.brokers.base import Departure, Entry, Retention
from hubbub.protocol.envelope import Position

KEEP = Retention(100, 3600.0)


async def publish(
    instance: Instance,
    payload: bytes,
    *,
    room: str = "room",
    sender: str | None = None,
    key: str | None = None,
    keep: Retention | None = KEEP,
) -> Position:
    return await instance.broker.publish(room, payload, sender=sender, key=key, keep=keep)


async def payloads(instance: Instance, room: str = "room") -> list[bytes]:
    """Return what history keeps of a room."""
    history = await instance.broker.history(room, None, 1000)
    return [entry.payload for entry in history.entries]


class BrokerConformance:
    """Inherit, and say with :meth:`make_engine` what to test."""

    def make_engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        engine = self.make_engine()
        yield engine
        await engine.close()

    @pytest.fixture
    async def one(self, engine: Engine) -> Instance:
        return await engine.open()

    @pytest.fixture
    async def other(self, engine: Engine) -> Instance:
        return await engine.open()

    # Order and delivery

    async def test_offsets_count_from_one_within_an_epoch(self, one, other):
        await one.broker.subscribe("room")
        positions = [await publish(instance, b"x") for instance in (one, other, one)]
        assert [position.offset for position in positions] == [1, 2, 3]
        assert len({position.epoch for position in positions}) == 1

    async def test_offsets_and_epochs_are_each_rooms_own(self, one):
        await one.broker.subscribe("a")
        await one.broker.subscribe("b")
        first = await publish(one, b"x", room="a")
        assert (await publish(one, b"x", room="a")).offset == 2
        second = await publish(one, b"x", room="b")
        assert second.offset == 1
        assert first.epoch != second.epoch

    async def test_a_subscriber_gets_what_was_published_as_it_was(self, one):
        begins = await one.broker.subscribe("room")
        assert begins.offset == 0
        payload = bytes(range(256))
        position = await publish(one, payload, sender="ada")
        assert position == Position(begins.epoch, 1)
        await one.inbox.entries("room", 1)
        assert one.inbox.deliveries == [("room", Entry(1, payload, "ada"), begins.epoch)]

    async def test_an_empty_payload_and_no_sender_are_carried(self, one):
        await one.broker.subscribe("room")
        await publish(one, b"")
        assert await one.inbox.entries("room", 1) == [Entry(1, b"", None)]
        assert (await one.broker.history("room", None, 1)).entries == [Entry(1, b"", None)]

    async def test_all_instances_get_all_messages_in_the_order_of_their_offsets(self, engine):
        instances = [await engine.open() for _ in range(3)]
        for instance in instances:
            await instance.broker.subscribe("room")

        async def publish_some(instance):
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

    async def test_a_subscription_says_from_where_on_every_message_arrives(self, one, other):
        await publish(one, b"one")
        newest = await publish(one, b"two")
        begins = await other.broker.subscribe("room")
        assert begins == newest
        await publish(one, b"three")
        assert await other.inbox.entries("room", 1) == [Entry(3, b"three", None)]

    async def test_an_instance_gets_only_the_rooms_it_subscribed_to(self, one, other):
        await one.broker.subscribe("a")
        await other.broker.subscribe("b")
        await publish(one, b"for b", room="b")
        await publish(one, b"for a", room="a")
        await one.inbox.entries("a", 1)
        await other.inbox.entries("b", 1)
        assert [room for room, _, _ in one.inbox.deliveries] == ["a"]
        assert [room for room, _, _ in other.inbox.deliveries] == ["b"]

    async def test_who_subscribed_twice_gets_a_message_once(self, one):
        await one.broker.subscribe("room")
        await publish(one, b"one")
        assert (await one.broker.subscribe("room")).offset == 1
        await publish(one, b"two")
        await publish(one, b"three")
        entries = await one.inbox.entries("room", 3)
        assert [entry.payload for entry in entries] == [b"one", b"two", b"three"]

    async def test_who_unsubscribed_gets_no_more_and_others_do(self, one, other):
        await one.broker.subscribe("room")
        await one.broker.subscribe("marker")
        await other.broker.subscribe("room")
        await one.broker.unsubscribe("room")
        await publish(other, b"x")
        await publish(other, b"x", room="marker")
        await one.inbox.entries("marker", 1)
        assert one.inbox.of("room") == []
        assert len(await other.inbox.entries("room", 1)) == 1

    async def test_who_comes_back_gets_what_follows_its_new_position(self, one):
        await one.broker.subscribe("room")
        await publish(one, b"one")
        await one.inbox.entries("room", 1)
        await one.broker.unsubscribe("room")
        await publish(one, b"two")
        begins = await one.broker.subscribe("room")
        assert begins.offset == 2
        await publish(one, b"three")
        assert [entry.offset for entry in await one.inbox.entries("room", 2)] == [1, 3]

    async def test_to_unsubscribe_where_nobody_subscribed_does_nothing(self, one):
        await one.broker.unsubscribe("room")
        await one.broker.unsubscribe("room")
        assert (await publish(one, b"x")).offset == 1

    async def test_who_stopped_gets_no_more_and_others_do(self, one, other):
        for instance in (one, other):
            await instance.broker.subscribe("room")
        await one.broker.stop()
        await publish(other, b"x")
        await other.inbox.entries("room", 1)
        assert one.inbox.deliveries == []

    # Messages that are not kept

    async def test_a_message_not_kept_arrives_without_offset_and_leaves_no_trace(self, one):
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

    async def test_a_message_not_kept_is_at_the_rooms_newest_position(self, one):
        begins = await one.broker.subscribe("room")
        assert await publish(one, b"gone", keep=None) == begins

    # A repeated key

    async def test_a_repeated_key_publishes_nothing_and_returns_the_first_position(self, one, other):
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

    async def test_of_many_attempts_at_once_one_is_published(self, one, other):
        attempts = [publish(instance, b"x", key="k") for instance in (one, other) * 5]
        positions = await asyncio.gather(*attempts)
        assert {position.offset for position in positions} == {1}
        assert await payloads(one) == [b"x"]

    async def test_a_key_counts_in_its_room_only(self, one):
        await publish(one, b"a", room="a", key="k")
        await publish(one, b"b", room="b", key="k")
        assert await payloads(one, "b") == [b"b"]

    async def test_a_key_counts_for_a_message_not_kept(self, one):
        begins = await one.broker.subscribe("room")
        for _ in range(2):
            assert await publish(one, b"gone", key="k", keep=None) == begins
        await publish(one, b"last")
        entries = await one.inbox.entries("room", 2)
        assert [entry.payload for entry in entries] == [b"gone", b"last"]

    async def test_a_key_outlives_its_message(self, one):
        newest_only = Retention(1, 3600.0)
        first = await publish(one, b"first", key="k", keep=newest_only)
        await publish(one, b"second", keep=newest_only)
        assert await publish(one, b"first", key="k", keep=newest_only) == first
        assert await payloads(one) == [b"second"]

    async def test_a_key_is_known_until_the_window_is_over_and_repeats_do_not_prolong_it(self, engine, one):
        await one.broker.subscribe("room")
        first = await publish(one, b"first", key="k")
        for _ in range(2):
            await engine.pass_time(engine.window * 0.4)
            assert await publish(one, b"again", key="k") == first
        await engine.pass_time(engine.window * 0.4)
        assert (await publish(one, b"anew", key="k")).offset == 2
        assert (await publish(one, b"again", key="k")).offset == 2

    # History

    async def test_a_room_that_nobody_used_has_an_empty_and_complete_history(self, one):
        history = await one.broker.history("room", None, 10)
        assert history.entries == []
        assert history.position.offset == 0
        assert history.complete

    async def test_history_is_the_same_on_every_instance(self, one, other):
        begins = await one.broker.subscribe("room")
        for number in range(5):
            await publish(one, b"%d" % number, sender=f"sender {number}")
        assert await one.broker.history("room", begins, 3) == await other.broker.history("room", begins, 3)
        history = await other.broker.history("room", None, 10)
        assert history.entries == [Entry(n + 1, b"%d" % n, f"sender {n}") for n in range(5)]

    async def test_history_without_since_is_the_newest_messages(self, one):
        for number in range(5):
            await publish(one, b"%d" % number)
        history = await one.broker.history("room", None, 2)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert history.position.offset == 5
        assert history.complete

    async def test_history_is_read_page_by_page(self, one):
        position = await one.broker.subscribe("room")
        for number in range(5):
            await publish(one, b"%d" % number)
        pages = []
        while (history := await one.broker.history("room", position, 2)).entries:
            assert history.complete
            position = history.position
            pages.append([entry.offset for entry in history.entries])
        assert pages == [[1, 2], [3, 4], [5]]
        assert history.position == position
        assert history.complete

    async def test_what_is_trimmed_away_makes_history_incomplete(self, one):
        begins = await one.broker.subscribe("room")
        for _ in range(5):
            newest = await publish(one, b"x", keep=Retention(2, 3600.0))
        history = await one.broker.history("room", begins, 10)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert not history.complete
        history = await one.broker.history("room", Position(newest.epoch, 3), 10)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert history.complete

    async def test_messages_older_than_their_age_are_gone(self, engine, one):
        begins = await one.broker.subscribe("room")
        keep = Retention(10, 100.0)
        await publish(one, b"old", keep=keep)
        await engine.pass_time(60)
        await publish(one, b"young", keep=keep)
        await engine.pass_time(60)
        history = await one.broker.history("room", begins, 10)
        assert [entry.payload for entry in history.entries] == [b"young"]
        assert not history.complete
        await engine.pass_time(60)
        history = await one.broker.history("room", begins, 10)
        assert history.entries == []
        assert history.position == Position(begins.epoch, 2)
        assert not history.complete

    async def test_a_room_that_keeps_nothing_still_counts(self, one):
        begins = await one.broker.subscribe("room")
        nothing = Retention(0, 3600.0)
        assert (await publish(one, b"x", keep=nothing)).offset == 1
        newest = await publish(one, b"x", keep=nothing)
        assert newest.offset == 2
        assert [entry.offset for entry in await one.inbox.entries("room", 2)] == [1, 2]
        assert await one.broker.history("room", begins, 10) == ([], newest, False)
        assert await one.broker.history("room", newest, 10) == ([], newest, True)

    async def test_the_latest_retention_applies_to_the_whole_room(self, one):
        for _ in range(4):
            await publish(one, b"x", keep=Retention(4, 3600.0))
        await publish(one, b"x", keep=Retention(2, 3600.0))
        assert len(await payloads(one)) == 2

    async def test_a_position_of_another_epoch_is_answered_from_the_oldest_message(self, one):
        await one.broker.subscribe("room")
        for _ in range(3):
            newest = await publish(one, b"x")
        history = await one.broker.history("room", Position("another", 2), 2)
        assert [entry.offset for entry in history.entries] == [1, 2]
        assert history.position == Position(newest.epoch, 2)
        assert not history.complete

    async def test_a_position_of_another_epoch_in_an_empty_room_is_answered_with_the_newest(self, one):
        begins = await one.broker.subscribe("room")
        assert await one.broker.history("room", Position("another", 7), 10) == ([], begins, False)

    async def test_a_position_beyond_the_newest_is_answered_from_the_oldest_message(self, one):
        newest = await publish(one, b"x")
        history = await one.broker.history("room", Position(newest.epoch, 2), 10)
        assert [entry.offset for entry in history.entries] == [1]
        assert history.position == newest
        assert not history.complete

    # Presence

    async def test_a_members_first_connection_and_last_are_told(self, one, other):
        assert await one.broker.enter("room", "ada", "1", b"ada")
        assert not await other.broker.enter("room", "ada", "2", b"ada")
        assert await other.broker.enter("room", "bob", "3", b"bob")
        assert not await one.broker.leave("room", "ada", "1")
        assert await other.broker.leave("room", "ada", "2")
        assert await other.broker.leave("room", "bob", "3")
        assert await one.broker.enter("room", "ada", "4", b"ada")

    async def test_members_are_the_same_on_every_instance(self, one, other):
        await one.broker.enter("room", "ada", "1", b"ada's")
        await other.broker.enter("room", "bob", "2", b"bob's")
        await other.broker.enter("elsewhere", "eve", "3", b"eve's")
        expected = {"ada": b"ada's", "bob": b"bob's"}
        assert await one.broker.members("room") == await other.broker.members("room") == expected

    async def test_a_member_has_the_details_of_their_first_connection_that_is_left(self, one, other):
        await one.broker.enter("room", "ada", "1", b"first")
        await other.broker.enter("room", "ada", "2", b"second")
        assert await one.broker.members("room") == {"ada": b"first"}
        await one.broker.leave("room", "ada", "1")
        assert await one.broker.members("room") == {"ada": b"second"}

    async def test_to_leave_where_one_is_not_tells_nothing(self, one):
        assert not await one.broker.leave("room", "ada", "1")
        await one.broker.enter("room", "ada", "1", b"")
        assert not await one.broker.leave("room", "bob", "1")
        assert not await one.broker.leave("room", "ada", "2")
        assert not await one.broker.leave("elsewhere", "ada", "1")
        assert await one.broker.members("room") == {"ada": b""}
        assert await one.broker.leave("room", "ada", "1")
        assert not await one.broker.leave("room", "ada", "1")

    async def test_a_room_that_nobody_is_in_has_no_members(self, one):
        assert await one.broker.members("room") == {}
        await one.broker.enter("room", "ada", "1", b"")
        await one.broker.leave("room", "ada", "1")
        assert await one.broker.members("room") == {}

    async def test_the_members_of_an_instance_that_stops_are_gone(self, one, other):
        await one.broker.enter("room", "ada", "1", b"ada")
        await one.broker.enter("room", "bob", "2", b"bob")
        await other.broker.enter("room", "bob", "3", b"bob too")
        await one.broker.stop()
        assert await other.broker.members("room") == {"bob": b"bob too"}

    # Leases

    async def test_members_of_a_crashed_instance_stay_for_the_lease_and_depart_once(self, engine):
        one, other, crashed = [await engine.open() for _ in range(3)]
        await crashed.broker.enter("a", "ada", "1", b"ada")
        await crashed.broker.enter("b", "ada", "1", b"ada")
        await crashed.broker.enter("b", "bob", "2", b"bob")
        await one.broker.enter("b", "eve", "3", b"eve")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 0.6)
        assert await one.broker.renew() == []
        assert await other.broker.renew() == []
        assert set(await other.broker.members("b")) == {"ada", "bob", "eve"}
        await engine.pass_time(engine.lease * 0.6)
        departures = await other.broker.renew() + await one.broker.renew() + await other.broker.renew()
        assert sorted(departures) == [
            Departure("a", "ada", b"ada"),
            Departure("b", "ada", b"ada"),
            Departure("b", "bob", b"bob"),
        ]
        assert await one.broker.members("a") == {}
        assert await one.broker.members("b") == {"eve": b"eve"}

    async def test_who_is_still_there_on_another_instance_has_not_departed(self, engine, one):
        crashed = await engine.open()
        await crashed.broker.enter("room", "ada", "1", b"first")
        await one.broker.enter("room", "ada", "2", b"second")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        assert await one.broker.renew() == []
        assert await one.broker.members("room") == {"ada": b"second"}
        assert await one.broker.leave("room", "ada", "2")

    async def test_who_was_on_two_crashed_instances_departs_once(self, engine, one):
        for connection in ("1", "2"):
            crashed = await engine.open()
            await crashed.broker.enter("room", "ada", connection, b"ada")
            await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        assert await one.broker.renew() == [Departure("room", "ada", b"ada")]
        assert await one.broker.renew() == []

    async def test_who_departed_comes_as_new(self, engine, one):
        crashed = await engine.open()
        await crashed.broker.enter("room", "ada", "1", b"ada")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        await one.broker.renew()
        assert not await one.broker.leave("room", "ada", "1")
        assert await one.broker.enter("room", "ada", "2", b"ada")

    async def test_an_instance_that_renews_in_time_keeps_its_members(self, engine, one, other):
        await one.broker.enter("room", "ada", "1", b"ada")
        for _ in range(5):
            await engine.pass_time(engine.lease * 0.6)
            assert await one.broker.renew() == []
            assert await other.broker.renew() == []
        assert await other.broker.members("room") == {"ada": b"ada"}

    async def test_an_instance_that_stopped_has_no_departures_left_to_others(self, engine, one, other):
        await one.broker.enter("room", "ada", "1", b"ada")
        await one.broker.stop()
        await engine.pass_time(engine.lease * 1.5)
        assert await other.broker.renew() == []

    # Control messages

    async def test_a_control_message_reaches_the_one_instance_of_its_name(self, engine, one, other):
        third = await engine.open()
        await one.broker.send_control(other.name, b"for the other")
        await one.broker.send_control(one.name, b"for itself")
        await other.inbox.until(lambda: bool(other.inbox.controls))
        await one.inbox.until(lambda: bool(one.inbox.controls))
        assert other.inbox.controls == [b"for the other"]
        assert one.inbox.controls == [b"for itself"]
        assert third.inbox.controls == []
        assert one.inbox.deliveries == other.inbox.deliveries == []

    async def test_control_messages_arrive_in_order(self, one, other):
        for number in range(10):
            await one.broker.send_control(other.name, b"%d" % number)
        await other.inbox.until(lambda: len(other.inbox.controls) >= 10)
        assert other.inbox.controls == [b"%d" % number for number in range(10)]

    async def test_a_control_message_to_an_instance_that_is_gone_goes_nowhere(self, one, other):
        await other.broker.stop()
        await one.broker.send_control(other.name, b"late")
        await one.broker.send_control("nobody", b"lost")
        await one.broker.send_control(one.name, b"here")
        await one.inbox.until(lambda: bool(one.inbox.controls))
        assert one.inbox.controls == [b"here"]
        assert other.inbox.controls == []
