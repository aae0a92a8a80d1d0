"""A model of a room, of nothing but a list, and a machine that compares a broker with it."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ...brokers.base import Entry, History, Retention
from ...protocol.envelope import Position
from .engines import Engine, Instance

Result = TypeVar("Result")

limits = st.integers(1, 6)


class RoomMachine(RuleBasedStateMachine):
    """Publishes to one room from two instances and reads its history; inherit, and make the engine.

    All times are whole seconds, and what is compared with them lies between two seconds, so that the
    outcome never hangs on a clock's precision.
    """

    def make_engine(self) -> Engine:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = self.make_engine()
        self.one, self.other = self.run(self.engine.open()), self.run(self.engine.open())
        self.begins = self.run(self.one.broker.subscribe("room"))
        self.now = 0
        self.newest = 0
        self.kept: list[tuple[int, Entry]] = []
        self.spread: list[Entry] = []
        self.keys: dict[str, tuple[int, Position]] = {}

    def run(self, step: Coroutine[object, object, Result]) -> Result:
        return self.runner.run(step)

    def teardown(self) -> None:
        self.run(self.engine.close())
        self.runner.close()

    @initialize(count=st.integers(0, 5), age=st.integers(1, 30))
    def settle(self, count: int, age: int) -> None:
        self.retention = Retention(count, age + 0.5)

    @property
    def position(self) -> Position:
        return Position(self.begins.epoch, self.newest)

    def trim(self) -> None:
        self.kept = [(at, entry) for at, entry in self.kept if self.now - at <= self.retention.age]
        self.kept = self.kept[len(self.kept) - min(len(self.kept), self.retention.count) :]
        self.keys = {
            key: (at, position)
            for key, (at, position) in self.keys.items()
            if self.now - at <= self.engine.window
        }

    @rule(
        payload=st.binary(max_size=3),
        sender=st.none() | st.just("ada"),
        key=st.none() | st.sampled_from("kl"),
        keeps=st.booleans(),
        by_other=st.booleans(),
    )
    def publish(
        self, payload: bytes, sender: str | None, key: str | None, keeps: bool, by_other: bool
    ) -> None:
        broker = (self.other if by_other else self.one).broker
        keep = self.retention if keeps else None
        answer = self.run(broker.publish("room", payload, sender=sender, key=key, keep=keep))
        self.trim()
        if key is not None and key in self.keys:
            assert answer == self.keys[key][1]
            return
        if keeps:
            self.newest += 1
        entry = Entry(self.newest if keeps else None, payload, sender)
        self.spread.append(entry)
        if keeps:
            self.kept.append((self.now, entry))
        assert answer == self.position
        if key is not None:
            self.keys[key] = (self.now, answer)

    @rule(seconds=st.integers(1, 20))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.run(self.engine.pass_time(seconds))

    @rule(limit=limits)
    def read_the_newest(self, limit: int) -> None:
        history = self.history(self.one, None, limit)
        entries = self.remembered()[-limit:]
        assert history == History(entries, self.position, True)

    @rule(behind=st.integers(-2, 12), limit=limits)
    def read_on(self, behind: int, limit: int) -> None:
        since = max(self.newest - behind, 0)
        history = self.history(self.other, Position(self.begins.epoch, since), limit)
        kept = self.remembered()
        gone = self.newest - len(kept)
        if since > self.newest:
            entries, complete = kept[:limit], False
        else:
            entries = [entry for entry in kept if (entry.offset or 0) > since][:limit]
            complete = since >= gone
        assert history == History(entries, self.after(entries), complete)

    @rule(offset=st.integers(0, 12), limit=limits)
    def read_with_a_position_of_another_epoch(self, offset: int, limit: int) -> None:
        history = self.history(self.one, Position("another", offset), limit)
        entries = self.remembered()[:limit]
        assert history == History(entries, self.after(entries), False)

    @rule(behind=st.integers(0, 12), limit=limits)
    def read_to_the_end(self, behind: int, limit: int) -> None:
        position = Position(self.begins.epoch, max(self.newest - behind, 0))
        expected = [entry for entry in self.remembered() if (entry.offset or 0) > position.offset]
        read: list[Entry] = []
        while (history := self.history(self.other, position, limit)).entries:
            read += history.entries
            position = history.position
        assert read == expected
        assert history.position == self.position

    @invariant()
    def everything_spread_has_arrived_in_order(self) -> None:
        inbox = self.one.inbox
        self.run(inbox.until(lambda: len(inbox.deliveries) >= len(self.spread)))
        assert inbox.of("room") == self.spread

    def history(self, instance: Instance, since: Position | None, limit: int) -> History:
        return self.run(instance.broker.history("room", since, limit))

    def remembered(self) -> list[Entry]:
        self.trim()
        return [entry for _, entry in self.kept]

    def after(self, entries: list[Entry]) -> Position:
        return Position(self.begins.epoch, (entries[-1].offset or 0) if entries else self.newest)
