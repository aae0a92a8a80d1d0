"""How many may be here: connections in all, from one address, without a request, not logged in."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import Served
from hubbub import Connection, Hubbub, Settings
from hubbub.engine.pending import Pending
from hubbub.transports import http
from hubbub.transports.http import LEAST_RATE
from told import Gate, Told
from transports.raw import UPGRADE, Line, Response, dial, request, text

SOON = 0.2
OTHER = "127.0.0.2"


def echoing() -> Hubbub:
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    return hub


@contextmanager
def dial_from(served: Served, address: str) -> Iterator[Line]:
    """Connect from another address of this machine."""
    line = Line.__new__(Line)
    line._received = b""
    line.socket = socket.create_connection(("127.0.0.1", served.port), 10, (address, 0))
    with line:
        yield line


def alive(line: Line) -> bool:
    line.send(request("/healthz", "Accept: */*"))
    response = line.response()
    return response.status == 200 and line.read(6) == b"alive\n"


def refused(line: Line) -> Response:
    response = line.response()
    assert response.headers["connection"] == "close"
    assert response.headers["retry-after"] == "5"
    assert line.rest().endswith(b".\n")
    return response


def gone(served: Served, count: int = 0) -> None:
    """Wait until the server has noticed that all but so many sockets are gone."""
    places = served.server.server_state.places
    while len(places) > count:
        with dial(served) as probe:
            try:
                probe.send(request("/healthz", "Accept: */*", "Connection: close"))
                probe.rest()
            except ConnectionError:
                continue


def test_past_the_limit_in_all_it_is_503_and_a_place_that_is_free_is_given_again(start):
    served = start(echoing(), max_connections=2)
    with dial(served, "/echo"), dial(served) as other:
        assert alive(other)
        with dial(served) as third:
            third.send(request("/echo"))
            assert refused(third).status == 503
        other.socket.close()
        gone(served, 1)
        with dial(served, "/echo") as third:
            third.send(text("there"))
            assert third.message() == "there"


def test_who_is_refused_and_sends_all_the_same_can_read_why(start):
    served = start(echoing(), max_connections=1)
    with dial(served, "/echo"), dial(served) as line:
        line.send(request("/echo") + b"x" * 1_000_000)
        assert refused(line).status == 503


def test_past_the_limit_for_an_address_it_is_429_and_others_are_served(start):
    served = start(echoing(), max_connections_per_address=2, forwarded_allow_ips="")
    with dial(served, "/echo"), dial(served), dial(served) as third:
        assert refused(third).status == 429
        with dial_from(served, OTHER) as line:
            line.open()
            line.send(text("there"))
            assert line.message() == "there"
            assert served.server.server_state.places.counted() == {"127.0.0.1": 2, OTHER: 1}


@pytest.mark.parametrize("end", ["close", "vanish", "half a request", "a whole one"])
def test_whatever_end_a_connection_has_its_place_comes_back(start, end):
    served = start(echoing(), forwarded_allow_ips="")
    for path in (None, "/echo"):
        line = dial(served, path)
        if end == "vanish":
            line.vanish()
            continue
        if path is None and end == "half a request":
            line.send(b"GET / HT")
        if path is None and end == "a whole one":
            assert alive(line)
        line.socket.close()
    gone(served)
    state = served.server.server_state
    assert state.places.counted() == {}
    assert not state.heads.waiting
    assert not state.bodies.waiting
    assert not state.connections


def test_a_place_comes_back_from_an_application_that_fails(start):
    hub = Hubbub()

    @hub.endpoint("/fails")
    async def fails(websocket):
        raise RuntimeError("on purpose")

    served = start(hub, forwarded_allow_ips="")
    for _ in range(3):
        with dial(served, "/fails") as line:
            assert line.close_frame()[0] == 1011
    gone(served)
    assert len(hub._entrance.counts) == 0


def test_behind_a_trusted_proxy_its_clients_are_counted_and_not_the_proxy(start):
    hub = Hubbub(Settings(max_connections_per_address=2))

    @hub.endpoint("/echo")
    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    served = start(hub)
    alice, bob = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 2001:db8::1"
    neighbour = "X-Forwarded-For: 2001:db8::2"
    lines = [dial(served) for _ in range(6)]
    statuses = []
    for line, header in zip(lines, [alice, alice, alice, bob, neighbour, bob], strict=True):
        line.send(request("/echo", "Upgrade: websocket", "Connection: Upgrade", *KEYS, header))
        statuses.append(line.response().status)
    assert statuses == [101, 101, 429, 101, 101, 429]
    for line in lines:
        line.socket.close()
    gone(served)
    assert hub._entrance.counts.counted() == {}


KEYS = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")


def test_over_a_unix_domain_socket_nobody_has_an_address(serve, tmp_path):
    path = str(tmp_path / "hub.sock")
    served = SocketServed(echoing(), path)
    try:
        lines = [Line(path) for _ in range(3)]
        for line in lines:
            line.open()
        for line in lines:
            line.socket.close()
    finally:
        served.stop()


class SocketServed(Served):
    """A server on a Unix domain socket."""

    def __init__(self, hub: Hubbub, path: str) -> None:
        super().__init__(hub, Settings(uds=path, max_connections_per_address=1, drain=1.0))


def test_of_too_many_silent_sockets_the_oldest_go_and_an_honest_client_gets_in(start, monkeypatch):
    monkeypatch.setattr(http, "GRACE", 0)
    served = start(echoing(), max_pending=20, handshake_timeout=60)
    silent = [dial(served) for _ in range(100)]
    try:
        with dial(served, "/echo") as line:
            line.send(text("there"))
            assert line.message() == "there"
        assert [refused(each).status for each in silent[:80]] == [503] * 80
        assert len(served.server.server_state.heads.waiting) <= 20
    finally:
        for each in silent:
            each.socket.close()


def test_a_crowd_that_comes_at_once_is_served_and_does_not_drive_itself_out(start, monkeypatch):
    monkeypatch.setattr(http, "GRACE", 60)
    served = start(echoing(), max_pending=5)
    lines = [dial(served) for _ in range(50)]
    for line in lines:
        line.send(request("/echo"))
    assert [line.response().status for line in lines] == [101] * 50
    for line in lines:
        line.socket.close()


def test_who_has_sent_a_whole_request_is_not_crowded_out(start, monkeypatch):
    monkeypatch.setattr(http, "GRACE", 0)
    served = start(echoing(), max_pending=5)
    with dial(served) as first, dial(served, "/echo") as second:
        assert alive(first)
        silent = [dial(served) for _ in range(20)]
        assert refused(silent[0]).status == 503
        second.send(text("there"))
        assert second.message() == "there"
        for each in silent:
            each.socket.close()


def test_a_body_that_never_comes_is_let_go_with_408(start):
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass

    with dial(start(app, handshake_timeout=SOON)) as line:
        line.send(request("/", "Content-Length: 1000", method="POST"))
        assert line.response().status == 408


def test_a_body_that_drips_is_let_go_even_if_the_answer_is_there_already(start):
    with dial(start(Hubbub(), handshake_timeout=SOON)) as line:
        line.send(request("/healthz", "Content-Length: 1000000"))
        line.socket.settimeout(0.02)
        answer = b""
        while True:
            try:
                line.socket.send(b"x")
                part = line.socket.recv(4096)
            except TimeoutError:
                continue
            if not part:
                break
            answer += part
        assert answer.endswith(b"alive\n")


@pytest.mark.parametrize(("size", "status"), [(LEAST_RATE * 60, 200), (LEAST_RATE * 60 - 1, 408)])
def test_a_long_body_may_take_its_time_as_long_as_it_gets_on(start, size, status):
    served = None
    came = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        got, more = 0, True
        while more:
            event = await receive()
            more = event.get("more_body", False)
            got += len(event.get("body", b""))
            if got == size and more:
                # As if the time for a part of it were over.
                served.server.server_state.bodies.expire(asyncio.get_running_loop().time() + 61)
                came.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = start(app, handshake_timeout=60)
    with dial(served) as line:
        line.send(request("/", f"Content-Length: {size + 1}", method="POST") + b"x" * size)
        assert came.wait(10)
        line.send(b"x")
        assert line.response().status == status


def test_empty_lines_after_an_answer_do_not_keep_a_connection(start):
    with dial(start(Hubbub(), handshake_timeout=SOON)) as line:
        assert alive(line)
        line.send(b"\r\n")
        assert line.response().status == 408


def test_of_too_many_that_are_not_logged_in_the_next_is_answered_503(start):
    hub, gate = Hubbub(Settings(max_pending=3)), Gate()

    @hub.authenticate
    async def who(connection: Connection) -> None:
        if connection.request.query_params.get("slow"):
            await gate.passed()

    served = start(hub)
    lines = [dial(served, "/?slow=1") for _ in range(3)]
    with dial(served) as late:
        late.send(request("/"))
        assert refused(late).status == 503
    gate.open()
    for line in lines:
        assert "$welcome" in str(line.message())
    with dial(served, "/") as line:
        assert "$welcome" in str(line.message())
    for line in lines:
        line.socket.close()


class Stub:
    def __init__(self, ready: bool) -> None:
        self.watch = self
        self.ready = ready


def test_those_that_logged_in_do_not_count_as_waiting_for_it():
    pending = Pending(2)
    first, second, third = Stub(True), Stub(False), Stub(False)
    assert pending.admit(first)
    assert pending.admit(second)
    assert pending.admit(third)
    assert len(pending) == 2
    assert not pending.admit(Stub(False))
    pending.forget(second)
    pending.forget(second)
    assert pending.admit(Stub(False))


@pytest.fixture
def timed() -> tuple[Hubbub, Told]:
    """A hub that tells since when each client has been connecting, and at an endpoint what the time is."""
    hub, told = Hubbub(), Told()

    @hub.authenticate
    async def who(connection: Connection) -> None:
        told(round(connection.watch.opened, 3))

    @hub.endpoint("/now")
    async def now(connection: Connection) -> None:
        await connection.send(str(round(asyncio.get_running_loop().time(), 3)))

    return hub, told


def now(served: Served) -> float:
    with dial(served, "/now") as line:
        return float(line.message())


@pytest.mark.anyio
async def test_the_time_of_a_login_counts_from_accept(timed, start):
    hub, told = timed
    served = start(hub)
    with dial(served) as line:
        head = request("/", *UPGRADE)
        line.send(head[:20])
        later = now(served)
        line.send(head[20:])
        assert line.response().status == 101
        assert 0 < await told.next() <= later


@pytest.mark.anyio
async def test_the_time_of_a_login_after_other_requests_counts_from_its_own(timed, start):
    hub, told = timed
    served = start(hub)
    with dial(served) as line:
        line.send(request("/healthz", "Accept: */*"))
        line.read(int(line.response().headers["content-length"]))
        earlier = now(served)
        line.send(request("/", *UPGRADE))
        assert line.response().status == 101
        assert await told.next() >= earlier
