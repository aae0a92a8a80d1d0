"""How connections end, over both transports: who closes, with what, and what each side is told."""

import asyncio
import queue

import pytest
import websockets
from websockets.exceptions import ProtocolError

from hubbub import Connection, ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, Hubbub
from transports.raw import CLOSE, FIN, PING, Line, closing, dial, masked, text

ARRIVES_WITHIN = 10.0

Endings = queue.Queue[ConnectionClosed]

EOF_OR_RESET = pytest.mark.parametrize(
    "vanish", [Line.vanish, lambda line: line.socket.close()], ids=["RST", "EOF"]
)


def receiving() -> tuple[Hubbub, Endings]:
    """A hub whose endpoint receives until the end, and the exceptions that were the end."""
    hub, endings = Hubbub(), Endings()

    @hub.endpoint("/receive")
    async def receive(connection: Connection) -> None:
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            endings.put(closed)

    return hub, endings


# The server closes


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "leaving"), (1011, "oh"), (3000, "registered"), (4999, "é" * 61 + "!")],
)
def test_the_client_is_told_the_code_and_the_reason(start, code, reason):
    hub = Hubbub()
    after = queue.Queue()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.send("before")
        assert connection.close_code is None
        assert connection.close_reason is None
        await connection.close(code, reason)
        await connection.close(4000, "a second time does nothing")
        after.put((connection.close_code, connection.close_reason))

    with dial(start(hub), "/close") as line:
        assert line.message() == "before"
        assert line.close_frame() == (code, reason)
        line.send(closing(code, reason))
        assert line.rest() == b""
        assert after.get(timeout=ARRIVES_WITHIN) == (code, reason)


def test_a_connection_is_closed_with_1000_when_its_handler_returns(start):
    hub = Hubbub()

    @hub.endpoint("/one")
    async def one(connection: Connection) -> None:
        await connection.send(await connection.recv())

    with dial(start(hub), "/one") as line:
        line.send(text("only"))
        assert line.message() == "only"
        assert line.close_frame() == (1000, "")
        line.send(closing(1000))
        assert line.rest() == b""


def test_a_handler_that_raises_closes_its_own_connection_with_1011(start):
    hub = Hubbub()

    @hub.endpoint("/fail")
    async def fail(connection: Connection) -> None:
        await connection.recv()
        raise LookupError("of the application")

    served = start(hub)
    with dial(served, "/fail") as line, dial(served, "/fail") as other:
        line.send(text("go"))
        assert line.close_frame() == (1011, "internal error")
        line.send(closing(1011))
        assert line.rest() == b""
        other.send(masked(FIN | PING))
        assert other.frame()[0] & 0x0F == 0xA


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_can_t_be_sent_is_refused_and_closes_nothing(start, code):
    assert refusal_of(start, code, "") == "refused"


def test_a_reason_that_is_too_long_for_a_close_frame_is_refused_and_closes_nothing(start):
    assert refusal_of(start, 1000, "é" * 62) == "refused"


def refusal_of(start, code: int, reason: str) -> str | bytes:
    hub = Hubbub()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        with pytest.raises(ProtocolError):
            await connection.close(code, reason)
        await connection.send("refused")

    with dial(start(hub), "/close") as line:
        return line.message()


def test_nothing_can_be_sent_or_received_after_a_close(start):
    hub = Hubbub()
    outcome = queue.Queue()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.close(4000, "done")
        for use in (connection.send("late"), connection.recv()):
            with pytest.raises(websockets.ConnectionClosed) as caught:
                await use
            outcome.put((type(caught.value), caught.value.sent.code, caught.value.sent.reason))
        async with connection:
            pass

    with dial(start(hub), "/close") as line:
        assert line.close_frame() == (4000, "done")
        line.send(closing(4000, "done"))
        assert line.rest() == b""
        for _ in range(2):
            assert outcome.get(timeout=ARRIVES_WITHIN) == (ConnectionClosedError, 4000, "done")


# The client closes


