import asyncio
import re
from pathlib import Path

import pytest

from brokers.redis_engine import crash, opened
from brokers.redis_traffic import KEEP, publish_until_done, started
from hubbub import ConfigurationError, Unavailable
from hubbub.brokers.base import Retention
from hubbub.brokers.redis.lineage import SAFE
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox
from hubbub.testing.servers.redis import RedisServer
from told import collected_logs, shown

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server():
    async with RedisServer() as server:
        yield server


@pytest.mark.parametrize("password", ["wrong%20one", ""])
async def test_a_wrong_password_is_said_in_one_sentence_without_it(password):
    async with RedisServer(password="right one") as server:
        url = (
            f"redis://:{password}@127.0.0.1:{server.port}/0"
            if password
            else server.url.replace(":right one@", "")
        )
        broker = opened(url)
        with collected_logs() as logs, pytest.raises(ConfigurationError) as raised:
            await broker.start(Inbox())
        told = " ".join([str(raised.value), *map(shown, logs.records)])
        assert "password" in str(raised.value)
        assert "wrong" not in told
        good = opened(f"redis://:right%20one@127.0.0.1:{server.port}/0")
        async with started(good):
            await good.subscribe("room")


async def test_a_password_that_nobody_asked_for_is_said(server):
    with pytest.raises(ConfigurationError, match="user and password"):
        await opened(f"redis://:some@127.0.0.1:{server.port}/0").start(Inbox())


async def test_a_database_that_there_is_not_is_said(server):
    with pytest.raises(ConfigurationError, match="database"):
        await opened(f"redis://127.0.0.1:{server.port}/99").start(Inbox())


async def test_a_user_that_may_not_do_what_is_needed_is_said(server):
    await server.ask("acl", "setuser", "chat", "on", ">secret", "+@all", "-script", "~*", "&*")
    with pytest.raises(ConfigurationError, match="may not do") as raised:
        await opened(f"redis://chat:secret@127.0.0.1:{server.port}/0").start(Inbox())
    assert "secret" not in str(raised.value)


async def test_a_user_that_may_not_listen_is_said(server):
    await server.ask("acl", "setuser", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    broker = opened(f"redis://deaf:secret@127.0.0.1:{server.port}/0")
    with pytest.raises(ConfigurationError, match="may not do"):
        await broker.start(Inbox())
    # Whoever only publishes need not.
    await broker.start(None)
    assert broker.available
    await broker.stop()


async def test_a_user_with_the_rights_that_the_docs_name_can_do_everything(server):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "redis.md"
    (rule,) = re.findall(r"^    user (hub on .*)$", page.read_text(), re.MULTILINE)
    await server.ask("acl", "setuser", *rule.split())
    password = re.search(r">(\S+)", rule)[1]
    url = f"redis://hub:{password}@127.0.0.1:{server.port}/0?prefix=chat"
    one, other = opened(url), opened(url, lease=0.2)
    async with started(one) as (inbox,):
        await one.subscribe("room")
        await one.secret()
        await other.start(Inbox())
        await other.enter("room", "ada", "1", b"ada")
        await crash(other)
        await publish_until_done(one, "room", b"x")
        await one.send_control(None, b"hello")
        await inbox.until(lambda: inbox.controls == [b"hello"] and len(inbox.deliveries) == 1)
        assert len((await one.history("room", None, 10)).entries) == 1
        async with asyncio.timeout(10):
            while not (await one.renew()).departures:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert one._servers.of(0).lineage == SAFE
        await server.ask("client", "kill", "user", "hub")
        await publish_until_done(one, "room", b"y")
        await inbox.entries("room", 2)


async def test_what_is_unreasonable_to_keep_is_kept_as_long_as_there_is_room(server):
    broker = opened(server.url)
    async with started(broker):
        keep = Retention(10**30, float("inf"))
        position = await broker.publish("room", b"x", sender=None, key=None, keep=keep)
        history = await broker.history("room", Position("", 10**30), 10**30)
        assert (history.position, history.complete) == (position, False)
        assert (await broker.history("room", None, -1)).entries == []


async def test_a_single_server_is_no_cluster(server):
    with pytest.raises(ConfigurationError, match="use redis://"):
        await opened(f"redis+cluster://127.0.0.1:{server.port}").start(Inbox())


async def answering(replies: dict[bytes, bytes]):
    """Serve what claims to be a Redis."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                text = replies.get(b" ".join(words[:2]), b"")
                writer.write(b"$%d\r\n%b\r\n" % (len(text), text))
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def test_an_old_version_is_said():
    server = await answering({b"INFO server": b"redis_version:6.2.7\r\n"})
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match=r"is version 6\.2\.7; hubbub needs 7\.0"):
            await opened(f"redis://127.0.0.1:{port}").start(Inbox())


async def test_what_does_not_speak_redis_is_no_redis():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        broker = opened(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with collected_logs() as logs:
            await broker.start(Inbox())
            await broker.stop()
        assert logs.of("broker unavailable", because="The server does not speak Redis's protocol.")


async def test_a_server_that_may_evict_is_warned_of():
    async with RedisServer(arguments=["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]) as server:
        broker = opened(server.url)
        with collected_logs() as logs:
            async with started(broker):
                pass
        assert logs.of("broker may evict", maxmemory_policy="allkeys-lru")


@pytest.mark.parametrize(("synced", "told"), [("always", False), ("everysec", True), ("off", True)])
async def test_a_server_that_may_forget_in_a_restart_what_it_acknowledged_is_told_of(synced, told):
    async with RedisServer(synced=synced) as server:
        broker = opened(server.url)
        with collected_logs() as logs:
            async with started(broker):
                pass
        assert bool(logs.of("broker may forget")) == told


async def test_a_server_that_is_full_refuses_and_goes_on_when_there_is_room():
    async with RedisServer(arguments=["--maxmemory", "10mb"]) as server:
        broker = opened(server.url)
        async with started(broker) as (inbox,):
            await broker.subscribe("room")

            async def fill() -> None:
                for _ in range(100):
                    await broker.publish("room", bytes(1_000_000), sender=None, key=None, keep=KEEP)

            with pytest.raises(Unavailable, match="OOM"):
                await fill()
            count = len(inbox.of("room"))
            await server.ask("config", "set", "maxmemory", "1gb")
            position = await publish_until_done(broker, "room", b"x")
            entries = await inbox.entries("room", count + 1)
            assert [entry.offset for entry in entries] == list(range(1, position.offset + 1))


async def test_too_many_that_wait_are_refused_at_once(server, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.redis.publishing.WAITING", 10)
    broker = opened(server.url)
    async with started(broker):
        tasks = [
            asyncio.ensure_future(broker.publish("room", b"x", sender=None, key=None, keep=KEEP))
            for _ in range(50)
        ]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert len(refused) == 40
        assert (await broker.publish("room", b"x", sender=None, key=None, keep=KEEP)).offset == 11


async def test_rediss_is_the_same_over_tls():
    async with RedisServer(tls=True, password="secret") as server:
        one, other = opened(server.url), opened(server.url)
        async with started(one, other) as (_, inbox):
            await other.subscribe("room")
            await publish_until_done(one, "room", b"x")
            await inbox.entries("room", 1)
        with pytest.raises(ConfigurationError, match="certificate"):
            await opened(server.url.partition("?")[0]).start(Inbox())
