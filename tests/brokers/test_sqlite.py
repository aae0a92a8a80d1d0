import asyncio
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from brokers.sqlite_engine import BEGINS, SqliteEngine, rows
from hubbub import ConfigurationError, Hubbub, Message, Room, Settings, Unavailable
from hubbub.brokers import open_broker
from hubbub.brokers.base import Retention
from hubbub.brokers.memory import MemoryBroker
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import BrokerConformance, Inbox, payloads, publish
from hubbub.testing.brokers.model import RoomMachine
from told import collected_logs
from wire import talk


class TestSqliteBroker(BrokerConformance):
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path):
        self.path = tmp_path

    def make_engine(self) -> SqliteEngine:
        return SqliteEngine(self.path)


class SqliteRoomMachine(RoomMachine):
    def make_engine(self) -> SqliteEngine:
        self.directory = tempfile.mkdtemp()
        return SqliteEngine(Path(self.directory))

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


TestSqliteRoom = SqliteRoomMachine.TestCase
TestSqliteRoom.settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    stateful_step_count=30,
    max_examples=30,
)


@pytest.fixture
async def engine(tmp_path):
    engine = SqliteEngine(tmp_path)
    yield engine
    await engine.close()


@pytest.fixture
async def instance(engine):
    return await engine.open()


async def restart(engine: SqliteEngine):
    """Stop all in good order, and start again."""
    for instance in engine.instances:
        await instance.broker.stop()
    engine.instances.clear()
    return await engine.open()


# The address


def opened(url: str) -> SqliteBroker:
    broker = open_broker(Settings(broker=url, deduplication_window=7.0, lease=3.0))
    assert isinstance(broker, SqliteBroker)
    return broker


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///rooms.db", "rooms.db"),
        ("sqlite:///data/rooms.db", "data/rooms.db"),
        ("sqlite:////var/lib/rooms.db", "/var/lib/rooms.db"),
        ("sqlite:///my%20rooms%3F.db", "my rooms?.db"),
    ],
)
def test_an_address_has_three_slashes_before_a_relative_path_and_four_before_an_absolute_one(url, path):
    assert opened(url).store.path == Path(path)


def test_the_settings_apply():
    store = opened("sqlite:///rooms.db").store
    assert (store.window, store.local.lease) == (7.0, 2.0)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite:rooms.db",
        "sqlite://rooms.db",
        "sqlite://user:secret@host/rooms.db",
        "sqlite:///rooms.db?mode=ro",
        "sqlite:///rooms.db#secret",
        "sqlite:///:memory:",
        "sqlite:///a%00b",
    ],
)
def test_another_address_is_refused_with_those_that_work(url):
    with pytest.raises(ConfigurationError, match=r"sqlite:///rooms.db .* sqlite:////var") as refused:
        open_broker(Settings(broker=url))
    assert "secret" not in str(refused.value)


def test_what_is_no_address_is_refused_without_repeating_it():
    with pytest.raises(ConfigurationError, match="no URL") as refused:
        open_broker(Settings(broker="sqlite://[secret"))
    assert "secret" not in str(refused.value)


def test_nothing_is_opened_before_the_start(tmp_path):
    opened(f"sqlite:///{tmp_path}/rooms.db")
    assert list(tmp_path.iterdir()) == []


def test_it_outlives_its_process_and_is_for_one():
    assert not SqliteBroker.guarantees.shared
    assert SqliteBroker.guarantees.durable


# The file


