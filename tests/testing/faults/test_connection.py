"""What a connection carries, and how it ends, seen from both ends."""

import socket

import pytest

from hubbub.testing.faults import (
    FOREVER,
    CloseAfter,
    Cut,
    Direction,
    FaultProxy,
    HalfOpen,
    Reset,
    Stall,
)

from .conftest import MUCH, crosses

pytestmark = pytest.mark.anyio


class TestWithoutFaults:
    async def test_bytes_cross_both_ways_and_are_counted(self, network):
        client, server = await network.pair()
        client.write(b"hello")
        await server.receives(b"hello")
        server.write(b"you")
        await client.receives(b"you")
        (connection,) = network.proxy.connections
        assert connection.number == 1
        assert connection.bytes(Direction.UP) == 5
        assert connection.bytes(Direction.BOTH) == 8
        statistics = network.proxy.statistics
        assert (statistics.accepted, statistics.bytes_up, statistics.bytes_down) == (1, 5, 3)

    async def test_one_side_may_end_before_the_other(self, network):
        client, server = await network.pair()
        client.write(b"all I have")
        client.transport.write_eof()
        await server.ends()
        assert server.received == b"all I have"
        server.write(b"an answer")
        await client.receives(b"an answer")
        server.transport.close()
        await client.ends()
        client.transport.close()
        await network.is_over()

    @pytest.mark.parametrize("first", [0, 1])
    async def test_a_reset_is_passed_on(self, network, first):
        pair = await network.pair()
        linger = b"\1\0\0\0\0\0\0\0"
        pair[first].transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        pair[first].transport.abort()
        await pair[1 - first].breaks_off()
        await network.is_over()

    async def test_a_server_that_is_not_there_is_a_connection_broken_off(self, network):
        network.close_server()
        client = await network.client()
        await client.breaks_off()
        await network.is_over()
        assert network.proxy.statistics.unreachable == 1

    @pytest.mark.parametrize("slow", [0, 1])
    async def test_who_does_not_read_holds_up_who_sends(self, network, slow):
        pair = await network.pair()
        reader, sender = pair[slow], pair[1 - slow]
        reader.transport.pause_reading()
        sender.write(bytes(MUCH))
        await sender.until(lambda sender: sender.full)
        (connection,) = network.proxy.connections
        await crosses(network)  # others are not held up
        assert connection.bytes(Direction.BOTH) < MUCH
        reader.transport.resume_reading()
        await reader.receives(bytes(MUCH))

    async def test_its_address_makes_urls(self, network):
        proxy = network.proxy
        assert proxy.url("/chat") == f"ws://127.0.0.1:{proxy.port}/chat"
        assert proxy.url(scheme="http") == f"http://127.0.0.1:{proxy.port}/"

    async def test_ipv6_is_spoken(self):
        async with FaultProxy("::1", 9, host="::1") as proxy:
            assert proxy.url() == f"ws://[::1]:{proxy.port}/"

    async def test_a_port_that_is_taken_is_told(self, network):
        with pytest.raises(OSError, match="in use"):
            await FaultProxy("127.0.0.1", 9, port=network.proxy.port).start()


class TestEnding:
    async def test_a_cut_ends_both_sides_cleanly(self, network):
        client, server = await network.pair()
        client.write(b"before")
        await server.receives(b"before")
        network.proxy.apply(Cut())
        client.write(b"after")  # what is not read must not make a RST of the FIN
        await client.ends()
        await server.ends()
        client.transport.close()
        server.transport.close()
        await network.is_over()
        assert server.received == b"before"
        assert client.problem is server.problem is None

    async def test_who_does_not_close_after_a_cut_is_not_waited_for(self, network, monkeypatch):
        monkeypatch.setattr("hubbub.testing.faults.end.LINGER", 0.05)
        client, _ = await network.pair()
        network.proxy.apply(Cut())
        await client.ends()
        await network.is_over()

    async def test_a_reset_breaks_off_both_sides(self, network):
        client, server = await network.pair()
        network.proxy.apply(Reset())
        await client.breaks_off()
        await server.breaks_off()
        await network.is_over()

    @pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
    @pytest.mark.parametrize("reset", [False, True])
    async def test_it_is_over_after_so_many_bytes_and_not_one_more(self, network, direction, reset):
        pair = await network.pair()
        source, sink = pair if direction is Direction.UP else pair[::-1]
        source.write(b"12345")
        await sink.receives(b"12345")
        network.proxy.apply(CloseAfter(7, direction, reset))
        sink.write(b"the other way it may be more")
        await source.receives(b"the other way it may be more")
        source.write(b"67890ab")
        source.write(b"cdef")
        for end in (source, sink):
            await (end.breaks_off() if reset else end.ends())
        if not reset:
            assert sink.received == b"1234567890ab"
        await crosses(network)


class TestHalfOpen:
    async def test_nothing_crosses_any_more_and_nobody_is_told(self, network):
        client, server = await network.pair()
        network.proxy.apply(HalfOpen())
        client.write(b"is anybody there?")
        server.write(b"is anybody there?")
        server.transport.close()
        await crosses(network)  # by then it would have come
        assert (client.received, server.received) == (b"", b"")
        assert client.sees_nothing()

    @pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
    async def test_one_direction_may_stay(self, network, direction):
        pair = await network.pair()
        source, sink = pair if direction is Direction.UP else pair[::-1]
        network.proxy.apply(HalfOpen(direction))
        source.write(b"lost")
        sink.write(b"arrives")
        await source.receives(b"arrives")
        sink.transport.write_eof()
        await source.ends()
        assert sink.received == b""
        assert not sink.ended

    async def test_the_server_may_be_gone(self, network):
        client, server = await network.pair()
        network.proxy.apply(HalfOpen(closed=True))
        await server.ends()
        server.transport.close()
        client.write(b"is anybody there?")
        await crosses(network)
        assert client.sees_nothing()

    async def test_what_was_held_is_lost_too(self, network):
        client, server = await network.pair()
        network.proxy.apply(Stall(FOREVER))
        client.write(bytes(MUCH))
        await client.until(lambda client: client.full)
        network.proxy.apply(HalfOpen())
        await client.until(lambda client: not client.full)  # it is read, and goes nowhere
        assert server.received == b""

    async def test_a_line_that_both_have_left_is_forgotten(self, network, monkeypatch):
        monkeypatch.setattr("hubbub.testing.faults.flow.FORGOTTEN", 0.01)
        client, server = await network.pair()
        network.proxy.apply(HalfOpen())
        client.transport.close()
        server.transport.close()
        await network.is_over()

    @pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
    async def test_a_line_that_was_dead_one_way_is_forgotten(self, network, monkeypatch, direction):
        monkeypatch.setattr("hubbub.testing.faults.connection.FORGOTTEN", 0.01)
        monkeypatch.setattr("hubbub.testing.faults.flow.FORGOTTEN", 0.01)
        client, server = await network.pair()
        network.proxy.apply(HalfOpen(direction))
        server.transport.close()
        client.transport.close()
        await network.is_over()
