import asyncio
import contextlib

import pytest

from brokers.redis_engine import opened
from brokers.redis_traffic import KEEP, Traffic, again, publish_until_done, started, until
from brokers.refusals import refuses_at_once
from hubbub import Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox
from hubbub.testing.faults import Cut, FaultProxy, HalfOpen, Reset
from hubbub.testing.servers.redis import RedisServer
from told import collected_logs, fields_of

pytestmark = pytest.mark.anyio
ROOMS = ["a", "b", "c"]


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


async def subscribed(broker, rooms=ROOMS):
    return [await broker.subscribe(room) for room in rooms]


# Gone, and back


async def test_a_server_that_is_killed_in_mid_stream_loses_and_doubles_nothing(server):
    one, other = opened(server.url), opened(server.url)
    async with started(one, other) as (_, inbox):
        await subscribed(other)
        traffic = Traffic(one, ROOMS)
        for _ in range(3):
            await traffic.more(100)
            await server.kill()
            await server.start()
        await traffic.more(100)
        await traffic.stop()
        await traffic.arrived(inbox)


async def test_what_was_published_while_an_instance_was_cut_off_arrives_though_nobody_publishes_any_more(
    server, proxy
):
    one, other = opened(server.url), through(proxy, timeout=60.0)
    async with started(one, other) as (_, inbox):
        begins = await other.subscribe("room")
        quiet = await other.subscribe("quiet")
        proxy.apply(HalfOpen())
        for number in range(1200):
            await publish_until_done(one, "room", b"%d" % number)
        assert inbox.deliveries == []
        proxy.apply(Reset())
        entries = await inbox.entries("room", 1200)
        assert [entry.payload for entry in entries] == [b"%d" % number for number in range(1200)]
        assert {epoch for _, _, epoch in inbox.deliveries} == {begins.epoch}
        assert await again(lambda: other.subscribe("quiet")) == quiet
        assert inbox.losses == []


async def test_a_line_that_is_silent_is_noticed_and_made_anew(server, proxy):
    one, other = opened(server.url), through(proxy, timeout=0.5)
    async with started(one, other) as (_, inbox):
        await other.subscribe("room")
        proxy.apply(HalfOpen(), to="open")
        await publish_until_done(one, "room", b"x")
        assert [entry.payload for entry in await inbox.entries("room", 1)] == [b"x"]


async def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(server, proxy):
    one, other = through(proxy), through(proxy)
    async with started(one, other) as (_, inbox):
        await subscribed(other)
        traffic = Traffic(one, ROOMS)
        for _ in range(10):
            await traffic.more(30)
            proxy.apply(Cut())
        await traffic.stop()
        await traffic.arrived(inbox)


async def test_a_server_that_is_paused_answers_when_it_goes_on(server):
    one, other = opened(server.url, timeout=0.5), opened(server.url, timeout=0.5)
    async with started(one, other) as (_, inbox):
        await subscribed(other)
        traffic = Traffic(one, ROOMS)
        await traffic.more(50)
        server.pause()
        await until(lambda: not one.available and not other.available)
        refuses_at_once(one.publish("room", b"x", sender=None, key=None, keep=KEEP))
        server.resume()
        await traffic.more(50)
        await traffic.stop()
        await traffic.arrived(inbox)
        assert one.available
        assert other.available


async def test_calls_fail_at_once_while_the_server_is_known_to_be_gone(server):
    broker = opened(server.url)
    async with started(broker):
        await broker.subscribe("room")
        await server.kill()
        await until(lambda: not broker.available)
        calls = [
            lambda: broker.publish("room", b"x", sender=None, key="k", keep=KEEP),
            lambda: broker.publish("room", b"x", sender=None, key=None, keep=None),
            lambda: broker.subscribe("another"),
            lambda: broker.history("room", None, 10),
            lambda: broker.enter("room", "ada", "1", b""),
            lambda: broker.leave("room", "ada", "1"),
            lambda: broker.members("room"),
            broker.instances,
            broker.renew,
            broker.secret,
            lambda: broker.send_control(None, b"x"),
        ]
        async with asyncio.timeout(1):
            for call in calls:
                with pytest.raises(Unavailable):
                    await call()
            await broker.unsubscribe("room")


