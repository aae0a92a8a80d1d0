import pytest

from hubbub import ConfigurationError
from hubbub.testing.servers.redis import RedisCluster, RedisSentinel, RedisServer

pytestmark = pytest.mark.anyio


async def test_a_server_keeps_what_it_holds_when_it_is_killed_and_leaves_nothing_behind():
    async with RedisServer() as server:
        await server.ask("set", "a", "b")
        await server.kill()
        assert not server.running
        await server.start()
        assert await server.ask("get", "a") == "b"
        folder = server.folder
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert not folder.exists()


async def test_a_server_may_hold_everything_in_memory():
    async with RedisServer(synced="off") as server:
        await server.ask("set", "a", "b")
        await server.restart()
        assert await server.ask("get", "a") == ""


async def test_a_server_may_want_a_password():
    async with RedisServer(password="secret") as server:
        assert await server.ask("ping") == "PONG"
        assert server.url == f"redis://:secret@127.0.0.1:{server.port}/0"
        server.password = "wrong"
        with pytest.raises(RuntimeError, match=r"WRONGPASS|NOAUTH"):
            await server.ask("ping")


async def test_a_server_may_speak_tls():
    async with RedisServer(tls=True) as server:
        assert await server.ask("ping") == "PONG"
        assert server.url.startswith("rediss://")


async def test_a_cluster_shares_the_slots():
    async with RedisCluster() as cluster:
        assert "cluster_slots_ok:16384" in await cluster.nodes[2].ask("cluster", "info")
        assert cluster.url.count(",") == 2


async def test_sentinels_replace_a_master_that_is_gone():
    async with RedisSentinel() as sentinel:
        await sentinel.master.ask("set", "a", "b")
        await sentinel.master.kill()
        await sentinel.until_master(sentinel.replica.port)
        assert await sentinel.replica.ask("get", "a") == "b"


def test_it_says_which_package_is_missing_and_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("hubbub.testing.servers.PLACES", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigurationError, match="apt-get install redis-server"):
        RedisServer()
    assert not list(tmp_path.iterdir())
