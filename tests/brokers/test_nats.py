import asyncio
import secrets
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, settings

from brokers.nats_engine import NatsEngine
from hubbub import ConfigurationError, Hubbub, Message, Room, Settings, Unavailable
from hubbub.brokers import open_broker
from hubbub.brokers.base import Departure, Entry, Retention
from hubbub.brokers.nats import NatsBroker, Options, read
from hubbub.brokers.nats.records import token
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import BrokerConformance, Inbox, payloads, publish
from hubbub.testing.brokers.engines import KEEP
from hubbub.testing.brokers.model import RoomMachine
from hubbub.testing.servers.nats import NatsServer
from wire import talk


@pytest.fixture(scope="module")
def server():
    with asyncio.Runner() as runner:
        server = NatsServer()
        runner.run(server.start())
        yield server
        runner.run(server.close())


class TestNatsBroker(BrokerConformance):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make_engine(self):
        return NatsEngine(self.server)


class TestNatsBrokerWithShards(BrokerConformance):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make_engine(self):
        return NatsEngine(self.server, shards=3)


class NatsRoomMachine(RoomMachine):
    server = None

    def make_engine(self):
        return NatsEngine(self.server)


@pytest.fixture(scope="module", autouse=True)
def _machine(server):
    NatsRoomMachine.server = server


TestNatsRoom = NatsRoomMachine.TestCase
TestNatsRoom.settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    stateful_step_count=30,
    max_examples=100,
)


@pytest.fixture
async def engine(server):
    engine = NatsEngine(server)
    yield engine
    await engine.close()


async def until(happened):
    """Wait until something is so; what a server does has no event here."""
    async with asyncio.timeout(20):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def stored(instance, room="room"):
    """Return how many messages the stream has of a room: batches, and parts of large ones."""
    log, streams = instance.broker._log, instance.broker._streams
    known = log.rooms.find(room)
    request = {"subjects_filter": f"{streams.prefix}.*.{known.shard}.{known.token}"}
    answer = await streams.ask(f"STREAM.INFO.{streams.rooms[known.shard]}", request)
    return {subject.split(".")[1]: count for subject, count in (answer.state.subjects or {}).items()}


# Several publishers


async def test_instances_that_publish_into_one_room_as_fast_as_they_can_all_get_on(engine):
    instances = [await engine.open() for _ in range(3)]
    for instance in instances:
        await instance.broker.subscribe("room")
    counts = [0, 0, 0]

    async def go(number):
        while min(counts) < 100:
            await publish(
                instances[number], b"%d %d" % (number, counts[number]), key=f"{number} {counts[number]}"
            )
            counts[number] += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(go(number) for number in range(3)))
    entries = await instances[0].inbox.entries("room", sum(counts))
    assert [entry.offset for entry in entries] == list(range(1, sum(counts) + 1))
    assert len({entry.payload for entry in entries}) == sum(counts)
    for instance in instances[1:]:
        assert await instance.inbox.entries("room", sum(counts)) == entries
    # Nobody starves: who loses a race is not passed over for ever.
    assert max(counts) < 20 * min(counts)


async def test_publishes_of_rooms_that_nobody_is_subscribed_to_follow_each_other(engine):
    instances = [await engine.open() for _ in range(3)]
    positions = [
        await publish(instance, b"x", key=f"{instance.name} {number}")
        for number in range(10)
        for instance in instances
    ]
    assert [position.offset for position in positions] == list(range(1, 31))
    for instance in instances:
        assert (await publish(instance, b"x", key=f"{instances[0].name} 0")).offset == 1


async def test_a_script_that_only_publishes_takes_no_part(engine):
    one = await engine.open()
    script = engine.make()
    await script.start(None)
    await one.broker.subscribe("room")
    await script.publish("room", b"x", sender=None, key="k", keep=KEEP)
    await script.publish("room", b"gone", sender=None, key=None, keep=None)
    await script.send_control(None, b"hello")
    assert await one.inbox.entries("room", 2) == [Entry(1, b"x", None), Entry(None, b"gone", None)]
    await one.inbox.until(lambda: one.inbox.controls == [b"hello"])
    assert await one.broker.instances() == [one.name]
    await script.stop()


