import asyncio
import contextlib

import pytest

from brokers.redis_engine import crash, opened
from brokers.redis_traffic import again, publish_until_done, started
from hubbub import Unavailable
from hubbub.brokers.base import Departure, Renewal
from hubbub.brokers.redis.presence import MEMBERS_KEPT
from hubbub.brokers.redis.scripts import REMOVE
from hubbub.testing.brokers import Inbox
from hubbub.testing.faults import Direction, FaultProxy, HalfOpen, Reset
from hubbub.testing.servers.redis import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server():
    async with RedisServer() as server:
        yield server


@pytest.fixture
async def proxy(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


def through(proxy: FaultProxy, **options):
    return opened(f"redis://127.0.0.1:{proxy.port}/0", **options)


async def test_what_an_instance_that_died_while_it_removed_anothers_members_left_is_removed_by_a_third(
    server,
):
    gone, cleaner, third = (opened(server.url, lease=0.6) for _ in range(3))
    async with started(cleaner, third):
        await gone.start(Inbox())
        for number in range(5):
            await gone.enter(f"room {number}", "ada", "1", b"ada")
        await crash(gone)
        removed = []

        async def remove_one(room, owner):
            if removed:
                raise Unavailable("as if it were killed here")
            removed.append(room)
            await type(cleaner._presence)._remove_from(cleaner._presence, room, owner)

        async with asyncio.timeout(10):
            cleaner._presence._remove_from = remove_one
            while not removed:
                await asyncio.sleep(0.1)
                with contextlib.suppress(Unavailable):
                    departures = (await cleaner.renew()).departures
            await crash(cleaner)
            while len(departures) < 5:
                await asyncio.sleep(0.1)
                departures += (await third.renew()).departures
        assert sorted(departure.room for departure in departures) == [f"room {number}" for number in range(5)]
        assert await third.instances() == [third.instance]
        left = set((await server.ask("keys", "*")).split())
        assert not any("members" in key or ":gone" in key for key in left), left


async def test_an_outage_that_is_longer_than_the_lease_is_nobodys_end(server):
    one, other = opened(server.url, lease=0.8), opened(server.url, lease=0.8)
    async with started(one, other):
        await one.enter("room", "ada", "1", b"ada")
        await other.enter("room", "bob", "2", b"bob")
        await server.kill()
        # The leases are in the server's time.
        await asyncio.sleep(1.0)
        await server.start()
        for _ in range(3):
            for broker in (one, other):
                assert await again(broker.renew) == Renewal([], forgotten=False)
        assert await one.members("room") == {"ada": b"ada", "bob": b"bob"}
        await crash(other)
        departures = []
        async with asyncio.timeout(10):
            while not departures:
                await asyncio.sleep(0.2)
                departures = (await one.renew()).departures
        assert departures == [Departure("room", "bob", b"bob")]


async def test_who_enters_after_being_taken_for_gone_does_so_anew(server):
    late, other = opened(server.url, lease=0.3), opened(server.url, lease=0.3)
    async with started(late, other):
        await late.enter("room", "ada", "1", b"ada")
        departures = []
        async with asyncio.timeout(10):
            while not departures:
                await asyncio.sleep(0.1)
                departures += (await other.renew()).departures
        assert await late.enter("new room", "ada", "1", b"ada")
        assert (await late.renew()).forgotten
        assert not (await late.renew()).forgotten
        assert (await other.renew()).departures == []
        assert await other.members("new room") == {"ada": b"ada"}


async def test_a_member_whose_entry_was_not_answered_is_taken_out(server, proxy):
    broker = through(proxy)
    async with started(broker):
        await broker.enter("room", "bob", "1", b"bob")
        proxy.apply(HalfOpen(direction=Direction.DOWN))
        entering = asyncio.ensure_future(broker.enter("room", "ada", "2", b"ada"))
        async with asyncio.timeout(5):
            while await server.ask("hlen", "hubbub:{:room}:members") != "2":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        proxy.apply(Reset())
        with pytest.raises(Unavailable):
            await entering
        await again(broker.renew)
        assert await broker.members("room") == {"bob": b"bob"}


async def test_who_is_being_entered_while_the_lease_is_renewed_stays(server, proxy):
    broker = through(proxy)
    async with started(broker):
        await broker.enter("room", "bob", "1", b"bob")
        # Both are under way at once: the renewal must not take the entry for one that had no answer.
        _, entered = await asyncio.gather(broker.renew(), broker.enter("room", "ada", "2", b"ada"))
        assert entered
        assert await broker.members("room") == {"ada": b"ada", "bob": b"bob"}


async def test_who_is_entered_again_while_the_first_try_is_taken_out_is_removed_with_the_instance(
    server, proxy
):
    broker, other = through(proxy, lease=0.6), opened(server.url, lease=0.6)
    async with started(other):
        await broker.start(Inbox())
        await broker.enter("room", "ada", "1", b"ada")
        leaving = asyncio.ensure_future(broker.leave("room", "ada", "1"))
        await asyncio.sleep(0)
        assert await broker.enter("room", "ada", "1", b"ada")
        assert await leaving
        await broker.renew()
        assert await other.members("room") == {"ada": b"ada"}
        await crash(broker)
        departures = []
        async with asyncio.timeout(10):
            while not departures:
                await asyncio.sleep(0.1)
                departures = (await other.renew()).departures
        assert departures == [Departure("room", "ada", b"ada")]


async def test_departures_whose_removal_was_not_answered_are_told_by_the_next_one(server):
    gone, cleaner, third = (opened(server.url, lease=lease) for lease in (0.6, 0.6, 2.0))
    async with started(cleaner):
        await gone.start(Inbox())
        await gone.enter("room", "ada", "1", b"ada")
        await gone.enter("room", "bob", "2", b"bob")
        await gone.enter("room", "bob", "3", b"bob")
        await crash(gone)
        step, removed = cleaner._servers.step, asyncio.Event()

        async def unanswered(slot, script, *rest):
            reply = await step(slot, script, *rest)
            if script is REMOVE:
                removed.set()
                raise Unavailable("as if the line had been cut here")
            return reply

        cleaner._servers.step = unanswered
        async with asyncio.timeout(10):
            while not removed.is_set():
                await asyncio.sleep(0.1)
                with contextlib.suppress(Unavailable):
                    assert (await cleaner.renew()).departures == []
            await crash(cleaner)
    async with started(third), asyncio.timeout(10):
        # Who has come again by then has not left.
        await third.enter("room", "bob", "4", b"bob")
        departures = []
        while not departures:
            await asyncio.sleep(0.1)
            departures = (await third.renew()).departures
        assert departures == [Departure("room", "ada", b"ada")]
        left = set((await server.ask("keys", "*")).split())
        assert not any("departed" in key for key in left), left


async def test_after_an_outage_in_which_members_may_have_expired_they_are_to_be_entered_anew(server):
    broker = opened(server.url)
    async with started(broker):
        await broker.enter("room", "ada", "1", b"ada")
        broker._presence._renewed_at -= MEMBERS_KEPT
        assert (await broker.renew()).forgotten
        assert await broker.enter("room", "ada", "1", b"ada")
        assert await broker.renew() == Renewal([], forgotten=False)
        assert await broker.members("room") == {"ada": b"ada"}


# Only publishing


async def test_who_only_publishes_takes_no_part(server):
    script, hub = opened(server.url), opened(server.url)
    async with started(hub) as (inbox,):
        await hub.subscribe("room")
        await script.start(None)
        await publish_until_done(script, "room", b"x")
        await script.send_control(None, b"hello")
        assert await hub.instances() == [hub.instance]
        await inbox.entries("room", 1)
        await inbox.until(lambda: inbox.controls == [b"hello"])
        assert len((await server.ask("client", "list", "type", "pubsub")).splitlines()) == 1
        await script.stop()
