"""Rooms on NATS whose newest messages the stream has no longer, and what was remembered of them."""

import asyncio
import contextlib
import gc

import msgspec
import pytest

from brokers.nats_engine import NatsEngine
from hubbub import Unavailable
from hubbub.brokers.nats import NatsBroker, read
from hubbub.brokers.nats.records import encode
from hubbub.brokers.nats.rooms import Publish
from hubbub.brokers.nats.streams import DAY
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import publish
from hubbub.testing.brokers.engines import Instance
from hubbub.testing.servers.nats import NatsServer
from told import collected_logs


@pytest.fixture(scope="module")
def server():
    with asyncio.Runner() as runner:
        server = NatsServer()
        runner.run(server.start())
        yield server
        runner.run(server.close())


@pytest.fixture
async def engine(server):
    engine = NatsEngine(server)
    yield engine
    await engine.close()


async def script(engine):
    """Return an instance that only publishes."""
    broker = engine.make()
    await broker.start(None)
    engine.instances.append(Instance(broker.instance, broker, None))
    return engine.instances[-1]


async def discard(instance, room="room"):
    """Remove all messages of a room, as limits of the stream do to the oldest."""
    reader, known = instance.broker._reader, instance.broker._log.rooms.find(room)
    answer = await instance.broker._streams.ask(
        f"STREAM.PURGE.{instance.broker._streams.rooms[known.shard]}", {"filter": reader.subject(known)}
    )
    assert answer.success


async def pushed_out(instance):
    """Publish to other rooms until those that were there before are gone from the stream."""
    for number in range(30):
        await publish(instance, bytes(100_000), room=f"other {number}")


async def test_a_room_that_nobody_is_in_goes_on_after_others_pushed_it_out(server):
    engine = NatsEngine(server, timeout=2.0, max_bytes=2**20)
    for one in (await engine.open(), await script(engine)):
        before = await publish(one, b"x", key=f"{one.name} 1")
        await pushed_out(one)
        after = await publish(one, b"y", key=f"{one.name} 2")
        assert after == Position(after.epoch, 1)
        assert after.epoch != before.epoch
    await engine.close()


async def test_a_room_whose_messages_alone_were_removed_goes_on_and_it_is_told(engine):
    one, other = await engine.open(), await engine.open()
    await other.broker.subscribe("room")
    await publish(one, b"before")
    await other.inbox.entries("room", 1)
    await publish(one, b"x", room="older than nothing")
    await discard(one)
    for instance in (one, other):
        assert (await publish(instance, b"after")).offset == (1 if instance is one else 2)
    await other.inbox.entries("room", 3)
    assert [position.offset for _, position in other.inbox.losses] == [0]


async def test_a_batch_that_goes_past_one_known_here_without_following_it_ends_the_epoch(engine):
    one, other = await engine.open(), await engine.open()
    await one.broker.subscribe("room")
    await publish(one, b"one")
    before = await publish(one, b"two")
    room = other.broker._log.rooms.find("room")
    sequence, newest = await other.broker._reader.last(room)
    # Somebody who knew of the first message only gave the offsets 2 and 3, and then 4.
    forked = msgspec.structs.replace(newest, writer="other", before=3)
    await other.broker._streams.append(other.broker._reader.subject(room), encode(forked), sequence)
    await one.inbox.until(lambda: bool(one.inbox.losses))
    ((_, position),) = one.inbox.losses
    assert position.epoch != before.epoch


async def test_a_room_that_was_lost_and_could_not_be_begun_is_begun_later(engine, monkeypatch):
    one = await engine.open()
    before = await one.broker.subscribe("room")
    await discard(one)
    log, room = one.broker._log, one.broker._log.rooms.find("room")
    with monkeypatch.context() as patch:
        patch.setattr(log.follower, "_begin", lambda _: None)
        room.stale = True
        await asyncio.wait([log.follower.mend(room)])
    assert room.epoch is None
    log.keep_from_fading()
    await one.inbox.until(lambda: bool(one.inbox.losses))
    ((name, position),) = one.inbox.losses
    assert (name, position.offset) == ("room", 0)
    assert position.epoch != before.epoch


