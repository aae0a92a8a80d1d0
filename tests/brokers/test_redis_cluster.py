import asyncio

import pytest

from brokers.redis_engine import RedisConformance, opened
from brokers.redis_traffic import Traffic, publish_until_done, started, until
from hubbub import ConfigurationError
from hubbub.testing.brokers import Inbox
from hubbub.testing.servers.redis import RedisCluster

pytestmark = pytest.mark.anyio
ROOMS = [f"room {number}" for number in range(12)]


@pytest.fixture(scope="module")
def cluster():
    """Three masters that the conformance suite shares; each test has a prefix of its own."""
    with asyncio.Runner() as runner:
        cluster = runner.run(RedisCluster(synced="off").__aenter__())
        yield cluster
        runner.run(cluster.close())


class TestRedisClusterBroker(RedisConformance):
    @pytest.fixture(autouse=True)
    def cluster_of_the_module(self, cluster):
        self.url = cluster.url


@pytest.fixture
async def masters():
    """Three masters of one test, which keep everything."""
    async with RedisCluster() as cluster:
        yield cluster


async def test_a_master_that_is_killed_loses_and_doubles_nothing_and_others_rooms_go_on(masters):
    one, other = opened(masters.url), opened(masters.url)
    async with started(one, other) as (_, inbox):
        for room in ROOMS:
            await other.subscribe(room)
        traffic = Traffic(one, ROOMS, publishers=len(ROOMS))
        await traffic.more(200)
        await masters.nodes[1].kill()
        await until(lambda: not one.available)
        before = {room: len(acknowledged) for room, acknowledged in traffic.acknowledged.items()}
        # Without a master for some slots the cluster serves none; a moment later it is as it was.
        await masters.nodes[1].start()
        await masters.until_formed()
        await until(lambda: all(len(traffic.acknowledged[room]) > before[room] + 5 for room in ROOMS))
        await traffic.stop()
        await traffic.arrived(inbox)


async def test_slots_that_move_to_another_master_take_their_rooms_along(masters):
    one, other = opened(masters.url), opened(masters.url)
    async with started(one, other) as (_, inbox):
        for room in ROOMS:
            await other.subscribe(room)
            await other.enter(room, "ada", "1", b"ada")
        traffic = Traffic(one, ROOMS, publishers=len(ROOMS))
        await traffic.more(200)
        source, target, _ = masters.nodes
        slots = {one._names.room(room).slot for room in ROOMS}
        moving = sorted(slot for slot in slots if slot < 5461)
        assert moving
        for slot in moving:
            await masters.move_slot(slot, source, target)
        await masters.until_formed()
        await traffic.more(200)
        before = {room: len(acknowledged) for room, acknowledged in traffic.acknowledged.items()}
        await until(lambda: all(len(traffic.acknowledged[room]) > before[room] for room in ROOMS))
        await traffic.stop()
        await traffic.arrived(inbox)
        for room in ROOMS:
            assert await one.members(room) == {"ada": b"ada"}


async def test_a_master_that_is_emptied_begins_its_rooms_anew_and_no_others(masters):
    broker = opened(masters.url)
    async with started(broker) as (inbox,):
        begins = {room: await broker.subscribe(room) for room in ROOMS}
        await masters.nodes[0].ask("flushall")
        emptied = {room for room in ROOMS if broker._names.room(room).slot < 5461}
        assert emptied
        await inbox.until(lambda: {room for room, _ in inbox.losses} == emptied)
        for room in ROOMS:
            position = await publish_until_done(broker, room, b"x")
            assert (position.epoch == begins[room].epoch) == (room not in emptied)
            assert position.offset == 1


async def test_a_cluster_is_no_single_server(masters):
    with pytest.raises(ConfigurationError, match=r"use redis\+cluster://"):
        await opened(f"redis://127.0.0.1:{masters.nodes[0].port}").start(Inbox())


async def test_a_cluster_that_is_not_there_at_the_start_is_found_later(masters):
    for node in masters.nodes:
        await node.stop()
    broker = opened(masters.url, timeout=1.0)
    await broker.start(Inbox())
    try:
        assert not broker.available
        for node in masters.nodes:
            await node.start()
        await masters.until_formed()
        await until(lambda: broker.available)
        await publish_until_done(broker, "room", b"x")
    finally:
        await broker.stop()
