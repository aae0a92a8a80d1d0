"""Who comes and goes is announced: at once in a quiet room, gathered in a busy one, and rightly in any."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from hubbub import Member, Unavailable
from hubbub.brokers.base import Entry
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.announcements import JOINED, LEFT, MOST, Announcements, Change
from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Publication

pytestmark = pytest.mark.anyio

ROOM = "room"


class Recorded(MemoryBroker):
    """Notes what is published and how often it is asked; fails as long as `away` is set."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.told: list[tuple[str, list[str]]] = []
        self.excluded: list[str | None] = []
        self.asked = 0
        self.away = False
        self.changed = asyncio.Event()
        self.moments: list[float] = []

    async def publish(self, room, payload, *, sender, key, keep):
        if self.away:
            raise Unavailable("The broker is away.")
        publication = msgspec.msgpack.decode(payload, type=Publication)
        members = msgspec.msgpack.decode(publication.data, type=list[Member])
        self.told.append((publication.type, [member.user for member in members]))
        self.moments.append(asyncio.get_running_loop().time())
        self.excluded.append(publication.exclude)
        self.changed.set()
        return await super().publish(room, payload, sender=sender, key=key, keep=keep)

    async def members(self, room):
        self.asked += 1
        return await super().members(room)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.told) < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def announcing(broker: Recorded, *, subscribed: bool = True) -> AsyncIterator[Announcements]:
    announcements = Announcements(broker, lambda room: subscribed)
    task = asyncio.create_task(announcements.run())
    try:
        yield announcements
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def came(user: str) -> Change:
    return Change(JOINED, Member(user), f"session of {user}")


def went(user: str) -> Change:
    return Change(LEFT, Member(user), f"session of {user}")


def heard(kind: str, *users: str, sender: str = "other") -> tuple[str, Entry, Publication]:
    publication = Publication(kind, msgspec.Raw(pack([Member(user) for user in users])))
    return ROOM, Entry(None, b"", sender), publication


async def test_the_first_is_announced_at_once_and_those_after_it_together():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        assert broker.told == [(JOINED, ["ada"])]
        for user in ("bob", "cleo"):
            await announcements.tell(ROOM, came(user))
        await announcements.tell("other", came("dan"))
        assert broker.told == [(JOINED, ["ada"]), (JOINED, ["dan"])]
        await broker.until(3)
        assert broker.told[2] == (JOINED, ["bob", "cleo"])
        assert broker.excluded == ["session of ada", "session of dan", None]
        assert broker.asked == 0


async def test_a_room_hears_of_it_ten_times_a_second_at_most():
    broker = Recorded()
    async with announcing(broker) as announcements:
        for number in range(60):
            await announcements.tell(ROOM, came(str(number)))
            await asyncio.sleep(0.01)
        await announcements.flush()
    apart = [later - earlier for earlier, later in zip(broker.moments, broker.moments[1:-1], strict=False)]
    assert min(apart) > 0.09
    assert [user for _, users in broker.told for user in users] == [str(number) for number in range(60)]


async def test_who_comes_and_goes_meanwhile_is_not_announced():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        for change in (came("bob"), went("ada"), went("bob"), came("ada"), came("cleo")):
            await announcements.tell(ROOM, change)
        await broker.until(2)
        assert broker.told[1:] == [(JOINED, ["cleo"])]


async def test_goings_are_told_before_comings():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("guest:1"))
        await announcements.tell(ROOM, came("ada"))
        await announcements.tell(ROOM, went("guest:1"))
        await broker.until(3)
        assert broker.told[1:] == [(LEFT, ["guest:1"]), (JOINED, ["ada"])]


async def test_many_are_told_at_once_and_in_several_messages():
    broker = Recorded()
    async with announcing(broker) as announcements:
        for number in range(MOST + 1):
            await announcements.tell(ROOM, came(str(number)))
        before = asyncio.get_running_loop().time()
        await broker.until(5)
        assert [len(users) for _, users in broker.told] == [1, 250, 250, 250, 250]
        assert broker.moments[1] - before < 0.05


async def test_who_moved_to_another_instance_is_not_said_to_be_gone():
    store = MemoryStore()
    here, there = Recorded(store), Recorded(store)
    async with announcing(here) as announcements:
        await announcements.tell(ROOM, came("bob"))
        await announcements.tell(ROOM, went("ada"))
        await there.enter(ROOM, "ada", "1", pack(Member("ada")))
        announcements.heard(*heard(JOINED, "ada"))
        await announcements.flush()
        assert here.told == [(JOINED, ["bob"])]
        assert here.asked == 1


