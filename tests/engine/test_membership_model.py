"""Joins, publishes, trims, leaves and lost lines in any order: a member's view has no gap it was not told of.

The server puts members in and takes them out, too, while they join and leave by themselves.

There are no sockets here, and no timing: every answer of the broker and every delivery of its feed waits
until a rule lets it go.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, InvalidMessage, Position, Settings
from hubbub.brokers.base import Entry, History, Receiver, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.hub import Hub
from hubbub.engine.membership import Memberships, inbox_of
from hubbub.engine.room import Rooms
from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Envelope, Publication

ROOM, OTHER_ROOM = "room", "other"
AGE = 10.0
MANY_TURNS = 20_000
CLIENTS = strategies.integers(0, 2)


class SlowBroker(MemoryBroker):
    """A broker whose answers and deliveries wait until they are let go."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.answers: list[asyncio.Future[None]] = []
        self.deliveries: deque[tuple[str, Entry, str]] = deque()
        self.hurrying = False
        self.receiver: Receiver | None = None

    async def _wait(self) -> None:
        if not self.hurrying:
            answer = asyncio.get_running_loop().create_future()
            self.answers.append(answer)
            await answer

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        await super().start(self)

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        self.deliveries.append((room, entry, epoch))

    def control(self, payload: bytes) -> None: ...

    async def subscribe(self, room: str) -> Position:
        position = await super().subscribe(room)
        await self._wait()
        return position

    async def unsubscribe(self, room: str) -> None:
        await self._wait()
        await super().unsubscribe(room)
        # What the feed still holds would come again to those who subscribe anew.
        self.deliveries = deque(delivery for delivery in self.deliveries if delivery[0] != room)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        await self._wait()
        found = await super().history(room, since, limit)
        await self._wait()
        return found

    def let_go(self, which: int) -> None:
        self.answers.pop(which % len(self.answers)).set_result(None)

    def feed(self) -> None:
        assert self.receiver is not None
        self.receiver.deliver(*self.deliveries.popleft())


