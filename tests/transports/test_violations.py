"""Clients that break RFC 6455: closed with the code that says how, and what came before still counts."""

import queue

import pytest

from hubbub import Connection, ConnectionClosed, ConnectionClosedError, Hubbub, Settings
from transports.raw import BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, closing, dial, masked, text

ARRIVES_WITHIN = 10.0
LIMIT = 1_048_576

VIOLATIONS = {
    "a frame that is not masked": (b"\x81\x02hi", 1002),
    "a reserved bit": (masked(FIN | 0x40 | TEXT, b"hi"), 1002),
    "a reserved data opcode": (masked(FIN | 0x3, b"hi"), 1002),
    "a reserved control opcode": (masked(FIN | 0xB, b"hi"), 1002),
    "a fragmented ping": (masked(PING, b"hi"), 1002),
    "a ping that is too long": (masked(FIN | PING, b"x" * 126), 1002),
    "a continuation of nothing": (masked(FIN | CONTINUATION, b"hi"), 1002),
    "a message within a message": (masked(TEXT, b"a") + masked(FIN | TEXT, b"b"), 1002),
    "a close frame of one byte": (masked(FIN | CLOSE, b"\x03"), 1002),
    "a close code below 1000": (closing(999), 1002),
    "a close code that is for no wire": (closing(1005), 1002),
    "a close code that nobody may use": (closing(5000), 1002),
    "a close reason that is no UTF-8": (masked(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is no UTF-8": (masked(FIN | TEXT, b"caf\xe9"), 1007),
    "text that goes wrong in its second fragment": (
        masked(TEXT, b"caf") + masked(FIN | CONTINUATION, b"\xe9"),
        1007,
    ),
    "text that ends within a character": (masked(TEXT, b"caf") + masked(FIN | CONTINUATION, b"\xc3"), 1007),
    "a message that will be too large": (masked(FIN | BINARY, declared=LIMIT + 1), 1009),
    "a message that says it is enormous": (masked(FIN | BINARY, declared=2**62), 1009),
}
LARGE = {
    "a message that is too large": masked(FIN | BINARY, b"x" * (LIMIT + 1)),
    "a message that is far too large": masked(FIN | BINARY, b"x" * LIMIT * 8),
    "fragments that are too large together": masked(TEXT, b"x" * LIMIT) + masked(FIN | CONTINUATION, b"x"),
}

each_violation = pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)


@each_violation
def test_a_client_that_breaks_the_protocol_is_told_why(line, data, code):
    line.open()
    line.send(text("before"))
    assert line.message() == "before"
    line.send(data)
    assert line.close_frame()[0] == code
    assert line.rest() == b""


@each_violation
def test_nothing_behind_a_violation_is_read(line, data, code):
    line.open()
    line.send(data + text("behind") * 10)
    assert line.close_frame()[0] == code


def recording(settings: Settings | None = None) -> tuple[Hubbub, queue.Queue]:
    hub, seen = Hubbub(settings), queue.Queue()

    @hub.endpoint("/record")
    async def record(connection: Connection) -> None:
        try:
            while True:
                seen.put(await connection.recv())
        except ConnectionClosed as closed:
            seen.put(closed)

    return hub, seen


def test_the_endpoint_is_told_that_the_client_broke_the_protocol(start):
    hub, seen = recording()
    with dial(start(hub)) as line:
        line.open("/record")
        line.send(masked(FIN | 0x3, b"hi"))
        assert line.close_frame()[0] == 1002
        assert line.rest() == b""
    closed = seen.get(timeout=ARRIVES_WITHIN)
    assert type(closed) is ConnectionClosedError
    assert closed.sent.code == 1002


def test_a_violation_on_one_connection_is_none_of_another_s_business(echo):
    with dial(echo) as good, dial(echo) as bad:
        good.open()
        bad.open()
        good.send(masked(TEXT, b"half "))
        bad.send(masked(FIN | 0x3))
        assert bad.close_frame()[0] == 1002
        good.send(masked(FIN | CONTINUATION, b"whole"))
        assert good.message() == "half whole"


# The native transport only: uvicorn's own protocols close the socket over unread data, which resets it, so
# that a client may never read the close frame; and they drop what came in one piece with the violation.


@pytest.fixture
def recorded(serve):
    hub, seen = recording()
    with dial(serve(hub)) as line:
        line.open("/record")
        yield line, seen


@each_violation
def test_messages_before_a_violation_are_received(recorded, data, code):
    line, seen = recorded
    line.send(b"".join(text(str(number)) for number in range(10)) + data + text("behind") * 10)
    assert line.close_frame()[0] == code
    line.socket.close()
    assert [seen.get(timeout=ARRIVES_WITHIN) for _ in range(10)] == [str(number) for number in range(10)]
    closed = seen.get(timeout=ARRIVES_WITHIN)
    assert type(closed) is ConnectionClosedError
    assert (closed.code, closed.rcvd, closed.sent.code) == (code, None, code)


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
def test_a_client_can_read_why_even_while_it_is_still_sending(recorded, data):
    line, seen = recorded
    line.send(data + text("behind") * 10_000)
    code, reason = line.close_frame()
    assert code == 1009
    assert str(LIMIT) in reason
    assert line.rest() == b"", "the line is closed, not reset"
    line.socket.close()
    assert seen.get(timeout=ARRIVES_WITHIN).code == 1009


def test_a_client_that_stays_after_its_violation_is_cut_off_in_time(serve):
    hub, seen = recording(Settings(close_timeout=0.1))
    with dial(serve(hub)) as line:
        line.open("/record")
        line.send(masked(FIN | 0x3))
        assert line.close_frame()[0] == 1002
        assert line.rest() == b""
        # Only the server's half of the line is closed so far; the client's is open, and stays so.
        assert seen.get(timeout=ARRIVES_WITHIN).code == 1002
