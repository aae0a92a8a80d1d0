"""The native transport: one write for each turn, pings and time-outs, TLS and Unix domain sockets."""

import asyncio
import logging
import queue
import select
import socket
import ssl
import threading

import anyio.to_thread
import pytest
import websockets

from hubbub import Connection, ConnectionClosed, ConnectionClosedError, Hubbub, Settings
from hubbub.engine import handling
from hubbub.engine.transport import Ending
from hubbub.transports.native import WebSocketProtocol
from transports.applications import application
from transports.raw import CONTINUATION, FIN, PING, PONG, TEXT, Line, closing, dial, masked, request, text

ARRIVES_WITHIN = 10.0


def receiving(settings: Settings | None = None) -> tuple[Hubbub, "queue.Queue[ConnectionClosed]"]:
    """A hub whose endpoint receives until the end, and the exceptions that were the end."""
    hub, endings = Hubbub(settings), queue.Queue()

    @hub.endpoint("/receive")
    async def receive(connection: Connection) -> None:
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            endings.put(closed)

    return hub, endings


def echoing() -> Hubbub:
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    return hub


# One write for each turn of the event loop


@pytest.fixture
def writes(monkeypatch) -> list[int]:
    """How many messages each write held."""
    counts: list[int] = []
    write = WebSocketProtocol.write

    def counted(self, chunks) -> None:
        counts.append(len(chunks))
        write(self, chunks)

    monkeypatch.setattr(WebSocketProtocol, "write", counted)
    return counts


def test_what_is_sent_in_one_turn_is_one_write(serve, writes):
    hub = Hubbub()

    @hub.endpoint("/turns")
    async def turns(connection: Connection) -> None:
        for turn in range(3):
            for number in range(100):
                await connection.send(f"{turn} {number}")
            await connection.recv()

    with dial(serve(hub), "/turns") as line:
        for turn in range(3):
            assert [line.message() for _ in range(100)] == [f"{turn} {number}" for number in range(100)]
            line.send(text("next"))
        assert line.close_frame() == (1000, "")
    assert writes == [100, 100, 100]


def test_answers_to_messages_that_arrive_together_are_one_write(serve, writes, monkeypatch):
    monkeypatch.setattr(handling, "SLICE", 60.0)
    with dial(serve(echoing()), "/echo") as line:
        line.send(b"".join(text(str(number)) for number in range(50)))
        assert [line.message() for _ in range(50)] == [str(number) for number in range(50)]
    assert writes == [50]


def test_what_several_tasks_send_in_one_turn_is_one_write_for_each_connection(serve, writes):
    hub = Hubbub()
    connections: list[Connection] = []
    everyone = asyncio.Event()

    @hub.endpoint("/all")
    async def to_all(connection: Connection) -> None:
        connections.append(connection)
        if len(connections) == 3:
            await asyncio.gather(*(each.send(str(number)) for number in range(10) for each in connections))
            everyone.set()
        await everyone.wait()

    served = serve(hub)
    lines = [dial(served, "/all") for _ in range(3)]
    for line in lines:
        with line:
            assert [line.message() for _ in range(10)] == [str(number) for number in range(10)]
    assert writes == [10, 10, 10]


def test_the_answer_to_a_handshake_and_the_welcome_are_one_write(serve):
    served = serve(Hubbub())
    with dial(served, "/") as first:
        first.message()  # with the first client, the hub reads what it signs tokens with
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(request("/"))
        answer = client.recv(65_536)
    head, _, frames = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b'"$welcome"' in frames


def test_a_handshake_is_answered_while_a_login_waits(serve):
    hub, asked, may_log_in = Hubbub(), threading.Event(), threading.Event()

    @hub.authenticate
    def authenticate(connection: Connection) -> None:
        asked.set()
        assert may_log_in.wait(ARRIVES_WITHIN)

    with dial(serve(hub), "/") as line:
        assert asked.wait(ARRIVES_WITHIN)
        may_log_in.set()
        assert '"$welcome"' in line.message()


