import asyncio

import msgspec
import pytest

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, Position, Unavailable
from hubbub.brokers.base import Entry, Receiver, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.subscriptions import Subscriptions
from hubbub.protocol.codecs import MESSAGEPACK, pack
from hubbub.protocol.envelope import Publication

pytestmark = pytest.mark.anyio


class Watched(MemoryBroker):
    """Notes what it is asked; waits where it is told to; fails where it is told to."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.asked: list[str] = []
        self.holds: asyncio.Event | None = None
        self.fails = False

    async def _note(self, call: str) -> None:
        self.asked.append(call)
        if self.holds is not None:
            await self.holds.wait()
        if self.fails:
            raise Unavailable("The broker is away; try again.")

    async def subscribe(self, room: str) -> Position:
        await self._note(f"subscribe {room}")
        return await super().subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        await self._note(f"unsubscribe {room}")
        await super().unsubscribe(room)


async def started(broker: MemoryBroker, *sessions: Connection) -> Subscriptions:
    subscriptions = Subscriptions(broker, {connection.session: connection for connection in sessions})
    receiver: Receiver = subscriptions
    await broker.start(receiver)
    return subscriptions


def entry(offset: int | None, text: str, exclude: Connection | None = None) -> Entry:
    session = None if exclude is None else exclude.session
    return Entry(offset, pack(Publication("say", msgspec.Raw(pack({"text": text})), "ada", session)), None)


def seen(connection: Connection, line: FakeTransport) -> list[str]:
    connection.outbox.flush()
    return [envelope["data"]["text"] for envelope in line.envelopes]


async def test_the_broker_is_asked_once_for_a_room_however_many_members_it_has():
    broker = Watched()
    subscriptions = await started(broker)
    first = await subscriptions.subscribe("room")
    assert await subscriptions.subscribe("room") is first
    assert await subscriptions.subscribe("other") is not first
    await subscriptions.release(first)
    assert broker.asked == ["subscribe room", "subscribe other"]
    await subscriptions.release(first)
    assert broker.asked[2:] == ["unsubscribe room"]
    assert await subscriptions.subscribe("room") is not first


async def test_members_that_come_at_the_same_time_share_one_request():
    broker = Watched()
    broker.holds = asyncio.Event()
    subscriptions = await started(broker)
    coming = [asyncio.create_task(subscriptions.subscribe("room")) for _ in range(3)]
    await asyncio.sleep(0)
    broker.holds.set()
    assert len({id(subscription) for subscription in await asyncio.gather(*coming)}) == 1
    assert broker.asked == ["subscribe room"]


async def test_one_that_comes_while_the_last_one_leaves_subscribes_anew():
    broker = Watched()
    subscriptions = await started(broker)
    subscription = await subscriptions.subscribe("room")
    broker.holds = asyncio.Event()
    leaving = asyncio.create_task(subscriptions.release(subscription))
    await asyncio.sleep(0)
    coming = asyncio.create_task(subscriptions.subscribe("room"))
    await asyncio.sleep(0)
    broker.holds.set()
    await leaving
    assert await coming is subscription
    assert broker.asked == ["subscribe room", "unsubscribe room", "subscribe room"]
    connection, line = fake_connection()
    subscription.add(connection)
    subscriptions.deliver("room", entry(1, "hi"), subscription.epoch)
    assert seen(connection, line) == ["hi"]


async def test_one_that_leaves_while_it_waits_to_come_leaves_nothing_behind():
    broker = Watched()
    broker.holds = asyncio.Event()
    subscriptions = await started(broker)
    coming = asyncio.create_task(subscriptions.subscribe("room"))
    await asyncio.sleep(0)
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
    broker.holds.set()
    broker.asked.clear()
    await subscriptions.subscribe("room")
    assert broker.asked == ["subscribe room"]


async def test_one_that_comes_while_the_last_one_leaves_and_gives_up_leaves_nothing_behind():
    broker = Watched()
    subscriptions = await started(broker)
    subscription = await subscriptions.subscribe("room")
    broker.holds = asyncio.Event()
    leaving = asyncio.create_task(subscriptions.release(subscription))
    await asyncio.sleep(0)
    coming = asyncio.create_task(subscriptions.subscribe("room"))
    await asyncio.sleep(0)
    coming.cancel()
    await asyncio.sleep(0)
    broker.holds.set()
    await leaving
    with pytest.raises(asyncio.CancelledError):
        await coming
    assert broker.asked == ["subscribe room", "unsubscribe room"]
    assert await subscriptions.subscribe("room") is not subscription


async def test_a_broker_that_refuses_is_asked_again_by_the_next():
    broker = Watched()
    subscriptions = await started(broker)
    broker.fails = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await subscriptions.subscribe("room")
    broker.fails = False
    subscription = await subscriptions.subscribe("room")
    broker.fails = True
    with pytest.raises(Unavailable):
        await subscriptions.release(subscription)
    broker.fails = False
    await subscriptions.subscribe("room")
    assert broker.asked.count("subscribe room") == 4


async def test_one_that_is_refused_leaves_those_alone_who_wait_with_it():
    broker = Watched()
    broker.holds = asyncio.Event()
    broker.fails = True
    subscriptions = await started(broker)
    coming = [asyncio.create_task(subscriptions.subscribe("room")) for _ in range(2)]
    await asyncio.sleep(0)
    coming[1].add_done_callback(lambda task: None)
    broker.holds.set()
    with pytest.raises(Unavailable):
        await coming[0]
    broker.fails = False
    await asyncio.wait(coming)
    subscription = await subscriptions.subscribe("room")
    assert subscription.position.offset == 0


async def test_a_subscription_starts_where_the_room_is():
    store = MemoryStore()
    publisher = MemoryBroker(store)
    for _ in range(3):
        newest = await publisher.publish("room", b"", sender=None, key=None, keep=Retention(10, 60.0))
    subscriptions = await started(Watched(store))
    assert (await subscriptions.subscribe("room")).position == newest


async def test_a_message_is_encoded_once_for_all_members_of_a_form():
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    members = [fake_connection(), fake_connection(), fake_connection(codec=MESSAGEPACK)]
    for connection, _ in members:
        subscription.add(connection)
    subscriptions.deliver("room", entry(1, "hi"), subscription.epoch)
    for connection, _ in members:
        connection.outbox.flush()
    one, other, binary = (line.written[0] for _, line in members)
    assert one is other
    assert msgspec.json.decode(one) == msgspec.msgpack.decode(binary)
    assert msgspec.json.decode(one) == {
        "type": "say", "room": "room", "offset": 1, "from": "ada", "data": {"text": "hi"},
    }  # fmt: skip


async def test_who_is_excluded_gets_nothing_and_all_others_everything():
    (ada, ada_line), (bob, bob_line) = fake_connection(), fake_connection()
    (eve, eve_line), (outsider, _) = fake_connection(codec=MESSAGEPACK), fake_connection()
    subscriptions = await started(Watched(), ada, bob, eve, outsider)
    subscription = await subscriptions.subscribe("room")
    for connection in (ada, bob, eve):
        subscription.add(connection)
    subscriptions.deliver("room", entry(1, "not for ada", ada), subscription.epoch)
    subscriptions.deliver("room", entry(2, "not for an outsider", outsider), subscription.epoch)
    assert seen(ada, ada_line) == ["not for an outsider"]
    assert seen(bob, bob_line) == ["not for ada", "not for an outsider"]
    eve.outbox.flush()
    assert len(eve_line.written) == 2


async def test_who_was_removed_gets_nothing_more():
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    (ada, ada_line), (bob, bob_line) = fake_connection(), fake_connection()
    for connection in (ada, bob):
        subscription.add(connection)
    subscription.remove(ada)
    subscription.remove(ada)
    subscriptions.deliver("room", entry(1, "1"), subscription.epoch)
    subscription.remove(bob)
    subscription.remove(bob)
    subscriptions.deliver("room", entry(2, "2"), subscription.epoch)
    assert seen(ada, ada_line) == []
    assert seen(bob, bob_line) == ["1"]


async def test_a_message_of_a_room_that_nobody_is_in_goes_nowhere():
    subscriptions = await started(Watched())
    subscriptions.deliver("room", entry(1, "1"), "epoch")


async def test_what_a_codec_can_not_carry_reaches_the_members_of_the_others(logs):
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    (ada, ada_line), (eve, eve_line) = fake_connection(), fake_connection(codec=MESSAGEPACK)
    for connection in (ada, eve):
        subscription.add(connection)
    # JSON has no keys but text; a message class would not let this through.
    payload = pack(Publication("say", msgspec.Raw(msgspec.msgpack.encode({(1, 2): 3}))))
    for offset in (1, None):
        subscriptions.deliver("room", Entry(offset, payload, None), subscription.epoch)
    for connection in (ada, eve):
        connection.outbox.flush()
    assert [envelope["type"] for envelope in ada_line.envelopes] == ["$gap"]
    assert len(eve_line.written) == 2
    assert len(logs.of("error", during="encoding", codec="hubbub.v1.json")) == 2


async def test_the_feed_moves_with_kept_messages_only():
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    moved = subscription.moved()
    assert subscription.moved() is moved
    subscriptions.deliver("room", entry(None, "typing"), subscription.epoch)
    assert not moved.done()
    subscriptions.deliver("room", entry(1, "1"), subscription.epoch)
    assert moved.done()
    assert subscription.position == Position(subscription.epoch, 1)
    assert not subscription.moved().done()
    # What is older does not turn it back, but a new epoch begins where it says.
    subscription.advance(subscription.epoch, 0)
    assert subscription.position.offset == 1
    subscription.advance("another", 0)
    assert subscription.position == Position("another", 0)


async def test_control_messages_of_another_version_are_logged_and_otherwise_ignored(logs):
    subscriptions = await started(Watched())
    subscriptions.control(b"from the future")
    [record] = logs.of("error", during="control message", size=15)
    assert record.levelname == "WARNING"