@pytest.mark.parametrize(
    ("frame", "kind", "code", "reason"),
    [
        (masked(FIN | CLOSE), ConnectionClosedOK, 1005, ""),
        (closing(1000), ConnectionClosedOK, 1000, ""),
        (closing(1001, "navigated away"), ConnectionClosedOK, 1001, "navigated away"),
        (closing(1011, "broke"), ConnectionClosedError, 1011, "broke"),
        (closing(3000), ConnectionClosedError, 3000, ""),
        (closing(4001, "é" * 61), ConnectionClosedError, 4001, "é" * 61),
    ],
    ids=["none", "1000", "1001", "1011", "3000", "4001"],
)
def test_the_endpoint_is_told_the_client_s_code_and_reason(start, frame, kind, code, reason):
    hub, endings = receiving()
    with dial(start(hub), "/receive") as line:
        line.send(frame)
        first, payload = line.frame()
        assert (first, payload) == (
            FIN | CLOSE,
            b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode(),
        )
        assert line.rest() == b""
        closed = endings.get(timeout=ARRIVES_WITHIN)
    assert type(closed) is kind
    assert (closed.code, closed.reason) == (code, reason)
    assert (closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent) == (code, reason, True)


def test_iteration_ends_with_a_good_close_and_raises_at_a_bad_one(start):
    hub = Hubbub()
    outcome = queue.Queue()

    @hub.endpoint("/iterate")
    async def iterate(connection: Connection) -> None:
        try:
            outcome.put([message async for message in connection])
        except ConnectionClosedError as closed:
            outcome.put(closed.code)

    served = start(hub)
    for frame, expected in ((closing(1000), ["a", "b"]), (closing(4000), 4000)):
        with dial(served, "/iterate") as line:
            line.send(text("a") + text("b") + frame)
            assert line.rest()
            assert outcome.get(timeout=ARRIVES_WITHIN) == expected


@EOF_OR_RESET
def test_a_client_that_vanishes_is_an_error_with_1006(start, native, vanish):
    hub, endings = receiving()
    served = start(hub)
    line = dial(served, "/receive")
    line.send(text("here"))
    vanish(line)
    closed = endings.get(timeout=ARRIVES_WITHIN)
    if native:
        assert type(closed) is ConnectionClosedError
        assert (closed.code, closed.rcvd, closed.sent) == (1006, None, None)
    else:
        # Some ASGI servers, uvicorn among them, tell an application 1005, no status code, both for a lost
        # line and for a close frame without a code. What a server does not tell can't be passed on.
        assert closed.code in (1005, 1006)


@EOF_OR_RESET
def test_everyone_who_waits_for_the_end_is_told_when_the_client_vanishes(start, vanish):
    hub = Hubbub()
    ended = queue.Queue()
    connections = queue.Queue()

    @hub.endpoint("/wait")
    async def wait(connection: Connection) -> None:
        connections.put(connection)
        await asyncio.gather(*(connection.wait_closed() for _ in range(3)))
        ended.put(connection.lost)

    line = dial(start(hub), "/wait")
    connections.get(timeout=ARRIVES_WITHIN)
    vanish(line)
    assert ended.get(timeout=ARRIVES_WITHIN) is True


@pytest.mark.parametrize("size", [0, 65536])
def test_a_send_to_a_client_that_vanished_raises(start, size):
    hub = Hubbub()
    outcome = queue.Queue()

    @hub.endpoint("/flood")
    async def flood(connection: Connection) -> None:
        try:
            while True:
                await connection.send(b"x" * size)
        except ConnectionClosed as closed:
            outcome.put(type(closed))

    line = dial(start(hub), "/flood")
    line.message()
    line.vanish()
    assert issubclass(outcome.get(timeout=ARRIVES_WITHIN), ConnectionClosed)


# The server stops


def test_endpoints_are_closed_with_1012_when_the_server_stops(start):
    hub, endings = receiving()
    served = start(hub)
    with dial(served, "/receive") as line:
        served.begin_to_stop()
        assert line.close_frame() == (1012, "the server restarts")
        line.send(closing(1012))
        assert line.rest() == b""
        assert endings.get(timeout=ARRIVES_WITHIN).sent.code == 1012
