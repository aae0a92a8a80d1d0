import pytest
from hypothesis import HealthCheck, settings

from hubbub.brokers.base import Retention
from hubbub.brokers.memory import MAX_KEYS, MemoryBroker, MemoryStore
from hubbub.testing.brokers import BrokerConformance, Inbox, Instance, publish
from hubbub.testing.brokers.model import RoomMachine


class MemoryEngine:
    """A store and the hand on its clock."""

    window = 20.5
    lease = 10.0

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(window=self.window, lease=self.lease, clock=lambda: self.now)
        self.instances: list[Instance] = []

    async def open(self) -> Instance:
        broker, inbox = MemoryBroker(self.store), Inbox()
        await broker.start(inbox)
        instance = Instance(broker.instance, broker, inbox)
        self.instances.append(instance)
        return instance

    async def crash(self, instance: Instance) -> None:
        self.instances.remove(instance)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def close(self) -> None:
        for instance in self.instances:
            await instance.broker.stop()


class TestMemoryBroker(BrokerConformance):
    def make_engine(self) -> MemoryEngine:
        return MemoryEngine()


class MemoryRoomMachine(RoomMachine):
    def make_engine(self) -> MemoryEngine:
        return MemoryEngine()


TestMemoryRoom = MemoryRoomMachine.TestCase
TestMemoryRoom.settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], stateful_step_count=30
)


@pytest.fixture
async def engine():
    engine = MemoryEngine()
    yield engine
    await engine.close()


@pytest.fixture
async def instance(engine):
    return await engine.open()


# Its own


async def test_brokers_without_a_common_store_have_nothing_in_common():
    one, other = MemoryBroker(), MemoryBroker()
    inbox = Inbox()
    await one.start(Inbox())
    await other.start(inbox)
    await other.subscribe("room")
    await one.publish("room", b"x", sender=None, key=None, keep=Retention(10, 60.0))
    assert inbox.deliveries == []
    assert (await other.history("room", None, 10)).entries == []


async def test_an_instance_can_be_given_its_name():
    store, inbox = MemoryStore(), Inbox()
    named = MemoryBroker(store, instance="ours")
    await named.start(inbox)
    await MemoryBroker(store).send_control("ours", b"hello")
    assert inbox.controls == [b"hello"]


def test_it_neither_spans_processes_nor_outlives_its_own():
    assert not MemoryBroker.guarantees.shared
    assert not MemoryBroker.guarantees.durable


async def test_what_is_exactly_as_old_as_its_age_is_still_kept(engine, instance):
    await publish(instance, b"x", keep=Retention(10, 5.0))
    await engine.pass_time(5.0)
    assert len((await instance.broker.history("room", None, 10)).entries) == 1
    await engine.pass_time(0.001)
    assert (await instance.broker.history("room", None, 10)).entries == []


async def test_a_key_that_is_exactly_as_old_as_the_window_is_still_known(engine, instance):
    await instance.broker.subscribe("room")
    await publish(instance, b"x", key="k")
    await engine.pass_time(engine.window)
    assert (await publish(instance, b"x", key="k")).offset == 1
    await engine.pass_time(0.001)
    assert (await publish(instance, b"x", key="k")).offset == 2


async def test_an_instance_exactly_at_the_end_of_its_lease_is_still_there(engine, instance):
    crashed = await engine.open()
    await crashed.broker.enter("room", "ada", "1", b"")
    await engine.pass_time(engine.lease)
    assert (await instance.broker.renew()).departures == []
    await engine.pass_time(0.001)
    assert len((await instance.broker.renew()).departures) == 1
    await engine.crash(crashed)


async def test_an_instance_that_was_only_late_is_back_with_what_it_missed(engine, instance):
    late = await engine.open()
    await late.broker.subscribe("room")
    await late.broker.enter("room", "ada", "1", b"")
    await engine.pass_time(engine.lease * 1.5)
    assert [departure.member for departure in (await instance.broker.renew()).departures] == ["ada"]
    await publish(instance, b"x")
    assert (await late.broker.renew()).departures == []
    await publish(instance, b"y")
    await instance.broker.send_control(late.name, b"z")
    assert [delivery[1].payload for delivery in late.inbox.deliveries] == [b"x", b"y"]
    assert late.inbox.controls == [b"z"]


# What it remembers has a bound