async def test_rooms_that_were_entered_together_are_not_all_kept_from_fading_at_once(engine, monkeypatch):
    monkeypatch.setattr("hubbub.brokers.nats.log.MOST_KEPT_FROM_FADING", 2)
    monkeypatch.setattr("hubbub.brokers.nats.broker.LOOKS", 3600.0)
    one = await engine.open()
    for name in ("a", "b", "c"):
        await one.broker.subscribe(name)
    await engine.pass_time(DAY)
    rooms = one.broker._log.rooms.subscribed.values()
    for left in (1, 0):
        one.broker._log.keep_from_fading()
        assert sum(not wish.result.done() for room in rooms for wish in room.pending) == 1 + left
        async with asyncio.timeout(10.0):
            while sum(room.time < engine.now for room in rooms) > left:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_part_that_was_discarded_is_told_in_the_log_once(engine):
    one, other = await engine.open(), await engine.open()
    before = await publish(one, bytes(one.broker._line.max_payload))
    await publish(one, b"after")
    reader, known = other.broker._reader, other.broker._log.rooms.find("room")
    stream = other.broker._streams.rooms[known.shard]
    await other.broker._streams.purge(stream, reader.part_subject(known), 2**40)
    with collected_logs() as logs:
        for _ in range(3):
            history = await other.broker.history("room", Position(before.epoch, 0), 10)
            assert not history.complete
            assert [entry.payload for entry in history.entries] == [b"after"]
    assert len(logs.of("broker")) == 1


# What is remembered


async def test_what_is_remembered_of_a_stream_that_is_no_more_is_not_taken_for_what_there_is(engine):
    one, other = await engine.open(), await engine.open()
    await publish(one, b"elsewhere", room="elsewhere")
    reader, known = other.broker._reader, other.broker._log.rooms.find("elsewhere")
    sequence, batch = await reader.last(known)
    for later in range(sequence, sequence + 10):
        reader.remember(known.shard, later, batch)
    for number in range(3):
        await publish(one, b"%d" % number)
    history = await other.broker.history("room", None, 10)
    assert [entry.payload for entry in history.entries] == [b"0", b"1", b"2"]


async def test_what_was_published_is_not_held_until_its_time_is_over(engine):
    one = await engine.open()
    await publish(one, b"x")
    await one.broker.history("room", None, 1)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Publish]


async def test_keys_of_quiet_rooms_are_forgotten_after_the_window(engine):
    one = await engine.open()
    await one.broker.subscribe("room")
    await publish(one, b"x", key="1")
    room = one.broker._log.rooms.find("room")
    assert room.keys
    await engine.pass_time(engine.window + 1)
    one.broker._log.keep_from_fading()
    assert not room.keys


# Presence


async def test_a_member_who_stays_on_other_instances_is_not_remembered_where_they_left(engine):
    one, other = await engine.open(), await engine.open()
    await one.broker.enter("room", "ada", "1", b"")
    await other.broker.enter("room", "ada", "2", b"")
    assert not await one.broker.leave("room", "ada", "1")
    assert one.broker._presence._places == {}
    assert await other.broker.leave("room", "ada", "2")


async def test_nobody_is_entered_with_a_lease_that_is_not_stored(engine, monkeypatch):
    one = await engine.open()
    presence = one.broker._presence
    presence._id = ""
    write, failures = presence._write_lease, [Unavailable("The answer was lost.")]

    async def fails_once(lease, expected):
        if failures:
            await asyncio.sleep(0)
            raise failures.pop()
        return await write(lease, expected)

    monkeypatch.setattr(presence, "_write_lease", fails_once)
    first, second = await asyncio.gather(
        one.broker.enter("room", "ada", "1", b""),
        one.broker.enter("room", "bob", "2", b""),
        return_exceptions=True,
    )
    assert isinstance(first, Unavailable)
    assert second is True
    ((_, lease, _),) = (await presence._read(presence._subject("room", "bob")))[1].connections
    streams = one.broker._streams
    assert await streams.last(streams.members, presence._lease_subject(lease)) is not None


