"""The server's side of the models: instances, a broker that can be held up, a loop with still time."""

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from hubbub import Connection, Denied, Hubbub, Message, Position, Room, Settings
from hubbub.brokers.base import Entry, History, Receiver, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.errors import Unavailable
from hubbub.protocol.envelope import Publication
from model.lines import Line

AGE = 10.0
WINDOW = 300.0
LIFETIME = 3600.0
MANY_TURNS = 50_000
MANY_ROUNDS = 60
NEVER = 1e9

SETTINGS = Settings(
    drain=5.0, lease=NEVER, deduplication_window=WINDOW, session_lifetime=LIFETIME, inbox_history=5,
    ping_interval=NEVER, ping_timeout=NEVER, handshake_timeout=NEVER, close_timeout=5.0,
    max_message_rate=NEVER, max_message_burst=1_000_000_000,
)  # fmt: skip


class Say(Message):
    """Is published to the room, in some parts; hidden from the session that says it."""

    number: int
    parts: int = 1
    hidden: bool = False


class Remind(Message):
    """Is published to a user's inbox."""

    number: int
    user: str


class Said(Message):
    number: int
    part: int


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.problems: list[dict[str, Any]] = []
        super().__init__()
        self.set_exception_handler(lambda _, context: self.problems.append(context))

    def time(self) -> float:
        return self.now

    def turns(self, count: int) -> None:
        """Have the loop run so many turns."""
        self.run_until_complete(_turns(count))

    def settle(self) -> None:
        """Run until nothing is left to do at this moment."""
        for _ in range(MANY_TURNS):
            self.turns(1)
            if not self._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("something runs on and on")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in steps, so that the timers of each find their time."""
        until = self.now + seconds
        step = seconds / 10
        while self.now < until:
            self.now = min(self.now + step, until)
            self.turns(2)

    def end(self) -> None:
        """End all tasks, and the loop."""
        for _ in range(MANY_ROUNDS):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            # What cleans up in spite of being cancelled has some time to do so.
            self.pass_time(10.0)
        self.close()
        assert not tasks, tasks


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Published(NamedTuple):
    """What a room was given at a position."""

    number: int
    part: int
    excluded: str | None
    at: float


class Ledger:
    """Everything that was ever published with an offset."""

    def __init__(self, loop: StillLoop) -> None:
        self._loop = loop
        self._by_position: dict[tuple[str, str, int], Published] = {}

    def add(self, room: str, position: Position, payload: bytes) -> None:
        publication = msgspec.msgpack.decode(payload, type=Publication)
        said = msgspec.msgpack.decode(publication.data, type=Said)
        place = (room, position.epoch, position.offset)
        assert place not in self._by_position, "a position was given twice"
        self._by_position[place] = Published(said.number, said.part, publication.exclude, self._loop.now)

    def at(self, room: str, epoch: str, offset: int) -> Published:
        found = self._by_position.get((room, epoch, offset))
        assert found is not None, f"nothing was published to {room} at {offset} of {epoch}"
        return found

    def of(self, number: int) -> Iterator[tuple[str, Published]]:
        """Yield what was published for a number, each with its epoch."""
        for (_, epoch, _), published in self._by_position.items():
            if published.number == number:
                yield epoch, published

    def everything(self) -> Iterator[tuple[tuple[str, str, int], Published]]:
        """Yield all of it, each with its room, epoch and offset."""
        yield from self._by_position.items()


class Store(MemoryStore):
    """Rooms that can be lost, as those of an engine that was started anew."""

    def empty(self, *, secret: bool) -> None:
        """Forget all rooms, and perhaps the secret."""
        self.streams.clear()
        self.instances.clear()
        self._life = secrets.token_bytes(16)
        if secret:
            self.secret = secrets.token_bytes(32)


class SlowBroker(MemoryBroker):
    """One instance's broker. While it is held, its calls and deliveries wait until they are let go."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        super().__init__(store)
        self._ledger = ledger
        self.held = False
        self.dead = False
        self.calls: list[asyncio.Future[None]] = []
        self.deliveries: deque[tuple[str, Entry, str]] = deque()
        self.controls: deque[bytes] = deque()
        self._hub: Receiver | None = None

    async def start(self, receiver: Receiver) -> None:
        self._hub = receiver
        await super().start(self)

    async def stop(self) -> None:
        await super().stop()
        self.deliveries.clear()

    # What the tests do

    def let_go(self, which: int, *, fails: bool = False) -> None:
        """Let one call go on; if it fails, the engine could not be reached, before or after it was done."""
        call = self.calls.pop(which % len(self.calls))
        if call.done():
            return  # whoever made it was cancelled
        if fails:
            call.set_exception(Unavailable("away"))
        else:
            call.set_result(None)

    def feed(self, count: int) -> None:
        """Bring what waits to the hub."""
        assert self._hub is not None
        for _ in range(min(count, len(self.deliveries))):
            self._hub.deliver(*self.deliveries.popleft())

    def pass_on(self) -> None:
        """Bring the control messages that wait."""
        assert self._hub is not None
        while self.controls:
            self._hub.control(self.controls.popleft())

    def release(self) -> None:
        """Hold nothing any more."""
        self.held = False
        while self.calls:
            self.let_go(0)
        self.feed(len(self.deliveries))
        self.pass_on()

    def let_all_go(self) -> None:
        """Hold nothing any more, and deliver nothing: the test is over."""
        self.held = self.dead = False
        for call in self.calls:
            call.cancel()

    async def _gate(self) -> None:
        if self.held or self.dead:
            call = asyncio.get_running_loop().create_future()
            if not self.dead:
                self.calls.append(call)
            await call

    # What the store does

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        if not self.dead:
            self.deliveries.append((room, entry, epoch))
            if not self.held:
                self.feed(len(self.deliveries))

    def control(self, payload: bytes) -> None:
        if not self.dead:
            self.controls.append(payload)
            if not self.held:
                self.pass_on()

    # What the hub does

    async def secret(self) -> bytes:
        await self._gate()
        return await super().secret()

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        await self._gate()
        stream = self.store.stream(room)
        before = stream.offset
        position = await super().publish(room, payload, sender=sender, key=key, keep=keep)
        if stream.offset > before and not room.startswith("$session/"):
            self._ledger.add(room, position, payload)
        await self._gate()
        return position

    async def subscribe(self, room: str) -> Position:
        await self._gate()
        position = await super().subscribe(room)
        self._forget(room)
        await self._gate()
        return position

    async def unsubscribe(self, room: str) -> None:
        await self._gate()
        await super().unsubscribe(room)
        self._forget(room)
        await self._gate()

    def _forget(self, room: str) -> None:
        # What the feed still holds would come again to those who subscribe anew.
        self.deliveries = deque(delivery for delivery in self.deliveries if delivery[0] != room)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        await self._gate()
        found = await super().history(room, since, limit)
        await self._gate()
        return found

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        await self._gate()
        first = await super().enter(room, member, connection, details)
        await self._gate()
        return first

    async def leave(self, room: str, member: str, connection: str) -> bool:
        await self._gate()
        last = await super().leave(room, member, connection)
        await self._gate()
        return last

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        await self._gate()
        await super().send_control(instance, payload)
        await self._gate()


