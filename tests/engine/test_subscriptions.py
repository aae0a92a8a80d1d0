import asyncio

import msgspec
import pytest

from fake_transport import FakeTransport, fake_connection
from hubbub import Connection, Position, Settings, Unavailable
from hubbub.brokers.base import Entry, Receiver, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.outbox import Flusher
from hubbub.engine.subscriptions import Subscriptions
from hubbub.protocol.codecs import JSON, MESSAGEPACK, pack
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


async def started(
    broker: MemoryBroker, *sessions: Connection, flusher: Flusher | None = None
) -> Subscriptions:
    by_session = {connection.session: connection for connection in sessions}
    subscriptions = Subscriptions(broker, by_session, flusher or Flusher())
    receiver: Receiver = subscriptions
    await broker.start(receiver)
    return subscriptions


def entry(
    offset: int | None,
    text: str,
    exclude: Connection | None = None,
    key: str | None = None,
    kind: str = "say",
) -> Entry:
    session = None if exclude is None else exclude.session
    publication = Publication(kind, msgspec.Raw(pack({"text": text})), "ada", session, key)
    return Entry(offset, pack(publication), None)


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
    await subscriptions.release(subscription)
    broker.fails = False
    await subscriptions.subscribe("room")
    assert broker.asked.count("subscribe room") == 4


async def test_a_broker_that_could_not_be_told_of_an_end_is_told_later():
    broker = Watched()
    subscriptions = await started(broker)
    held = [await subscriptions.subscribe(room) for room in ("left", "again")]
    broker.fails = True
    for subscription in held:
        await subscriptions.release(subscription)
    with pytest.raises(Unavailable):
        await subscriptions.subscribe("never")
    await subscriptions.settle()
    # It is still away, so one call was enough.
    assert broker.asked.count("unsubscribe left") + broker.asked.count("unsubscribe again") in (2, 3)
    broker.fails = False
    again = await subscriptions.subscribe("again")
    broker.asked.clear()
    await subscriptions.settle()
    # Perhaps it had carried out what failed.
    assert sorted(broker.asked) == ["unsubscribe left", "unsubscribe never"]
    assert broker.store.stream("again").subscribers
    await subscriptions.settle()
    await subscriptions.release(again)
    assert broker.asked[2:] == ["unsubscribe again"]


async def test_one_that_comes_while_the_broker_is_told_of_the_end_has_a_subscription():
    broker = Watched()
    subscriptions = await started(broker)
    subscription = await subscriptions.subscribe("room")
    broker.fails = True
    await subscriptions.release(subscription)
    broker.fails, broker.holds = False, asyncio.Event()
    settling = asyncio.create_task(subscriptions.settle())
    await asyncio.sleep(0)
    coming = asyncio.create_task(subscriptions.subscribe("room"))
    await asyncio.sleep(0)
    broker.holds.set()
    await settling
    assert await coming is subscription
    assert broker.store.stream("room").subscribers
    assert broker.asked[-2:] == ["unsubscribe room", "subscribe room"]


async def test_one_that_ended_while_its_end_was_owed_is_not_ended_a_second_time():
    broker = Watched()
    subscriptions = await started(broker)
    first = await subscriptions.subscribe("room")
    broker.fails = True
    await subscriptions.release(first)
    broker.fails = False
    again = await subscriptions.subscribe("room")
    # It ends in due form, and is still to be settled; the next one comes while that waits.
    broker.holds = asyncio.Event()
    ending = asyncio.create_task(subscriptions.release(again))
    await asyncio.sleep(0)
    settling = asyncio.create_task(subscriptions.settle())
    await asyncio.sleep(0)
    broker.holds.set()
    broker.holds = None
    await ending
    coming = await subscriptions.subscribe("room")
    await settling
    assert coming is not again
    assert subscriptions.holds("room")
    assert broker.store.stream("room").subscribers
    await subscriptions.release(coming)


async def test_a_slow_broker_is_told_of_few_ends_at_a_time(monkeypatch):
    monkeypatch.setattr("hubbub.engine.subscriptions.SETTLED_WITHIN", 0.0)
    broker = Watched()
    subscriptions = await started(broker)
    held = [await subscriptions.subscribe(str(number)) for number in range(10)]
    broker.fails = True
    for subscription in held:
        await subscriptions.release(subscription)
    broker.fails = False
    broker.asked.clear()
    await subscriptions.settle()
    assert len(broker.asked) == 1
    for _ in range(9):
        await subscriptions.settle()
    assert sorted(broker.asked) == sorted(f"unsubscribe {number}" for number in range(10))


async def test_no_more_ends_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr("hubbub.engine.subscriptions.MAX_OWED", 2)
    broker = Watched()
    subscriptions = await started(broker)
    broker.fails = True
    for number in range(4):
        with pytest.raises(Unavailable):
            await subscriptions.subscribe(str(number))
    broker.fails = False
    broker.asked.clear()
    await subscriptions.settle()
    assert sorted(broker.asked) == ["unsubscribe 0", "unsubscribe 1"]


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


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\x92\xa1a\xc1", b"\x92\xa1\xff\xc0", b"\x91" * 5000])
async def test_what_a_broker_brings_and_nobody_can_read_is_a_gap_and_stops_nothing(payload, logs):
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    connection, line = fake_connection()
    subscription.add(connection)
    for offset in (1, None):
        subscriptions.deliver("room", Entry(offset, payload, None), subscription.epoch)
    subscriptions.deliver("room", entry(2, "2"), subscription.epoch)
    connection.outbox.flush()
    gap, message = line.envelopes
    assert (gap["type"], gap["data"]) == ("$gap", {"epoch": subscription.epoch, "offset": 1})
    assert (message["type"], message["offset"]) == ("say", 2)
    assert len(logs.of("error", during="encoding", room="room")) == 2


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


