"""Which connections faults hit, and when; who gets in; how it all ends."""

import asyncio
import socket
from contextlib import suppress

import pytest

from hubbub.testing.faults import (
    FOREVER,
    RANDOM_KINDS,
    BlackHole,
    Clear,
    CloseAfter,
    Cut,
    HalfOpen,
    ProxiedConnection,
    RandomFaults,
    Refuse,
    Reset,
    Share,
    Stall,
    parse_fault,
    parse_script,
)
from hubbub.testing.faults.flow import Flow

from .conftest import Network, Peer, connects, crosses, now

pytestmark = pytest.mark.anyio


class TestTheDoor:
    async def test_nobody_listens_while_it_refuses(self, network):
        client, server = await network.pair()
        network.proxy.apply(Refuse(0.1))
        with pytest.raises(ConnectionRefusedError):
            await network.client()
        client.write(b"still here")
        await server.receives(b"still here")
        await listens_again(network)
        await crosses(network)

    async def test_the_port_is_kept_while_it_refuses(self, network):
        network.proxy.apply(Refuse(FOREVER))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", network.proxy.port))
        network.proxy.apply(Clear())
        await crosses(network)

    async def test_it_may_accept_and_break_off(self, network):
        network.proxy.apply(Refuse(FOREVER, reset=True))
        with suppress(ConnectionResetError):  # it may come before the client knows that it is connected
            client = await network.client()
            await client.breaks_off()
        assert network.proxy.statistics.refused == 1
        network.proxy.apply(Clear())
        await crosses(network)

    async def test_a_black_hole_accepts_and_never_answers(self, network):
        network.proxy.apply(BlackHole(FOREVER))
        client = await network.client()
        client.write(b"is anybody there?")
        await network.seen(lambda proxy: proxy.statistics.accepted == 1)
        assert not network.arrived()
        network.proxy.apply(Clear())
        await crosses(network)
        assert client.sees_nothing()

    async def test_no_more_files_is_told_and_got_over(self, network, monkeypatch, told):
        monkeypatch.setattr("hubbub.testing.faults.proxy.NO_MORE_FILES", 0.05)
        network.proxy._listener = Exhausted(network.proxy._listener)
        with suppress(OSError):  # whether it gets as far as the system's queue
            client = await network.client()
            await client.breaks_off()
        assert isinstance(await told, OSError)
        await listens_again(network)
        await crosses(network)


