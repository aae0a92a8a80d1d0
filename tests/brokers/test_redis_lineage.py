"""No position is given twice, whatever the server forgot."""

import shutil

import pytest

from brokers.redis_engine import opened
from brokers.redis_traffic import again, publish_until_done, started, until
from hubbub.brokers.redis.lineage import SAFE, lineage_of
from hubbub.protocol.envelope import Position
from hubbub.testing.servers.redis import RedisServer

pytestmark = pytest.mark.anyio

ALONE = {"connected_slaves": "0", "master_replid2": "0" * 40, "run_id": "run", "master_replid": "id"}


@pytest.mark.parametrize("kill", [True, False])
async def test_where_each_write_is_on_the_disk_a_restart_keeps_epochs_keys_and_history(kill):
    async with RedisServer(synced="always") as server:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            begins = await broker.subscribe("room")
            first = await publish_until_done(broker, "room", b"first")
            await (server.kill() if kill else server.stop())
            await server.start()
            assert await publish_until_done(broker, "room", b"first") == first
            assert await publish_until_done(broker, "room", b"second") == Position(begins.epoch, 2)
            assert [entry.payload for entry in await inbox.entries("room", 2)] == [b"first", b"second"]
            assert inbox.losses == []
            history = await broker.history("room", begins, 10)
            assert [entry.payload for entry in history.entries] == [b"first", b"second"]


async def test_where_writes_may_be_lost_a_restart_begins_new_epochs_and_keeps_what_is_there():
    async with RedisServer(synced="everysec") as server:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            begins = await broker.subscribe("room")
            for number in range(3):
                await publish_until_done(broker, "room", b"%d" % number)
            await inbox.entries("room", 3)
            await server.restart()
            await inbox.until(lambda: bool(inbox.losses))
            ((room, position),) = inbox.losses
            assert (room, position.offset) == ("room", 3)
            assert position.epoch != begins.epoch
            assert await publish_until_done(broker, "room", b"2") == Position(begins.epoch, 3)
            assert await publish_until_done(broker, "room", b"3") == Position(position.epoch, 4)
            assert [entry.payload for entry in await inbox.entries("room", 4)] == [b"0", b"1", b"2", b"3"]
            history = await broker.history("room", begins, 10)
            assert not history.complete
            assert [entry.offset for entry in history.entries] == [1, 2, 3, 4]


async def test_a_server_that_holds_all_in_memory_begins_anew():
    async with RedisServer(synced="off") as server:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            await broker.subscribe("room")
            before = await publish_until_done(broker, "room", b"before")
            await broker.enter("room", "ada", "1", b"ada")
            await server.restart()
            await inbox.until(lambda: bool(inbox.losses))
            after = await publish_until_done(broker, "room", b"after")
            assert after.epoch != before.epoch
            assert after.offset == 1
            assert [entry.payload for entry in await inbox.entries("room", 2)] == [b"before", b"after"]
            assert (await again(broker.renew)).forgotten


async def test_a_backup_that_is_put_back_begins_new_epochs_where_somebody_has_seen_more():
    async with RedisServer(synced="always") as server:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            await broker.subscribe("room")
            await publish_until_done(broker, "room", b"kept")
            await server.stop()
            backup = server.folder / "backup"
            shutil.copytree(server.folder / "appendonlydir", backup)
            await server.start()
            gone = await publish_until_done(broker, "room", b"gone")
            await inbox.entries("room", 2)
            await server.kill()
            shutil.rmtree(server.folder / "appendonlydir")
            backup.rename(server.folder / "appendonlydir")
            await server.start()
            await inbox.until(lambda: bool(inbox.losses))
            after = await publish_until_done(broker, "room", b"after")
            assert after.epoch != gone.epoch
            assert after.offset == 2
            assert [entry.payload for entry in await inbox.entries("room", 3)][-1] == b"after"


async def test_a_replica_that_joins_ends_the_lineage_since_it_may_take_over():
    async with RedisServer() as server, RedisServer() as replica:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            begins = await broker.subscribe("room")
            await replica.ask("replicaof", "127.0.0.1", str(server.port))
            await inbox.until(lambda: bool(inbox.losses))
            assert inbox.losses[0][1].epoch != begins.epoch
            await until(lambda: broker.available)


async def test_who_has_not_heard_of_a_new_lineage_begins_no_epochs():
    async with RedisServer() as server, RedisServer() as replica:
        late, other = opened(server.url), opened(server.url)
        async with started(late, other) as (inbox, _):
            before = await late.subscribe("room")
            await replica.ask("replicaof", "127.0.0.1", str(server.port))
            await until(lambda: other._servers.of(0).lineage not in (SAFE, b""))
            begun = await publish_until_done(other, "room", b"0")
            assert begun.epoch != before.epoch
            await until(lambda: late._servers.of(0).lineage == other._servers.of(0).lineage)
            for number in range(1, 6):
                for known in (SAFE, b"run:id"):
                    # As if it were not yet time to look.
                    late._servers.of(0).lineage = known
                    position = await publish_until_done(late, "room", b"%d %b" % (number, known))
                    assert position.epoch == begun.epoch
                    position = await publish_until_done(other, "room", b"%d" % number)
                    assert position.epoch == begun.epoch
            await inbox.entries("room", 16)
            assert {position.epoch for _, position in inbox.losses} == {begun.epoch}


def test_a_lineage_outlives_a_restart_only_of_a_server_that_is_alone_and_writes_at_once():
    on_disk = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
    assert lineage_of(ALONE | on_disk) == SAFE
    assert lineage_of(ALONE | on_disk | {"connected_slaves": "1"}) == b"run:id"
    assert lineage_of(ALONE | on_disk | {"master_replid2": "ab"}) == b"run:id"
    assert lineage_of(ALONE | on_disk | {"appendfsync": "everysec"}) == b"run:id"
    assert lineage_of(ALONE | on_disk | {"no-appendfsync-on-rewrite": "yes"}) == b"run:id"
    # Those who rent servers out may not tell.
    assert lineage_of(ALONE) == b"run:id"