class Application:
    """What the instances have in common: who may be where, and what went wrong in handlers."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.forbidden: set[str] = set()
        self.problems: list[str] = []


class Instance:
    """One process of the server."""

    def __init__(self, application: Application, store: Store, ledger: Ledger) -> None:
        self.broker = SlowBroker(store, ledger)
        self.lines: list[Line] = []
        self.stopping: asyncio.Task[None] | None = None
        self.hub = hub = Hubbub(SETTINGS, broker=self.broker)
        rooms = hub.room("room/{name}", history=application.kept, history_age=AGE, presence=True)

        @hub.authenticate
        async def who(connection: Connection) -> str | None:
            return connection.token

        @rooms.on_join
        async def admit(room: Room) -> None:
            if room.name in application.forbidden:
                raise Denied("closed")

        @rooms.on_message
        async def say(connection: Connection, room: Room, message: Say) -> None:
            line = connection.scope["line"]
            if line.closed_with is not None and line.closed_with.code == 4409:
                application.problems.append(f"{message} was handled after its connection was replaced")
            for part in range(message.parts):
                said = Said(number=message.number, part=part)
                await room.send(said, exclude=connection if message.hidden else None)

        @hub.on_message
        async def remind(message: Remind) -> None:
            await hub.user(message.user).send(Said(number=message.number, part=0))