async def test_who_is_said_to_be_gone_by_another_instance_but_is_there_is_announced_again():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await broker.enter(ROOM, "ada", "1", pack(Member("ada", "details")))
        await announcements.tell(ROOM, came("ada"))
        announcements.heard(*heard(LEFT, "ada"))  # overtaken: of before
        await broker.until(2)
        assert broker.told[1] == (JOINED, ["ada"])


async def test_who_is_gone_and_was_said_to_be_by_another_instance_is_not_told_again():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        announcements.heard(*heard(LEFT, "ada"))
        await announcements.flush()
        assert broker.told == [(JOINED, ["ada"])]
        assert broker.asked == 1


async def test_an_instance_that_hears_nothing_of_the_room_asks_who_is_there():
    broker = Recorded()
    async with announcing(broker, subscribed=False) as announcements:
        await broker.enter(ROOM, "ada", "1", pack(Member("ada")))
        await announcements.tell(ROOM, went("bob"))
        await announcements.tell(ROOM, went("ada"))
        await announcements.tell(ROOM, went("cleo"))
        await broker.until(3)
        assert broker.told[1:] == [(LEFT, ["cleo"]), (JOINED, ["ada"])]


async def test_what_it_hears_of_itself_and_what_can_not_be_read_changes_nothing():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        announcements.heard(*heard(LEFT, "ada", sender=broker.instance))
        announcements.heard(ROOM, Entry(None, b"", "x"), Publication(LEFT, msgspec.Raw(b"\xc1")))
        announcements.heard(ROOM, Entry(None, b"", "x"), Publication("$gap", msgspec.Raw(b"\xc0")))
        await announcements.flush()
        assert (broker.told, broker.asked) == ([(JOINED, ["ada"])], 0)


async def test_what_could_not_be_announced_is_announced_when_the_broker_is_back(monkeypatch, logs):
    monkeypatch.setattr("hubbub.engine.announcements.RETRY", 0.01)
    broker = Recorded()
    async with announcing(broker) as announcements:
        await broker.enter(ROOM, "bob", "1", pack(Member("bob")))
        await announcements.tell(ROOM, came("ada"))
        await announcements.tell(ROOM, came("bob"))
        broker.away = True
        await announcements.tell("other", went("cleo"))
        with pytest.raises(Unavailable):
            await announcements.tell("third", came("dan"))
        await logs.wait("presence", announcing="fails")
        assert len(broker.told) == 1
        broker.away = False
        await broker.until(3)
        assert sorted(broker.told[1:]) == [(JOINED, ["bob"]), (LEFT, ["cleo"])]
    assert len(logs.of("presence", announcing="fails")) == 1


async def test_what_was_being_announced_when_it_stopped_is_not_lost():
    class Slow(Recorded):
        held: asyncio.Event | None = None

        async def publish(self, room, payload, **options):
            if self.held is not None:
                self.held.set()
                await asyncio.Event().wait()
            return await super().publish(room, payload, **options)

    broker = Slow()
    await broker.enter(ROOM, "bob", "1", pack(Member("bob")))
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        broker.held = asyncio.Event()
        await announcements.tell(ROOM, came("bob"))
        await broker.held.wait()
    broker.held = None
    assert await announcements.flush()
    assert broker.told[1:] == [(JOINED, ["bob"])]


async def test_a_quiet_room_is_forgotten():
    broker = Recorded()
    async with announcing(broker) as announcements:
        await announcements.tell(ROOM, came("ada"))
        async with asyncio.timeout(5):
            while announcements._rounds:  # noqa: ASYNC110  # forgetting has no event
                await asyncio.sleep(0.01)
        await announcements.tell(ROOM, went("ada"))
        assert broker.told == [(JOINED, ["ada"]), (LEFT, ["ada"])]


async def test_what_nobody_thought_of_does_not_end_the_announcing(monkeypatch, logs):
    monkeypatch.setattr("hubbub.engine.announcements.RETRY", 0.01)
    broker = Recorded()
    async with announcing(broker) as announcements:
        announce = announcements._announce_to

        def broken(*arguments):
            announcements._announce_to = announce
            raise ZeroDivisionError

        announcements._announce_to = broken
        for user in ("ada", "bob"):
            await announcements.tell(ROOM, came(user))
        await broker.until(2)
        assert broker.told[1:] == [(JOINED, ["bob"])]
    assert logs.of("error", during="announcing presence")
