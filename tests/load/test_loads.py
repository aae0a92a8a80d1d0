"""Loads against real servers: what they count is what the servers have done."""

import select

import pytest

from hubbub.load import Line, Step, Target
from hubbub.load.accepts import AcceptsLoad
from hubbub.load.connection import Connection
from hubbub.load.echo import EchoLoad
from hubbub.load.fanout import FanOutLoad, SharedFanOutLoad
from hubbub.load.frames import Closed
from hubbub.load.idle import IdleConnections
from hubbub.load.load import open_all, part
from hubbub.load.paced import PacedLoad
from hubbub.load.rooms import RoomsLoad
from load.conftest import LIMITS, NUMBERED, SAY, WELCOME, in_room, to_room
from plain_server import echo, plain_server, send_on, silent

SHORT = 0.1
HI = b'"data":{"text":"hi"}'


@pytest.fixture
def target(start, hub) -> Target:
    return Target("127.0.0.1", start(hub, **LIMITS).port)


def test_echo_counts_answers(target):
    with EchoLoad(target, Line("/", (WELCOME,)), NUMBERED, HI, 3, measured=True) as load:
        count = load.run(SHORT) + load.run(SHORT)
        assert count > 3
        assert 0 < len(load.latencies) <= count
        load.finish()


def test_echo_takes_answers_that_are_not_all_of_one_size():
    sizes = iter(range(1, 1_000_000))

    async def growing(connection):
        async for _ in connection:
            await connection.send("x" * (next(sizes) % 300))

    with plain_server(growing) as server, EchoLoad(server.target, Line("/"), b"hi", b"", 2) as load:
        assert load.run(SHORT) > 2
        load.finish()


def test_echo_does_not_take_two_answers_to_one_message():
    async def twice_from_the_second_on(connection):
        await connection.send(await connection.recv())
        async for message in connection:
            await connection.send(message)
            await connection.send(message)

    with (
        plain_server(twice_from_the_second_on) as server,
        EchoLoad(server.target, Line("/"), b"hi", b"hi", 1) as load,
        pytest.raises(ValueError, match="more than one answer"),
    ):
        load.run(5)


def test_echo_checks_answers_before_it_counts():
    with plain_server(echo) as server, pytest.raises(ValueError, match="Expected a message with b'other'"):
        EchoLoad(server.target, Line("/"), b"hi", b"other", 1)


def test_echo_goes_on_without_connections_that_are_lost():
    async def close_the_first(connection):
        await connection.send("greeting")
        number = 0
        async for message in connection:
            number += 1
            if connection.request.path == "/" and number > 3 and "closed" not in done:
                done.add("closed")
                await connection.close(4529, "too many")
                return
            await connection.send(message)

    done: set[str] = set()
    lost: list[Exception] = []
    line = Line("/", (Step(None, b"greeting"),))
    with (
        plain_server(close_the_first) as server,
        EchoLoad(server.target, line, b"hi", b"hi", 3, lost=lost.append) as load,
    ):
        while not lost:
            assert load.run(SHORT)
        assert len(load) == 2
        assert load.run(SHORT)
    [error] = lost
    assert isinstance(error, Closed)
    assert (error.code, error.reason) == (4529, "too many")


def test_fan_out_counts_deliveries(target):
    with FanOutLoad(target, in_room(1), in_room(1), to_room(1), 5, 2) as load:
        count = load.run(SHORT)
        assert count >= 5
        assert len(load.latencies) <= count // 5
        load.finish()


@pytest.mark.parametrize("in_flight", [1, 8])
def test_shared_fan_out_counts_deliveries(target, in_flight):
    with SharedFanOutLoad(target, in_room(1), in_room(1), to_room(1), HI, 5, in_flight) as load:
        assert load.shared
        assert load.run(SHORT) >= 5
        load.finish()


def test_broadcasts_that_are_compressed_are_counted_and_checked():
    text = b"Many voices, nothing lost. " * 20
    with (
        plain_server(send_on, compression="deflate") as server,
        SharedFanOutLoad(server.target, Line("/"), Line("/"), text, text, 3, 2, deflate=True) as load,
    ):
        assert load.run(SHORT) >= 3
        load.finish()


def test_broadcasts_that_differ_in_their_bytes_are_counted_by_message():
    async def number_them(connection):
        async for message in connection:
            for number, other in enumerate(connection.server.connections - {connection}):
                await other.send(f"{message} {'x' * number}")

    with (
        plain_server(number_them) as server,
        SharedFanOutLoad(server.target, Line("/"), Line("/"), b"hi", b"hi", 3, 1) as load,
    ):
        assert not load.shared
        assert load.run(SHORT) >= 3
        load.finish()


def test_a_server_that_declines_compression_is_told_of():
    with plain_server(send_on) as server, pytest.raises(ValueError, match="declined permessage-deflate"):
        SharedFanOutLoad(server.target, Line("/"), Line("/"), b"hi", b"hi", 1, 1, deflate=True)


