"""What loads do when servers stop to answer, close, or answer wrongly."""

import select
import socket
from collections.abc import Callable
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, broadcast

from hubbub.load import Line, Step, Target
from hubbub.load.accepts import AcceptsLoad
from hubbub.load.connection import BUFFER, Connection, Refused
from hubbub.load.echo import EchoLoad
from hubbub.load.fanout import FanOutLoad, SharedFanOutLoad
from hubbub.load.frames import Closed
from hubbub.load.load import Load, open_all, part, settle
from hubbub.load.paced import PacedLoad
from hubbub.load.rooms import RoomsLoad
from hubbub.load.streams import Messages
from plain_server import Handler, echo, plain_server, send_on, silent

ROOT = Line("/")
HI = b"hi"


def paced(target: Target, lost: Callable[[Exception], None] | None = None) -> Load:
    receivers = open_all(lambda _: Connection(target, ROOT), 2)
    more = {} if lost is None else {"lost": lost}
    return PacedLoad([Connection(target, ROOT)], receivers, HI, 200, **more)


LOADS: dict[str, Callable[[Target], Load]] = {
    "echo": lambda target: EchoLoad(target, ROOT, HI, HI, 2),
    "fanout": lambda target: FanOutLoad(target, ROOT, ROOT, HI, 2, 1),
    "shared": lambda target: SharedFanOutLoad(target, ROOT, ROOT, HI, HI, 2, 1),
    "paced": paced,
    "rooms": lambda target: RoomsLoad(
        target, lambda _: ROOT, lambda _: ROOT, lambda _: HI, HI, rooms=1, members=2, in_flight=1
    ),
}


def close(connection: ServerConnection, code: int) -> None:
    """Send a close frame, and don't wait for the answer."""
    connection.protocol.send_close(code, "enough")
    connection.send_data()


def after(count: int, then: str, *, to_itself: bool) -> Handler:
    """Answer, or send on, so many messages in all; then be silent, close with 4529, or break off."""
    left = [count]

    async def handle(connection):
        async for message in connection:
            left[0] -= 1
            others = connection.server.connections - {connection}
            if left[0] >= 0:
                broadcast({connection} if to_itself else others, message)
            elif then == "closes":
                for other in [*others, connection]:
                    close(other, 4529)
            elif then == "breaks off":
                for other in [connection, *others]:
                    other.transport.abort()

    return handle


@pytest.fixture
def impatient(monkeypatch):
    for module in ("echo", "fanout", "paced", "rooms", "accepts"):
        monkeypatch.setattr(f"hubbub.load.{module}.PATIENCE", 0.2)


@pytest.mark.parametrize("kind", LOADS)
@pytest.mark.parametrize(
    ("then", "error"),
    [("is silent", TimeoutError), ("closes", (Closed, ValueError)), ("breaks off", ConnectionError)],
)
def test_a_server_that_gives_up_is_the_end_of_a_load(impatient, kind, then, error):
    handler = after(10, then, to_itself=kind == "echo")
    with plain_server(handler) as server, LOADS[kind](server.target) as load, pytest.raises(error):
        load.run(20)


def test_a_paced_load_goes_on_without_receivers_that_are_lost():
    async def close_one(connection):
        number = 0
        async for message in connection:
            number += 1
            others = sorted(connection.server.connections - {connection}, key=lambda other: other.id)
            if number == 5:
                close(others.pop(), 4513)
            broadcast(others, message)

    lost: list[Exception] = []
    with plain_server(close_one) as server, paced(server.target, lost.append) as load:
        load.run(0.1)
        assert len(load) == 1
        assert load.run(0.1) == 20
        load.finish()
    assert [error.code for error in lost] == [4513]


def test_a_fan_out_goes_on_without_subscribers_that_are_lost():
    async def close_one(connection):
        number = 0
        async for message in connection:
            number += 1
            others = sorted(connection.server.connections - {connection}, key=lambda other: other.id)
            if number == 5:
                close(others.pop(), 4513)
            broadcast(others, message)

    lost: list[Exception] = []
    with (
        plain_server(close_one) as server,
        FanOutLoad(server.target, ROOT, ROOT, HI, 3, 1, lost=lost.append) as load,
    ):
        while not lost:
            load.run(0.1)
        assert len(load) == 2
        assert load.run(0.1) > 0
        load.finish()
    assert [error.code for error in lost] == [4513]


def test_what_a_lost_subscriber_had_received_still_counts():
    async def close_one(connection):
        number = 0
        async for message in connection:
            number += 1
            others = sorted(connection.server.connections - {connection}, key=lambda other: other.id)
            if number == 50:
                close(others.pop(), 4513)
            sent_on[0] += len(others)
            broadcast(others, message)

    sent_on = [0]
    lost: list[Exception] = []
    with (
        plain_server(close_one) as server,
        FanOutLoad(server.target, ROOT, ROOT, HI, 2, 8, lost=lost.append) as load,
    ):
        counts = [load.run(0.1)]
        while not lost or len(counts) < 3:
            counts.append(load.run(0.1))
        assert min(counts) > 0
        # Without the broadcast that it begins with, and at most without those that were under way to each.
        assert sent_on[0] - 2 - 2 * 8 <= sum(counts) <= sent_on[0] - 2