async def test_an_instance_with_two_leases_takes_part_once(engine):
    one = await engine.open()
    one.broker._presence._id = ""
    await one.broker.renew()
    assert await one.broker.instances() == [one.name]


async def available(*instances):
    async with asyncio.timeout(10.0):
        while not all(one.broker.available for one in instances):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_outage_longer_than_the_lease_takes_nobody_for_gone_who_comes_back(engine):
    one, other, dead = await engine.open(), await engine.open(), await engine.open()
    for instance in (one, other, dead):
        await instance.broker.enter("room", instance.name, "1", b"")
    for instance in (one, other):
        instance.broker._line.drop("to try it")
    await engine.crash(dead)
    await engine.pass_time(engine.lease + 1)
    await available(one)
    # Whoever is back first does not judge the others at once.
    assert (await one.broker.renew()).departures == []
    await available(one, other)
    one.broker._presence._patient_until = 0.0
    renewal = await one.broker.renew()
    assert [departure.member for departure in renewal.departures] == [dead.name]
    assert not (await other.broker.renew()).forgotten
    assert set(await one.broker.members("room")) == {one.name, other.name}


# The line


async def test_what_is_larger_than_the_server_takes_is_refused_and_the_connection_stays(engine):
    one = await engine.open()
    line = one.broker._line
    with pytest.raises(Unavailable):
        await one.broker.enter("room", "ada", "1", bytes(line.max_payload))
    with pytest.raises(Unavailable):
        await one.broker.send_control(None, bytes(line.max_payload + 1))
    await one.broker.send_control(None, b"still there")
    await one.inbox.until(lambda: one.inbox.controls == [b"still there"])
    assert line.connections == 1


async def test_what_is_asked_while_the_line_is_being_connected_fails_at_once():
    connected = asyncio.Event()

    async def say_nothing(reader, writer):
        connected.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        broker = NatsBroker(read(f"nats://127.0.0.1:{port}"), timeout=3.0)
        starting = asyncio.ensure_future(broker.start(None))
        await connected.wait()
        async with asyncio.timeout(2.0):
            with pytest.raises(Unavailable):
                await broker._line.request("somebody", b"")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting


async def test_rooms_are_compared_with_the_stream_when_it_could_not_be_looked_at(engine, monkeypatch):
    one, other = await engine.open(), await engine.open()
    await other.broker.subscribe("room")
    # Servers that lose each other pass nothing on.
    other.broker._line._handlers.pop(other.broker._log.rooms.find("room").subscription)
    await publish(one, b"x")
    look, failures = other.broker._look, [Unavailable("Nobody answers.")]

    async def fails_once(seen):
        if failures:
            raise failures.pop()
        await look(seen)

    monkeypatch.setattr(other.broker, "_look", fails_once)
    await other.inbox.entries("room", 1)


async def test_whatever_goes_wrong_while_connecting_it_is_tried_again(engine, monkeypatch):
    one = await engine.open()
    ready, failures = one.broker._line._ready, [RuntimeError("This was not foreseen.")]

    async def fails_once():
        if failures:
            raise failures.pop()
        await ready()

    monkeypatch.setattr(one.broker._line, "_ready", fails_once)
    one.broker._line.drop("to try it")
    await available(one)
    assert not failures
    assert (await publish(one, b"x")).offset == 1


async def test_to_stop_ends_though_a_cancellation_was_swallowed_while_connecting(engine, monkeypatch):
    one = await engine.open()
    connecting = asyncio.Event()
    connect = one.broker._line._connect

    async def swallow():
        connecting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await connect()

    monkeypatch.setattr(one.broker._line, "_connect", swallow)
    one.broker._line.drop("to try it")
    await connecting.wait()
    async with asyncio.timeout(5.0) as limit:
        await one.broker.stop()
    assert not limit.expired()
    assert not one.broker.available
