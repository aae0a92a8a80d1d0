"""How an instance comes back to a log that was cut, has lost its end, or lacks its beginning."""

import asyncio
import time
from collections.abc import Callable

import pytest

from brokers.rabbitmq_log import MemoryLog, write_snapshot
from hubbub.brokers.base import Retention
from hubbub.brokers.rabbitmq import RabbitBroker
from hubbub.brokers.rabbitmq.address import parse
from hubbub.brokers.rabbitmq.line import Line
from hubbub.brokers.rabbitmq.log import ATTEMPTS
from hubbub.brokers.rabbitmq.records import (
    Anew,
    Batch,
    Beat,
    Gone,
    Hold,
    LetGo,
    decode,
    encode,
    encode_batch,
)
from hubbub.brokers.rabbitmq.replica import Replica
from hubbub.errors import Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox, Instance, payloads, publish
from told import collected_logs, fields_of

KEEP = Retention(100, 3600.0)


@pytest.fixture
def log(monkeypatch):
    log = MemoryLog()
    monkeypatch.setattr("hubbub.brokers.rabbitmq.line.Line.open", log.open)
    return log


@pytest.fixture
async def opened(log):
    instances: list[Instance] = []

    async def open_one(name: str, *, timeout: float = 2.0) -> Instance:
        address = parse("amqp://rabbit", heartbeat=5, name=name)
        broker, inbox = RabbitBroker(address, instance=name, timeout=timeout), Inbox()
        instances.append(Instance(name, broker, inbox))
        await broker.start(inbox)
        return instances[-1]

    yield open_one
    log.takes = log.deliveries = lambda _: True
    log.refuses = False
    for instance in instances:
        await instance.broker.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not true():  # noqa: ASYNC110  # what it waits for is no event
            await asyncio.sleep(0.005)


def holds(body: bytes, kind: type) -> bool:
    message = decode(body)
    return isinstance(message, Batch) and any(isinstance(record, kind) for record in message.records)


@pytest.mark.parametrize("again", [False, True], ids=["", "and came again after it"])
async def test_what_was_sent_and_is_in_a_snapshot_that_is_read_next_is_published_once(log, opened, again):
    one, other = await opened("one", timeout=0.5), await opened("other")
    await one.broker.subscribe("room")
    log.takes = lambda body: b"once" not in body
    published = asyncio.create_task(publish(one, b"once"))
    await until(lambda: bool(log.on_its_way))
    log.refuses = True
    one.broker._log._line.end("cut")
    # It gets there, but its writer learns of nothing before the log's beginning is gone.
    log.takes = lambda body: True
    sent = log.on_its_way.pop()
    log.append(sent)
    with pytest.raises(Unavailable):
        await published
    await until(lambda: other.broker._log._replica.offset == len(log.bodies) - 1)
    log.first = len(log.bodies)
    write_snapshot(log, other)
    if again:
        log.append(sent)
    log.refuses = False
    await until(lambda: one.broker.available)
    assert (await publish(one, b"next")).offset == 2
    assert await payloads(one) == await payloads(other) == [b"once", b"next"]
    assert [entry.offset for entry in one.inbox.of("room")] == [1, 2]


async def test_a_log_that_went_back_is_remembered_where_reading_it_anew_is_cut_short(log, opened):
    one = await opened("one")
    begins = await one.broker.subscribe("room")
    await publish(one, b"kept")
    kept = len(log.bodies)
    lost = await publish(one, b"lost")
    log.refuses = True
    log.cut()
    await until(lambda: not one.broker.available)
    del log.bodies[kept:]
    cuts = iter([2, 2, 1])
    left = next(cuts)

    def deliveries(offset: int) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            left = next(cuts, 1_000_000)
            return False
        return True

    log.deliveries = deliveries
    log.refuses = False
    await until(lambda: one.broker.available)
    assert next(cuts, None) is None
    anew = await publish(one, b"anew")
    assert anew.offset == lost.offset
    assert anew.epoch != lost.epoch == begins.epoch
    assert [position.epoch for _, position in one.inbox.losses] == [anew.epoch]


