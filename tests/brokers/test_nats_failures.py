"""What becomes of rooms on NATS when the server or the way to it fails; against a real server."""

import asyncio
import contextlib

import msgspec
import pytest

from brokers.nats_engine import NatsEngine
from brokers.refusals import refuses_at_once
from hubbub import ConfigurationError, Unavailable
from hubbub.brokers.nats.records import encode
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import Inbox, payloads, publish
from hubbub.testing.faults import FaultProxy, Reset
from hubbub.testing.servers.nats import NatsServer
from told import collected_logs

SOON = 20.0


@pytest.fixture
async def server():
    async with NatsServer() as server:
        yield server


@pytest.fixture
async def engine(server):
    engine = NatsEngine(server)
    yield engine
    await engine.close()


async def until(happened):
    """Wait until something is so; what a server does has no event here."""
    async with asyncio.timeout(SOON):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def surely(call):
    """Do something until it is acknowledged."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.02)


class Publishers:
    """Publish from several instances with keys until told to stop, each message until it is acknowledged."""

    def __init__(self, instances, rooms=("room",)):
        self.instances = instances
        self.rooms = rooms
        self.acknowledged = {}
        self.goes_on = True
        self.refused = 0
        self.tasks = []

    def start(self):
        self.tasks = [
            asyncio.ensure_future(self.publish(instance, room))
            for instance in self.instances
            for room in self.rooms
        ]

    async def publish(self, instance, room):
        number = 0
        while self.goes_on:
            number += 1
            payload = f"{instance.name} {number}".encode()

            async def once(payload=payload):
                try:
                    return await publish(instance, payload, room=room, key=payload.decode())
                except Unavailable:
                    self.refused += 1
                    raise

            position = await surely(once)
            self.acknowledged[room, position.offset] = payload

    async def stop(self):
        self.goes_on = False
        await asyncio.gather(*self.tasks)

    async def proved(self, inboxes):
        """Everything that was acknowledged arrived once, in order, without a hole."""
        for room in self.rooms:
            expected = {
                offset: payload for (name, offset), payload in self.acknowledged.items() if name == room
            }
            last = max(expected)
            for inbox in inboxes:
                await inbox.entries(room, last)
                entries = inbox.of(room)
                assert [entry.offset for entry in entries] == list(range(1, len(entries) + 1))
                assert len({entry.payload for entry in entries}) == len(entries)
                assert {offset: entries[offset - 1].payload for offset in expected} == expected
                assert inbox.losses == []


async def three(engine, rooms=("room",)):
    instances = [await engine.open() for _ in range(3)]
    for instance in instances:
        for room in rooms:
            await instance.broker.subscribe(room)
    return instances


# The server


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed_and_started_again(engine, server):
    rooms = ("a", "b")
    instances = await three(engine, rooms)
    publishers = Publishers(instances, rooms)
    publishers.start()
    for _ in range(3):
        count = len(publishers.acknowledged)
        await until(lambda count=count: len(publishers.acknowledged) > count + 100)
        await server.kill()
        await until(lambda: not any(instance.broker.available for instance in instances))
        await server.start()
    count = len(publishers.acknowledged)
    await until(lambda: len(publishers.acknowledged) > count + 100)
    await publishers.stop()
    await publishers.proved([instance.inbox for instance in instances])


async def test_a_server_that_was_paused_for_a_while_goes_on(server):
    engine = NatsEngine(server, timeout=0.5)
    try:
        instances = await three(engine)
        publishers = Publishers(instances)
        publishers.start()
        await until(lambda: len(publishers.acknowledged) > 100)
        server.pause()
        await until(lambda: not any(instance.broker.available for instance in instances))
        server.resume()
        count = len(publishers.acknowledged)
        await until(lambda: len(publishers.acknowledged) > count + 100)
        await publishers.stop()
        await publishers.proved([instance.inbox for instance in instances])
    finally:
        await engine.close()


async def test_connections_that_are_cut_while_publishing_double_nothing(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        prefix = "cut"
        engine = NatsEngine(server, url=server.broker(port=proxy.port, prefix=prefix))
        try:
            instances = await three(engine)
            publishers = Publishers(instances)
            publishers.start()
            for _ in range(10):
                count = len(publishers.acknowledged)
                proxy.apply(Reset())
                await until(lambda count=count: len(publishers.acknowledged) > count + 30)
            await publishers.stop()
            await publishers.proved([instance.inbox for instance in instances])
        finally:
            await engine.close()


async def test_a_blink_fails_no_publish(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        engine = NatsEngine(server, url=server.broker(port=proxy.port, prefix="blink"))
        try:
            one = await engine.open()
            await one.broker.subscribe("room")
            publishes = [asyncio.ensure_future(publish(one, b"%d" % number)) for number in range(50)]
            await asyncio.sleep(0)
            proxy.apply(Reset())
            positions = await asyncio.gather(*publishes)
            assert [position.offset for position in positions] == list(range(1, 51))
            assert len(await one.inbox.entries("room", 50)) == 50
            assert await payloads(one) == [b"%d" % number for number in range(50)]
        finally:
            await engine.close()


async def test_while_the_server_is_away_calls_fail_at_once_and_on_its_return_all_is_repaired(engine, server):
    one, other = await engine.open(), await engine.open()
    await one.broker.subscribe("room")
    await publish(other, b"before")
    await one.inbox.entries("room", 1)
    with collected_logs() as logs:
        await server.kill()
        await until(lambda: not one.broker.available and not other.broker.available)
        for call in (
            publish(one, b"x"),
            publish(one, b"x", keep=None),
            one.broker.subscribe("other"),
            one.broker.history("room", None, 1),
            one.broker.enter("room", "ada", "1", b""),
            one.broker.leave("room", "ada", "1"),
            one.broker.members("room"),
            one.broker.renew(),
            one.broker.instances(),
            one.broker.secret(),
            one.broker.send_control(None, b""),
        ):
            refuses_at_once(call)
        await one.broker.unsubscribe("nothing")
        await server.start()
        await until(lambda: one.broker.available and other.broker.available)
    assert len(logs.of("broker unavailable")) == 2
    assert len(logs.of("broker available")) == 2
    await surely(lambda: publish(other, b"after"))
    assert [entry.payload for entry in await one.inbox.entries("room", 2)] == [b"before", b"after"]


async def test_what_was_published_while_one_instance_was_cut_off_arrives_afterwards_by_itself(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        engine, behind = (
            NatsEngine(server, url=server.broker(port=port, prefix="apart"), timeout=1.0)
            for port in (server.port, proxy.port)
        )
        try:
            one, other = await behind.open(), await engine.open()
            await one.broker.subscribe("room")
            await proxy.stop()
            await until(lambda: not one.broker.available)
            for number in range(50):
                await publish(other, b"%d" % number)
            await proxy.start()
            entries = await one.inbox.entries("room", 50)
            assert [entry.offset for entry in entries] == list(range(1, 51))
            assert one.inbox.losses == []
        finally:
            await behind.close()
            await engine.close()


async def test_a_server_that_is_not_there_at_the_start_is_waited_for(engine, server):
    await server.kill()
    with collected_logs() as logs:
        one = await engine.open()
        assert not one.broker.available
        with pytest.raises(Unavailable):
            await publish(one, b"x")
        assert len(logs.of("broker unavailable")) == 1
    await server.start()
    await until(lambda: one.broker.available)
    await one.broker.subscribe("room")
    assert (await publish(one, b"x")).offset == 1
    assert await one.broker.instances() == [one.name]


async def test_to_stop_while_the_server_is_away_takes_no_time(engine, server):
    one, other = await engine.open(), await engine.open()
    await one.broker.enter("room", "ada", "1", b"")
    await server.kill()
    await until(lambda: not one.broker.available)
    async with asyncio.timeout(2.0):
        await one.broker.stop()
    await server.start()
    await until(lambda: other.broker.available)


async def test_to_stop_while_the_server_is_paused_takes_no_longer_than_it_may_answer(server):
    engine = NatsEngine(server, timeout=0.5)
    one = await engine.open()
    await one.broker.subscribe("room")
    await one.broker.enter("room", "ada", "1", b"")
    server.pause()
    waiting = asyncio.ensure_future(publish(one, b"x"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await one.broker.stop()
    # It may have been answered before the pause began.
    (answer,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(answer, Position | Unavailable)
    server.resume()


# What it has forgotten


async def delete(server, engine, *names):
    publisher = engine.make()
    await publisher.start(None)
    for name in names:
        answer = await publisher._streams.ask(f"STREAM.DELETE.{engine.prefix}-{name}")
        assert answer.success
    await publisher.stop()


async def begun_anew(one, other, before):
    await until(lambda: one.inbox.losses and other.inbox.losses)
    assert one.inbox.losses == other.inbox.losses
    ((room, position),) = one.inbox.losses
    assert (room, position.offset) == ("room", 0)
    assert position.epoch != before.epoch
    after = await surely(lambda: publish(other, b"after"))
    assert after == Position(position.epoch, 1)
    assert [entry.payload for entry in await one.inbox.entries("room", 2)] == [b"before", b"after"]
    assert not (await one.broker.history("room", before, 10)).complete


@pytest.mark.parametrize("names", [("rooms-0",), ("rooms-0", "presence")])
async def test_streams_that_were_deleted_are_made_anew_and_it_is_told(engine, server, names):
    one, other = await engine.open(), await engine.open()
    for instance in (one, other):
        await instance.broker.subscribe("room")
    await one.broker.enter("room", "ada", "1", b"")
    before = await publish(one, b"before")
    await other.inbox.entries("room", 1)
    await delete(server, engine, *names)
    await begun_anew(one, other, before)
    assert (await surely(one.broker.renew)).forgotten == ("presence" in names)
    assert not (await one.broker.renew()).forgotten
    assert set(await one.broker.instances()) >= {one.name}


async def test_a_server_that_lost_its_folder_begins_anew_and_it_is_told(engine, server):
    one, other = await engine.open(), await engine.open()
    for instance in (one, other):
        await instance.broker.subscribe("room")
    await one.broker.enter("room", "ada", "1", b"")
    before = await publish(one, b"before")
    await other.inbox.entries("room", 1)
    await server.kill()
    server.forget()
    await server.start()
    await begun_anew(one, other, before)
    assert (await surely(one.broker.renew)).forgotten
    assert await one.broker.members("room") == {}


async def test_a_stream_that_was_emptied_is_noticed(engine, server):
    one, other = await engine.open(), await engine.open()
    for instance in (one, other):
        await instance.broker.subscribe("room")
    before = await publish(one, b"before")
    await other.inbox.entries("room", 1)
    assert (await one.broker._streams.ask(f"STREAM.PURGE.{engine.prefix}-rooms-0")).success
    await begun_anew(one, other, before)


# What is refused


async def test_a_wrong_password_is_told_in_a_sentence_without_it():
    async with NatsServer(user="hubbub", password="right") as server:
        url = server.broker(prefix="x").replace("right", "wr0ng")
        broker = NatsEngine(server, url=url).make()
        with collected_logs() as logs, pytest.raises(ConfigurationError, match="refuses") as refused:
            await broker.start(Inbox())
        assert "wr0ng" not in str(refused.value)
        assert all("wr0ng" not in str(record.__dict__) for record in logs.records)
        with pytest.raises(Unavailable, match="not started"):
            await publish_with(broker)
        engine = NatsEngine(server)
        one = await engine.open()
        assert (await publish(one, b"x")).offset == 1
        await engine.close()


async def publish_with(broker):
    return await broker.publish("room", b"x", sender=None, key=None, keep=None)


async def test_a_password_that_is_changed_while_running_is_logged_and_tried_on():
    async with NatsServer(user="hubbub", password="one") as server:
        engine = NatsEngine(server)
        one = await engine.open()
        with collected_logs() as logs:
            server.change_password("two")
            await server.restart()
            await until(lambda: any("refuses" in str(r.__dict__) for r in logs.records))
        server.change_password("one")
        await server.restart()
        await until(lambda: one.broker.available)
        await engine.close()


async def test_a_token_lets_in():
    async with NatsServer(token="s3cret/token") as server:
        engine = NatsEngine(server)
        assert (await publish(await engine.open(), b"x")).offset == 1
        await engine.close()


async def test_a_server_without_jetstream_is_refused():
    async with NatsServer(jetstream=False) as server:
        with pytest.raises(ConfigurationError, match="no JetStream"):
            await NatsEngine(server).make().start(Inbox())


async def test_an_account_that_may_not_use_jetstream_is_refused_with_what_it_lacks():
    server = NatsServer()
    with (server.folder / "server.conf").open("a") as file:
        file.write(
            'authorization { users: [ { user: "ada", password: "s3cret", '
            'permissions: { publish: "hubbub.>", subscribe: ">" } } ] }'
        )
    async with server:
        url = server.broker().replace("nats://", "nats://ada:s3cret@")
        broker = NatsEngine(server, url=url, timeout=0.5).make()
        with pytest.raises(ConfigurationError, match="lacks a permission"):
            await broker.start(Inbox())


async def test_replicas_that_the_server_can_not_have_are_refused(server):
    with pytest.raises(ConfigurationError, match="replicas=1"):
        await NatsEngine(server, replicas=3).make().start(Inbox())


async def test_a_server_that_is_none_of_nats_is_taken_for_unreachable(server):
    async def greet(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    broker = NatsEngine(server, url=f"nats://127.0.0.1:{port}").make()
    await broker.start(Inbox())
    assert not broker.available
    await broker.stop()
    stranger.close()
    await stranger.wait_closed()


# What can't be read


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x93\x01\x02\x03", bytes(range(256))])
async def test_bytes_that_are_no_batch_are_skipped_and_told_as_a_gap(engine, junk):
    one, other = await engine.open(), await engine.open()
    await one.broker.subscribe("room")
    before = await publish(one, b"before")
    room = other.broker._log.rooms.find("room")
    with collected_logs() as logs:
        await other.broker._streams.append(other.broker._reader.subject(room), junk, None)
        await until(lambda: one.inbox.losses)
        assert logs.of("broker", during="reading")
    ((_, position),) = one.inbox.losses
    assert position.epoch != before.epoch
    assert await publish(other, b"after") == Position(position.epoch, 1)
    assert [entry.payload for entry in await one.inbox.entries("room", 2)] == [b"before", b"after"]
    history = await other.broker.history("room", before, 10)
    assert not history.complete
    assert [entry.payload for entry in history.entries] == [b"after"]


async def test_two_batches_that_follow_the_same_one_end_the_epoch(engine):
    one, other = await engine.open(), await engine.open()
    await one.broker.subscribe("room")
    await publish(one, b"one")
    before = await publish(one, b"two")
    room = other.broker._log.rooms.find("room")
    found = await other.broker._reader.last(room)
    assert found is not None
    forked = msgspec.structs.replace(found[1], writer="other", messages=())
    await other.broker._streams.append(other.broker._reader.subject(room), encode(forked), None)
    await until(lambda: one.inbox.losses)
    ((_, position),) = one.inbox.losses
    assert position.epoch != before.epoch
    assert await publish(other, b"after") == Position(position.epoch, 1)
    assert [entry.payload for entry in await one.inbox.entries("room", 3)] == [b"one", b"two", b"after"]


async def test_bytes_that_are_no_record_of_presence_are_skipped(engine):
    one = await engine.open()
    streams = one.broker._streams
    await streams.append(f"{engine.prefix}.presence.nx.ny", b"junk", None)
    await streams.append(f"{engine.prefix}.lease.nx", b"junk", None)
    await streams.append(f"{engine.prefix}.secret", b"short", None)
    one.broker._line.send(f"{engine.prefix}.live.0.{one.broker._log.rooms.find('room').token}", b"junk")
    await one.broker.enter("room", "ada", "1", b"ada")
    assert await one.broker.members("room") == {"ada": b"ada"}
    assert (await one.broker.renew()).departures == []
    assert await one.broker.instances() == [one.name]
    assert len(await one.broker.secret()) == 32


# Cancellation


async def test_every_call_can_be_cancelled_at_any_time(engine):
    one, other = await engine.open(), await engine.open()
    calls = (
        lambda: publish(one, b"x"),
        lambda: publish(one, b"x", key="k"),
        lambda: publish(one, b"x", keep=None),
        lambda: one.broker.subscribe("room"),
        lambda: one.broker.history("room", None, 10),
        lambda: one.broker.enter("room", "ada", "1", b""),
        lambda: one.broker.leave("room", "ada", "1"),
        lambda: one.broker.members("room"),
        one.broker.renew,
        one.broker.instances,
        one.broker.secret,
        lambda: one.broker.send_control(None, b""),
    )
    for call in calls:
        for turns in (0, 1, 2, 3, 5, 8):
            task = asyncio.ensure_future(call())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    begins = await one.broker.subscribe("room")
    await publish(other, b"last")
    await one.inbox.until(lambda: b"last" in [entry.payload for entry in one.inbox.of("room")])
    kept = [entry.offset for entry in one.inbox.of("room") if entry.offset is not None]
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert kept[-1] > begins.offset


async def test_a_start_can_be_cancelled(engine, server):
    server.pause()
    broker = engine.make()
    starting = asyncio.ensure_future(broker.start(Inbox()))
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    server.resume()
    await broker.start(Inbox())
    await broker.stop()
