"""RabbitMQ killed, paused, cut off, emptied: what its instances make of it."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import aiormq
import pytest

from brokers.rabbitmq_engine import RabbitEngine
from hubbub.brokers.base import Entry, Retention
from hubbub.errors import ConfigurationError, Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Instance, payloads, publish
from hubbub.testing.faults import Clear, FaultProxy, Refuse, Reset
from hubbub.testing.servers.rabbitmq import RabbitServer
from told import collected_logs

pytestmark = pytest.mark.timeout(240)

KEEP = Retention(100_000, 3600.0)


@pytest.fixture(scope="module")
def anyio_backend():
    """One event loop for the module, to which its server belongs."""
    return "asyncio"


@pytest.fixture(scope="module")
async def server():
    """One RabbitMQ for the tests of this module, each of which leaves it running."""
    async with RabbitServer() as server:
        yield server


@pytest.fixture
async def engine(server):
    engine = RabbitEngine(server.broker, timeout=5.0)
    yield engine
    await engine.close()


async def until(true: Callable[[], bool], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110  # what it waits for is no event
            await asyncio.sleep(0.02)


class Publisher:
    """Publishes numbers to a room, each again with the same key until it is acknowledged."""

    def __init__(self, instance: Instance, room: str = "room") -> None:
        self.instance = instance
        self.room = room
        self.acknowledged: dict[str, Position] = {}
        self.refused = 0
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        number = 0
        while True:
            key = f"{self.instance.name} {number}"
            number += 1
            while key not in self.acknowledged:
                try:
                    self.acknowledged[key] = await self.instance.broker.publish(
                        self.room, key.encode(), sender=None, key=key, keep=KEEP
                    )
                except Unavailable:
                    self.refused += 1
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        count = len(self.acknowledged)
        await until(lambda: len(self.acknowledged) > count)
        self.task.cancel()
        await asyncio.wait([self.task])


async def all_arrived_in_order(publishers: list[Publisher], instances: list[Instance]) -> None:
    """What was acknowledged is there once, at its position, in the same order everywhere."""
    acknowledged = {key: at for one in publishers for key, at in one.acknowledged.items()}
    last = max(position.offset for position in acknowledged.values())
    feeds = [await instance.inbox.entries("room", last) for instance in instances]
    for feed in feeds:
        assert [entry.offset for entry in feed] == list(range(1, len(feed) + 1))
        told = [entry.payload for entry in feed]
        assert len(set(told)) == len(told)
        for key, position in acknowledged.items():
            assert feed[position.offset - 1].payload == key.encode()
    assert all(instance.inbox.losses == [] for instance in instances)


async def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(server, engine):
    instances = [await engine.open() for _ in range(3)]
    for instance in instances[:2]:
        await instance.broker.subscribe("room")
    publishers = [Publisher(instance) for instance in instances]
    await server.settled()
    for _ in range(2):
        await until(lambda: all(len(one.acknowledged) > 50 for one in publishers))
        await server.kill()
        await until(lambda: not any(instance.broker.available for instance in instances))
        with pytest.raises(Unavailable):
            await publish(instances[0], b"at once")
        await server.start()
        await until(lambda: all(instance.broker.available for instance in instances))
        for one in publishers:
            count = len(one.acknowledged)
            await until(lambda one=one, count=count: len(one.acknowledged) > count)
    for one in publishers:
        await one.stop()
    await all_arrived_in_order(publishers, instances[:2])


async def test_a_server_that_is_paused_makes_calls_fail_in_time_and_resumes(server):
    engine = RabbitEngine(server.broker, timeout=1.0)
    instances = [await engine.open() for _ in range(2)]
    try:
        for instance in instances:
            await instance.broker.subscribe("room")
        publishers = [Publisher(instance) for instance in instances]
        await until(lambda: all(len(one.acknowledged) > 20 for one in publishers))
        server.pause()
        try:
            await until(lambda: all(one.refused > 3 for one in publishers))
            async with asyncio.timeout(2.0):
                with pytest.raises(Unavailable):
                    await publish(instances[0], b"paused")
        finally:
            server.resume()
        for one in publishers:
            await one.stop()
        await all_arrived_in_order(publishers, instances)
    finally:
        await engine.close()


async def test_a_publish_over_a_short_pause_succeeds_once(server, engine):
    one = await engine.open()
    await one.broker.subscribe("room")
    server.pause()
    published = asyncio.create_task(publish(one, b"x"))
    await asyncio.wait([published], timeout=0.5)
    server.resume()
    assert (await published).offset == 1
    assert await one.inbox.entries("room", 1) == [Entry(1, b"x", None)]


async def test_connections_that_are_cut_while_publishing_lose_and_double_nothing(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        engine = RabbitEngine(lambda **query: server.broker(port=proxy.port, **query), timeout=5.0)
        instances = [await engine.open() for _ in range(2)]
        try:
            for instance in instances:
                await instance.broker.subscribe("room")
            publishers = [Publisher(instance) for instance in instances]
            for _ in range(8):
                counts = [len(one.acknowledged) for one in publishers]
                await until(
                    lambda counts=counts: all(
                        len(one.acknowledged) > count + 5
                        for one, count in zip(publishers, counts, strict=True)
                    )
                )
                proxy.apply(Reset())
            for one in publishers:
                await one.stop()
            await all_arrived_in_order(publishers, instances)
        finally:
            await engine.close()


async def test_publishes_without_a_key_in_flight_over_a_cut_are_published_once(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        engine = RabbitEngine(lambda **query: server.broker(port=proxy.port, **query), timeout=20.0)
        one = await engine.open()
        try:
            await one.broker.subscribe("room")
            for cut in range(5):
                publishes = [asyncio.create_task(publish(one, b"%d" % n)) for n in range(200)]
                await asyncio.sleep(0.003 * cut)
                proxy.apply(Reset())
                positions = await asyncio.gather(*publishes, return_exceptions=True)
                assert [position for position in positions if not isinstance(position, Position)] == []
                await until(lambda: one.broker.available)
            entries = await one.inbox.entries("room", 1000)
            assert [entry.offset for entry in entries] == list(range(1, 1001))
        finally:
            await engine.close()


async def test_a_log_that_is_deleted_while_running_begins_new_epochs_and_is_told_as_lost(server, engine):
    one, other = await engine.open(), await engine.open()
    begins = await one.broker.subscribe("room")
    await one.broker.enter("room", "ada", "1", b"")
    await publish(one, b"before")
    secret = await one.broker.secret()
    connection = await aiormq.connect(server.url)
    channel = await connection.channel()
    await channel.queue_delete(f"{engine.prefix}.log")
    await connection.close()
    await one.inbox.until(lambda: bool(one.inbox.losses))
    await until(lambda: one.broker.available and other.broker.available)
    position = await publish(other, b"after")
    assert position.epoch != begins.epoch
    await one.inbox.until(lambda: one.inbox.deliveries[-1][2] == position.epoch)
    room, lost = one.inbox.losses[-1]
    assert (room, lost.epoch) == ("room", position.epoch)
    assert one.inbox.deliveries[-1] == ("room", Entry(lost.offset + 1, b"after", None), position.epoch)
    assert (await one.broker.renew()).forgotten
    assert not (await one.broker.renew()).forgotten
    assert await one.broker.members("room") == {}
    assert not (await one.broker.history("room", begins, 10)).complete
    assert len(secret) == 32


async def test_a_server_that_is_unreachable_at_the_start_is_used_once_it_is_there(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        proxy.apply(Refuse(3600.0))
        engine = RabbitEngine(lambda **query: server.broker(port=proxy.port, **query), timeout=0.5)
        try:
            with collected_logs() as told:
                one = await engine.open()
                assert not one.broker.available
                with pytest.raises(Unavailable):
                    await one.broker.subscribe("room")
                assert len(told.of("broker unavailable")) == 1
                proxy.apply(Clear())
                await until(lambda: one.broker.available)
            assert (await publish(one, b"x")).offset == 1
            assert await one.broker.instances() == [one.name]
        finally:
            await engine.close()


async def test_a_password_that_is_found_to_be_wrong_after_the_start_is_tried_again(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        proxy.apply(Refuse(3600.0))
        account = "guest:wrong"
        engine = RabbitEngine(
            lambda **query: server.broker(port=proxy.port, account=account, **query), timeout=0.5
        )
        try:
            one = await engine.open()
            proxy.apply(Clear())
            await proxy.until(lambda proxy: proxy.statistics.accepted >= 2)
            assert not one.broker.available
            with pytest.raises(Unavailable):
                await publish(one, b"x")
        finally:
            await engine.close()


async def test_stop_while_the_server_is_away_does_not_take_long(server, engine):
    one = await engine.open()
    await one.broker.subscribe("room")
    server.pause()
    try:
        async with asyncio.timeout(12.0):
            await one.broker.stop()
    finally:
        server.resume()
    with pytest.raises(Unavailable):
        await publish(one, b"x")


async def test_a_wrong_password_ends_with_a_sentence_that_does_not_tell_it(server):
    engine = RabbitEngine(lambda **query: server.broker(account="guest:wr0ng", **query))
    with pytest.raises(ConfigurationError, match="refuses the user or the password") as refused:
        await engine.open()
    assert "wr0ng" not in str(refused.value)
    await engine.close()


async def test_a_virtual_host_that_there_is_not_ends_with_a_sentence(server):
    engine = RabbitEngine(lambda **query: server.url + f"/nowhere?prefix={query['prefix']}")
    with pytest.raises(ConfigurationError, match="no such virtual host"):
        await engine.open()
    await engine.close()


async def test_a_log_with_other_settings_ends_with_a_sentence(server, engine):
    await engine.open()
    with pytest.raises(ConfigurationError, match="other settings"):
        await engine.open(log_bytes=2**22)


async def test_what_is_none_of_hubbubs_in_the_log_is_skipped_by_all(server, engine):
    one, other = await engine.open(), await engine.open()
    await other.broker.subscribe("room")
    connection = await aiormq.connect(server.url)
    channel = await connection.channel()
    for body in (b"", b"\xc1", b"nonsense", b"\x93\x01\x02\x03", bytes(1000)):
        await publish(one, b"x")
        await channel.basic_publish(body, routing_key=f"{engine.prefix}.log")
    await connection.close()
    await publish(one, b"last")
    assert [entry.offset for entry in await other.inbox.entries("room", 6)] == [1, 2, 3, 4, 5, 6]
    late = await engine.open()
    assert len(await payloads(late)) == 6


async def test_a_log_whose_beginning_is_gone_is_read_from_a_snapshot(server):
    engine = RabbitEngine(server.broker, timeout=10.0, log_bytes=2**20)
    try:
        one = await engine.open()
        secret = await one.broker.secret()
        begins = await publish(one, b"first", room="quiet", key="k")
        await one.broker.enter("quiet", "ada", "1", b"ada")
        keep = Retention(20, 3600.0)
        for _ in range(60):
            await asyncio.gather(*(publish(one, bytes(4096), room="busy", keep=keep) for _ in range(20)))
        late = await engine.open()
        assert await late.broker.secret() == secret
        assert await publish(late, b"again", room="quiet", key="k") == begins
        assert await late.broker.members("quiet") == {"ada": b"ada"}
        assert await payloads(late, "quiet") == [b"first"]
        assert await late.broker.history("busy", None, 100) == await one.broker.history("busy", None, 100)
        assert (await publish(late, b"x", room="busy")).offset == 1201
        await engine.crash(one)
        await engine.crash(late)
        alone = await engine.open()
        assert await payloads(alone, "quiet") == [b"first"]
    finally:
        await engine.close()


async def test_calls_that_are_cancelled_leave_the_broker_working(server, engine):
    one = await engine.open()
    broker = one.broker
    calls: list[Callable[[], object]] = [
        lambda: publish(one, b"x"),
        lambda: broker.subscribe("room"),
        lambda: broker.history("room", None, 10),
        lambda: broker.enter("room", "ada", "1", b""),
        lambda: broker.leave("room", "ada", "1"),
        lambda: broker.members("room"),
        lambda: broker.instances(),
        lambda: broker.renew(),
        lambda: broker.send_control(None, b"x"),
        lambda: broker.secret(),
    ]
    for turns in range(6):
        for call in calls:
            task = asyncio.ensure_future(call())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    begins = await broker.subscribe("room")
    position = await publish(one, b"last")
    assert position.offset == begins.offset + 1
    await one.inbox.until(lambda: one.inbox.deliveries[-1][1].payload == b"last")
    assert not (await broker.renew()).forgotten


async def test_a_start_that_is_cancelled_leaves_nothing_behind(server, engine):
    for turns in (0, 1, 5, 20, 50):
        broker = engine.make_broker()
        task = asyncio.create_task(broker.start(None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await broker.stop()


async def test_a_log_that_lost_what_it_had_acknowledged_begins_new_epochs(engine):
    async with RabbitServer() as server:
        engine.url = server.broker
        one = await engine.open()
        begins = await one.broker.subscribe("room")
        await publish(one, b"kept", key="k")
        await server.settled()
        await server.stop()
        data, copy = server.folder / "data", server.folder / "copy"
        await asyncio.to_thread(shutil.copytree, data, copy)
        await server.start()
        await until(lambda: one.broker.available)
        lost = [await publish(one, b"lost") for _ in range(3)]
        assert [position.offset for position in lost] == [2, 3, 4]
        await server.kill()
        await asyncio.to_thread(shutil.rmtree, data)
        await asyncio.to_thread(shutil.move, copy, data)
        await server.start()
        await until(lambda: one.broker.available)
        room, told = one.inbox.losses[-1]
        assert (room, told.offset) == ("room", 1)
        assert told.epoch != begins.epoch
        after = [await publish(one, b"after") for _ in range(3)]
        assert after == [Position(told.epoch, offset) for offset in (2, 3, 4)]
        history = await one.broker.history("room", lost[0], 10)
        assert [entry.payload for entry in history.entries] == [b"kept", b"after", b"after", b"after"]
        assert not history.complete
        late = await engine.open()
        assert await late.broker.subscribe("room") == after[-1]
        await engine.close()
        engine.instances.clear()


async def test_a_version_without_streams_ends_with_a_sentence(server, engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.rabbitmq.line.OLDEST", (99, 0))
    with pytest.raises(ConfigurationError, match=r"is 3\.\d+\.\d+, which has no streams"):
        await engine.open()


async def test_members_stay_while_the_server_is_away_for_longer_than_the_lease(server, engine):
    one, other = await engine.open(), await engine.open()
    await one.broker.enter("room", "ada", "1", b"ada")
    await other.broker.enter("room", "bob", "2", b"bob")
    await server.settled()
    await server.kill()
    await until(lambda: not one.broker.available and not other.broker.available)
    engine.clock.passed += engine.lease * 3
    with pytest.raises(Unavailable):
        await one.broker.renew()
    await server.start()
    await until(lambda: one.broker.available and other.broker.available)
    for instance in (one, other, one):
        assert await instance.broker.renew() == ([], False)
    assert await other.broker.members("room") == {"ada": b"ada", "bob": b"bob"}


async def test_who_finds_no_snapshot_asks_for_one_and_begins_anew_if_nobody_has_it(server, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.rabbitmq.log.SNAPSHOTS", 1 / 1024)
    engine = RabbitEngine(server.broker, timeout=10.0, log_bytes=2**20)
    try:
        one = await engine.open()
        first = await publish(one, b"first", room="quiet")
        keep = Retention(10, 3600.0)
        for _ in range(40):
            await asyncio.gather(*(publish(one, bytes(8192), room="busy", keep=keep) for _ in range(10)))
        late = await engine.open()
        assert await payloads(late, "quiet") == [b"first"]
        assert await late.broker.history("busy", None, 20) == await one.broker.history("busy", None, 20)
        for _ in range(40):
            await asyncio.gather(*(publish(one, bytes(8192), room="busy", keep=keep) for _ in range(10)))
        await engine.crash(one)
        await engine.crash(late)
        with collected_logs() as told:
            alone = await engine.open()
            await until(lambda: alone.broker.available)
        assert len(told.of("history began anew")) == 1
        anew = await publish(alone, b"anew", room="quiet")
        assert anew.offset == 1
        assert anew.epoch != first.epoch
        other = await engine.open()
        assert await payloads(other, "quiet") == [b"anew"]
    finally:
        await engine.close()


async def test_a_paused_instance_that_missed_what_the_log_forgot_is_told_what_it_lost(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        engine = RabbitEngine(server.broker, timeout=5.0, log_bytes=2**20)
        try:
            one = await engine.open()
            engine.url = lambda **query: server.broker(port=proxy.port, **query)
            cut_off = await engine.open()
            for room in ("busy", "quiet"):
                begins = await cut_off.broker.subscribe(room)
            await publish(one, b"seen", room="quiet")
            await cut_off.inbox.entries("quiet", 1)
            proxy.apply(Refuse(3600.0))
            proxy.apply(Reset())
            await until(lambda: not cut_off.broker.available)
            keep = Retention(10, 3600.0)
            await publish(one, b"missed", room="quiet")
            for _ in range(60):
                await asyncio.gather(*(publish(one, bytes(8192), room="busy", keep=keep) for _ in range(10)))
            proxy.apply(Clear())
            await until(lambda: cut_off.broker.available)
            assert [entry.payload for entry in cut_off.inbox.of("quiet")] == [b"seen", b"missed"]
            lost = [position for room, position in cut_off.inbox.losses if room == "busy"]
            assert [position.offset for position in lost] == [590]
            assert [entry.offset for entry in cut_off.inbox.of("busy")] == list(range(591, 601))
            assert [room for room, _ in cut_off.inbox.losses] == ["busy"]
            assert begins.offset == 0
        finally:
            await engine.close()


# The way there


@pytest.fixture
def certificate(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    assert openssl, "This test makes a certificate with the program openssl. Install it (Debian: openssl)."
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_a_line_is_encrypted_and_a_certificate_that_is_not_trusted_refused(certificate):
    certificate, key = certificate
    port = free_port()
    configuration = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {certificate}\n"
        f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
    )
    async with RabbitServer(configuration=configuration) as server:
        engine = RabbitEngine(
            lambda **query: server.broker(port=port, **query).replace("amqp:", "amqps:"), timeout=5.0
        )
        with pytest.raises(ConfigurationError, match=r"is not trusted .*cafile in the URL") as refused:
            await engine.open()
        assert "guest" not in str(refused.value)
        for file in ("/nowhere.pem", str(key)):
            with pytest.raises(ConfigurationError, match="look at the files of certificates"):
                await engine.open(cafile=file)
        one = await engine.open(cafile=str(certificate))
        other = await engine.open(cafile=str(certificate))
        await other.broker.subscribe("room")
        position = await publish(one, bytes(100_000))
        assert await other.inbox.entries("room", 1) == [Entry(position.offset, bytes(100_000), None)]
        await engine.close()
        engine.instances.clear()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


async def test_a_user_with_the_rights_that_the_docs_name_can_do_everything(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "rabbitmq.md"
    (rights,) = re.findall(r"`(\^\(hubbub\\\.\.\*.*\)\$)`", page.read_text())
    hub = {"name": "hub", "password_hash": hashed("s3cret"), "tags": ""}
    rights = {"user": "hub", "vhost": "/", "configure": rights, "write": rights, "read": rights}
    lacking = [{**rights, "user": f"no {right}", right: "^$"} for right in ("configure", "write", "read")]
    definitions = tmp_path / "definitions.json"
    definitions.write_text(
        json.dumps(
            {
                "vhosts": [{"name": "/"}],
                "users": [hub, *({**hub, "name": user["user"]} for user in lacking)],
                "permissions": [rights, *lacking],
            }
        )
    )
    async with RabbitServer(configuration=f"load_definitions = {definitions}\n") as server:
        account = "hub:s3cret"
        engine = RabbitEngine(lambda **query: server.broker(account=account, prefix="hubbub"), timeout=5.0)
        one, other = await engine.open(), await engine.open()
        await one.broker.subscribe("room")
        await one.broker.secret()
        await other.broker.enter("room", "ada", "1", b"ada")
        publisher = engine.make_broker()
        await publisher.start(None)
        assert (await publisher.publish("room", b"x", sender=None, key=None, keep=KEEP)).offset == 1
        await publisher.send_control(one.name, b"hello")
        await publisher.stop()
        await one.inbox.until(lambda: one.inbox.controls == [b"hello"] and len(one.inbox.deliveries) == 1)
        one.broker._log._snapshots.write(one.broker._log._line, one.broker._log._replica)
        line = one.broker._log._line
        async with asyncio.timeout(10.0):
            while await line.pointer() is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await engine.crash(other)
        engine.clock.passed += engine.lease + 1
        departures = (await one.broker.renew()).departures
        assert [(gone.room, gone.member) for gone in departures] == [("room", "ada")]
        late = await engine.open()
        assert await payloads(late) == [b"x"]
        for user in lacking:
            account = f"{quote(user['user'])}:s3cret"
            with pytest.raises(ConfigurationError, match="may not configure, write and read"):
                await engine.open()
        await engine.close()
        engine.instances.clear()


def hashed(password: str) -> str:
    """Return a password as RabbitMQ's definitions have it."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
