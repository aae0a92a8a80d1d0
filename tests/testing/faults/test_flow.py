"""What comes later, or in pieces, seen from both ends of a connection."""

import asyncio

import pytest

from hubbub.testing.faults import (
    FOREVER,
    Clear,
    Delay,
    Direction,
    Split,
    Stall,
    Throttle,
)

from .conftest import MUCH, connects, crosses, now

pytestmark = pytest.mark.anyio


class TestTime:
    @pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
    async def test_a_stall_holds_one_direction_and_loses_nothing(self, network, direction):
        pair = await network.pair()
        source, sink = pair if direction is Direction.UP else pair[::-1]
        began = now()
        network.proxy.apply(Stall(0.2, direction))
        source.write(b"one ")
        sink.write(b"meanwhile")
        await source.receives(b"meanwhile")
        assert sink.received == b""
        source.write(b"two")
        source.transport.write_eof()
        await sink.ends()
        assert sink.received == b"one two"
        assert sink.times[0] - began >= 0.19

    async def test_a_stall_holds_up_who_sends_much(self, network):
        client, server = await network.pair()
        network.proxy.apply(Stall(FOREVER))
        client.write(bytes(MUCH))
        await client.until(lambda client: client.full)
        await crosses(network)
        assert client.full
        network.proxy.apply(Clear())
        await server.receives(bytes(MUCH))

    async def test_a_delay_is_a_delay_and_not_a_throttle(self, network):
        client, server = await network.pair()
        network.proxy.apply(Delay(0.2))
        began = now()
        for number in range(20):
            client.write(b"%02d" % number)
            await asyncio.sleep(0.005)
        await server.receives(b"".join(b"%02d" % number for number in range(20)))
        assert server.times[0] - began >= 0.19
        assert server.times[-1] - began < 20 * 0.2

    async def test_jitter_keeps_the_order(self, network):
        client, server = await network.pair()
        network.proxy.apply(Delay(0.02, 0.02, Direction.UP))
        sent = b""
        for number in range(50):
            sent += b"%02d" % number
            client.write(b"%02d" % number)
            await asyncio.sleep(0.001)
        await server.receives(sent)
        assert len(server.pieces) > 1

    async def test_a_delay_may_last_for_a_time(self, network):
        client, server = await network.pair()
        network.proxy.apply(Delay(1000.0, lasting=0.01))
        await asyncio.sleep(0.02)
        client.write(b"now")
        await server.receives(b"now")

    async def test_what_is_delayed_goes_on_when_all_is_cleared(self, network):
        client, server = await network.pair()
        network.proxy.apply(Delay(1000.0))
        client.write(b"late")
        await connects(network)
        network.proxy.apply(Clear())
        await server.receives(b"late")

    async def test_a_throttle_lets_so_many_bytes_pass_in_a_second(self, network):
        client, server = await network.pair()
        network.proxy.apply(Throttle(10_000, Direction.UP))
        began = now()
        client.write(bytes(5_000))
        await server.receives(bytes(5_000))
        assert now() - began >= 0.45
        assert len(server.pieces) > 5

    async def test_a_throttle_holds_up_who_sends_much(self, network):
        client, server = await network.pair()
        network.proxy.apply(Throttle(1e6))
        client.write(bytes(MUCH))
        await client.until(lambda client: client.full)
        await server.until(lambda server: len(server.received) > 10_000)
        network.proxy.apply(Clear())
        await server.receives(bytes(MUCH))


class TestSplit:
    async def test_every_byte_comes_alone(self, network):
        client, server = await network.pair()
        network.proxy.apply(Split(1, pause=0.001))
        client.write(b"GET / HTTP/1.1")
        await server.receives(b"GET / HTTP/1.1")
        assert len(server.pieces) >= 10, "a busy machine may make two of them one, but not all"

    async def test_who_shares_the_event_loop_sees_every_piece_without_a_pause(self, network):
        client, server = await network.pair()
        network.proxy.apply(Split(3, direction=Direction.UP))
        client.write(b"abcdefgh")
        await server.receives(b"abcdefgh")
        assert len(server.pieces) > 1
        server.write(b"abcdefgh")
        await client.receives(b"abcdefgh")
        assert len(client.pieces) == 1
