"""What a broker does whose disk fills up: run with a directory, and how it is to fill."""

import asyncio
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hubbub.brokers.base import Retention
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore
from hubbub.errors import ConfigurationError, Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox

KEEP = Retention(1_000_000, 3600.0)
PAYLOAD = bytes(10_000)


def fill_the_file_system(directory: Path) -> Callable[[], None]:
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler.unlink


def limit_the_size_of_files(directory: Path) -> Callable[[], None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in directory.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 50_000, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def main(directory: Path, way: str) -> None:
    path = directory / "rooms.db"
    broker, inbox = SqliteBroker(SqliteStore(path)), Inbox()
    await broker.start(inbox)
    begins = await broker.subscribe("room")
    acknowledged: dict[int, str] = {}
    failures: list[str] = []

    async def publish(number: int) -> None:
        text = f"{number}"
        try:
            position = await broker.publish("room", text.encode() + PAYLOAD, sender=None, key=text, keep=KEEP)
        except Unavailable as unavailable:
            failures.append(str(unavailable))
        else:
            assert position.offset not in acknowledged
            acknowledged[position.offset] = text

    async def check() -> None:
        at, found = begins, {}
        while (page := await broker.history("room", at, 50)).entries:
            assert page.complete
            for entry in page.entries:
                text = entry.payload.removesuffix(PAYLOAD).decode()
                assert text not in found.values()
                found[entry.offset] = text
            at = page.position
        assert acknowledged == {offset: text for offset, text in found.items() if offset in acknowledged}
        assert list(found) == list(range(1, len(found) + 1))

    await asyncio.gather(*(publish(number) for number in range(20)))
    assert not failures
    make_room = (fill_the_file_system if way == "tmpfs" else limit_the_size_of_files)(directory)
    for turn in range(1, 30):
        await asyncio.gather(*(publish(turn * 100 + number) for number in range(20)))
        if len(failures) > 100:
            break
    print(f"failed {len(failures)}, acknowledged {len(acknowledged)}")
    assert len(failures) > 100
    # Clients are told so, but not where the file is.
    (told,) = set(failures)
    print(told)
    assert str(directory) not in told
    # Reading, coming and what is not kept go on.
    await check()
    await broker.subscribe("another")
    await broker.publish("room", b"typing", sender=None, key=None, keep=None)
    assert inbox.deliveries[-1][1].payload == b"typing"
    make_room()
    before = len(acknowledged)
    failures.clear()
    await asyncio.gather(*(publish(100_000 + number) for number in range(20)))
    assert not failures
    assert len(acknowledged) == before + 20
    await check()
    arrived = [entry.offset for entry in inbox.of("room") if entry.offset is not None]
    assert arrived == sorted(set(arrived))
    assert set(arrived) >= set(acknowledged)
    await broker.stop()

    # A new file on a full disk.
    if way == "tmpfs":
        make_room = fill_the_file_system(directory)
        fresh = SqliteBroker(SqliteStore(directory / "new.db"))
        with pytest.raises(ConfigurationError, match="full"):
            await fresh.start(Inbox())
        make_room()
        await fresh.start(Inbox())
        assert (await fresh.history("room", Position("", 0), 1)).entries == []
        await fresh.stop()
    print("done")


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