def test_a_client_that_ends_its_half_at_once_is_answered(serve):
    served = serve(echoing())
    for _ in range(10):
        with dial(served) as line:
            line.send(request("/echo"))
            line.socket.shutdown(socket.SHUT_WR)
            assert line.rest().startswith(b"HTTP/1.1 101 ")


class Kept:
    """A listener that keeps what it is told."""

    max_message = 1000

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.told = asyncio.Event()

    def received(self, message: str | bytes, more: bool = False) -> bool:
        self.messages.append(message)
        self.told.set()
        return True

    def ended(self, ending: Ending) -> None: ...


@pytest.mark.parametrize("early", [b"", text("early")], ids=["late", "early"])
def test_who_pauses_as_it_is_accepted_is_told_nothing_until_it_resumes(serve, early):
    listener, sent, told = Kept(), threading.Event(), queue.Queue()

    async def app(scope, receive, send):
        native = scope["extensions"]["hubbub"]
        await native.accept(listener, None)
        native.pause_reading()
        await anyio.to_thread.run_sync(sent.wait, ARRIVES_WITHIN)
        for _ in range(10):
            await asyncio.sleep(0)
        told.put(list(listener.messages))
        native.resume_reading()
        await listener.told.wait()
        told.put(list(listener.messages))
        native.abort()

    with dial(serve(application(app))) as line:
        line.send(request("/") + early)
        assert line.response().status == 101
        if not early:
            line.send(text("early"))
        sent.set()
        assert told.get(timeout=ARRIVES_WITHIN) == []
        assert told.get(timeout=ARRIVES_WITHIN) == ["early"]


# Pings and time-outs


def test_a_silent_client_is_pinged_and_stays_as_long_as_it_answers(serve):
    hub, _ = receiving(Settings(ping_interval=0.05, ping_timeout=10))
    with dial(serve(hub), "/receive") as line:
        for _ in range(3):
            assert line.frame() == (FIN | PING, b"")
            line.send(masked(FIN | PONG))


def test_a_client_that_does_not_answer_a_ping_is_let_go(serve):
    hub, endings = receiving(Settings(ping_interval=0.05, ping_timeout=0.1, close_timeout=0.1))
    with dial(serve(hub), "/receive") as line:
        assert line.frame() == (FIN | PING, b"")
        assert line.close_frame() == (4508, "no answer to a ping in time")
        assert line.rest() == b""
        assert endings.get(timeout=ARRIVES_WITHIN).sent.code == 4508


@pytest.mark.parametrize("still_sending", [False, True], ids=["silent", "still sending"])
def test_a_client_that_does_not_answer_a_close_is_cut_off_in_time(serve, still_sending):
    hub = Hubbub(Settings(close_timeout=0.1))
    endings = queue.Queue()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.close(4000, "bye")
        endings.put((connection.close_code, connection.close_reason, connection.lost))

    with dial(serve(hub), "/close") as line:
        assert line.close_frame() == (4000, "bye")
        if still_sending:
            line.send(text("one more") * 10)
        assert line.rest() == b""
        assert endings.get(timeout=ARRIVES_WITHIN) == (4000, "bye", True)


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_client_that_stays_after_both_have_closed_is_cut_off_in_time(serve, first):
    hub, endings = receiving(Settings(close_timeout=0.1))

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.close(4000)

    served = serve(hub)
    with dial(served, "/receive" if first == "client" else "/close") as line:
        if first == "client":
            line.send(closing(4000))
        assert line.close_frame() == (4000, "")
        if first == "server":
            line.send(closing(4000))
        else:
            assert endings.get(timeout=ARRIVES_WITHIN).rcvd.code == 4000, "told without waiting for that"
        assert line.rest() == b"", "the server's half is closed"
        # The other half takes what is sent, until it is cut off; then sending is an error.
        cut_off = select.poll()
        cut_off.register(line.socket, 0)
        for _ in range(1000):
            try:
                line.send(text("still here"))
            except OSError:
                return
            if cut_off.poll(20):
                return
        pytest.fail("the line was left open")