class Member:
    """One client, over its connections: what it has seen, checked as it arrives."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self.seen: Position | None = None
        """The last position it knows."""
        self.wants_to_be_in = False
        self.task: asyncio.Task[None] | None = None
        self.reconnect()

    def reconnect(self) -> None:
        hub = self._model.hub
        self.connection: Connection
        self.line: FakeTransport
        self.connection, self.line = fake_connection(flusher=hub.flusher)
        self.memberships = Memberships(hub, self.connection, [self._model.rooms], self._model.inboxes)
        self.connection.on_lost = self.memberships.detach
        hub.sessions.begin(self.connection)
        self.wants_to_be_in = self.joined = False
        self.moved = False
        """Whether the server has put it in or taken it out."""

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()

    def start(self, work: Callable[[Connection, Memberships], Coroutine[Any, Any, None]]) -> None:
        """Begin to do what the session of the present connection would."""
        self.task = self._model.loop.create_task(work(self.connection, self.memberships))

    def look(self) -> None:
        """Check what has arrived since the last look."""
        arrived, self.line.written = self.line.envelopes, []
        for envelope in arrived:
            kind, data = envelope["type"], envelope.get("data")
            if kind == "$ack":
                self.joined = data is not None
                if data is not None:
                    self.seen = Position(**data)
            elif kind == "$join":
                assert not self.joined
                self.joined, self.seen = True, Position(**data)
            elif kind == "$leave":
                assert self.joined
                self.joined = False
            elif kind == "$gap":
                gap = Position(**data)
                assert self.joined
                assert gap != self.seen, "told of a gap where there is none"
                self.seen = gap
            elif envelope.get("offset") is None:
                assert data == {"ephemeral": True}
            else:
                self._take(envelope["offset"], data)

    def _take(self, offset: int, data: object) -> None:
        assert self.joined
        assert self.seen is not None
        epoch = self.seen.epoch
        published, excluded = self._model.log[epoch, offset]
        assert data == published
        assert excluded != self.connection.session
        self._may_lack(range(self.seen.offset + 1, offset))
        assert offset > self.seen.offset, "seen again"
        self.seen = Position(epoch, offset)

    def _may_lack(self, offsets: range) -> None:
        assert self.seen is not None
        for offset in offsets:
            _, excluded = self._model.log[self.seen.epoch, offset]
            assert excluded == self.connection.session, f"{offset} is missing"

    def has_everything(self, newest: Position) -> None:
        assert self.seen is not None
        assert self.seen.epoch == newest.epoch
        self._may_lack(range(self.seen.offset + 1, newest.offset + 1))


async def join(since: Position | None, connection: Connection, memberships: Memberships) -> None:
    replay = await memberships.join(ROOM, since)
    connection.deliver(Envelope("$ack", data=replay.begins))
    await replay.run()


async def leave(connection: Connection, memberships: Memberships) -> None:
    try:
        await memberships.leave(ROOM)
    except InvalidMessage:
        return  # the server was first
    connection.deliver(Envelope("$ack"))


async def put_in(connection: Connection, memberships: Memberships) -> None:
    try:
        await memberships.put_in(ROOM)
    except InvalidMessage:
        assert connection.closing


async def take_out(connection: Connection, memberships: Memberships) -> None:
    with suppress(InvalidMessage):  # it is not in the room
        await memberships.take_out(ROOM)


class Model(RuleBasedStateMachine):
    """Three clients of one instance; another instance publishes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.log: dict[tuple[str, int], tuple[object, str | None]] = {}
        self.store = MemoryStore(clock=lambda: self.now, lease=1e9)
        self.broker = SlowBroker(self.store)
        self.publisher = MemoryBroker(self.store)
        self.hub = Hub(Settings(lease=1e6))
        self.members: list[Member] = []
        self.cleaning: list[asyncio.Task[None]] = []
        self.moving: list[asyncio.Task[None]] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(kept=strategies.sampled_from([0, 1, 3, 1000]))
    def begin(self, kept: int) -> None:
        self.retention = Retention(kept, AGE)
        self.rooms, self.inboxes = (
            Rooms(self.hub, pattern, history=kept, history_age=AGE, presence=False, place="here")
            for pattern in (ROOM, inbox_of("{user}"))
        )
        self.run(self.hub.start(self.broker))
        self.members = [Member(self) for _ in range(3)]

    @rule(count=strategies.sampled_from([1, 2, 150]), excluded=strategies.none() | CLIENTS)
    def publish(self, count: int, excluded: int | None) -> None:
        session = None if excluded is None else self.members[excluded].connection.session
        for _ in range(count):
            data = {"number": len(self.log)}
            payload = pack(Publication("say", msgspec.Raw(pack(data)), None, session))
            keep = self.retention
            position = self.run(self.publisher.publish(ROOM, payload, sender=None, key=None, keep=keep))
            self.log[position.epoch, position.offset] = (data, session)

    @rule()
    def publish_ephemerally(self) -> None:
        payload = pack(Publication("say", msgspec.Raw(pack({"ephemeral": True})), None, None))
        self.run(self.publisher.publish(ROOM, payload, sender=None, key=None, keep=None))

    @rule()
    def publish_elsewhere(self) -> None:
        """Has the store forget the room, if it has nothing to remember."""
        for _ in range(3):
            self.run(self.publisher.publish(OTHER_ROOM, b"", sender=None, key=None, keep=None))

    @rule(seconds=strategies.sampled_from([AGE / 2, AGE * 2]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=CLIENTS, since=strategies.sampled_from(["nothing", "seen", "beyond", "another"]))
    def join(self, which: int, since: str) -> None:
        member = self.members[which]
        if member.busy:
            return
        seen = member.seen or Position("another", 3)
        positions = {
            "nothing": None,
            "seen": member.seen,
            "beyond": Position(seen.epoch, seen.offset + 1000),
            "another": Position("another", seen.offset),
        }
        member.wants_to_be_in = True
        member.start(functools.partial(join, positions[since]))

    @rule(which=CLIENTS)
    def leave(self, which: int) -> None:
        member = self.members[which]
        if member.wants_to_be_in and not member.busy:
            member.wants_to_be_in = False
            member.start(leave)

    @rule(which=CLIENTS, work=strategies.sampled_from([put_in, take_out]))
    def move(self, which: int, work: Callable[[Connection, Memberships], Coroutine[Any, Any, None]]) -> None:
        """Have another task of the server's do it, whatever the session is doing."""
        member = self.members[which]
        member.moved = True
        self.moving.append(self.loop.create_task(work(member.connection, member.memberships)))

    @rule(which=CLIENTS)
    def lose_the_line(self, which: int) -> None:
        member = self.members[which]
        member.look()
        lost, memberships, connection = member.task, member.memberships, member.connection

        async def clean_up() -> None:
            if lost is not None:
                await asyncio.wait([lost])
            self.hub.sessions.end(connection)
            if memberships:
                await memberships.leave_all()

        member.line.end()
        member.reconnect()
        # The new connection has a task of its own; the old one's is over as soon as the broker answers.
        member.task = None
        self.cleaning.append(self.loop.create_task(clean_up()))

    @rule(which=CLIENTS)
    def stop_reading(self, which: int) -> None:
        self.members[which].connection.pause_writing()

    @rule(which=CLIENTS)
    def read_again(self, which: int) -> None:
        self.run(self._read_again(self.members[which]))

    async def _read_again(self, member: Member) -> None:
        member.connection.resume_writing()

    @precondition(lambda self: self.broker.answers)
    @rule(which=strategies.integers(0, 10))
    def answer(self, which: int) -> None:
        self.broker.let_go(which)

    @precondition(lambda self: self.broker.deliveries)
    @rule(count=strategies.sampled_from([1, 2, 200]))
    def feed(self, count: int) -> None:
        self.run(self._feed(count))

    async def _feed(self, count: int) -> None:
        for _ in range(min(count, len(self.broker.deliveries))):
            self.broker.feed()

    @rule()
    def turn(self) -> None:
        self.run(asyncio.sleep(0))

    @invariant()
    def views_have_no_untold_gap(self) -> None:
        for member in self.members:
            member.look()

    def teardown(self) -> None:
        try:
            self.run(self._settle())
            in_it = any(ROOM in member.memberships.names for member in self.members)
            assert self.hub.running.subscriptions.holds(ROOM) == in_it
            for member in self.members:
                member.look()
                assert member.joined == (ROOM in member.memberships.names)
                assert member.moved or member.joined == member.wants_to_be_in
                if member.joined:
                    stream = self.store.stream(ROOM)
                    member.has_everything(Position(stream.epoch, stream.offset))
        finally:
            self.run(self._clear_up())
            self.loop.close()

    async def _settle(self) -> None:
        """Let everything that is under way come to its end."""
        self.broker.hurrying = True
        tasks = [member.task for member in self.members if member.task] + self.cleaning + self.moving
        for _ in range(MANY_TURNS):
            for member in self.members:
                member.connection.resume_writing()
            if self.broker.answers:
                self.broker.let_go(0)
            if self.broker.deliveries:
                self.broker.feed()
            await asyncio.sleep(0)
            if not (self.broker.answers or self.broker.deliveries) and all(task.done() for task in tasks):
                break
        assert all(task.done() for task in tasks), "somebody waits for what will never come"
        for task in tasks:
            task.result()
        for member in self.members:
            member.connection.resume_writing()

    async def _clear_up(self) -> None:
        await self.hub.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