async def test_too_many_publishes_at_once_are_refused(engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.nats.log.MOST_WAITING", 10)
    one = await engine.open()
    results = await asyncio.gather(*(publish(one, b"x") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 10
    assert (await publish(one, b"x")).offset == 11


# What is stored


async def test_messages_larger_than_the_server_takes_are_stored_in_parts(engine):
    one, other = await engine.open(), await engine.open()
    await other.broker.subscribe("room")
    large = secrets.token_bytes(3 * 2**20 + 17)
    await publish(one, b"before")
    first = await publish(one, large, key="k", sender="ada")
    assert await publish(one, large, key="k") == first
    await publish(one, large, keep=None)
    await publish(one, b"after")
    entries = await other.inbox.entries("room", 4)
    assert entries == [
        Entry(1, b"before", None),
        Entry(2, large, "ada"),
        Entry(None, large, None),
        Entry(3, b"after", None),
    ]
    fresh = await engine.open()
    assert await payloads(fresh) == [b"before", large, b"after"]


async def test_what_nobody_needs_any_more_is_removed_from_the_stream(engine):
    one = await engine.open(timeout=0.5)
    keep = Retention(3, 3600.0)
    for number in range(100):
        await publish(one, b"%d" % number, key=f"{number}", keep=keep)
        await engine.pass_time(1.0)
    await until(lambda: not one.broker._log.follower.tasks)
    # Keys are known for a window of 20 seconds.
    assert (await stored(one))["room"] < 40
    assert await payloads(one) == [b"97", b"98", b"99"]
    assert (await publish(one, b"x", key="85", keep=keep)).offset == 86
    fresh = await engine.open()
    assert (await publish(fresh, b"x", key="85", keep=keep)).offset == 86
    assert (await publish(fresh, b"x", key="75", keep=keep)).offset == 101


async def test_history_that_is_to_be_kept_for_longer_than_the_stream_does_has_it_keep_for_longer(engine):
    one = await engine.open()
    streams = one.broker._streams
    assert streams.age(streams.rooms[0]) == 86_400
    await publish(one, b"x", keep=Retention(10, 100_000.0))
    assert streams.age(streams.rooms[0]) == 125_000
    await publish(one, b"x", keep=Retention(10, float("inf")))
    assert streams.age(streams.rooms[0]) == float("inf")
    assert await payloads(one) == [b"x", b"x"]
    await publish(one, b"x", keep=Retention(10**30, 1e300))


async def test_a_room_that_is_quiet_for_long_is_not_forgotten_while_somebody_is_in_it(engine):
    one = await engine.open()
    await one.broker.subscribe("room")
    newest = await publish(one, b"x")
    await engine.pass_time(50_000)
    room = one.broker._log.rooms.find("room")
    sequence = room.sequence
    await until(lambda: room.sequence > sequence)
    assert await one.broker.subscribe("room") == newest
    assert (await stored(one))["room"] == 3
    assert [entry.payload for entry in one.inbox.of("room")] == [b"x"]


async def test_rooms_that_were_pushed_out_by_others_are_told_as_lost(server):
    engine = NatsEngine(server, max_bytes=2**20)
    one = await engine.open()
    begins = await one.broker.subscribe("room")
    for number in range(30):
        await publish(one, bytes(100_000), room=f"other {number}")
    await one.inbox.until(lambda: bool(one.inbox.losses))
    ((room, position),) = one.inbox.losses
    assert (room, position.offset) == ("room", 0)
    assert position.epoch != begins.epoch
    assert await publish(one, b"x") == Position(position.epoch, 1)
    await engine.close()


async def test_a_room_that_is_not_remembered_goes_on(engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.nats.rooms.MOST_IDLE", 3)
    one = await engine.open()
    for turn in range(1, 4):
        for number in range(10):
            assert (await publish(one, b"x", room=f"room {number}", key=f"{turn}")).offset == turn
    assert len(one.broker._log.rooms.others) <= 4


async def test_to_ask_about_a_room_does_not_make_it(engine):
    one = await engine.open()
    await one.broker.history("room", None, 10)
    await publish(one, b"x", keep=None)
    await one.broker.members("room")
    assert await stored(one) == {}


async def test_a_page_ends_before_it_is_too_large(engine):
    one = await engine.open()
    begins = await one.broker.subscribe("room")
    payload = bytes(3 * 2**20)
    for _ in range(4):
        await publish(one, payload)
    history = await one.broker.history("room", begins, 100)
    assert ([entry.offset for entry in history.entries], history.position.offset) == ([1, 2], 2)
    history = await one.broker.history("room", history.position, 100)
    assert ([entry.offset for entry in history.entries], history.position.offset) == ([3, 4], 4)
    assert history.complete
    history = await one.broker.history("room", None, 100)
    assert [entry.offset for entry in history.entries] == [3, 4]


async def test_history_is_read_from_the_stream_when_nothing_is_remembered(engine):
    one, other = await engine.open(), await engine.open()
    begins = await one.broker.subscribe("room")
    for number in range(100):
        await publish(one, b"%d" % number, keep=Retention(80, 3600.0))
    expected = [b"%d" % number for number in range(20, 100)]
    history = await other.broker.history("room", begins, 1000)
    assert [entry.payload for entry in history.entries] == expected
    assert not history.complete
    position, pages = Position(begins.epoch, 20), []
    while (history := await other.broker.history("room", position, 7)).entries:
        assert history.complete
        other.broker._reader.forget()
        pages += [entry.payload for entry in history.entries]
        position = history.position
    assert pages == expected


async def test_instances_with_different_prefixes_do_not_see_each_other(server):
    engines = [NatsEngine(server) for _ in range(2)]
    one, other = [await engine.open() for engine in engines]
    await other.broker.subscribe("room")
    await publish(one, b"x")
    assert (await publish(other, b"y")).offset == 1
    assert await one.broker.instances() == [one.name]
    assert await one.broker.secret() != await other.broker.secret()
    assert [entry.payload for entry in await other.inbox.entries("room", 1)] == [b"y"]
    for engine in engines:
        await engine.close()


# Presence


async def test_leases_run_out_by_the_servers_clock(server):
    engine = NatsEngine(server, clock=False)
    one = await engine.open(lease=1.0)
    crashed = await engine.open(lease=1.0)
    await crashed.broker.enter("room", "ada", "1", b"ada")
    await engine.crash(crashed)
    departures = []

    async with asyncio.timeout(10):
        while not departures:
            departures += (await one.broker.renew()).departures
            await asyncio.sleep(0.1)
    assert [departure.member for departure in departures] == ["ada"]
    assert not (await one.broker.renew()).forgotten
    await engine.close()


async def test_many_instances_that_enter_and_leave_a_member_agree_on_the_first_and_the_last(engine):
    instances = [await engine.open() for _ in range(5)]
    firsts = await asyncio.gather(
        *(instance.broker.enter("room", "ada", instance.name, b"") for instance in instances)
    )
    assert sum(firsts) == 1
    lasts = await asyncio.gather(
        *(instance.broker.leave("room", "ada", instance.name) for instance in instances)
    )
    assert sum(lasts) == 1
    assert await instances[0].broker.members("room") == {}


async def test_of_many_that_see_an_instance_gone_each_departure_is_told_to_one(engine):
    instances = [await engine.open() for _ in range(3)]
    crashed = await engine.open()
    for number in range(50):
        await crashed.broker.enter(f"room {number % 5}", f"member {number}", "1", b"")
    await engine.crash(crashed)
    await engine.pass_time(engine.lease * 0.7)
    for instance in instances:
        await instance.broker.renew()
    await engine.pass_time(engine.lease * 0.7)
    renewals = await asyncio.gather(*(instance.broker.renew() for instance in instances))
    members = [departure.member for renewal in renewals for departure in renewal.departures]
    assert sorted(members) == sorted(f"member {number}" for number in range(50))


async def test_who_comes_after_a_claimer_that_was_killed_ends_what_it_began(engine):
    one, other = await engine.open(), await engine.open()
    crashed = await engine.open()
    for number in range(5):
        await crashed.broker.enter("room", f"member {number}", "1", b"")
    await engine.crash(crashed)
    await engine.pass_time(engine.lease * 0.7)
    await other.broker.renew()
    await engine.pass_time(engine.lease * 0.7)
    presence = one.broker._presence

    async def killed(*_):
        raise Unavailable("killed")

    presence._sweep = killed
    with pytest.raises(Unavailable):
        await one.broker.renew()
    departures = (await other.broker.renew()).departures
    assert len(departures) == 5
    assert await other.broker.members("room") == {}


async def test_what_an_instance_enters_that_was_taken_for_gone_and_then_dies_is_removed_too(engine):
    one, late = await engine.open(), await engine.open()
    for _ in range(2):
        await engine.pass_time(engine.lease * 0.7)
        await one.broker.renew()
    await late.broker.enter("room", "ada", "1", b"ada")
    await engine.crash(late)
    departures = []
    for _ in range(4):
        await engine.pass_time(engine.lease * 0.7)
        departures += (await one.broker.renew()).departures
    assert departures == [Departure("room", "ada", b"ada")]
    streams = one.broker._streams
    assert len(await streams.subjects(streams.members, f"{engine.prefix}.lease.*")) == 1


async def test_the_members_of_a_gone_instance_are_removed_a_part_at_a_time(engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.nats.presence.AT_ONCE", 2)
    one, crashed = await engine.open(lease=0.001), await engine.open()
    for number in range(9):
        await crashed.broker.enter("room", f"member {number}", "1", b"")
    await engine.crash(crashed)
    await engine.pass_time(engine.lease * 1.5)
    turns = [(await one.broker.renew()).departures for _ in range(9)]
    assert sum(map(len, turns)) == 9
    assert len(turns[0]) <= 4
    assert await one.broker.members("room") == {}


# Names and settings


def test_no_two_names_have_the_same_token():
    names = ["", "n", "a", "a.b", "a b", "*", ">", "ä", "x" * 500, "x" * 501, "\x00"]
    tokens = {token(name) for name in names}
    assert len(tokens) == len(names)
    for made in tokens:
        assert made.replace("-", "").replace("_", "").isalnum()
        assert len(made) < 200


def test_a_url_names_servers_an_account_and_settings():
    assert read("nats://localhost") == Options(("nats://localhost:4222",))
    assert read("nats://a%40:b%3A@one:1,two?prefix=chat&shards=3&replicas=3&max_bytes=10000000") == Options(
        ("nats://one:1", "nats://two:4222"),
        user="a@",
        password="b:",
        prefix="chat",
        shards=3,
        replicas=3,
        max_bytes=10_000_000,
    )
    assert read("tls://s3cret@[::1]:5") == Options(("tls://[::1]:5",), token="s3cret")


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://s3cret:pw@host:port",
        "nats://s3cret@host,,other",
        "nats://s3cret@host/path",
        "nats://s3cret@host?prefix=a.b",
        "nats://s3cret@host?prefix=",
        "nats://s3cret@host?shards=0",
        "nats://s3cret@host?replicas=x",
        "nats://s3cret@host?unknown=1",
        "nats://s3cret@host?junk",
    ],
)
def test_a_url_that_can_not_be_understood_is_refused_without_its_password(url):
    with pytest.raises(ConfigurationError) as refused:
        open_broker(Settings(broker=url))
    assert "s3cret" not in str(refused.value)


def test_the_setting_opens_it():
    broker = open_broker(Settings(broker="nats://localhost", lease=3.0))
    assert isinstance(broker, NatsBroker)
    assert not broker.available
    assert broker.guarantees.shared
    assert broker.guarantees.durable


async def test_before_the_start_and_after_the_stop_calls_say_so(engine):
    broker = engine.make()
    for _ in range(2):
        for call in (
            broker.publish("room", b"", sender=None, key=None, keep=None),
            broker.subscribe("room"),
            broker.history("room", None, 1),
            broker.members("room"),
        ):
            with pytest.raises(Unavailable, match="not started"):
                await call
        await broker.unsubscribe("room")
        await broker.start(Inbox())
        await broker.stop()
        await broker.stop()


async def test_the_same_broker_can_start_again(engine):
    one = await engine.open()
    first = await publish(one, b"one")
    await one.broker.subscribe("room")
    await one.broker.stop()
    await one.broker.start(one.inbox)
    assert await one.broker.subscribe("room") == first
    await publish(one, b"two")
    assert [entry.payload for entry in await one.inbox.entries("room", 1)] == [b"two"]


async def test_publishes_under_way_at_the_stop_fail_or_are_published(engine):
    one = await engine.open()
    publishes = [asyncio.ensure_future(publish(one, b"%d" % number)) for number in range(100)]
    await asyncio.sleep(0)
    await one.broker.stop()
    results = await asyncio.gather(*publishes, return_exceptions=True)
    assert all(isinstance(result, Position | Unavailable) for result in results)


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


async def test_a_line_can_be_encrypted(certificate, monkeypatch):
    certificate, key = certificate
    async with NatsServer(certificate=certificate, key=key, token="s3cret") as server:
        engine = NatsEngine(server)
        with pytest.raises(ConfigurationError, match="not trusted"):
            await engine.make().start(Inbox())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await publish(await engine.open(), b"x")).offset == 1
        await engine.close()


# In an application


class Say(Message):
    text: str


def chat(url):
    hub = Hubbub(Settings(broker=url))
    rooms = hub.room("chat/{name}", history=100)

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


async def test_clients_of_two_servers_are_in_one_room_and_miss_nothing_when_they_change_over(server, serve):
    url = server.broker(prefix=f"test{secrets.token_hex(5)}")
    one, other = serve(chat(url)), serve(chat(url))
    async with talk(one.url) as ada, talk(other.url) as bob:
        await ada.join("chat/lobby")
        since = await bob.join("chat/lobby")
        await ada.ask(type="say", room="chat/lobby", data={"text": "1"})
        assert (await bob.receive_type("say"))["data"] == {"text": "1"}
    async with talk(one.url) as ada:
        await ada.join("chat/lobby")
        await ada.ask(type="say", room="chat/lobby", data={"text": "2"})
    one.stop()
    other.stop()
    async with talk(serve(chat(url)).url) as bob:
        await bob.join("chat/lobby", since=since)
        missed = [await bob.receive_type("say") for _ in range(2)]
        assert [(message["offset"], message["data"]["text"]) for message in missed] == [(1, "1"), (2, "2")]
