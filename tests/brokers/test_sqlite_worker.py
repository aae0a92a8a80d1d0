"""The thread that works for the loop, and what the loop's side makes of cancellations and full queues."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from brokers.sqlite_engine import SqliteEngine
from hubbub import Unavailable
from hubbub.brokers.sqlite.worker import MOST_BYTES, MOST_WAITING, Worker
from hubbub.testing.brokers import payloads, publish
from told import collected_logs


@dataclass(eq=False)
class Ask:
    number: int
    size: int = 1


class GatedDesk:
    """Doubles numbers as soon as it is let; keeps what it was asked together."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.reached = threading.Event()
        self.rested = threading.Event()
        self.groups: list[list[int]] = []
        self.closed = False

    def open(self) -> None:
        pass

    def answer(self, asked: Sequence[Ask]) -> list[int | Exception]:
        self.reached.set()
        assert self.gate.wait(10)
        if any(each.number == -13 for each in asked):
            raise LookupError("thirteen")
        self.groups.append([each.number for each in asked])
        return [each.number * 2 if each.number >= 0 else ValueError("below zero") for each in asked]

    def rest(self) -> None:
        self.rested.set()
        raise ValueError("restless")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def desk():
    desk = GatedDesk()
    yield desk
    desk.gate.set()


@pytest.fixture
async def worker(desk):
    worker = Worker("test", desk, at_once=10, idle=0.01)
    await worker.start()
    yield worker
    desk.gate.set()
    await worker.stop()


async def test_what_is_asked_in_one_turn_is_answered_together(worker, desk):
    desk.gate.set()
    assert await asyncio.gather(*(worker.ask(Ask(number)) for number in range(5))) == [0, 2, 4, 6, 8]
    assert desk.groups == [[0, 1, 2, 3, 4]]


async def test_what_waits_meanwhile_is_answered_together_but_not_more_than_so_much(worker, desk):
    first = asyncio.ensure_future(worker.ask(Ask(0)))
    await asyncio.to_thread(desk.reached.wait, 10)
    others = []
    for number in range(1, 15):
        others.append(asyncio.ensure_future(worker.ask(Ask(number))))
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # the last one's turn is over, too
    desk.gate.set()
    await asyncio.gather(first, *others)
    assert desk.groups == [[0], list(range(1, 11)), list(range(11, 15))]


async def test_an_answer_that_is_an_exception_is_raised(worker, desk):
    desk.gate.set()
    with pytest.raises(ValueError, match="below zero"):
        await worker.ask(Ask(-1))


