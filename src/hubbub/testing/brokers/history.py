"""What a broker's history has to be."""

import asyncio

from ...brokers.base import Entry, Retention
from ...protocol.envelope import Position
from .engines import Engine, Instance, payloads, publish


class KeptMessages:
    """Pages of history, and what they say where something is missing."""

    # History

    async def test_a_room_that_nobody_used_has_an_empty_and_complete_history(self, one: Instance) -> None:
        history = await one.broker.history("room", None, 10)
        assert history.entries == []
        assert history.position.offset == 0
        assert history.complete

    async def test_history_is_the_same_on_every_instance(self, one: Instance, other: Instance) -> None:
        begins = await one.broker.subscribe("room")
        for number in range(5):
            await publish(one, b"%d" % number, sender=f"sender {number}")
        assert await one.broker.history("room", begins, 3) == await other.broker.history("room", begins, 3)
        history = await other.broker.history("room", None, 10)
        assert history.entries == [Entry(n + 1, b"%d" % n, f"sender {n}") for n in range(5)]

    async def test_history_without_since_is_the_newest_messages(self, one: Instance) -> None:
        for number in range(5):
            await publish(one, b"%d" % number)
        history = await one.broker.history("room", None, 2)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert history.position.offset == 5
        assert history.complete

    async def test_history_is_read_page_by_page(self, one: Instance) -> None:
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

    async def test_what_is_trimmed_away_makes_history_incomplete(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        for _ in range(5):
            newest = await publish(one, b"x", keep=Retention(2, 3600.0))
        history = await one.broker.history("room", begins, 10)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert not history.complete
        history = await one.broker.history("room", Position(newest.epoch, 3), 10)
        assert [entry.offset for entry in history.entries] == [4, 5]
        assert history.complete

    async def test_messages_older_than_their_age_are_gone(self, engine: Engine, one: Instance) -> None:
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

    async def test_a_room_that_keeps_nothing_still_counts(self, one: Instance) -> None:
        begins = await one.broker.subscribe("room")
        nothing = Retention(0, 3600.0)
        assert (await publish(one, b"x", keep=nothing)).offset == 1
        newest = await publish(one, b"x", keep=nothing)
        assert newest.offset == 2
        assert [entry.offset for entry in await one.inbox.entries("room", 2)] == [1, 2]
        assert await one.broker.history("room", begins, 10) == ([], newest, False)
        assert await one.broker.history("room", newest, 10) == ([], newest, True)

    async def test_the_latest_retention_applies_to_the_whole_room(self, one: Instance) -> None:
        for _ in range(4):
            await publish(one, b"x", keep=Retention(4, 3600.0))
        await publish(one, b"x", keep=Retention(2, 3600.0))
        assert len(await payloads(one)) == 2

    async def test_a_position_of_another_epoch_is_answered_from_the_oldest_message(
        self, one: Instance
    ) -> None:
        await one.broker.subscribe("room")
        for _ in range(3):
            newest = await publish(one, b"x")
        history = await one.broker.history("room", Position("another", 2), 2)
        assert [entry.offset for entry in history.entries] == [1, 2]
        assert history.position == Position(newest.epoch, 2)
        assert not history.complete

    async def test_a_position_of_another_epoch_in_an_empty_room_is_answered_with_the_newest(
        self, one: Instance
    ) -> None:
        begins = await one.broker.subscribe("room")
        assert await one.broker.history("room", Position("another", 7), 10) == ([], begins, False)

    async def test_a_position_beyond_the_newest_is_answered_from_the_oldest_message(
        self, one: Instance
    ) -> None:
        newest = await publish(one, b"x")
        history = await one.broker.history("room", Position(newest.epoch, 2), 10)
        assert [entry.offset for entry in history.entries] == [1]
        assert history.position == newest
        assert not history.complete

    async def test_pages_have_no_holes_while_others_publish(self, one: Instance, other: Instance) -> None:
        begins = at = await other.broker.subscribe("room")
        publishes = [asyncio.ensure_future(publish(one, b"%d" % number)) for number in range(100)]
        offsets: list[int | None] = []
        while at.offset < 100:
            history = await other.broker.history("room", at, 7)
            assert history.complete
            offsets += [entry.offset for entry in history.entries]
            assert history.position == Position(begins.epoch, len(offsets))
            at = history.position
            await asyncio.sleep(0)
        assert offsets == list(range(1, 101))
        await asyncio.gather(*publishes)

    async def test_no_position_is_given_twice_even_where_a_room_was_forgotten(
        self, engine: Engine, one: Instance
    ) -> None:
        given = [await publish(one, b"x", key="k", keep=Retention(10, 5.0))]
        for number in range(3):
            await engine.pass_time(engine.window + 10.0)
            for other in range(10):
                await publish(one, b"x", room=f"other {number} {other}")
            history = await one.broker.history("room", given[0], 10)
            assert history.entries == []
            missed = await publish(one, b"y", keep=Retention(10, 5.0))
            assert missed not in given
            given.append(missed)
            history = await one.broker.history("room", given[0], 10)
            assert not history.complete or history.entries[0].offset == given[0].offset + 1
