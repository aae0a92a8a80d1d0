"""The Python client over lines that end at any moment: its rooms have no gap that it does not yield.

The server is the real one, in this process: two instances with one store. Time passes when a rule says so.
"""

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hubbub import Position
from hubbub.brokers.base import Retention
from hubbub.client import Client, Gap, Received, Room
from hubbub.client.line import LineLost, NotConnected
from hubbub.errors import RequestFailed, Unacknowledged
from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Publication
from model.lines import ASGILine, Closed
from model.world import (
    AGE,
    LIFETIME,
    WINDOW,
    Application,
    Instance,
    Ledger,
    Said,
    Say,
    SlowBroker,
    StillLoop,
    Store,
)

ROOM = "room/one"
WAIT = 1.0
CLIENTS = strategies.integers(0, 1)
INSTANCES = strategies.integers(0, 1)
MANY_ROUNDS = 40


class ClientLine(ASGILine):
    """The client's end of a line; what has arrived can be delayed on its way."""

    subprotocol = "hubbub.v1.json"
    name = "ws"
    heard_at = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.delayed = False
        self._heard = asyncio.Event()

    async def send_message(self, message: str) -> None:
        if self.gone:
            raise LineLost
        self.sent.append(message)
        self.changed()

    async def recv(self) -> str:
        while self.delayed or not self.arrived:
            if self.gone and not self.arrived:
                raise LineLost
            self._heard.clear()
            await self._heard.wait()
        arrived = self.arrived.popleft()
        if isinstance(arrived, Closed):
            raise LineLost(*arrived)
        return json.dumps(arrived)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.cut()

    def changed(self) -> None:
        super().changed()
        self._heard.set()

    async def deliver(self, event: Any) -> None:
        await super().deliver(event)
        self._heard.set()


class End:
    """What the client has of it: the port that :class:`hubbub.client.line.Line` describes."""

    subprotocol = ClientLine.subprotocol
    name = ClientLine.name
    heard_at = ClientLine.heard_at

    def __init__(self, line: ClientLine) -> None:
        self.send = line.send_message
        self.recv = line.recv
        self.close = line.close


class Sending:
    """One `send`, and how it ended."""

    def __init__(self, number: int, parts: int, began: float, task: "asyncio.Task[None]") -> None:
        self.number = number
        self.parts = parts
        self.began = began
        self.task = task