async def test_too_many_are_refused_at_once_until_some_are_answered(worker, desk):
    waiting = [asyncio.ensure_future(worker.ask(Ask(number))) for number in range(MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="try again"):
        await worker.ask(Ask(0))
    worker.tell(Ask(7))
    desk.gate.set()
    await asyncio.gather(*waiting)
    assert await worker.ask(Ask(1)) == 2


async def test_too_many_bytes_are_refused_at_once_but_one_alone_never(worker, desk):
    large = asyncio.ensure_future(worker.ask(Ask(1, MOST_BYTES * 2)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="try again"):
        await worker.ask(Ask(2))
    desk.gate.set()
    assert await large == 2
    assert await worker.ask(Ask(2)) == 4


async def test_who_is_cancelled_has_asked_all_the_same_and_holds_up_nobody(desk):
    answered = []
    worker = Worker("test", desk, lambda *told: answered.append(told), at_once=10)
    await worker.start()
    asked = [Ask(number) for number in range(3)]
    waiting = [asyncio.ensure_future(worker.ask(each)) for each in asked]
    await asyncio.to_thread(desk.reached.wait, 10)
    waiting[1].cancel()
    desk.gate.set()
    assert (await waiting[0], await waiting[2]) == (0, 4)
    assert answered == [(asked[0], 0, True), (asked[1], 2, False), (asked[2], 4, True)]
    await worker.stop()


async def test_a_stop_waits_for_what_was_asked_and_takes_no_more(worker, desk):
    waiting = [asyncio.ensure_future(worker.ask(Ask(number))) for number in range(30)]
    await asyncio.to_thread(desk.reached.wait, 10)
    stopping = asyncio.ensure_future(worker.stop())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopped"):
        await worker.ask(Ask(1))
    worker.tell(Ask(1))
    assert not desk.closed
    desk.gate.set()
    await stopping
    assert desk.closed
    assert [future.result() for future in waiting] == [number * 2 for number in range(30)]
    await worker.stop()


async def test_a_stop_that_is_cancelled_goes_on(worker, desk):
    waiting = asyncio.ensure_future(worker.ask(Ask(1)))
    stopping = asyncio.ensure_future(worker.stop())
    await asyncio.to_thread(desk.reached.wait, 10)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    desk.gate.set()
    assert await waiting == 2
    await worker.stop()
    assert desk.closed


async def test_a_start_that_is_cancelled_leaves_nothing_open():
    desk = GatedDesk()
    desk.gate.clear()
    desk.open = lambda: desk.gate.wait(10)
    worker = Worker("test", desk, at_once=10)
    starting = asyncio.ensure_future(worker.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.sleep(0)
    desk.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert desk.closed


async def test_a_desk_that_fails_is_an_error_for_those_who_asked_and_the_thread_goes_on(worker, desk):
    desk.gate.set()
    answers = await asyncio.gather(worker.ask(Ask(-13)), worker.ask(Ask(1)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["thirteen", "thirteen"]
    assert await worker.ask(Ask(1)) == 2


async def test_it_rests_when_nothing_is_asked_and_what_fails_then_is_logged(worker, desk):
    with collected_logs() as logs:
        await logs.wait("error", during="test")
    assert desk.rested.is_set()
    desk.gate.set()
    assert await worker.ask(Ask(1)) == 2


# In the broker


@pytest.fixture
async def engine(tmp_path):
    engine = SqliteEngine(tmp_path)
    yield engine
    await engine.close()


@pytest.fixture
async def instance(engine):
    return await engine.open()


async def test_of_too_many_publishes_the_last_are_refused_and_the_others_published(instance):
    answers = await asyncio.gather(
        *(publish(instance, b"%d" % number) for number in range(MOST_WAITING + 5)), return_exceptions=True
    )
    assert [answer.offset for answer in answers[:MOST_WAITING]] == list(range(1, MOST_WAITING + 1))
    assert {type(answer) for answer in answers[MOST_WAITING:]} == {Unavailable}


async def test_a_subscription_that_is_cancelled_delivers_nothing_and_is_let_go(engine, instance):
    other = await engine.open()
    for turns in range(40):
        subscribing = asyncio.ensure_future(instance.broker.subscribe("room"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if subscribing.done():
            await instance.broker.unsubscribe("room")
        subscribing.cancel()
        await asyncio.gather(subscribing, return_exceptions=True)
        await publish(other, b"x")
    assert not instance.inbox.deliveries
    assert not engine.store.feeds
    begins = await other.broker.subscribe("room")
    assert begins.offset == 40


async def test_subscriptions_at_once_to_one_room_all_count(engine, instance):
    other = await engine.open()
    one, two, cancelled = (
        asyncio.ensure_future(who.broker.subscribe("room")) for who in (instance, other, instance)
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await one == await two
    await publish(instance, b"x")
    for who in (instance, other):
        assert [entry.payload for entry in await who.inbox.entries("room", 1)] == [b"x"]


async def test_who_subscribes_behind_a_publish_that_is_not_written_yet_begins_after_it(engine, instance):
    await publish(instance, b"1")
    two, begins, three = await asyncio.gather(
        publish(instance, b"2"), instance.broker.subscribe("room"), publish(instance, b"3")
    )
    assert (two.offset, begins.offset, three.offset) == (2, 2, 3)
    assert [entry.offset for entry in await instance.inbox.entries("room", 1)] == [3]


async def test_an_instance_that_fails_to_take_a_message_is_nobody_elses_trouble(engine, instance):
    other = await engine.open()
    for who in (instance, other):
        await who.broker.subscribe("room")
    instance.inbox.deliver = None
    with collected_logs() as logs:
        position = await publish(other, b"x")
    assert position.offset == 1
    assert len(await other.inbox.entries("room", 1)) == 1
    assert len(logs.of("error", during="delivery", instance=instance.name)) == 1


async def test_two_brokers_that_start_and_stop_at_once_share_one_file(engine):
    for _ in range(3):
        one, other = await asyncio.gather(engine.open(), engine.open())
        await publish(one, b"x")
        assert await payloads(other) == await payloads(one)
        await asyncio.gather(one.broker.stop(), other.broker.stop())