def test_a_message_larger_than_what_the_kernel_takes_is_sent_whole(monkeypatch):
    def narrow(connection):
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return release(connection)

    async def answer_with_the_size(connection):
        async for message in connection:
            assert message == "x" * 500_000
            await connection.send("got it")

    release = Connection.release
    monkeypatch.setattr(Connection, "release", narrow)
    with (
        plain_server(answer_with_the_size) as server,
        EchoLoad(server.target, ROOT, b"x" * 500_000, b"got it", 2) as load,
    ):
        assert load.run(0.3) > 0
        load.finish()


@pytest.mark.parametrize("kind", ["echo", "fanout"])
def test_messages_larger_than_the_buffer_are_received_whole(kind):
    large = b"x" * (3 * BUFFER)
    handler = echo if kind == "echo" else send_on
    make = {
        "echo": lambda target: EchoLoad(target, ROOT, large, large, 2),
        "fanout": lambda target: FanOutLoad(target, ROOT, ROOT, large, 2, 4),
    }
    with plain_server(handler) as server, make[kind](server.target) as load:
        assert load.run(0.3) > 0
        load.finish()


def test_a_message_that_nothing_was_said_for_is_an_error():
    async def twice(connection):
        async for message in connection:
            for _ in range(2):
                broadcast(connection.server.connections - {connection}, message)

    with (
        plain_server(twice) as server,
        paced(server.target) as load,
        pytest.raises(ValueError, match="nothing was said for"),
    ):
        load.run(0.5)


def test_where_everyone_is_lost_a_load_ends():
    lost: list[Exception] = []
    handler = after(10, "closes", to_itself=True)
    with (
        plain_server(handler) as server,
        EchoLoad(server.target, ROOT, HI, HI, 2, lost=lost.append) as load,
    ):
        load.run(20)
        assert len(load) == 0
        assert load.run(20) == 0
    assert len(lost) == 2


def test_connections_that_are_refused_do_not_count():
    taken = []

    def refuse_later(connection, request):
        taken.append(request)
        return connection.respond(HTTPStatus.NOT_FOUND, "") if len(taken) > 5 else None

    with (
        plain_server(silent, process_request=refuse_later) as server,
        AcceptsLoad(server.target, ROOT, 2) as load,
        pytest.raises(Refused, match="404"),
    ):
        load.run(20)


def test_connections_that_are_not_opened_in_time_are_an_error(impatient):
    async def greet_the_first(connection):
        if len(greeted) < 5:
            greeted.append(connection)
            await connection.send("good day")
        await connection.wait_closed()

    greeted: list[object] = []
    with (
        plain_server(greet_the_first) as server,
        AcceptsLoad(server.target, Line("/", (Step(None, b"good day"),)), 2) as load,
        pytest.raises(TimeoutError),
    ):
        load.run(20)


def test_a_server_that_never_stops_to_talk_does_not_settle(monkeypatch):
    async def talk(connection):
        while True:
            await connection.send("and another thing")

    monkeypatch.setattr("hubbub.load.load.PATIENCE", 0.1)
    with plain_server(talk) as server:
        connection = Connection(server.target, ROOT)
        with pytest.raises(TimeoutError, match="although nothing was said"):
            settle([(connection, Messages(connection))])
        connection.abort()


def test_parting_waits_only_so_long_for_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr("hubbub.load.load.PARTS_WITHIN", 0.1)
    with plain_server(echo) as server:
        connections = [Connection(server.target, ROOT) for _ in range(2)]
        near, far = socket.socketpair()
        with far:
            connections[0].socket.close()
            connections[0].socket = near  # whose other end says nothing
            part(connections)
            assert far.recv(100)[0] == 0x88
            assert select.select([connections[1].socket], [], [], 0)[0]
            near.close()
        connections[1].abort()


def test_parting_does_not_wait_for_who_can_not_be_told():
    near, far = socket.socketpair()
    with plain_server(echo) as server:
        connections = [Connection(server.target, ROOT) for _ in range(2)]
        connections[0].socket.close()
        connections[0].socket = near
        far.close()  # so that there is something to be read, the end, but nobody to be told
        part(connections)
        for connection in connections:
            connection.abort()


def test_nobody_is_left_open_if_a_load_can_not_begin():
    with plain_server(send_on) as server, pytest.raises(ValueError, match="Expected"):
        RoomsLoad(
            server.target,
            lambda _: ROOT,
            lambda _: ROOT,
            lambda _: HI,
            b"something else",
            rooms=1,
            members=2,
            in_flight=1,
        )