async def test_a_new_life_that_did_not_reach_the_log_is_sent_again(log, opened):
    one = await opened("one")
    await publish(one, b"kept")
    kept = len(log.bodies)
    lost = await publish(one, b"lost")
    log.refuses = True
    log.cut()
    await until(lambda: not one.broker.available)
    del log.bodies[kept:]
    log.takes = lambda body: not isinstance(decode(body), Batch)
    log.refuses = False
    await until(lambda: bool(log.on_its_way))
    log.takes = lambda body: True
    log.cut()
    await until(lambda: one.broker.available)
    assert (await publish(one, b"anew")).epoch != lost.epoch


async def test_who_comes_late_waits_while_somebody_runs_who_knows(log, opened):
    one = await opened("one")
    first = await publish(one, b"first")
    # A snapshot takes long here: none is written before it was asked for often.
    snapshots = one.broker._log._snapshots
    write, asked = snapshots.write, 0

    def write_late(line: Line, replica: Replica) -> None:
        nonlocal asked
        asked += 1
        one.broker._log.tell(Beat("one"))
        if asked == 2 * ATTEMPTS:
            write(line, replica)

    snapshots.write = write_late
    log.first = len(log.bodies)
    late = await opened("late", timeout=0.2)
    await until(lambda: late.broker.available)
    assert not any(isinstance(decode(body), Anew) for body in log.bodies)
    assert await late.broker.subscribe("room") == first
    assert await payloads(late) == [b"first"]