class Person:
    """A real client, and what its iteration over a room has yielded."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self.lines: list[ClientLine] = []
        self.client = Client(self._dial, backoff=lambda: itertools.repeat(WAIT))
        self.room: Room | None = None
        self.at: Position | None = None
        self.hidden: set[int] = set()
        """Numbers that it must not be shown as long as its session goes on."""
        self.sendings: list[Sending] = []
        self.gaps = 0

    @property
    def line(self) -> ClientLine:
        return self.lines[-1]

    async def _dial(self, token: str | None) -> Any:
        instance = self._model.instance
        if self._model.unreachable:
            raise NotConnected("unreachable")
        line = ClientLine()
        line.task = asyncio.create_task(instance.hub(line.scope(token), line.receive, line.deliver))
        line.task.add_done_callback(lambda _: line.served())
        instance.lines.append(line)
        self.lines.append(line)
        return End(line)

    async def live(self) -> None:
        """Join the room and take in all that comes, until the end."""
        async with self.client:
            self.room = await self.client.join(ROOM)
            self.at = self.room.position
            async for event in self.room:
                if isinstance(event, Gap):
                    assert event.position is not None
                    assert event.position != self.at
                    self.gaps += 1
                    self.at = event.position
                elif isinstance(event, Received):
                    self._take(event)

    def _take(self, event: Received) -> None:
        assert self.at is not None
        assert event.offset is not None
        published = self._model.ledger.at(ROOM, self.at.epoch, event.offset)
        assert event.message == {"number": published.number, "part": published.part}
        assert event.offset > self.at.offset, "it comes twice"
        self.may_lack(event.offset - 1)
        self.at = Position(self.at.epoch, event.offset)

    def may_lack(self, upto: int) -> None:
        assert self.at is not None
        for offset in range(self.at.offset + 1, upto + 1):
            assert self._model.ledger.at(ROOM, self.at.epoch, offset).number in self.hidden, (
                f"{offset} is missing"
            )

    def say(self, number: int, parts: int, hidden: bool) -> None:
        if self.room is None:
            return
        if hidden:
            self.hidden.add(number)
        message = Say(number=number, parts=parts, hidden=hidden)
        task = asyncio.get_running_loop().create_task(self.room.send(message))
        self.sendings.append(Sending(number, parts, self._model.loop.now, task))


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.pace = 0
        self.ledger = Ledger(self.loop)
        self.store = Store(clock=self.loop.time, lease=1e9, window=WINDOW)
        self.publisher = SlowBroker(self.store, self.ledger)
        self.instances: list[Instance] = []
        self.people: list[Person] = []
        self.lives: list[asyncio.Task[None]] = []
        self.old: list[Instance] = []
        self.instance: Instance
        self.unreachable = self.failed = False
        self.numbers = itertools.count()
        self.forgotten = 0.0
        """When sessions were lost last, or so much time had passed that the client must not try again."""

    def act(self, function: Callable[..., Any], *arguments: Any) -> None:
        async def call() -> None:
            function(*arguments)

        self.run(call())
        self.loop.turns(self.pace)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(kept=strategies.sampled_from([1, 3, 1000]), pace=strategies.sampled_from([0, 3, 40]))
    def begin(self, kept: int, pace: int) -> None:
        self.pace = pace
        self.application = Application(kept)
        self.instances = [self.new_instance() for _ in range(2)]
        self.instance = self.instances[0]
        self.people = [self.run(self.person()) for _ in range(2)]
        self.lives = [self.loop.create_task(person.live()) for person in self.people]
        self.loop.settle()

    async def person(self) -> Person:
        return Person(self)

    def new_instance(self) -> Instance:
        instance = Instance(self.application, self.store, self.ledger)
        self.run(instance.hub.start())
        return instance

    @rule(which=CLIENTS, parts=strategies.integers(1, 2), hidden=strategies.booleans())
    def say(self, which: int, parts: int, hidden: bool) -> None:
        self.act(self.people[which].say, next(self.numbers), parts, hidden)

    @rule(times=strategies.sampled_from([1, 2, 120]))
    def publish(self, times: int) -> None:
        for _ in range(times):
            self.run(self.publish_one())
        self.loop.turns(self.pace)

    async def publish_one(self) -> None:
        data = msgspec.Raw(pack(Said(number=next(self.numbers), part=0)))
        payload = pack(Publication("said", data, None, None))
        keep = Retention(self.application.kept, AGE)
        await self.publisher.publish(ROOM, payload, sender=None, key=None, keep=keep)

    @rule(which=CLIENTS)
    def cut(self, which: int) -> None:
        self.act(self.people[which].line.cut)

    @rule(which=CLIENTS)
    def delay(self, which: int) -> None:
        self.people[which].line.delayed = True

    @rule(which=CLIENTS)
    def arrive(self, which: int) -> None:
        self.act(self.let_arrive, self.people[which])

    def let_arrive(self, person: Person) -> None:
        person.line.delayed = False
        person.line.changed()

    @rule(which=INSTANCES)
    def reach(self, which: int) -> None:
        self.instance = self.instances[which]

    @rule()
    def go_offline_or_online(self) -> None:
        self.unreachable = not self.unreachable

    @rule(which=INSTANCES)
    def hold(self, which: int) -> None:
        self.instances[which].broker.held = True

    @rule(which=INSTANCES)
    def release(self, which: int) -> None:
        self.act(self.instances[which].broker.release)

    @rule(which=INSTANCES, call=strategies.integers(0, 10), fails=strategies.booleans())
    def let_go(self, which: int, call: int, fails: bool) -> None:
        broker = self.instances[which].broker
        if broker.calls:
            self.failed = self.failed or fails
            self.act(lambda: broker.let_go(call, fails=fails))

    @rule(turns=strategies.sampled_from([1, 2, 50]))
    def turn(self, turns: int) -> None:
        self.loop.turns(turns)

    @rule(seconds=strategies.sampled_from([WAIT, AGE * 2, WINDOW * 1.1, LIFETIME * 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)
        if seconds > WINDOW:
            self.forgotten = self.loop.now

    @rule(which=INSTANCES)
    def kill(self, which: int) -> None:
        killed = self.instances[which]
        self.lose(killed)
        self.instances[which] = self.new_instance()
        if self.instance is killed:
            self.instance = self.instances[which]

    def lose(self, instance: Instance) -> None:
        instance.broker.dead = True
        self.old.append(instance)
        for line in instance.lines:
            self.act(line.cut)

    @rule()
    def start_anew(self) -> None:
        """Kill all, and have them come back without what was stored."""
        for instance in self.instances:
            self.lose(instance)
        self.store.empty(secret=True)
        self.instances = [self.new_instance() for _ in range(2)]
        self.instance = self.instances[0]
        self.forgotten = self.loop.now

    @invariant()
    def everything_is_well(self) -> None:
        for life in self.lives:
            if life.done():
                life.result()
            assert not life.done()
        assert not self.loop.problems
        seen: dict[tuple[int, int, str], float] = {}
        for (_, epoch, _), published in self.ledger.everything():
            what = (published.number, published.part, epoch)
            assert what not in seen or published.at - seen[what] > WINDOW, "it was carried out twice"
            seen[what] = published.at

    def teardown(self) -> None:
        try:
            if self.instances:
                self.come_to_rest()
                self.everything_is_well()
                for person in self.people:
                    self.check(person)
        finally:
            for instance in self.instances + self.old:
                instance.broker.let_all_go()
            self.loop.end()

    def come_to_rest(self) -> None:
        self.unreachable = False
        for last in (False, True):
            for _ in range(MANY_ROUNDS):
                for instance in self.instances:
                    self.act(instance.broker.release)
                for person in self.people:
                    self.act(self.let_arrive, person)
                self.loop.settle()
                self.loop.pass_time(WAIT)
            if not last:
                self.run(self.publish_one())

    def check(self, person: Person) -> None:
        stream = self.store.stream(ROOM)
        assert person.at is not None
        assert person.at.epoch == stream.epoch
        person.may_lack(stream.offset)
        for sending in person.sendings:
            assert sending.task.done()
            problem = sending.task.exception()
            if isinstance(problem, Unacknowledged):
                assert self.forgotten >= sending.began, "what became of it could have been known"
            elif isinstance(problem, RequestFailed):
                # It was tried again for as long as the server knew it again.
                assert self.failed
                assert problem.code == "unavailable"
                assert self.loop.now - sending.began > WINDOW / 2
            elif problem is not None:
                raise problem
            else:
                parts = {published.part for _, published in self.ledger.of(sending.number)}
                assert parts == set(range(sending.parts))


EXAMPLES = os.environ.get("HUBBUB_MODEL_EXAMPLES")
"""How many runs: to look for more than what each change is tested with, which is always the same."""

TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=int(EXAMPLES or 100), derandomize=EXAMPLES is None, stateful_step_count=50, deadline=None
)