def test_what_an_application_sends_on_a_connection_that_the_hub_took_over_is_refused(serve):
    hub, outcome = Hubbub(), queue.Queue()

    @hub.endpoint("/one")
    async def one(connection: Connection) -> None:
        await connection.recv()
        sending.append(asyncio.create_task(late()))
        await connection.recv()

    sending = []
    sends = []

    async def late() -> None:
        try:
            await sends[0]({"type": "websocket.close"})
        except OSError as problem:
            outcome.put(problem)

    async def around(scope, receive, send):
        if scope["type"] == "websocket":
            sends.append(send)
        await hub(scope, receive, send)

    with dial(serve(around), "/one") as line:
        line.send(text("a"))
        assert isinstance(outcome.get(timeout=ARRIVES_WITHIN), OSError)
        line.send(text("b"))
        assert line.close_frame() == (1000, ""), "nothing else was written"


def test_both_sides_may_close_at_once(serve):
    hub = Hubbub()
    endings = queue.Queue()
    may_close = threading.Event()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await anyio.to_thread.run_sync(may_close.wait, ARRIVES_WITHIN)
        connection.start_close(4000, "the server's")
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            endings.put(closed)

    with dial(serve(hub), "/close") as line:
        may_close.set()
        assert line.close_frame() == (4000, "the server's")
        line.send(closing(4001, "the client's"))
        assert line.rest() == b""
        closed = endings.get(timeout=ARRIVES_WITHIN)
    assert type(closed) is ConnectionClosedError
    assert (closed.rcvd.code, closed.sent.code, closed.rcvd_then_sent) == (4001, 4000, False)


def test_the_rest_of_a_fragmented_message_may_follow_the_server_s_close(serve):
    hub, endings = receiving()
    served = serve(hub)
    with dial(served, "/receive") as line:
        line.send(masked(TEXT, b"one ") + masked(FIN | PING))
        assert line.frame() == (FIN | PONG, b"")
        served.begin_to_stop()
        assert line.close_frame()[0] == 1012
        line.send(masked(FIN | CONTINUATION, b"two") + masked(FIN | PING) + closing(1012))
        assert line.rest() == b""
        assert endings.get(timeout=ARRIVES_WITHIN).rcvd.code == 1012