async def test_members_are_told_of_a_jump_of_the_feed_and_of_a_new_epoch():
    subscriptions = await started(Watched())
    subscription = await subscriptions.subscribe("room")
    connection, line = fake_connection()
    subscription.add(connection)
    begins = subscription.epoch
    for epoch, offset in [(begins, 1), (begins, 2), (begins, 5), (begins, 6), ("new", 1), ("newer", 3)]:
        subscriptions.deliver("room", entry(offset, "hi"), epoch)
    connection.outbox.flush()
    shown = [envelope.get("offset") or envelope["data"] for envelope in line.envelopes]
    assert shown == [
        1, 2, {"epoch": begins, "offset": 4}, 5, 6, {"epoch": "new", "offset": 0}, 1,
        {"epoch": "newer", "offset": 2}, 3,
    ]  # fmt: skip
    assert subscription.position == Position("newer", 3)


# Members that read too slowly


async def test_while_everybody_reads_all_rooms_are_alike():
    for slow in ("disconnect", "drop", "conflate"):
        ada, line = fake_connection()
        subscriptions = await started(Watched())
        subscription = await subscriptions.subscribe("room", slow)
        subscription.add(ada)
        for offset in (1, 2, 3):
            subscriptions.deliver("room", entry(offset, str(offset), key="same"), subscription.epoch)
        assert seen(ada, line) == ["1", "2", "3"]


async def test_only_who_reads_too_slowly_is_spared_what_is_stale():
    flusher = Flusher()
    members = [fake_connection(flusher=flusher, codec=codec) for codec in (JSON, JSON, MESSAGEPACK)]
    (slow, slow_line), (quick, quick_line), (slow_too, slow_too_line) = members
    subscriptions = await started(Watched(), slow, quick, slow_too, flusher=flusher)
    subscription = await subscriptions.subscribe("room", "conflate")
    for connection, _ in members:
        subscription.add(connection)
    slow.outbox.pause()
    slow_too.outbox.pause()
    subscriptions.deliver("room", entry(1, "1", key="key"), subscription.epoch)
    subscriptions.deliver("room", entry(2, "2", key="key"), subscription.epoch)
    subscriptions.deliver("room", entry(3, "not for the slow one", slow, key="key"), subscription.epoch)
    subscriptions.deliver("room", entry(4, "not for the quick one", quick, key="other"), subscription.epoch)
    assert seen(quick, quick_line) == ["1", "2", "not for the slow one"]
    assert slow_line.written == []
    slow.outbox.resume()
    slow_too.outbox.resume()
    assert seen(slow, slow_line) == ["2", "not for the quick one"]
    texts = [msgspec.msgpack.decode(payload)["data"]["text"] for payload in slow_too_line.written]
    assert texts == ["not for the slow one", "not for the quick one"]


@pytest.mark.parametrize(
    ("offset", "kind", "told"), [(4, "say", 4), (None, "say", None), (None, "$joined", 3), (None, "$left", 3)]
)
async def test_a_dropped_message_is_told_if_it_was_kept_or_news_of_who_is_there(offset, kind, told):
    flusher = Flusher()
    connection, line = fake_connection(Settings(max_outbox=1024), flusher=flusher)
    subscriptions = await started(Watched(), flusher=flusher)
    subscription = await subscriptions.subscribe("room", "drop")
    subscription.add(connection)
    subscription.advance(subscription.epoch, 3)
    connection.outbox.pause()
    subscriptions.deliver("room", entry(offset, "dropped", kind=kind), subscription.epoch)
    subscriptions.deliver("room", entry(None, "x" * 600), subscription.epoch)
    connection.outbox.resume()
    gaps = [envelope["data"]["offset"] for envelope in line.envelopes if envelope["type"] == "$gap"]
    assert gaps == ([] if told is None else [told])
    assert line.envelopes[-1]["data"]["text"] == "x" * 600


async def test_a_jump_of_the_feed_waits_in_its_place():
    flusher = Flusher()
    connection, line = fake_connection(flusher=flusher)
    subscriptions = await started(Watched(), flusher=flusher)
    subscription = await subscriptions.subscribe("room", "conflate")
    subscription.add(connection)
    connection.outbox.pause()
    for offset in (1, 4, 5):
        subscriptions.deliver("room", entry(offset, str(offset), key=str(offset == 1)), subscription.epoch)
    connection.outbox.resume()
    shown = [(envelope["type"], envelope.get("offset")) for envelope in line.envelopes]
    assert shown == [("say", 1), ("$gap", None), ("say", 5)]


async def test_who_leaves_is_not_sent_what_was_held():
    flusher = Flusher()
    connection, line = fake_connection(flusher=flusher)
    subscriptions = await started(Watched(), flusher=flusher)
    subscription = await subscriptions.subscribe("room", "drop")
    subscription.add(connection)
    connection.outbox.pause()
    subscriptions.deliver("room", entry(1, "1"), subscription.epoch)
    subscription.remove(connection)
    subscription.add(connection)
    subscriptions.deliver("room", entry(2, "2"), subscription.epoch)
    connection.outbox.resume()
    assert seen(connection, line) == ["2"]
