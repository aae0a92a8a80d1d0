"""TLS handshakes hold places and have deadlines, as whoever says nothing."""

import asyncio
import errno
import socket
import ssl
from contextlib import suppress

import pytest

from conftest import Served
from hubbub import Hubbub, Settings
from hubbub.transports import http, tls
from hubbub.transports.http import HTTPState
from transports.raw import Line, dial, request, text

SOON = 0.3
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.fixture
def secure(start, certificate):
    """Serve an echo over TLS."""

    def serve(**settings: object) -> Served:
        hub = Hubbub()

        @hub.endpoint("/echo")
        async def echo(websocket):
            async for message in websocket:
                await websocket.send(message)

        return start(hub, **certificate, **settings)

    return serve


@pytest.fixture
def context(certificate):
    return ssl.create_default_context(cafile=certificate["ssl_certfile"])


def shake_hands(served: Served, context: ssl.SSLContext) -> Line:
    return Line(("127.0.0.1", served.port), tls=context)


def echoes(line: Line) -> bool:
    line.open()
    line.send(text("there"))
    return line.message() == "there"


def ended(line: Line) -> bool:
    """Wait for the end of the line, be it a reset."""
    with suppress(ConnectionResetError):
        line.rest()
    return True


def gone(served: Served) -> None:
    """Wait until the server has noticed that all sockets are gone."""
    while len(served.server.server_state.places):
        with dial(served) as probe:
            probe.send(b"no TLS\r\n\r\n")
            ended(probe)


@pytest.mark.parametrize("said", [b"", CLIENT_HELLO[:3], CLIENT_HELLO], ids=["nothing", "a part", "more"])
def test_a_tls_handshake_that_does_not_get_on_is_ended_in_time(secure, said):
    served = secure(handshake_timeout=SOON)
    with dial(served) as line:
        line.send(said)
        assert ended(line)
    gone(served)
    assert not served.server.server_state.heads.waiting


def test_the_time_for_the_first_request_counts_from_accept_and_not_from_the_tls_handshake(secure, context):
    served = secure(handshake_timeout=SOON)
    with shake_hands(served, context) as line:
        assert line.response().status == 408
        assert line.rest() == b"The request took too long to arrive.\n"
    with shake_hands(served, context) as line:
        assert echoes(line)
        with shake_hands(served, context) as later:
            assert later.response().status == 408
        line.send(text("still there"))
        assert line.message() == "still there"


def test_what_is_no_tls_ends_the_connection_and_the_server_goes_on(secure, context):
    served = secure()
    with dial(served) as line:
        line.send(request("/echo"))
        assert ended(line)
    with shake_hands(served, context) as line:
        assert echoes(line)


def test_who_leaves_in_the_middle_of_it_gives_the_place_back(secure, context):
    served = secure(max_connections=1)
    for said in (b"", CLIENT_HELLO):
        line = dial(served)
        line.send(said)
        line.vanish()
    # There is one place: whoever gets it shows that it was free.
    while True:
        try:
            with shake_hands(served, context) as line:
                assert echoes(line)
                break
        except (ConnectionError, ssl.SSLError):
            continue


def test_of_too_many_tls_handshakes_the_oldest_go_and_an_honest_client_gets_in(secure, context, monkeypatch):
    monkeypatch.setattr(http, "GRACE", 0)
    served = secure(max_pending=10, handshake_timeout=60)
    silent = [dial(served) for _ in range(50)]
    try:
        with shake_hands(served, context) as line:
            assert echoes(line)
        assert all(ended(each) for each in silent[:40])
        assert len(served.server.server_state.heads.waiting) <= 10
    finally:
        for each in silent:
            each.socket.close()


def test_connections_over_tls_are_counted_from_accept_on(secure, context):
    served = secure(max_connections_per_address=2, forwarded_allow_ips="", handshake_timeout=60)
    with dial(served), shake_hands(served, context) as line:
        assert echoes(line)
        assert served.server.server_state.places.counted() == {"127.0.0.1": 2}
        with dial(served) as third:
            assert ended(third)


def test_frames_right_after_the_tls_handshake_are_not_lost(secure, context):
    with shake_hands(secure(), context) as line:
        line.send(request("/echo") + text("early"))
        assert line.response().status == 101
        assert line.message() == "early"


def test_a_server_stops_while_a_tls_handshake_is_under_way(secure):
    served = secure(handshake_timeout=60)
    with dial(served) as line:
        line.send(CLIENT_HELLO)
        with dial(served) as other:
            other.send(b"no TLS\r\n\r\n")
            assert ended(other)  # so the first one is known, too
        served.stop()
        assert ended(line)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", served.port))


def test_an_application_without_a_hub_is_served_over_tls_and_stops(start, certificate, context):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    served = start(app, **certificate)
    with shake_hands(served, context) as line:
        line.send(request("/", "A: b"))
        assert line.response().status == 204
    served.stop()


@pytest.mark.anyio
async def test_a_machine_without_descriptors_does_not_end_the_accepting(monkeypatch, context):
    loop, accept, failures = asyncio.get_running_loop(), asyncio.get_running_loop().sock_accept, []
    reached = asyncio.Event()

    async def sock_accept(listener: socket.socket) -> object:
        if len(failures) < 3:
            failures.append(OSError(errno.EMFILE, "Too many open files"))
            raise failures[-1]
        reached.set()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", sock_accept)
    monkeypatch.setattr(tls, "PAUSE", 0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = tls.TLSListener(listening, context, HTTPState(Settings(), 1), lambda handshake: None)
        listener.start(5)
        await reached.wait()
        listener.close()
        await listener.wait_closed()
    assert len(failures) == 3


def test_a_connection_that_fails_to_begin_is_closed_and_the_next_is_accepted(
    secure, context, monkeypatch, caplog
):
    add, failures = http.Deadlines.add, []

    def fail_once(self, connection, now):
        if not failures:
            failures.append(ZeroDivisionError("on purpose"))
            raise failures[0]
        add(self, connection, now)

    monkeypatch.setattr(http.Deadlines, "add", fail_once)
    served = secure()
    with dial(served) as line:
        assert ended(line)
    with shake_hands(served, context) as line:
        assert echoes(line)
        assert len(served.server.server_state.places) == 1
    assert "on purpose" in caplog.text


@pytest.mark.anyio
async def test_an_accepting_that_failed_is_told_and_does_not_fail_the_stop(monkeypatch, context, caplog):
    async def sock_accept(listener: socket.socket) -> object:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", sock_accept)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = tls.TLSListener(listening, context, HTTPState(Settings(), 1), lambda handshake: None)
        listener.start(5)
        await listener.wait_closed()
        listener.close()
        await listener.wait_closed()
    assert "on purpose" in caplog.text


@pytest.mark.parametrize(
    "said",
    [b"", b"GET / HT", b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"],
    ids=["nothing", "half a head", "what is refused"],
)
def test_who_shook_hands_and_has_no_request_does_not_hold_up_the_stop(secure, context, said):
    served = secure()
    with shake_hands(served, context) as line:
        line.send(said)
        if said.endswith(b"\n"):
            assert line.response().status == 505
        with shake_hands(served, context) as later:
            assert echoes(later)
        served.stop()
        # It has not answered the end of TLS, which the server did not wait for.
        assert not served.server.server_state.connections