async def test_two_that_come_where_nobody_knows_begin_anew_together(log, opened, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.rabbitmq.log.ATTEMPTS", 1)
    before = await opened("before")
    first = await publish(before, b"gone")
    await before.broker.abandon()
    log.first = len(log.bodies)
    with collected_logs() as told:
        instances = await asyncio.gather(opened("one", timeout=0.3), opened("other", timeout=0.3))
        await until(lambda: all(instance.broker.available for instance in instances))
        assert 1 <= len(told.of("history began anew")) <= 2
    positions = [await publish(instance, b"x") for instance in instances]
    assert [position.offset for position in positions] == [1, 2]
    assert first.epoch != positions[0].epoch == positions[1].epoch


async def test_members_that_were_removed_are_told_of_though_the_renewal_came_too_late(log, opened):
    one, other = await opened("one", timeout=0.3), await opened("other")
    await one.broker.enter("room", "ada", "1", b"ada")
    beats = one.broker._log.state.instances["one"].beats
    await other.broker._log.ask(Gone("one", beats))
    log.takes = lambda body: not holds(body, Beat)
    with pytest.raises(Unavailable):
        await one.broker.renew()
    log.takes = lambda body: True
    for body in log.on_its_way:
        log.append(body)
    await until(lambda: one.broker.available)
    assert (await one.broker.renew()).forgotten
    assert not (await one.broker.renew()).forgotten


async def test_a_room_that_was_given_back_during_an_outage_is_held_no_more(log, opened):
    one = await opened("one")
    for room in ("left", "kept"):
        await one.broker.subscribe(room)
    log.refuses = True
    log.cut()
    await until(lambda: not one.broker.available)
    await one.broker.unsubscribe("left")
    log.refuses = False
    await until(lambda: one.broker.available)
    await until(lambda: one.broker._log.held("one") == ["kept"])


async def test_a_subscription_that_nobody_waited_for_and_a_snapshot_swallowed_is_held_no_more(log, opened):
    one, other = await opened("one", timeout=0.3), await opened("other")
    log.takes = lambda body: not holds(body, Hold)
    subscribed = asyncio.create_task(one.broker.subscribe("room"))
    await until(lambda: bool(log.on_its_way))
    log.refuses = True
    one.broker._log._line.end("cut")
    with pytest.raises(Unavailable):
        await subscribed
    log.takes = lambda body: True
    log.append(log.on_its_way.pop())
    await until(lambda: other.broker._log.held("one") == ["room"])
    log.first = len(log.bodies)
    write_snapshot(log, other)
    log.refuses = False
    await until(lambda: one.broker.available and one.broker._log.held("one") == [])
    assert any(holds(body, LetGo) for body in log.bodies)


async def test_what_was_acknowledged_elsewhere_is_in_history_here_though_the_feed_is_behind(log, opened):
    one, other = await opened("one"), await opened("other")
    begins = await other.broker.subscribe("room")
    line = other.broker._log._line
    feed, line._deliver = line._deliver, lambda: None
    positions = [await publish(one, b"%d" % number) for number in range(3)]
    asked = [
        asyncio.create_task(other.broker.history("room", since, 10))
        for since in (begins, positions[-1], Position(begins.epoch, 1), None)
    ]
    await until(lambda: log.bodies[-1] != b"" and other.broker._log._outgoing.waits_since() is not None)
    assert other.inbox.of("room") == []
    assert not any(one.done() for one in asked)
    line._deliver = feed
    feed()
    found = [await one for one in asked]
    assert [len(history.entries) for history in found] == [3, 0, 2, 3]
    assert all(history.complete and history.position == positions[-1] for history in found)


async def test_those_who_look_at_once_share_one_record(log, opened):
    one = await opened("one")
    await publish(one, b"x")
    before = len(log.batches())
    found = await asyncio.gather(*(one.broker.history("room", None, 10) for _ in range(500)))
    assert all(len(history.entries) == 1 for history in found)
    assert sum(len(batch.records) for batch in log.batches()[before:]) == 1


async def test_one_that_is_stopped_and_started_again_is_an_instance_again(log, opened):
    one = await opened("one")
    first = await publish(one, b"x")
    await one.broker.subscribe("room")
    await one.broker.stop()
    await one.broker.start(one.inbox)
    assert await one.broker.instances() == ["one"]
    assert await one.broker.subscribe("room") == first
    await publish(one, b"y")
    assert [entry.payload for entry in one.inbox.of("room")] == [b"y"]


async def test_what_is_unreasonable_to_keep_is_kept_as_long_as_there_is_room(log, opened):
    one = await opened("one")
    keep = Retention(10**30, float("inf"))
    position = await one.broker.publish("room", b"x", sender=None, key=None, keep=keep)
    history = await one.broker.history("room", Position("", 10**30), 10**30)
    assert (history.position, history.complete) == (position, False)
    assert len((await one.broker.history("room", None, 10**30)).entries) == 1


async def test_a_name_that_has_no_bytes_is_refused_and_harms_nobody(log, opened):
    one = await opened("one")
    refused, published = await asyncio.gather(
        publish(one, b"x", room="\ud800"), publish(one, b"y"), return_exceptions=True
    )
    assert isinstance(refused, ValueError)
    assert published.offset == 1


async def test_a_clock_that_is_behind_the_log_is_told(log, opened):
    log.append(encode_batch("ahead", 1, time.time() + 7200.0, [encode(Beat("ahead"))]))
    with collected_logs() as told:
        await opened("one")
        (line,) = told.of("broker clock")
    assert 7190 < fields_of(line)["behind"] < 7210


async def test_a_message_that_is_too_large_is_refused_and_harms_nobody(log, opened, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.rabbitmq.outgoing.MOST_BYTES", 1000)
    one = await opened("one")
    with pytest.raises(Unavailable, match="too large"):
        await publish(one, bytes(1001))
    assert (await publish(one, bytes(100))).offset == 1


async def test_a_stop_that_is_cancelled_ends_the_line_all_the_same(log, opened):
    one = await opened("one")
    log.takes = lambda body: False
    stopped = asyncio.create_task(one.broker.stop())
    await until(lambda: bool(log.on_its_way))
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    assert log.lines == []


async def test_a_message_that_can_not_be_taken_has_the_log_read_anew_and_no_new_epoch_begun(
    log, opened, monkeypatch
):
    one = await opened("one")
    first = await publish(one, b"first")
    fails = True
    replica = one.broker._log._replica
    take = replica.take

    def fail_once(offset: int, body: bytes) -> object:
        nonlocal fails
        if fails and b"second" in body:
            fails = False
            take(offset, body)
            raise ZeroDivisionError
        return take(offset, body)

    monkeypatch.setattr(replica, "take", fail_once)
    second = asyncio.create_task(publish(one, b"second"))
    assert await second == Position(first.epoch, 2)
    await until(lambda: one.broker.available)
    assert await publish(one, b"third") == Position(first.epoch, 3)
    assert await payloads(one) == [b"first", b"second", b"third"]