async def test_an_outage_and_its_end_are_logged_once(server):
    broker = opened(server.url)
    async with started(broker):
        with collected_logs() as logs:
            await server.kill()
            gone = await logs.wait("broker unavailable")
            # For several tries.
            await asyncio.sleep(0.3)
            await server.start()
            await logs.wait("broker available")
    assert fields_of(gone)["server"] == f"127.0.0.1:{server.port}"
    events = [record.getMessage() for record in logs.records if record.name == "hubbub"]
    assert events == ["broker unavailable", "broker available"]


async def test_a_server_that_is_not_there_at_the_start_is_found_later(server):
    await server.stop()
    broker, inbox = opened(server.url), Inbox()
    with collected_logs() as logs:
        await broker.start(inbox)
    try:
        assert [record.getMessage() for record in logs.records if record.name == "hubbub"] == [
            "broker unavailable"
        ]
        assert not broker.available
        with pytest.raises(Unavailable):
            await broker.subscribe("room")
        await server.start()
        await again(lambda: broker.subscribe("room"))
        await again(lambda: broker.send_control(broker.instance, b"hello"))
        await publish_until_done(broker, "room", b"x")
        await inbox.entries("room", 1)
        await again(broker.renew)
        assert await broker.instances() == [broker.instance]
        await inbox.until(lambda: inbox.controls == [b"hello"])
    finally:
        await broker.stop()


async def test_to_stop_while_the_server_is_paused_takes_no_longer_than_the_timeout(server):
    broker = opened(server.url, timeout=0.5)
    await broker.start(Inbox())
    await broker.enter("room", "ada", "1", b"")
    await broker.subscribe("room")
    server.pause()
    try:
        async with asyncio.timeout(2):
            await broker.stop()
    finally:
        server.resume()


async def test_to_stop_while_the_server_is_gone_is_done_at_once(server):
    broker = opened(server.url)
    await broker.start(Inbox())
    await broker.enter("room", "ada", "1", b"")
    await server.kill()
    async with asyncio.timeout(2):
        await broker.stop()


async def test_steps_that_the_server_was_made_to_forget_are_told_again(server):
    broker = opened(server.url)
    async with started(broker) as (inbox,):
        await broker.subscribe("room")
        await server.ask("script", "flush")
        await publish_until_done(broker, "room", b"x")
        await server.ask("script", "flush")
        assert await broker.enter("room", "ada", "1", b"")
        await inbox.entries("room", 1)


# Emptied


async def test_a_server_that_is_emptied_begins_new_epochs_and_says_so_though_nobody_publishes(server):
    broker, other = opened(server.url), opened(server.url)
    async with started(broker, other) as (inbox, _):
        begins = dict(zip(ROOMS, await subscribed(broker), strict=True))
        for room in ROOMS:
            await publish_until_done(broker, room, b"x")
            await inbox.entries(room, 1)
        await broker.enter("a", "ada", "1", b"ada")
        await server.ask("flushall")
        await inbox.until(lambda: {room for room, _ in inbox.losses} == set(ROOMS))
        for room, position in inbox.losses:
            assert position.epoch != begins[room].epoch
            assert position.offset == 0
        assert (await broker.renew()).forgotten
        assert not (await broker.renew()).forgotten
        assert await broker.members("a") == {}
        assert await broker.enter("a", "ada", "1", b"ada")
        after = await publish_until_done(other, "a", b"y")
        assert after == Position(dict(inbox.losses)["a"].epoch, 1)
        assert (await inbox.entries("a", 2))[-1].payload == b"y"


