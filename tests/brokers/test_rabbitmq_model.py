"""Instances on one log whose lines are cut, held up and cut off from its beginning, in any order."""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.rabbitmq_log import MemoryLog, write_snapshot
from hubbub.brokers.base import History, Renewal, Retention
from hubbub.brokers.rabbitmq import RabbitBroker
from hubbub.brokers.rabbitmq.address import parse
from hubbub.errors import Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox, Instance

KEEP = Retention(10_000, 3600.0)
INSTANCES = 3
ROOMS = 2

instance = st.integers(0, INSTANCES - 1)
steps = st.one_of(
    st.tuples(st.just("publish"), instance, st.integers(0, ROOMS - 1), st.none() | st.sampled_from("kl")),
    st.tuples(st.sampled_from(["cut", "away", "back", "overtaken"]), instance),
    st.tuples(st.just("wait"), st.integers(1, 30)),
    st.tuples(st.sampled_from(["hold up", "let through", "arrive", "cut all", "snapshot", "forget", "beat"])),
)


class Course:
    """One run of a script."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.instances: list[Instance] = []
        self.beats: list[asyncio.Task[Renewal]] = []
        self.published: list[tuple[str, bytes, str | None, asyncio.Task[Position]]] = []

    async def open(self) -> None:
        for number in range(INSTANCES):
            name = f"i{number}"
            address = parse("amqp://rabbit", heartbeat=5, name=name)
            broker, inbox = RabbitBroker(address, instance=name, timeout=5.0), Inbox()
            await broker.start(inbox)
            self.instances.append(Instance(name, broker, inbox))
            for room in range(ROOMS):
                await broker.subscribe(str(room))

    async def carry_out(self, step: tuple) -> None:
        log = self.log
        match step:
            case "publish", number, room, key:
                payload = b"%d" % len(self.published)
                called = self.instances[number].broker.publish(
                    str(room), payload, sender=None, key=key, keep=KEEP
                )
                self.published.append((str(room), payload, key, asyncio.create_task(called)))
            case "cut", number:
                line = self.instances[number].broker._log._line
                if line is not None:
                    line.end("cut")
            case "away", number:
                log.refused.add(f"i{number}")
                await self.carry_out(("cut", number))
            case "back", number:
                log.refused.discard(f"i{number}")
            case "overtaken", number:
                # What it sends gets there after it was cut off, and is told by a snapshot only.
                for within in (
                    ("hold up",),
                    ("publish", number, 0, None),
                    ("wait", 10),
                    ("away", number),
                    ("let through",),
                    ("arrive",),
                    ("wait", 30),
                    ("forget",),
                ):
                    await self.carry_out(within)
            case ("cut all",):
                log.cut()
            case "wait", turns:
                for _ in range(turns):
                    await asyncio.sleep(0)
            case ("hold up",):
                log.takes = lambda body: False
            case ("let through",):
                # What was held up is not there yet, and may come after what is sent again.
                log.takes = lambda body: True
            case ("arrive",):
                self.arrive()
            case ("snapshot",):
                self.write()
            case ("forget",):
                if (at := self.write()) is not None:
                    log.first = at
            case ("beat",):
                self.beats += [asyncio.create_task(one.broker.renew()) for one in self.instances]

    def arrive(self) -> None:
        while self.log.on_its_way:
            self.log.append(self.log.on_its_way.pop(0))

    def write(self) -> int | None:
        """Append a snapshot by an instance that has read all there is, if any has; return its offset."""
        for one in self.instances:
            replica = one.broker._log._replica
            if one.broker.available and replica.offset == len(self.log.bodies) - 1:
                return write_snapshot(self.log, one)
        return None

    async def settle(self) -> None:
        self.log.takes = lambda body: True
        self.log.refused.clear()
        self.arrive()
        await asyncio.wait([*self.beats, *(task for *_, task in self.published)])
        assert all(isinstance(beat.exception(), Unavailable | None) for beat in self.beats)

    async def check(self) -> None:
        acknowledged = defaultdict(dict)
        for room, payload, key, task in self.published:
            if task.exception() is None:
                acknowledged[room][payload] = (key, task.result())
            else:
                assert isinstance(task.exception(), Unavailable)
        keys = {payload: key for _, payload, key, _ in self.published}
        for room in map(str, range(ROOMS)):
            histories = [await history(one, room) for one in self.instances]
            assert histories.count(histories[0]) == INSTANCES
            entries = histories[0].entries
            assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
            told = [entry.payload for entry in entries]
            assert len(set(told)) == len(told)
            used = [key for payload in told if (key := keys[payload]) is not None]
            assert len(set(used)) == len(used)
            for payload, (key, position) in acknowledged[room].items():
                found = told[position.offset - 1]
                assert found == payload if key is None else keys[found] == key
                assert position.epoch == histories[0].position.epoch
            for one in self.instances:
                assert one.inbox.of(room) == entries
                assert one.inbox.losses == []


async def history(instance: Instance, room: str) -> History:
    """Return what there is as soon as it can be told."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                return await instance.broker.history(room, None, 1000)
            except Unavailable:
                await asyncio.sleep(0.001)


@pytest.mark.timeout(300)
@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=40))
def test_nothing_is_lost_doubled_or_reordered_however_lines_are_cut(script):
    async def run() -> None:
        log = MemoryLog()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hubbub.brokers.rabbitmq.line.Line.open", log.open)
            patch.setattr("hubbub.brokers.rabbitmq.connecting.LONGEST_PAUSE", 0.001)
            course = Course(log)
            try:
                await course.open()
                for step in script:
                    await course.carry_out(step)
                await course.carry_out(("publish", 0, 0, None))
                await course.settle()
                await course.check()
            finally:
                log.takes = lambda body: True
                log.refused.clear()
                for one in course.instances:
                    await one.broker.stop()

    asyncio.run(run())
