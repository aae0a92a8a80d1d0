"""kill -9: what was acknowledged is there, once, and everything goes on from there."""

import random

from brokers.sqlite_engine import child
from hubbub.brokers.base import Retention
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox, Instance, publish

LIVES = 6
KEEP = Retention(1_000_000, 3600.0)


def live(path, life: int, lines: int) -> list[tuple[str, str, int, str]]:
    """Let a child publish until it has printed so many lines, kill it, and return all that it printed."""
    process = child("sqlite_publisher.py", path, life)
    assert process.stdout is not None
    with process, process.stdout:
        printed = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        printed += process.stdout.readlines()
    told = [line.rstrip("\n").split("\t") for line in printed if line.endswith("\n")]
    return [(what, room, int(offset), text) for what, room, offset, text in told]


async def test_every_acknowledged_message_outlives_kills_once_and_offsets_and_keys_go_on(tmp_path):
    path, chance = tmp_path / "rooms.db", random.Random(4)
    acknowledged: dict[tuple[str, int], str] = {}
    secrets, epochs = set(), set()
    for life in range(LIVES):
        told = live(path, life, chance.randrange(50, 1500))
        new = {(room, offset): text for what, room, offset, text in told if what == "ack"}
        assert not new.keys() & acknowledged.keys()
        acknowledged |= new
        broker = SqliteBroker(SqliteStore(path))
        await broker.start(Inbox())
        secrets.add(await broker.secret())
        for room in {room for _, room, _, _ in told}:
            begins = await broker.subscribe(room)
            epochs.add((room, begins.epoch))
            kept = await everything(broker, room, begins.epoch)
            assert [entry.offset for entry in kept] == list(range(1, begins.offset + 1))
            assert len({entry.payload for entry in kept}) == len(kept)
            for (where, offset), text in acknowledged.items():
                if where == room:
                    assert kept[offset - 1].payload == text.encode()
        instance = Instance(broker.instance, broker, Inbox())
        # A client asks again for what it has no acknowledgement of, and may do so for what it has.
        for what, room, offset, text in told:
            again = await publish(instance, text.encode(), room=room, key=text, keep=KEEP)
            if what == "ack":
                assert again.offset == offset
        for room, epoch in epochs:
            found = [entry.payload for entry in await everything(broker, room, epoch)]
            assert len(set(found)) == len(found)
            assert {text.encode() for _, where, _, text in told if where == room} <= set(found)
        await broker.stop()
    assert len(secrets) == 1
    assert len(epochs) == 3
    assert len(acknowledged) > 500


async def everything(broker, room, epoch):
    entries, at = [], Position(epoch, 0)
    while (page := await broker.history(room, at, 100)).entries:
        assert page.complete
        entries += page.entries
        at = page.position
    return entries
