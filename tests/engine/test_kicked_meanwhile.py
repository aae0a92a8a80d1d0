"""Joins, leaves, logins, kicks and bans at the same time: who is shown in a room is who is in it."""

import asyncio
import random
from contextlib import suppress

import pytest

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, InvalidMessage, Settings
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.hub import Hub
from hubbub.engine.membership import Memberships, inbox_of
from hubbub.engine.room import Room, Rooms

pytestmark = pytest.mark.anyio

ROOM = "room/a"


class Distant(MemoryBroker):
    """Takes some turns of the event loop for each call, before it or after it."""

    def __init__(self, store: MemoryStore, chance: random.Random) -> None:
        super().__init__(store)
        self._chance = chance

    async def _way(self) -> None:
        for _ in range(self._chance.choice((0, 0, 0, 1, 3, 20))):
            await asyncio.sleep(0)

    async def subscribe(self, room):
        await self._way()
        position = await super().subscribe(room)
        await self._way()
        return position

    async def unsubscribe(self, room):
        await self._way()
        await super().unsubscribe(room)

    async def enter(self, *arguments):
        await self._way()
        first = await super().enter(*arguments)
        await self._way()
        return first

    async def leave(self, *arguments):
        await self._way()
        last = await super().leave(*arguments)
        await self._way()
        return last

    async def history(self, *arguments):
        await self._way()
        history = await super().history(*arguments)
        await self._way()
        return history

    async def publish(self, *arguments, **options):
        await self._way()
        position = await super().publish(*arguments, **options)
        await self._way()
        return position


class Instance:
    """A hub and a client of ada's on it."""

    def __init__(self, store: MemoryStore, chance: random.Random) -> None:
        self.broker = Distant(store, chance)
        self.hub = Hub(Settings())
        self.rooms = Rooms(
            self.hub, "room/{name}", history=10, history_age=60, presence=True, place="", bans=True
        )
        inboxes = Rooms(self.hub, inbox_of("{user}"), history=0, history_age=60, presence=False, place="")
        self.connection: Connection
        self.line: FakeTransport
        self.connection, self.line = fake_connection()
        self.connection.user = "ada"
        self.memberships = Memberships(self.hub, self.connection, [self.rooms], inboxes)
        self.connection.memberships = self.memberships

    async def start(self) -> None:
        await self.hub.start(self.broker)
        self.hub.connections[self.connection.id] = self.connection

    @property
    def room(self) -> Room:
        return self.rooms(name="a")

    async def join(self) -> None:
        with suppress(InvalidMessage):
            await (await self.memberships.join(ROOM, None)).run()

    async def leave(self) -> None:
        with suppress(InvalidMessage):
            await self.memberships.leave(ROOM)

    async def settle(self) -> None:
        await self.hub.running.users.stop(5)

    async def check(self) -> None:
        """Check that all parts agree on whether the client is in the room."""
        inside = ROOM in self.memberships.names
        subscription = self.hub.running.subscriptions._by_room.get(ROOM)
        delivered = subscription is not None and any(
            self.connection.outbox in outboxes for outboxes in subscription.forms.values()
        )
        assert (subscription is not None, delivered) == (inside, inside)
        shown = self.broker.store.stream(ROOM).members.get("ada", {})
        assert (self.connection.id in shown) == inside


@pytest.mark.parametrize("seed", range(40))
async def test_who_is_kicked_while_they_come_and_go_is_in_or_out_but_never_both(seed):
    chance = random.Random(seed)
    store = MemoryStore()
    instances = [Instance(store, chance) for _ in range(2)]
    for instance in instances:
        await instance.start()

    async def come_and_go(instance: Instance) -> None:
        for _ in range(6):
            await chance.choice([instance.join, instance.join, instance.leave])()
            await asyncio.sleep(0)

    async def moderate() -> None:
        for _ in range(4):
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            await chance.choice(instances).room.kick("ada")

    async with asyncio.TaskGroup() as tasks:
        for instance in instances:
            tasks.create_task(come_and_go(instance))
        tasks.create_task(moderate())
    for instance in instances:
        await instance.settle()
        await instance.check()
    for instance in instances:
        await instance.memberships.leave_all()
        await instance.settle()
        await instance.check()
        await instance.hub.stop()


@pytest.mark.parametrize("seed", range(40))
async def test_whoever_joins_while_they_are_banned_is_out_in_the_end(seed):
    chance = random.Random(seed)
    store = MemoryStore()
    instances = [Instance(store, chance) for _ in range(2)]
    for instance in instances:
        await instance.start()

    async def join(instance: Instance) -> None:
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        await instance.join()

    async with asyncio.TaskGroup() as tasks:
        for instance in instances:
            tasks.create_task(join(instance))
        tasks.create_task(instances[0].room.ban("ada", seconds=60))
    for instance in instances:
        await instance.settle()
        assert instance.memberships.names == []
        await instance.check()
        await instance.join()
        assert instance.memberships.names == []
        await instance.room.unban("ada")
        await instance.join()
        assert instance.memberships.names == [ROOM]
        await instance.room.ban("ada", seconds=60)
        await instance.settle()
    for instance in instances:
        await instance.memberships.leave_all()
        await instance.hub.stop()
    assert "ada" not in store.stream(ROOM).members