def test_a_client_that_left_before_it_was_accepted_is_a_closed_connection(start):
    hub = Hubbub()
    asked, may_accept = threading.Event(), threading.Event()
    endings = queue.Queue()

    @hub.endpoint("/late")
    async def late(connection: Connection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            endings.put(closed.code)

    async def slow(scope, receive, send):
        if scope["type"] == "websocket":
            asked.set()
            await anyio.to_thread.run_sync(may_accept.wait, ARRIVES_WITHIN)
        await hub(scope, receive, send)

    served = start(slow)
    line = dial(served)
    line.send(request("/late"))
    assert asked.wait(ARRIVES_WITHIN)
    line.vanish()
    # Once another's handshake got this far, the end of the first one is known.
    asked.clear()
    with dial(served) as other:
        other.send(request("/late"))
        assert asked.wait(ARRIVES_WITHIN)
        may_accept.set()
        assert other.response().status == 101
        assert endings.get(timeout=ARRIVES_WITHIN) == 1006


# Lines of other kinds


@pytest.mark.anyio
@pytest.mark.parametrize("size", [5, 65535, 70_000, 1_048_576])
async def test_messages_go_both_ways_over_tls(start, certificate, size):
    served = start(echoing(), **certificate)
    context = ssl.create_default_context(cafile=certificate["ssl_certfile"])
    url = f"wss://localhost:{served.port}/echo"
    async with websockets.connect(url, host="127.0.0.1", ssl=context, compression=None) as websocket:
        await websocket.send("x" * size)
        assert await websocket.recv() == "x" * size
        await websocket.close(1000)
    assert (websocket.close_code, websocket.close_reason) == (1000, "")


@pytest.mark.anyio
async def test_a_connection_over_tls_knows_it(start, certificate):
    hub = Hubbub()

    @hub.endpoint("/scheme")
    async def scheme(connection: Connection) -> None:
        await connection.send(connection.request.url.scheme)

    served = start(hub, **certificate)
    context = ssl.create_default_context(cafile=certificate["ssl_certfile"])
    async with websockets.connect(
        f"wss://localhost:{served.port}/scheme", host="127.0.0.1", ssl=context
    ) as websocket:
        assert await websocket.recv() == "wss"


@pytest.mark.parametrize("data", [masked(FIN | 0x3), masked(FIN | TEXT, b"\xff")], ids=["1002", "1007"])
def test_a_violation_over_tls_is_told_and_the_line_ends_in_time(serve, certificate, data):
    # TLS has no half-closed lines: the server ends the whole of it, without waiting for the client.
    hub, endings = receiving(Settings(close_timeout=60))
    served = serve(hub, **certificate)
    context = ssl.create_default_context(cafile=certificate["ssl_certfile"])
    with Line(("127.0.0.1", served.port), tls=context) as line:
        line.open("/receive")
        line.send(data)
        code, _ = line.close_frame()
        assert line.rest() == b""
    assert endings.get(timeout=ARRIVES_WITHIN).sent.code == code


@pytest.mark.anyio
async def test_a_unix_domain_socket_is_a_line_like_any_other(start, tmp_path):
    hub = Hubbub()

    @hub.endpoint("/who")
    async def who(connection: Connection) -> None:
        await connection.send(repr(connection.remote_address))
        async for message in connection:
            await connection.send(message)

    path = str(tmp_path / "hub.sock")
    start(hub, uds=path)
    async with websockets.unix_connect(path, "ws://localhost/who", compression=None) as websocket:
        assert await websocket.recv() == "None"
        await websocket.send("x" * 70_000)
        assert await websocket.recv() == "x" * 70_000


# Refusals


@pytest.mark.parametrize(
    ("head", "status"),
    [(request("/elsewhere"), 404), (request("/echo").replace(b"Version: 13", b"Version: 8"), 426)],
    ids=["by the hub", "by the handshake"],
)
def test_who_is_refused_can_read_why_even_if_it_sent_more(serve, head, status):
    with dial(serve(echoing())) as line:
        line.send(head + text("early") * 1000)
        response = line.response()
        line.send(text("late") * 1000)
        assert response.status == status
        # A line that was reset would raise here.
        assert len(line.rest()) == int(response.headers["content-length"])


def test_who_is_refused_and_stays_is_cut_off_in_time(serve):
    with dial(serve(echoing(), close_timeout=0.1)) as line:
        line.send(request("/elsewhere"))
        line.rest()
        with pytest.raises(ConnectionError):
            send_for_ever(line)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_who_is_refused_and_stays_does_not_hold_up_the_server_s_stop(serve, certificate, tls):
    context = ssl.create_default_context(cafile=certificate["ssl_certfile"]) if tls else None
    served = serve(echoing(), close_timeout=60, drain=60, **(certificate if tls else {}))
    with Line(("127.0.0.1", served.port), tls=context) as line:
        line.send(request("/elsewhere"))
        assert line.response().status == 404
        served.stop()


class Told:
    """A listener that is told the end."""

    def __init__(self) -> None:
        self.endings: queue.Queue[Ending] = queue.Queue()

    def ended(self, ending: Ending) -> None:
        self.endings.put(ending)


def test_a_handshake_that_the_stopping_server_has_refused_can_t_be_accepted_any_more(serve, caplog):
    asked, may_accept, listener = threading.Event(), threading.Event(), Told()

    @application
    async def late(scope, receive, send):
        asked.set()
        await anyio.to_thread.run_sync(may_accept.wait, ARRIVES_WITHIN)
        await scope["extensions"]["hubbub"].accept(listener, None)

    served = serve(late)
    with dial(served) as line:
        line.send(request("/"))
        assert asked.wait(ARRIVES_WITHIN)
        served.begin_to_stop()
        response = line.response()
        assert response.status == 503
        assert len(line.rest()) == int(response.headers["content-length"])
        may_accept.set()
        assert listener.endings.get(timeout=ARRIVES_WITHIN) == Ending()
    served.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def send_for_ever(line: Line) -> None:
    while True:
        line.send(b"x")