async def test_of_too_many_keys_the_oldest_is_forgotten_first(instance):
    keep = Retention(1, 3600.0)
    await publish(instance, b"first", key="first", keep=keep)
    await publish(instance, b"second", key="second", keep=keep)
    for number in range(MAX_KEYS - 1):
        newest = await publish(instance, b"x", key=str(number), keep=keep)
    assert (await publish(instance, b"second", key="second", keep=keep)).offset == 2
    assert (await publish(instance, b"first", key="first", keep=keep)).offset == newest.offset + 1


async def test_a_room_that_was_only_joined_and_left_is_forgotten_at_once(engine, instance):
    await instance.broker.subscribe("room")
    await instance.broker.enter("room", "ada", "1", b"")
    await instance.broker.leave("room", "ada", "1")
    assert set(engine.store.streams) == {"room"}
    await instance.broker.unsubscribe("room")
    assert not engine.store.streams


async def test_a_room_that_was_only_entered_and_left_is_forgotten_at_once(engine, instance):
    await instance.broker.enter("room", "ada", "1", b"")
    await instance.broker.leave("room", "ada", "1")
    assert not engine.store.streams


async def test_to_ask_about_a_room_does_not_make_it(engine, instance):
    await instance.broker.history("room", None, 10)
    await instance.broker.members("room")
    await instance.broker.leave("room", "ada", "1")
    await instance.broker.unsubscribe("room")
    assert not engine.store.streams


async def test_a_message_to_nobody_that_is_not_kept_leaves_no_room(engine, instance):
    for number in range(10):
        await publish(instance, b"x", room=f"room {number}", keep=None)
    assert not engine.store.streams


async def test_a_room_whose_history_and_keys_ran_out_is_forgotten(engine, instance):
    first = await publish(instance, b"x", room="old", key="k", keep=Retention(10, 5.0))
    await engine.pass_time(engine.window + 1)
    for _ in range(3):
        await publish(instance, b"x", room="new")
    assert set(engine.store.streams) == {"new"}
    anew = await publish(instance, b"x", room="old")
    assert anew.offset == 1
    assert anew.epoch != first.epoch
    history = await instance.broker.history("old", first, 10)
    assert not history.complete


async def test_a_room_in_which_nothing_was_ever_published_goes_on_where_it_was_forgotten(engine, instance):
    begins = await instance.broker.subscribe("room")
    await instance.broker.unsubscribe("room")
    assert not engine.store.streams
    history = await instance.broker.history("room", begins, 10)
    assert (history.complete, history.position) == (True, begins)
    assert await instance.broker.subscribe("room") == begins
    first = await publish(instance, b"x", room="room")
    assert (first.epoch, first.offset) == (begins.epoch, 1)
    history = await instance.broker.history("room", begins, 10)
    assert [entry.offset for entry in history.entries] == [1]
    assert history.complete


async def test_a_room_in_which_nothing_was_published_does_not_begin_anew_because_others_are_forgotten(
    engine, instance
):
    rooms = [f"unused {number}" for number in range(100)]
    begins = [await instance.broker.subscribe(room) for room in rooms]
    for room in rooms:
        await instance.broker.unsubscribe(room)
    for number in range(20):
        # As sessions do that are taken up once.
        await publish(instance, b"x", room=f"used {number}", keep=Retention(1, 5.0))
        await engine.pass_time(6)
    assert len(engine.store.streams) < 5
    again = [await instance.broker.subscribe(room) for room in rooms]
    assert sum(begun == position for begun, position in zip(begins, again, strict=True)) > 90


@pytest.mark.parametrize("use", ["history", "key", "subscriber", "member"])
async def test_a_room_that_is_used_is_not_forgotten(engine, instance, use):
    begins = await instance.broker.subscribe("used")
    if use != "subscriber":
        await publish(
            instance,
            b"x",
            room="used",
            key="k" if use == "key" else None,
            keep=Retention(10 if use == "history" else 0, 3600.0),
        )
        if use == "member":
            await instance.broker.enter("used", "ada", "1", b"")
        await instance.broker.unsubscribe("used")
    for _ in range(5):
        await publish(instance, b"x", room="new")
    assert "used" in engine.store.streams
    assert (await instance.broker.subscribe("used")).epoch == begins.epoch


async def test_rooms_that_are_used_once_do_not_pile_up_behind_those_in_use(engine, instance):
    for number in range(50):
        await instance.broker.subscribe(f"in use {number}")
    most = 0
    for number in range(5000):
        await publish(instance, b"x", room=f"used once {number}", keep=Retention(10, 1.0))
        await engine.pass_time(0.1)
        most = max(most, len(engine.store.streams))
    assert most < 200
