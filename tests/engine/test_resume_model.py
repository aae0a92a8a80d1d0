"""Publishes, cuts, joins, resumes, kills and drains in any order: no client has a gap it was not told of.

Two instances of the real server share one store. There are no sockets and no timing: lines end, time passes,
and every answer of the broker and every delivery of its feed can be held up, when a rule says so.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hubbub.brokers.base import Retention
from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Publication
from model.client import Client
from model.lines import ASGILine, NativeLine
from model.world import (
    AGE,
    LIFETIME,
    MANY_ROUNDS,
    WINDOW,
    Application,
    Instance,
    Ledger,
    Said,
    SlowBroker,
    StillLoop,
    Store,
)

USERS = [None, "ada", "bob"]
INBOXES = ["$user/ada", "$user/bob"]
ROOMS = ["room/one", "room/other"]
CLIENTS = strategies.integers(0, len(USERS) - 1)
INSTANCES = strategies.integers(0, 1)
NAMES = strategies.sampled_from(ROOMS)
MOST_LEFT = 3


class Errors(logging.Handler):
    """Collects what the server logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def stop(instance: Instance) -> None:
    """Stop as a server does: the lifespan ends once no connection is served any more."""
    await instance.hub.drain()
    serving = [line.task for line in instance.lines if line.task is not None]
    if serving:
        await asyncio.wait(serving)
    await instance.hub.stop()


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.pace = 0
        self.ledger = Ledger(self.loop)
        self.store = Store(clock=self.loop.time, lease=1e9, window=WINDOW)
        self.publisher = SlowBroker(self.store, self.ledger)
        self.clients = [Client(user, self.loop, self.ledger) for user in USERS]
        self.instances: list[Instance] = []
        self.old: list[Instance] = []
        self.numbers = count()
        self.failed = self.expired = False
        self.errors = Errors()
        logging.getLogger("hubbub").addHandler(self.errors)

    def act(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function on the event loop."""

        async def call() -> None:
            function(*arguments)

        self.loop.run_until_complete(call())
        self.loop.turns(self.pace)

    @initialize(
        kept=strategies.sampled_from([0, 1, 3, 1000]),
        native=strategies.booleans(),
        held=strategies.booleans(),
        pace=strategies.sampled_from([0, 1, 3, 40]),
        counts=strategies.sampled_from([True, True, True, False]),
    )
    def begin(self, kept: int, native: bool, held: bool, pace: int, counts: bool) -> None:
        self.pace = pace
        for client in self.clients:
            client.counts = counts
        self.line_class = NativeLine if native else ASGILine
        self.application = Application(kept)
        for number in range(2):
            self.instances.append(self.new_instance())
            self.instances[number].broker.held = held
        for client in self.clients:
            self.connect_to(client, self.instances[0])
            client.wanted["room/one"] = None
        for _ in range(20):
            self.loop.settle()
            self.act(self.hear_all)

    def new_instance(self) -> Instance:
        instance = Instance(self.application, self.store, self.ledger)
        self.loop.run_until_complete(instance.hub.start())
        return instance

    def connect_to(self, client: Client, instance: Instance) -> None:
        line = self.line_class()

        def open_line() -> None:
            coroutine = instance.hub(line.scope(client.user), line.receive, line.deliver)
            line.task = self.loop.create_task(coroutine)  # type: ignore[arg-type]
            line.task.add_done_callback(lambda _: line.served())
            client.connect(line)

        instance.lines.append(line)
        self.act(open_line)

    def hear_all(self) -> None:
        for client in self.clients:
            client.hear(1_000_000)

    # Clients

    @rule(which=CLIENTS, room=NAMES, parts=strategies.integers(1, 2), hidden=strategies.booleans())
    def say(self, which: int, room: str, parts: int, hidden: bool) -> None:
        client = self.clients[which]
        if client.wanted.get(room) is not None:
            number = next(self.numbers)
            self.act(lambda: client.ask("say", number, room, room, parts=parts, hidden=hidden))

    @rule(which=CLIENTS, user=strategies.sampled_from(["ada", "bob"]))
    def remind(self, which: int, user: str) -> None:
        client, number = self.clients[which], next(self.numbers)
        self.act(lambda: client.ask("remind", number, None, f"$user/{user}", user=user))

    @rule(which=CLIENTS, room=NAMES)
    def join(self, which: int, room: str) -> None:
        self.act(self.clients[which].join, room)

    @rule(which=CLIENTS, room=NAMES)
    def leave(self, which: int, room: str) -> None:
        if room in self.clients[which].wanted:
            self.act(self.clients[which].leave, room)

    @rule(which=CLIENTS)
    def renew_token(self, which: int) -> None:
        self.act(self.clients[which].renew)

    @rule(which=CLIENTS, most=strategies.sampled_from([1, 2, 1000]))
    def hear(self, which: int, most: int) -> None:
        self.act(self.clients[which].hear, most)

    # Lines

    @rule(which=CLIENTS)
    def cut(self, which: int) -> None:
        if self.clients[which].line is not None:
            self.act(self.clients[which].lose_line)

    @rule(which=CLIENTS, instance=INSTANCES, turns=strategies.sampled_from([0, 20]))
    def connect(self, which: int, instance: int, turns: int) -> None:
        """Connect; while there is a line, it is left as a network leaves it that went away."""
        client = self.clients[which]
        if sum(not line.gone for line in client.left) < MOST_LEFT:
            self.connect_to(client, self.instances[instance])
            self.loop.turns(turns)
            self.act(client.hear, 1)

    @rule(which=CLIENTS)
    def server_notices_lines_that_were_left(self, which: int) -> None:
        for line in self.clients[which].left:
            self.act(line.cut)

    @rule(which=CLIENTS)
    def delay(self, which: int) -> None:
        """Keep what the client sends on its line from now on: it reaches the server late, or never."""
        line = self.clients[which].line
        if line is not None:
            line.late = True

    @rule(which=CLIENTS, newest=strategies.booleans())
    def arrive(self, which: int, newest: bool) -> None:
        client = self.clients[which]
        lines = [line for line in (client.line, *client.left) if line is not None and line.late]
        if lines:
            self.act(lines[0 if newest else -1].arrive)

    @rule(which=CLIENTS)
    def stall(self, which: int) -> None:
        line = self.clients[which].line
        if line is not None:
            self.act(line.stall)

    @rule(which=CLIENTS)
    def flow(self, which: int) -> None:
        line = self.clients[which].line
        if line is not None:
            self.act(line.flow)

    # The server

    @rule(
        room=NAMES | strategies.sampled_from(INBOXES),
        times=strategies.sampled_from([1, 2, 120]),
        hidden_from=strategies.none() | CLIENTS,
    )
    def publish(self, room: str, times: int, hidden_from: int | None) -> None:
        excluded = None if hidden_from is None else self.clients[hidden_from].session
        for _ in range(times):
            self.loop.run_until_complete(self.publish_one(room, excluded))
        self.loop.turns(self.pace)

    async def publish_one(self, room: str, excluded: str | None) -> None:
        data = msgspec.Raw(pack(Said(number=next(self.numbers), part=0)))
        payload = pack(Publication("said", data, None, excluded))
        inbox = room.startswith("$")
        keep = Retention(5, 24 * 3600.0) if inbox else Retention(self.application.kept, AGE)
        await self.publisher.publish(room, payload, sender=None, key=None, keep=keep)

    @rule(room=NAMES)
    def change_permission(self, room: str) -> None:
        self.application.forbidden ^= {room}

    @rule(which=INSTANCES)
    def hold(self, which: int) -> None:
        self.instances[which].broker.held = True

    @rule(which=INSTANCES)
    def release(self, which: int) -> None:
        self.act(self.instances[which].broker.release)

    def holding(self, which: int) -> SlowBroker:
        """Return a broker whose calls wait, that one or another."""
        brokers = [instance.broker for instance in self.instances]
        return brokers[which] if brokers[which].calls else brokers[1 - which]

    @precondition(lambda self: any(instance.broker.calls for instance in self.instances))
    @rule(which=INSTANCES, call=strategies.integers(0, 10))
    def let_go(self, which: int, call: int) -> None:
        self.act(self.holding(which).let_go, call)

    @precondition(lambda self: any(instance.broker.calls for instance in self.instances))
    @rule(which=INSTANCES, call=strategies.integers(0, 10))
    def fail(self, which: int, call: int) -> None:
        self.failed = True
        self.act(lambda: self.holding(which).let_go(call, fails=True))

    @rule(which=INSTANCES, most=strategies.sampled_from([1, 2, 1000]))
    def feed(self, which: int, most: int) -> None:
        self.act(self.instances[which].broker.feed, most)

    @rule(which=INSTANCES)
    def pass_on(self, which: int) -> None:
        self.act(self.instances[which].broker.pass_on)

    @rule(turns=strategies.sampled_from([1, 2, 50]))
    def turn(self, turns: int) -> None:
        self.loop.turns(turns)

    @rule(seconds=strategies.sampled_from([AGE / 2, AGE * 2, WINDOW * 0.6, WINDOW * 1.1, LIFETIME * 1.1]))
    def time_passes(self, seconds: float) -> None:
        if seconds > LIFETIME:
            # No call, and no message, takes so long that what it found out is of another age.
            for client in self.clients:
                for line in (client.line, *client.left):
                    if line is not None and line.late:
                        self.act(line.arrive)
            for instance in self.instances + self.old:
                if not instance.broker.dead:
                    self.act(instance.broker.release)
            self.loop.settle()
        self.loop.pass_time(seconds)
        # A request that is sent again after its window may be carried out after others.
        self.expired = self.expired or seconds > WINDOW / 2

    @rule()
    def calm_down(self) -> None:
        """Let everything that can happen at this moment happen."""
        self.calm()

    def calm(self) -> None:
        for _ in range(MANY_ROUNDS):
            for instance in self.instances + self.old:
                if not instance.broker.dead:
                    self.act(instance.broker.release)
            for client in self.clients:
                if client.line is not None:
                    self.act(client.line.flow)
                for line in (client.line, *client.left):
                    if line is not None and line.late:
                        self.act(line.arrive)
            self.loop.settle()
            if not any(client.line is not None and client.line.arrived for client in self.clients):
                return
            self.act(self.hear_all)
        raise AssertionError("clients and server go on and on")

    @rule(which=INSTANCES)
    def kill(self, which: int) -> None:
        self.lose(self.instances[which])
        self.instances[which] = self.new_instance()

    def lose(self, instance: Instance) -> None:
        """Have an instance do nothing any more, from where it is."""
        instance.broker.dead = True
        if instance not in self.old:
            self.old.append(instance)
        for client in self.clients:
            if client.line in instance.lines:
                # What was written before may still arrive.
                client.hear(1_000_000)
            if client.line in instance.lines:
                client.leave_line()

    @rule(which=INSTANCES)
    def drain(self, which: int) -> None:
        """Stop an instance as a rolling restart does."""
        old = self.instances[which]
        old.stopping = self.loop.create_task(stop(old))
        self.old.append(old)
        self.instances[which] = self.new_instance()
        self.loop.turns(self.pace)

    @rule(secret=strategies.booleans())
    def start_anew(self, secret: bool) -> None:
        """Kill all, and have them come back without what was stored; perhaps without its secret too."""
        for instance in [*self.instances, *(old for old in self.old if not old.broker.dead)]:
            self.lose(instance)
        self.store.empty(secret=secret)
        if secret:
            for client in self.clients:
                client.token_until = 0.0
        self.instances = [self.new_instance() for _ in range(2)]

    # What has to hold

    @invariant()
    def nothing_went_wrong_unseen(self) -> None:
        if self.instances:
            assert not self.application.problems
        assert not self.loop.problems
        if not self.failed:
            assert not self.errors.records, [record.exc_info or record for record in self.errors.records]

    @invariant()
    def everything_is_published_once(self) -> None:
        seen: dict[tuple[int, int, str], float] = {}
        for (_, epoch, _), published in self.ledger.everything():
            what = (published.number, published.part, epoch)
            before = seen.get(what)
            assert before is None or published.at - before > WINDOW, "it was carried out twice"
            seen[what] = published.at

    def teardown(self) -> None:
        logging.getLogger("hubbub").removeHandler(self.errors)
        try:
            if self.instances:
                self.come_to_rest()
                self.check_rest()
        finally:
            for instance in self.instances + self.old:
                instance.broker.let_all_go()
            self.loop.end()
        self.nothing_went_wrong_unseen()

    def come_to_rest(self) -> None:
        self.application.forbidden.clear()
        self.calm()
        for _ in range(3):
            # Closes that nobody answers come to their end.
            self.loop.pass_time(10.0)
        for _ in range(MANY_ROUNDS):
            self.calm()
            away = [client for client in self.clients if client.line is None]
            if not away:
                break
            for client in away:
                self.connect_to(client, self.instances[0])
        self.calm()
        for room in (*ROOMS, *INBOXES):
            self.loop.run_until_complete(self.publish_one(room, None))
        self.calm()

    def check_rest(self) -> None:
        for client in self.clients:
            assert client.phase == "open"
            for room, position in client.wanted.items():
                stream = self.store.stream(room)
                assert position is not None
                assert position.epoch == stream.epoch
                client.may_lack(room, position, stream.offset)
            for request in client.requests.values():
                assert request.outcome != "open"
                published = [part.part for _, part in self.ledger.of(request.number)]
                if request.outcome == "acknowledged":
                    assert set(published) == set(range(request.parts))
            self.check_order(client)
            on = [
                connection
                for instance in self.instances + self.old
                if not instance.broker.dead
                for connection in instance.hub._hub.connections.values()
                if connection.session == client.session and not connection.closing
            ]
            assert client.line in [connection.scope["line"] for connection in on]
            # Of one that took the session up and was lost before it could tell, the next one can't know.
            assert len(on) == 1 or client.cut_while_resuming

    def check_order(self, client: Client) -> None:
        """Check that a client's requests were carried out in their order, those aside that it made again."""
        mine = {request.number for request in client.requests.values() if not request.again}
        latest: dict[tuple[str, str], int] = {}
        for (room, epoch, _), published in self.ledger.everything():
            if published.number in mine and not self.expired:
                assert published.number >= latest.get((room, epoch), 0), "it overtook another"
                latest[room, epoch] = published.number


EXAMPLES = os.environ.get("HUBBUB_MODEL_EXAMPLES")
"""How many runs: to look for more than what each change is tested with, which is always the same."""

TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=int(EXAMPLES or 100), derandomize=EXAMPLES is None, stateful_step_count=50, deadline=None
)