async def test_what_is_published_after_a_server_was_emptied_arrives(server):
    one, other = opened(server.url), opened(server.url)
    async with started(one, other) as (_, inbox):
        begins = await other.subscribe("room")
        await publish_until_done(one, "room", b"before")
        await inbox.entries("room", 1)
        await server.ask("flushall")
        after = [await publish_until_done(one, "room", b"%d" % number) for number in range(5)]
        assert after[0].epoch != begins.epoch
        assert [position.offset for position in after] == [1, 2, 3, 4, 5]
        entries = await inbox.entries("room", 6)
        assert [entry.payload for entry in entries] == [b"before", b"0", b"1", b"2", b"3", b"4"]
        assert inbox.losses == [("room", Position(after[0].epoch, 0))]


async def test_a_room_whose_log_is_gone_says_what_is_lost(server, proxy):
    one, other = opened(server.url), through(proxy, timeout=60.0)
    async with started(one, other) as (_, inbox):
        begins = await other.subscribe("room")
        proxy.apply(HalfOpen())
        for number in range(5):
            await publish_until_done(one, "room", b"%d" % number)
        assert inbox.deliveries == []
        await server.ask("del", "hubbub:{:room}:log")
        proxy.apply(Reset())
        await inbox.until(lambda: bool(inbox.losses))
        assert inbox.losses == [("room", Position(begins.epoch, 5))]
        await publish_until_done(one, "room", b"5")
        assert [entry.offset for entry in await inbox.entries("room", 1)] == [6]


# Unreadable


async def test_what_can_not_be_read_of_a_log_is_skipped_and_told_as_lost(server, proxy):
    one, other = opened(server.url), through(proxy, timeout=60.0)
    async with started(one, other) as (_, inbox):
        begins = await other.subscribe("room")
        proxy.apply(HalfOpen())
        for number in range(3):
            await publish_until_done(one, "room", b"%d" % number)
        await server.ask("xdel", "hubbub:{:room}:log", "2-0")
        listed = (await server.ask("xrange", "hubbub:{:room}:log", "2", "2")).split()
        await server.ask("xdel", "hubbub:{:room}:log", listed[0])
        # As if somebody else had written the last.
        last = (await server.ask("xrange", "hubbub:{:room}:log", "3", "3")).split()[0]
        await server.ask("xdel", "hubbub:{:room}:log", last)
        await server.ask("xadd", "hubbub:{:room}:log", f"{last}1", "d", "junk")
        with collected_logs() as logs:
            proxy.apply(Reset())
            await inbox.until(lambda: ("room", Position(begins.epoch, 3)) in inbox.losses)
        assert [entry.payload for entry in inbox.of("room")] == [b"0"]
        assert logs.of("broker unreadable", room="room")
        history = await one.history("room", begins, 10)
        assert (history.entries, history.position.offset, history.complete) == ([], 3, False)


async def test_junk_on_a_rooms_channel_is_logged_and_does_no_harm(server):
    broker = opened(server.url)
    async with started(broker) as (inbox,):
        await broker.subscribe("room")
        with collected_logs() as logs:
            for junk in ("junk", "\\x00\\x00\\x00\\x05ab", "0000"):
                await server.ask("spublish", "hubbub:{:room}", junk)
            await publish_until_done(broker, "room", b"x")
            assert [entry.payload for entry in await inbox.entries("room", 1)] == [b"x"]
        assert len(logs.of("broker unreadable")) == 1
        assert inbox.losses == []


async def test_a_head_that_can_not_be_read_begins_anew(server):
    broker = opened(server.url)
    async with started(broker) as (inbox,):
        begins = await broker.subscribe("room")
        await publish_until_done(broker, "room", b"x")
        await inbox.entries("room", 1)
        for command in ("set", "lpush"):
            # In one step: somebody looks at the room every second.
            step = "redis.call('del', KEYS[1]) redis.call(ARGV[1], KEYS[1], 'junk')"
            await server.ask("eval", step, "1", "hubbub:{:room}", command)
            anew = await publish_until_done(broker, "room", b"y", key=command)
            assert anew.epoch != begins.epoch
            assert anew.offset == 1
        assert [entry.payload for entry in await inbox.entries("room", 3)] == [b"x", b"y", b"y"]


