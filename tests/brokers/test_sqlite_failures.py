"""A disk that is full, a file that is damaged, another's or gone: it is told, and no answer is wrong."""

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from brokers.sqlite_engine import SqliteEngine, child, rows
from hubbub import ConfigurationError, Unavailable
from hubbub.brokers.base import Retention
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore
from hubbub.brokers.sqlite.file import File
from hubbub.testing.brokers import Inbox, Instance, payloads, publish
from told import collected_logs

MOUNTS = ["unshare", "--mount", "sh", "-c"]


def mounts() -> bool:
    """Tell whether a process here may mount something that only it sees."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*MOUNTS, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode == 0
    )


@pytest.fixture
async def engine(tmp_path):
    engine = SqliteEngine(tmp_path)
    yield engine
    await engine.close()


@pytest.fixture
async def instance(engine):
    return await engine.open()


async def start(path: Path) -> Instance:
    broker, inbox = SqliteBroker(SqliteStore(path)), Inbox()
    await broker.start(inbox)
    return Instance(broker.instance, broker, inbox)


async def refused(path: Path, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        await start(path)


# The disk


@pytest.mark.skipif(not mounts(), reason="it takes a process that may mount")
def test_a_full_disk_makes_publishing_fail_until_there_is_room(tmp_path):
    mount = [*MOUNTS, 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"', str(tmp_path)]
    process = child("sqlite_full_disk.py", tmp_path, "tmpfs", prefix=mount)
    output, _ = process.communicate(timeout=50)
    assert (process.returncode, output.endswith("done\n")) == (0, True), output


def test_a_file_that_may_not_grow_makes_publishing_fail_until_it_may(tmp_path):
    process = child("sqlite_full_disk.py", tmp_path, "limit")
    output, _ = process.communicate(timeout=50)
    assert (process.returncode, output.endswith("done\n")) == (0, True), output


async def test_trouble_is_logged_once_and_its_end_too(tmp_path, monkeypatch):
    pages = 45
    connect = File.connect_durably

    def connect_small(self: File) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    monkeypatch.setattr(File, "connect_durably", connect_small)
    instance = await start(tmp_path / "rooms.db")
    with collected_logs() as logs:
        for _ in range(10):
            await publish(instance, bytes(10_000))
        for _ in range(10):
            with pytest.raises(Unavailable, match=r"^The file .* lies on a disk that is full\.$"):
                await publish(instance, bytes(200_000))
        (record,) = logs.of("broker unavailable", file=str(tmp_path / "rooms.db"), during="writing")
        assert "Make room" in record.fields["remedy"]
        assert not logs.of("broker available")
        pages = 4000
        await publish(instance, b"x")
        assert len(logs.of("broker available")) == 1
    await instance.broker.stop()


@pytest.mark.skipif(not mounts(), reason="it takes a process that may mount")
async def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    instance = await start(tmp_path / "rooms.db")
    await instance.broker.stop()
    script = (
        "import asyncio, sys\n"
        "from hubbub.brokers.sqlite import *\n"
        "try:\n    asyncio.run(SqliteBroker(SqliteStore(sys.argv[1])).start(None))\n"
        "except Exception as problem:\n    print(type(problem).__name__, problem)\n"
    )
    (tmp_path / "start.py").write_text(script)
    mount = [*MOUNTS, 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', str(tmp_path)]
    process = child(str(tmp_path / "start.py"), tmp_path / "rooms.db", prefix=mount)
    output, _ = process.communicate(timeout=50)
    assert output.startswith("ConfigurationError")
    assert "can't be" in output


async def test_a_file_that_may_only_be_read_is_refused(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    instance = await start(tmp_path / "rooms.db")
    await instance.broker.stop()
    (tmp_path / "rooms.db").chmod(0o400)
    await refused(tmp_path / "rooms.db", "Let the user that runs hubbub write")


async def test_a_directory_that_there_is_not_is_told(tmp_path):
    await refused(tmp_path / "data" / "rooms.db", "Make the directory")


async def test_a_directory_is_no_file(tmp_path):
    await refused(tmp_path, "is a directory")
    assert not list(tmp_path.iterdir())


async def test_a_file_that_is_replaced_while_in_use_takes_no_more(engine, instance):
    await publish(instance, b"one")
    moved = engine.path.with_name("moved.db")
    engine.path.rename(moved)
    with pytest.raises(Unavailable, match="moved, replaced or removed"):
        await publish(instance, b"lost")
    engine.path.write_bytes(b"")
    with pytest.raises(Unavailable):
        await publish(instance, b"lost")
    moved.rename(engine.path)
    assert (await publish(instance, b"two")).offset == 2
    assert await payloads(instance) == [b"one", b"two"]


async def test_another_program_that_holds_the_file_makes_publishing_fail_for_as_long(engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.sqlite.file.BUSY", 0.05)
    instance = await engine.open()
    other = sqlite3.connect(engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked by another program"):
        await publish(instance, b"x")
    assert (await instance.broker.history("room", None, 10)).entries == []
    other.execute("COMMIT")
    other.close()
    assert (await publish(instance, b"x")).offset == 1


# Another's file


async def test_a_second_process_is_refused_and_told_which_has_the_file(tmp_path):
    process = child("sqlite_publisher.py", tmp_path / "rooms.db", 1)
    assert process.stdout is not None
    with process, process.stdout:
        while not process.stdout.readline().startswith("ack"):
            pass
        await refused(tmp_path / "rooms.db", f"in use by process {process.pid}. .*stop that one")
        process.kill()
    instance = await start(tmp_path / "rooms.db")
    assert await payloads(instance, "room 1")
    await instance.broker.stop()


async def test_a_second_store_in_the_same_process_is_refused(engine, instance):
    await refused(engine.path, "in use by this process")
    link = engine.path.with_name("link.db")
    link.symlink_to(engine.path)
    await refused(link, "in use by this process")
    assert (await publish(instance, b"x")).offset == 1


async def test_a_child_made_by_fork_does_not_hold_the_file(engine, instance):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        os.close(reader)
        await publish(instance, b"x")
        await instance.broker.stop()
        anew = await start(engine.path)
        assert await payloads(anew) == [b"x"]
        await anew.broker.stop()
    finally:
        os.close(writer)
        await asyncio.to_thread(os.waitpid, pid, 0)


async def test_what_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "rooms.db"
    path.write_bytes(b"Dear diary, " * 1000)
    await refused(path, "is no SQLite database")
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "rooms.db"
    rows(path, "CREATE TABLE customers(name)")
    before = path.read_bytes()
    await refused(path, "another program's")
    assert path.read_bytes() == before


async def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "rooms.db"
    await (await start(path)).broker.stop()
    rows(path, "PRAGMA user_version=2")
    await refused(path, r"another version of hubbub \(format 2, not 1\)")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER evil AFTER INSERT ON entries BEGIN DELETE FROM keys; END",
        "CREATE VIEW evil AS SELECT 1",
        "CREATE INDEX evil ON entries(at)",
        "DROP INDEX keys_by_name",
    ],
)
async def test_a_schema_that_is_not_hubbubs_is_refused(tmp_path, sql):
    path = tmp_path / "rooms.db"
    await (await start(path)).broker.stop()
    rows(path, sql)
    await refused(path, "hubbub did not make")


async def test_an_empty_file_is_filled(tmp_path):
    path = tmp_path / "rooms.db"
    path.write_bytes(b"")
    instance = await start(path)
    assert (await publish(instance, b"x")).offset == 1
    await instance.broker.stop()


# Damage


async def filled(path: Path) -> None:
    instance = await start(path)
    for room in range(5):
        await instance.broker.subscribe(f"room {room}")
        for number in range(40):
            text = b"%d %d" % (room, number)
            keep = Retention(30, 3600.0)
            await publish(instance, text + bytes(300), room=f"room {room}", key=f"{number}", keep=keep)
    await instance.broker.stop()


async def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "rooms.db"
    await filled(path)
    size = path.stat().st_size
    for left in (size - 4096, size // 2, 5000, 100, 7):
        shutil.copy(path, tmp_path / "cut.db")
        os.truncate(tmp_path / "cut.db", left)
        await refused(tmp_path / "cut.db", "damaged")


async def test_overwritten_bytes_never_make_a_wrong_answer(tmp_path):
    path, chance = tmp_path / "rooms.db", random.Random(4)
    await filled(path)
    whole = path.read_bytes()
    instance = await start(path)
    sound = {
        room: await instance.broker.history(room, None, 1000) for room in (f"room {n}" for n in range(5))
    }
    await instance.broker.stop()
    whole = path.read_bytes()
    outcomes = {"refused": 0, "unavailable": 0, "sound": 0}
    for turn in range(120):
        damaged = bytearray(whole)
        size = chance.choice([1, 8, 100, 4096])
        at = chance.randrange(len(whole) - size)
        damaged[at : at + size] = chance.choice([bytes(size), chance.randbytes(size)])
        if turn % 10 == 0:
            del damaged[at:]
        copy = tmp_path / f"{turn}.db"
        copy.write_bytes(damaged)
        shutil.copy(tmp_path / "rooms.db-lock", tmp_path / f"{turn}.db-lock")
        try:
            instance = await start(copy)
        except ConfigurationError:
            outcomes["refused"] += 1
            continue
        for room, expected in sound.items():
            try:
                history = await instance.broker.history(room, None, 1000)
                if history.position.epoch == expected.position.epoch:
                    assert history == expected
                else:
                    assert history.entries in ([], expected.entries)
                outcomes["sound"] += 1
                after = await publish(instance, b"after", room=room)
                assert after.epoch != expected.position.epoch or after.offset == expected.position.offset + 1
            except Unavailable:
                outcomes["unavailable"] += 1
        await instance.broker.stop()
    assert all(outcomes.values()), outcomes


async def test_a_damaged_message_is_told_and_others_are_read(engine, instance):
    for number in range(3):
        await publish(instance, b"message %d" % number)
    await publish(instance, b"x", room="another")
    await instance.broker.stop()
    data = engine.path.read_bytes()
    assert data.count(b"message 1") == 1
    engine.path.write_bytes(data.replace(b"message 1", b"message 7"))
    anew = await start(engine.path)
    with collected_logs() as logs, pytest.raises(Unavailable, match="is damaged"):
        await anew.broker.history("room", None, 10)
    (record,) = logs.of("broker unavailable", during="reading")
    assert "restore a backup" in record.fields["remedy"]
    assert await payloads(anew, "another") == [b"x"]
    assert [entry.payload for entry in (await anew.broker.history("room", None, 1)).entries] == [b"message 2"]
    await anew.broker.stop()


async def test_a_message_that_is_missing_is_told(engine, instance):
    for _ in range(3):
        await publish(instance, b"x")
    await instance.broker.stop()
    rows(engine.path, "DELETE FROM entries WHERE offset=2")
    anew = await start(engine.path)
    with pytest.raises(Unavailable, match="message 2 of room 1"):
        await anew.broker.history("room", None, 10)
    await anew.broker.stop()


async def test_what_is_damaged_is_not_written_to(engine, instance):
    for _ in range(3):
        await publish(instance, b"x")
    await instance.broker.stop()
    rows(engine.path, "DELETE FROM entries WHERE offset=3")
    anew = await start(engine.path)
    for room in ("room", "another"):
        with pytest.raises(Unavailable, match="is damaged"):
            await publish(anew, b"y", room=room)
    await anew.broker.stop()
    assert rows(engine.path, "SELECT count(*) FROM entries") == [(2,)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE rooms SET offset=7",
        "UPDATE rooms SET epoch='another'",
        "UPDATE rooms SET name='rook'",
        "UPDATE meta SET value=1 WHERE name='secret'",
        "UPDATE meta SET value='now' WHERE name='at'",
        "DELETE FROM meta WHERE name='life'",
    ],
)
async def test_what_makes_positions_is_judged_at_the_start(engine, instance, sql):
    await publish(instance, b"x")
    await instance.broker.stop()
    rows(engine.path, sql)
    await refused(engine.path, "is damaged")


async def test_a_key_whose_position_is_damaged_is_told(engine, instance):
    await publish(instance, b"x", key="k")
    await instance.broker.stop()
    rows(engine.path, "UPDATE keys SET offset=7")
    anew = await start(engine.path)
    with pytest.raises(Unavailable, match="is damaged"):
        await publish(anew, b"x", key="k")
    await anew.broker.stop()


async def test_a_refused_file_can_be_used_as_soon_as_it_is_put_right(tmp_path):
    path = tmp_path / "rooms.db"
    path.write_bytes(b"Dear diary, " * 1000)
    broker = SqliteBroker(SqliteStore(path))
    with pytest.raises(ConfigurationError):
        await broker.start(Inbox())
    path.unlink()
    await broker.start(Inbox())
    await asyncio.wait_for(broker.subscribe("room"), 5)
    await broker.stop()