async def test_only_the_owner_can_read_the_file_and_what_lies_beside_it(engine, instance):
    await publish(instance, b"x")
    files = list(engine.path.parent.iterdir())
    assert {path.name for path in files} == {"rooms.db", "rooms.db-wal", "rooms.db-shm", "rooms.db-lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


async def test_a_stop_leaves_one_file_with_everything_in_it(engine, instance):
    await asyncio.gather(*(publish(instance, b"%d" % number) for number in range(100)))
    await instance.broker.stop()
    assert {path.name for path in engine.path.parent.iterdir()} == {"rooms.db", "rooms.db-lock"}
    assert rows(engine.path, "SELECT count(*) FROM entries") == [(100,)]


async def test_publishes_under_way_at_the_stop_are_published(engine, instance):
    publishes = [asyncio.ensure_future(publish(instance, b"%d" % number)) for number in range(100)]
    await asyncio.sleep(0)
    await instance.broker.stop()
    assert [position.offset for position in await asyncio.gather(*publishes)] == list(range(1, 101))
    anew = await restart(engine)
    assert await payloads(anew) == [b"%d" % number for number in range(100)]


async def test_after_the_stop_and_before_the_start_calls_say_so(engine, instance):
    await instance.broker.stop()
    for call in (
        publish(instance, b"x"),
        publish(instance, b"x", keep=None),
        instance.broker.subscribe("room"),
        instance.broker.history("room", None, 1),
    ):
        with pytest.raises(Unavailable, match="not started"):
            await call
    await instance.broker.unsubscribe("room")
    await instance.broker.stop()


async def test_the_same_broker_can_start_again(instance):
    first = await publish(instance, b"one")
    await instance.broker.subscribe("room")
    await instance.broker.stop()
    await instance.broker.start(instance.inbox)
    assert await instance.broker.subscribe("room") == first
    await publish(instance, b"two")
    assert [entry.payload for entry in await instance.inbox.entries("room", 1)] == [b"two"]


async def test_members_are_gone_after_a_restart(engine, instance):
    await instance.broker.enter("room", "ada", "1", b"")
    anew = await restart(engine)
    assert await anew.broker.members("room") == {}


async def test_an_event_loop_that_ends_without_a_stop_gives_the_file_back(engine):
    async def forget_to_stop() -> None:
        broker = SqliteBroker(engine.make_store())
        await broker.start(Inbox())
        await broker.publish("room", b"x", sender=None, key=None, keep=Retention(10, 60.0))

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(forget_to_stop())
        loop.close()

    await asyncio.to_thread(run)
    async with asyncio.timeout(10):
        while True:
            try:
                anew = await engine.open()
                break
            except ConfigurationError:
                await asyncio.sleep(0.05)
    assert await payloads(anew) == [b"x"]


async def test_a_database_is_moved_with_its_lock_and_goes_on(engine, instance, tmp_path):
    newest = await publish(instance, b"x")
    await instance.broker.stop()
    engine.instances.clear()
    (tmp_path / "elsewhere").mkdir()
    for name in ("rooms.db", "rooms.db-lock"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    engine.path = tmp_path / "elsewhere" / "rooms.db"
    engine.store = engine.make_store()
    anew = await engine.open()
    assert await anew.broker.subscribe("room") == newest


# No position means two messages


async def test_a_backup_that_is_put_back_begins_a_new_epoch(engine, instance):
    await publish(instance, b"one", key="one")
    rows(engine.path, "VACUUM INTO ?", f"{engine.path}.backup")
    engine.now += 1
    lost = await publish(instance, b"lost")
    await instance.broker.stop()
    engine.instances.clear()
    os.replace(f"{engine.path}.backup", engine.path)
    with collected_logs() as logs:
        anew = await engine.open()
    assert logs.of("history began anew", rooms=1)
    begins = await anew.broker.subscribe("room")
    assert begins.offset == 1
    assert begins.epoch != lost.epoch
    history = await anew.broker.history("room", lost, 10)
    assert not history.complete
    assert [entry.payload for entry in history.entries] == [b"one"]
    assert (await publish(anew, b"one", key="one")) == begins


async def test_a_database_without_its_lock_begins_new_epochs(engine, instance):
    before = await publish(instance, b"x")
    await instance.broker.stop()
    engine.path.with_name("rooms.db-lock").unlink()
    anew = await restart(engine)
    assert (await anew.broker.subscribe("room")).epoch != before.epoch
    # That once only.
    position = await publish(anew, b"y")
    again = await restart(engine)
    assert await again.broker.subscribe("room") == position


async def test_a_log_that_is_lost_is_noticed(engine, instance):
    await publish(instance, b"one")
    engine.now += 1
    lost = await publish(instance, b"two")
    await engine.crash(instance)
    engine.path.with_name("rooms.db-wal").write_bytes(b"")
    anew = await engine.open()
    assert (await publish(anew, b"another")) != lost
    assert not (await anew.broker.history("room", Position(lost.epoch, 1), 10)).complete


async def test_a_clock_that_was_set_back_ages_what_is_there_from_now_on(engine, instance):
    first = await publish(instance, b"x", key="k", keep=Retention(10, 30.0))
    await instance.broker.stop()
    engine.now -= 1_000_000
    anew = await restart(engine)
    assert await publish(anew, b"x", key="k", keep=Retention(10, 30.0)) == first
    await engine.pass_time(engine.window + 1)
    assert (await publish(anew, b"y", key="k", keep=Retention(10, 30.0))).offset == 2
    await engine.pass_time(25)
    assert await payloads(anew) == [b"y"]


def test_the_clock_never_goes_back(tmp_path, monkeypatch):
    store = SqliteStore(tmp_path / "rooms.db")
    before = store.clock()
    monkeypatch.setattr("time.time", lambda: BEGINS)
    assert before <= store.clock() < before + 60


# What the file holds has a bound


async def swept(engine, instance, *, times: int = 1) -> None:
    for _ in range(times):
        await engine.pass_time(1.0)
        await publish(instance, b"x", room="another", keep=Retention(1, 3600.0))


async def test_what_is_too_old_leaves_the_file(engine, instance):
    for number in range(50):
        await publish(instance, b"x", key=str(number), keep=Retention(100, 60.0))
    await engine.pass_time(61)
    await publish(instance, b"young", keep=Retention(100, 60.0))
    await swept(engine, instance)
    assert rows(engine.path, "SELECT payload FROM entries WHERE room=1") == [(b"young",)]
    assert rows(engine.path, "SELECT count(*) FROM keys") == [(0,)]
    assert [entry.offset for entry in (await instance.broker.history("room", None, 10)).entries] == [51]


async def test_what_is_too_many_leaves_the_file_at_once(engine, instance):
    for number in range(5):
        await publish(instance, b"%d" % number, keep=Retention(2, 60.0))
    assert rows(engine.path, "SELECT offset FROM entries") == [(4,), (5,)]
    await asyncio.gather(*(publish(instance, b"x", keep=Retention(2, 60.0)) for _ in range(50)))
    assert rows(engine.path, "SELECT offset FROM entries") == [(54,), (55,)]


async def test_an_old_room_of_many_messages_is_swept_a_little_at_a_time(engine, instance):
    keep = Retention(10_000, 60.0)
    await asyncio.gather(*(publish(instance, b"x", keep=keep) for _ in range(2_500)))
    await engine.pass_time(61)
    left = []
    for _ in range(4):
        await swept(engine, instance)
        left += rows(engine.path, "SELECT count(*) FROM entries WHERE room=1")
    assert left == [(1500,), (500,), (0,), (0,)]


async def test_a_room_whose_history_and_keys_ran_out_is_forgotten(engine, instance):
    first = await publish(instance, b"x", key="k", keep=Retention(10, 5.0))
    await engine.pass_time(engine.window + 1)
    await swept(engine, instance)
    assert rows(engine.path, "SELECT name FROM rooms") == [(b"another",)]
    anew = await publish(instance, b"y", keep=Retention(10, 5.0))
    assert anew.offset == 1
    assert anew.epoch != first.epoch
    assert not (await instance.broker.history("room", first, 10)).complete


async def test_a_room_that_somebody_is_subscribed_to_is_not_forgotten(engine, instance):
    newest = await publish(instance, b"x", keep=Retention(10, 5.0))
    other = await engine.open()
    for one in (instance, other):
        await one.broker.subscribe("room")
    await instance.broker.unsubscribe("room")
    await engine.pass_time(engine.window + 1)
    await swept(engine, instance)
    assert await other.broker.subscribe("room") == newest
    assert (await publish(instance, b"y")) == Position(newest.epoch, 2)
    await other.broker.unsubscribe("room")
    await engine.pass_time(4000)
    await swept(engine, instance)
    assert rows(engine.path, "SELECT name FROM rooms") == [(b"another",)]


async def test_a_room_that_is_not_in_the_file_keeps_its_epoch_for_its_subscribers(engine, instance):
    begins = await instance.broker.subscribe("room")
    await publish(instance, b"x", room="old", keep=Retention(10, 5.0))
    await engine.pass_time(engine.window + 1)
    await swept(engine, instance)
    assert rows(engine.path, "SELECT name FROM rooms") == [(b"another",)]
    assert (await instance.broker.history("room", None, 10)).position == begins
    assert await publish(instance, b"x") == Position(begins.epoch, 1)


async def test_a_room_in_which_nothing_was_published_does_not_begin_anew_because_others_are_forgotten(
    engine, instance
):
    rooms = [f"unused {number}" for number in range(100)]
    begins = [await instance.broker.subscribe(room) for room in rooms]
    for room in rooms:
        await instance.broker.unsubscribe(room)
    for number in range(5):
        await publish(instance, b"x", room=f"used {number}", keep=Retention(1, 5.0))
    await engine.pass_time(engine.window + 1)
    await swept(engine, instance)
    assert rows(engine.path, "SELECT name FROM rooms") == [(b"another",)]
    again = [await instance.broker.subscribe(room) for room in rooms]
    assert sum(begun == position for begun, position in zip(begins, again, strict=True)) > 90


async def test_to_ask_about_a_room_does_not_make_it(engine, instance):
    await instance.broker.subscribe("room")
    await instance.broker.history("other", None, 10)
    await publish(instance, b"x", keep=None)
    await instance.broker.unsubscribe("room")
    assert rows(engine.path, "SELECT count(*) FROM rooms") == [(0,)]


async def test_rooms_that_are_used_once_do_not_pile_up(engine, instance):
    most = 0
    for batch in range(40):
        await asyncio.gather(
            *(publish(instance, b"x", room=f"{batch} {n}", keep=Retention(10, 1.0)) for n in range(200))
        )
        await engine.pass_time(engine.window / 5)
        most = max(most, rows(engine.path, "SELECT count(*) FROM rooms")[0][0])
    assert most < 3_000


async def test_sweeping_goes_on_while_nobody_publishes(tmp_path):
    broker = SqliteBroker(SqliteStore(tmp_path / "rooms.db", window=0.01))
    await broker.start(Inbox())
    await broker.publish("room", b"x", sender=None, key="k", keep=Retention(10, 0.01))
    async with asyncio.timeout(10):
        # Another connection's commit has no event.
        while rows(tmp_path / "rooms.db", "SELECT * FROM rooms, entries, keys"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await broker.stop()


async def test_rooms_that_the_writer_does_not_know_by_heart_any_more_go_on(instance, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.sqlite.writer.MOST_HEADS", 3)
    begins = await instance.broker.subscribe("room 0")
    for turn in range(1, 4):
        positions = [await publish(instance, b"x", room=f"room {number}") for number in range(10)]
        assert {position.offset for position in positions} == {turn}
        assert positions[0].epoch == begins.epoch
    assert len(await instance.inbox.entries("room 0", 3)) == 3


async def test_a_page_ends_before_it_is_too_large(instance):
    begins = await instance.broker.subscribe("room")
    payload = bytes(3 * 1024 * 1024)
    for _ in range(4):
        await publish(instance, payload)
    history = await instance.broker.history("room", begins, 100)
    assert ([entry.offset for entry in history.entries], history.position.offset) == ([1, 2], 2)
    history = await instance.broker.history("room", history.position, 100)
    assert ([entry.offset for entry in history.entries], history.position.offset) == ([3, 4], 4)
    assert history.complete
    history = await instance.broker.history("room", None, 100)
    assert ([entry.offset for entry in history.entries], history.position.offset) == ([3, 4], 4)


async def test_what_is_unreasonable_to_keep_is_kept_as_long_as_there_is_room(instance):
    await publish(instance, b"x", keep=Retention(10**30, float("inf")))
    assert await payloads(instance) == [b"x"]


# In an application


class Say(Message):
    text: str


def chat(path: Path) -> Hubbub:
    hub = Hubbub(Settings(broker=f"sqlite:///{path}"))
    rooms = hub.room("chat/{name}", history=100)

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


async def test_a_client_that_comes_back_after_a_restart_gets_what_it_missed(serve, tmp_path):
    server = serve(chat(tmp_path / "rooms.db"))
    async with talk(server.url) as client:
        since = await client.join("chat/lobby")
        await client.ask(type="say", room="chat/lobby", data={"text": "1"})
        await client.ask(type="say", room="chat/lobby", data={"text": "2"})
    server.stop()
    async with talk(serve(chat(tmp_path / "rooms.db")).url) as client:
        await client.join("chat/lobby", since=since)
        missed = [await client.receive_type("say") for _ in range(2)]
        assert [(message["offset"], message["data"]["text"]) for message in missed] == [(1, "1"), (2, "2")]


async def test_several_workers_are_refused(tmp_path):
    hub = Hubbub(Settings(broker=f"sqlite:///{tmp_path}/rooms.db", workers=2))
    hub.room("chat/{name}", history=100)
    with pytest.raises(ConfigurationError, match="Use one worker"):
        await hub.start()


def test_memory_is_still_what_there_is_unless_told():
    assert isinstance(open_broker(Settings()), MemoryBroker)