async def test_a_member_that_can_not_be_read_is_no_member(server):
    broker = opened(server.url)
    async with started(broker):
        await broker.enter("room", "ada", "1", b"ada")
        await server.ask("hset", "hubbub:{:room}:members", "eve", "junk")
        assert await broker.members("room") == {"ada": b"ada"}
        await broker.enter("room", "eve", "2", b"eve")
        assert await broker.members("room") == {"ada": b"ada", "eve": b"eve"}
        await server.ask("hset", "hubbub:{:room}:members", "eve", "junk")
        assert not await broker.leave("room", "eve", "2")
        assert await broker.leave("room", "ada", "1")


# Cancelled


async def test_a_call_that_is_cancelled_leaves_nothing_behind(server):
    broker = opened(server.url)
    async with started(broker) as (inbox,):
        calls = [
            lambda: broker.publish("room", b"cancelled", sender=None, key="k", keep=KEEP),
            lambda: broker.subscribe("room"),
            lambda: broker.history("room", None, 10),
            lambda: broker.enter("room", "ada", "1", b""),
            lambda: broker.leave("room", "ada", "1"),
            lambda: broker.members("room"),
            broker.instances,
            broker.renew,
            broker.secret,
            lambda: broker.send_control(None, b"x"),
        ]
        for turns in range(4):
            for call in calls:
                task = asyncio.ensure_future(call())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await broker.subscribe("room")
        await publish_until_done(broker, "room", b"x")
        await inbox.until(lambda: bool(inbox.deliveries) and inbox.deliveries[-1][1].payload == b"x")
        await broker.renew()
        assert await broker.members("room") == {}


async def test_a_room_that_is_left_while_it_is_listened_to_anew_is_listened_to_no_more(server):
    broker = opened(server.url)
    async with started(broker) as (inbox,):
        await broker.subscribe("left")
        await broker.subscribe("stays")
        rooms = broker._rooms
        fell_behind, gone = rooms.fell_behind, asyncio.Event()

        def leave_meanwhile(feed, *, fetch=True):
            fell_behind(feed, fetch=fetch)
            if feed.room == "left" and not fetch:
                rooms.unsubscribe("left")
                gone.set()

        rooms.fell_behind = leave_meanwhile
        await server.ask("client", "kill", "type", "pubsub")
        async with asyncio.timeout(10):
            await gone.wait()
        await publish_until_done(broker, "stays", b"x")
        await inbox.entries("stays", 1)
        async with asyncio.timeout(10):
            while (await server.ask("pubsub", "shardnumsub", "hubbub:{:left}")).split()[-1] != "0":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not any(feed.room == "left" for feed in rooms.held)


async def test_a_room_does_not_go_on_by_what_was_fetched_before_it_was_compared_again(server):
    one, other = opened(server.url), opened(server.url)
    async with started(one, other) as (inbox, _):
        await one.subscribe("room")
        rooms, servers = one._rooms, one._servers
        # It would find it at last, but in a hub of many rooms that takes minutes.
        rooms._tasks[-1].cancel()
        (feed,) = rooms.feeds.values()
        await until(lambda: rooms.is_live(feed))
        room_step = servers.room_step

        async def late(*step):
            page = await room_step(*step)
            del servers.room_step
            # As if the room had moved meanwhile: this is published over no line of ours.
            unheard = asyncio.Event()
            rooms.message = lambda *_: unheard.set()
            await publish_until_done(other, "room", b"x")
            await unheard.wait()
            del rooms.message
            rooms.fell_behind(feed)
            return page

        servers.room_step = late
        rooms.fell_behind(feed)
        assert [entry.payload for entry in await inbox.entries("room", 1)] == [b"x"]
