import pytest

from brokers.redis_engine import opened
from brokers.redis_traffic import Traffic, publish_until_done, started, until
from hubbub.testing.brokers import Inbox
from hubbub.testing.servers.redis import RedisSentinel
from told import collected_logs

pytestmark = pytest.mark.anyio


async def test_a_failover_goes_on_with_the_replica_in_a_new_epoch_and_gives_no_position_twice():
    async with RedisSentinel() as sentinel:
        one, other = opened(sentinel.url, timeout=1.0), opened(sentinel.url, timeout=1.0)
        async with started(one, other) as (_, inbox):
            begins = await other.subscribe("room")
            await other.enter("room", "ada", "1", b"ada")
            traffic = Traffic(one, ["room"])
            await traffic.more(200)
            await sentinel.master.kill()
            await sentinel.until_master(sentinel.replica.port)
            await traffic.more(200)
            await traffic.stop()
            last = await publish_until_done(one, "room", b"last")
            await inbox.until(lambda: bool(inbox.deliveries) and inbox.deliveries[-1][1].payload == b"last")
            assert last.epoch != begins.epoch
            assert {room for room, _ in inbox.losses} == {"room"}
            positions = [(epoch, entry.offset) for _, entry, epoch in inbox.deliveries]
            assert len(set(positions)) == len(positions)
            for epoch in {epoch for epoch, _ in positions}:
                offsets = [offset for of, offset in positions if of == epoch]
                assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            assert await one.members("room") == {"ada": b"ada"}


async def test_a_master_that_the_sentinels_do_not_know_is_said_in_the_log():
    async with RedisSentinel(sentinels=1) as sentinel:
        broker = opened(sentinel.url.replace("/rooms/", "/others/"), timeout=1.0)
        with collected_logs() as logs:
            await broker.start(Inbox())
            await broker.stop()
        (record,) = logs.of("broker unavailable")
        assert "knows no master 'others'" in record.fields["because"]


async def test_a_sentinel_that_is_gone_is_passed_over():
    async with RedisSentinel(sentinels=2) as sentinel:
        await sentinel.sentinels[0].kill()
        broker = opened(sentinel.url, timeout=1.0)
        async with started(broker):
            await until(lambda: broker.available)
            await publish_until_done(broker, "room", b"x")