def test_fan_out_needs_each_message_to_be_sent_on_once():
    async def twice(connection):
        async for message in connection:
            for other in connection.server.connections - {connection}:
                for _ in range(2):
                    other.protocol.send_text(message.encode())
                other.send_data()  # both in one piece

    with plain_server(twice) as server, pytest.raises(ValueError, match="once, not 2 times"):
        FanOutLoad(server.target, Line("/"), Line("/"), b"hi", 2, 1)


def test_what_a_hub_answers_with_an_error_is_told(target):
    with pytest.raises(ValueError, match="unknown_type"):
        FanOutLoad(target, in_room(1), in_room(1), b'{"type":"shout","room":"bench/1"}', 2, 1)


def test_rooms_count_deliveries(target):
    with RoomsLoad(target, in_room, in_room, to_room, HI, rooms=4, members=3, in_flight=2) as load:
        assert load.run(SHORT) >= 3
        load.finish()


def test_at_a_fixed_rate_everything_that_was_due_is_sent_and_arrives(target):
    subscribers = open_all(lambda _: Connection(target, in_room(1)), 3)
    with PacedLoad([Connection(target, in_room(1))], subscribers, to_room(1), 200) as load:
        assert load.run(SHORT) == 3 * 20
        assert load.run(SHORT) == 3 * 20
        assert len(load.latencies) == 3 * 40
        load.finish()


def test_at_a_fixed_rate_connections_take_turns_at_being_answered(target):
    connections = open_all(lambda _: Connection(target, Line("/", (WELCOME,))), 3)
    with PacedLoad(connections, connections, SAY, 200, echo=True) as load:
        assert load.run(SHORT) == 20
        load.finish()


def test_latency_counts_from_when_a_message_was_due():
    """A server that answers nothing until it has all has held up the first from when it was due."""

    async def answer_when_all_are_there(connection):
        messages = [await connection.recv() for _ in range(20)]
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    with plain_server(answer_when_all_are_there) as server:
        connections = [Connection(server.target, Line("/"))]
        with PacedLoad(connections, connections, b"hi", 100, echo=True) as load:
            assert load.run(0.2) == 20
            # The last is not sent before it is due, 0.19 s after the first.
            assert load.latencies.longest >= 0.19
            assert load.latencies.percentile(50) >= 0.09


def test_those_that_stall_are_not_waited_for(target):
    subscribers = open_all(lambda n: Connection(target, in_room(1), narrow=n == 0), 3)
    with PacedLoad([Connection(target, in_room(1))], subscribers, to_room(1), 200) as load:
        load.run(SHORT)
        load.stall(subscribers[:1])
        assert load.run(SHORT) == 2 * 20
        load.finish()


@pytest.mark.parametrize("line", [Line("/", (WELCOME,)), in_room(1)])
def test_accepts_count_connections_that_were_opened(target, line):
    with AcceptsLoad(target, line, 4) as load:
        assert load.run(SHORT) > 4
        load.finish()
        assert len(load) == 0


def test_idle_connections_are_held_and_answer_pings():
    with plain_server(silent, ping_interval=0.05, ping_timeout=0.5) as server:
        idle = IdleConnections(server.target, Line("/"))
        idle.open(3)
        idle.open(2)
        idle.hold(1.0)
        idle.ask()
        assert len(idle) == server.connections() == len(idle.latencies) == 5
        part(idle.everyone())
        idle.close()


def test_an_idle_connection_that_the_server_closes_is_told_of():
    async def close(connection):
        await connection.recv()
        await connection.close(4401, "no")

    lost: list[Exception] = []
    with plain_server(close) as server:
        idle = IdleConnections(server.target, Line("/"), lost=lost.append)
        idle.open(2)
        for connection in idle.everyone():
            connection.socket.setblocking(True)
            connection.send(b"go")
            connection.socket.setblocking(False)
        while len(idle):
            idle.hold(SHORT)
        idle.close()
    assert [error.code for error in lost] == [4401, 4401]


def test_connections_that_part_leave_none_behind():
    with plain_server(silent) as server:
        connections = open_all(lambda _: Connection(server.target, Line("/")), 3)
        part(connections)
        for connection in connections:
            assert select.select([connection.socket], [], [], 0)[0]
            connection.abort()


def test_if_one_connection_can_not_be_opened_all_are_closed():
    made: list[Connection] = []

    def connect(number: int) -> Connection:
        if number == 2:
            raise ConnectionRefusedError
        made.append(Connection(server.target, Line("/")))
        return made[-1]

    with plain_server(silent) as server:
        with pytest.raises(ConnectionRefusedError):
            open_all(connect, 5, at_once=2)
        assert all(connection.socket.fileno() == -1 for connection in made)