class Exhausted:
    """A listening socket of a process that may open no more files."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def accept(self) -> None:
        raise OSError(24, "Too many open files")

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()


async def listens_again(network: Network) -> None:
    await network.seen(lambda proxy: proxy.listening)


class TestWhomItHits:
    async def test_connections_can_be_named(self, network):
        pairs = [await network.pair() for _ in range(3)]
        second = network.proxy.connections[1]
        assert network.proxy.apply(Reset(), second).connections == (2,)
        await pairs[1][0].breaks_off()
        assert network.proxy.apply(Stall(0.0), network.proxy.connections).connections == (1, 3)
        assert not pairs[0][0].lost

    async def test_a_share_is_some_of_those_open_and_the_same_for_the_same_seed(self, network):
        for _ in range(10):
            await network.pair()
        hit = [network.proxy.apply(Stall(0.0), Share(0.3, seed)).connections for seed in (1, 1, 2)]
        assert len(hit[0]) == 3
        assert hit[0] == hit[1] != hit[2]
        assert len(network.proxy.apply(Stall(0.0), Share(0.01)).connections) == 1

    async def test_nobody_is_hit_where_nobody_is(self, network):
        assert network.proxy.apply(Cut(), Share(1.0)).connections == ()

    async def test_future_connections_have_it_from_their_first_byte(self, network):
        before = await network.pair()
        network.proxy.apply(CloseAfter(3), "future")
        client, server = await network.pair()
        client.write(b"12345")
        await server.ends()
        assert server.received == b"123"
        before[0].write(b"12345")
        await before[1].receives(b"12345")
        network.proxy.apply(Clear())
        await crosses(network)

    @pytest.mark.parametrize("fault", [Cut(), Reset()])
    async def test_future_connections_may_be_over_at_once(self, network, fault, monkeypatch):
        monkeypatch.setattr("hubbub.testing.faults.end.LINGER", 0.05)
        network.proxy.apply(fault, "future")
        client = await network.client()
        await (client.ends() if fault == Cut() else client.breaks_off())
        await network.is_over()
        assert not network.arrived()

    async def test_future_connections_may_be_half_open(self, network):
        network.proxy.apply(HalfOpen(closed=True), "future")
        client, server = await network.pair()
        await server.ends()
        assert not client.ended

    async def test_all_are_those_open_and_those_to_come(self, network):
        pairs = [await network.pair()]
        network.proxy.apply(HalfOpen(), "all")
        pairs.append(await network.pair())
        for client, _ in pairs:
            client.write(b"lost")
        network.proxy.apply(Clear())
        await crosses(network)
        assert [server.received for _, server in pairs] == [b"", b""]

    async def test_what_is_for_new_connections_is_not_for_an_open_one(self, network):
        await network.pair()
        (connection,) = network.proxy.connections
        for fault in (Refuse(), BlackHole()):
            with pytest.raises(ValueError, match="new connections"):
                connection.apply(fault)


class TestPlans:
    async def test_steps_happen_in_order_at_their_times(self, network):
        client, _ = await network.pair()
        began = now()
        await network.proxy.run(parse_script("0s stall:0s\n0.05s cut"))
        assert now() - began >= 0.04
        await client.ends()
        assert [str(happened.fault) for happened in network.proxy.happened] == ["stall:0s", "cut"]
        assert list(network.proxy.happened) == network.told
        assert network.proxy.statistics.faults == {"stall": 1, "cut": 1}
        assert network.proxy.statistics.hit == 2

    async def test_steps_may_wait_for_bytes(self, network):
        client, server = await network.pair()
        client.write(b"these were before")
        await server.receives(b"these were before")
        running = asyncio.create_task(network.proxy.run(parse_script("6B reset")))
        await asyncio.sleep(0)  # it counts from when it runs
        client.write(b"123")
        await server.receives(b"these were before123")
        await connects(network)
        assert not running.done()
        server.write(b"456")
        await running
        await client.breaks_off()

    async def test_what_happened_can_be_replayed(self, network):
        for _ in range(4):
            await network.pair()
        running = asyncio.create_task(
            network.proxy.run(RandomFaults(7, 0.001, ["stall:0s", "delay:0s"], 0.5))
        )
        await network.seen(lambda proxy: len(proxy.happened) >= 20)
        running.cancel()
        first = list(network.proxy.happened)
        network.proxy.happened.clear()
        await network.proxy.run(parse_script("\n".join(str(happened) for happened in first)))
        again = list(network.proxy.happened)
        assert [(one.fault, one.to, one.connections) for one in first] == [
            (one.fault, one.to, one.connections) for one in again
        ]


class TestFailing:
    """What should not happen is told, and hits nobody else."""

    async def test_a_flow_that_fails_breaks_its_connection_off(self, network, monkeypatch, told):
        client, server = await network.pair()
        (connection,) = network.proxy.connections

        async def fail(_: Flow) -> bool:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(Flow, "_may_go", fail)
            network.proxy.apply(Stall(0.0), connection)
            client.write(b"hello")
            await client.breaks_off()
            await server.breaks_off()
        assert isinstance(await told, ZeroDivisionError)
        await crosses(network)

    async def test_a_connection_that_fails_is_told_of(self, network, monkeypatch, told):
        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(ProxiedConnection, "_connect", fail)
            client = await network.client()
            assert isinstance(await told, ZeroDivisionError)
        await client.until(lambda client: client.ended or client.lost)
        await crosses(network)


class TestStopping:
    async def test_all_that_is_open_is_over_and_no_task_is_left(self, network):
        before = asyncio.all_tasks()
        pairs = [await network.pair() for _ in range(3)]
        network.proxy.apply(Stall(FOREVER), network.proxy.connections[0])
        network.proxy.apply(HalfOpen(), network.proxy.connections[1])
        for client, _ in pairs:
            client.write(bytes(100_000))
        await network.proxy.stop()
        for client, server in pairs:
            await client.until(lambda client: client.ended or client.lost)
            await server.until(lambda server: server.ended or server.lost)
        assert asyncio.all_tasks() == before
        assert network.proxy.connections == []

    async def test_a_connection_that_is_being_made_is_over_too(self, network):
        client = await network.client()
        await network.seen(lambda proxy: proxy.statistics.accepted == 1)
        await network.proxy.stop()
        await client.until(lambda client: client.ended or client.lost)

    @pytest.mark.parametrize("turns", range(4))
    async def test_a_connection_that_has_just_come_is_over_too(self, network, turns):
        with socket.create_connection(("127.0.0.1", network.proxy.port)):
            for _ in range(turns):
                await asyncio.sleep(0)
            await network.proxy.stop()
            assert not network.proxy.connections

    async def test_it_can_be_started_again_where_it_was(self, network):
        port = network.proxy.port
        network.proxy.apply(Refuse(FOREVER))
        await network.proxy.stop()
        await network.proxy.start()
        assert network.proxy.port == port
        await crosses(network)


SHORT = [
    kind.replace("500ms", "5ms").replace("=2s", "=20ms").replace("=1s", "=20ms") for kind in RANDOM_KINDS
]


def stream(name: bytes) -> bytes:
    return b"".join(b"%s %06d\n" % (name, line) for line in range(5_000))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_what_arrives_is_what_was_sent_as_far_as_it_came(network, seed):
    """Nothing is lost in the middle, doubled, out of order or someone else's, and all is over in the end."""
    before = asyncio.all_tasks()
    happening = asyncio.create_task(network.proxy.run(RandomFaults(seed, 0.002, SHORT)))
    ends: list[Peer] = []
    while len(ends) < 100:
        with suppress(OSError):  # it is refused
            ends.append(await network.client())
            ends[-1].write(stream(b"client%d" % len(ends)))
        while network.arrived():
            ends.append(await network.arrival())
            ends[-1].write(stream(b"server%d" % len(ends)))
        await asyncio.sleep(0.005)
    happening.cancel()
    await asyncio.wait([happening])
    assert len(network.proxy.statistics.faults) == len({parse_fault(kind).kind for kind in SHORT})
    network.proxy.apply(Clear())
    await network.seen(lambda proxy: proxy.listening)
    await network.proxy.stop()
    names: list[bytes] = []
    for end in ends:
        await end.until(lambda end: end.ended or end.lost)
        name, space, _ = end.received.partition(b" ")
        if space:
            assert stream(name).startswith(end.received)
            names.append(name)
    assert len(set(names)) == len(names) > 20
    assert asyncio.all_tasks() == before
