"""How lines over TLS end, where no half can be closed: nothing that was said is lost, on both event loops."""

import asyncio
import socket
import ssl
from contextlib import suppress

import pytest
from uvicorn.config import LOOP_FACTORIES

from conftest import Served
from hubbub import Connection, ConnectionClosed, Hubbub, Settings
from hubbub.transports.native import WebSocketProtocol
from told import Gate, Told
from transports.raw import BINARY, FIN, PING, PONG, Line, closing, masked, request, text

MANY = 300
"""More messages than may wait for a handler, and more frames than are read in one turn."""


class TLSSocket:
    """A socket with TLS of its own, so that what is sent and TLS's own end can go out in one segment."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self._plain.sendall(self._outgoing.read())

    def _exchange(self) -> bool:
        """Send what is to be sent, and receive; false at the end of the line."""
        self._plain.sendall(self._outgoing.read())
        data = self._plain.recv(65536)
        self._incoming.write(data)
        return bool(data)

    def sendall(self, data: bytes, *, end: bool = False) -> None:
        self._tls.write(data)
        if end:
            with suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        self._plain.sendall(self._outgoing.read())

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if not self._exchange():
                    return b""

    def close(self) -> None:
        self._plain.close()


class TLSLine(Line):
    """A line over TLS of its own."""

    socket: TLSSocket  # type: ignore[assignment]

    def __init__(self, served: Served, context: ssl.SSLContext, path: str) -> None:
        super().__init__(("127.0.0.1", served.port))
        self.socket = TLSSocket(self.socket, context)  # type: ignore[arg-type]
        self.open(path)

    def end_with(self, data: bytes) -> None:
        """Send, and say in the same segment that nothing more comes."""
        self.socket.sendall(data, end=True)


@pytest.fixture(params=["uvloop", "asyncio"], autouse=True)
def loop(request, monkeypatch):
    pytest.importorskip(request.param)
    monkeypatch.setitem(LOOP_FACTORIES, "auto", LOOP_FACTORIES[request.param])


@pytest.fixture
def context(certificate):
    return ssl.create_default_context(cafile=certificate["ssl_certfile"])


@pytest.fixture
def secure(serve, certificate):
    def secure(hub: Hubbub, **settings: object) -> Served:
        return serve(hub, **certificate, **settings)

    return secure


def echo_hub(**settings: object) -> Hubbub:
    hub = Hubbub(Settings(**settings))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    return hub


def test_what_came_right_before_the_end_of_tls_is_handled_and_the_close_answered(secure, context, native):
    hub, gate, told = Hubbub(), Gate(), Told()

    @hub.endpoint("/late")
    async def late(connection: Connection) -> None:
        await gate.passed()
        try:
            while True:
                told(await connection.recv())
        except ConnectionClosed:
            told(connection.close_code)

    with TLSLine(secure(hub, native=native), context, "/late") as line:
        line.end_with(b"".join(text(str(number)) for number in range(MANY)) + closing(1000))
        assert line.close_frame() == (1000, "")
        assert line.rest() == b""
        gate.open()
        assert [asyncio.run(told.next()) for _ in range(MANY + 1)] == [*map(str, range(MANY)), 1000]


def test_pings_right_before_the_end_of_tls_are_answered_and_the_close_too(secure, context, native):
    with TLSLine(secure(echo_hub(), native=native), context, "/echo") as line:
        line.end_with(masked(FIN | PING) * MANY + closing(1000))
        assert [line.frame() for _ in range(MANY)] == [(FIN | PONG, b"")] * MANY
        assert line.close_frame() == (1000, "")


def test_a_client_that_goes_on_sending_what_is_refused_reads_why(secure, context):
    with TLSLine(secure(echo_hub(max_message=100_000)), context, "/echo") as line:
        line.send(masked(FIN | BINARY, b"x" * 200_000)[:10_000])
        assert line.close_frame()[0] == 1009
        for _ in range(19):
            line.send(bytes(10_000))  # the server has said its last, and still takes it
        assert line.rest() == b""


def test_what_comes_behind_a_close_frame_does_not_cost_its_answer(secure, context):
    with TLSLine(secure(echo_hub()), context, "/echo") as line:
        line.send(closing(1000) + text("late"))
        assert line.close_frame() == (1000, "")
        line.send(text("later"))
        assert line.rest() == b""


def test_a_handshake_that_is_refused_is_read_by_a_client_that_goes_on_sending(secure, context):
    hub = echo_hub()
    with TLSLine(secure(hub), context, "/echo") as other:
        with Line(other.socket._plain.getpeername(), tls=context) as line:
            line.send(request("/nowhere") + text("early"))
            assert line.response().status == 404
            line.send(text("later"))
            line.rest()
        other.send(text("there"))
        assert other.message() == "there"


def test_a_refused_client_that_never_stops_is_cut(secure, context, monkeypatch):
    ended = Told()
    lost = WebSocketProtocol.connection_lost

    def connection_lost(self, exc):
        lost(self, exc)
        ended("ended")

    monkeypatch.setattr(WebSocketProtocol, "connection_lost", connection_lost)
    with TLSLine(secure(echo_hub(max_message=125, close_timeout=0.3)), context, "/echo") as line:
        line.send(masked(FIN | BINARY, b"x" * 126))
        with suppress(ConnectionError):
            while True:
                line.send(b"x")
    assert asyncio.run(ended.next()) == "ended"


def test_a_close_handshake_over_tls_ends_the_line_at_once(secure, context, monkeypatch):
    monkeypatch.setattr("hubbub.transports.native.QUIET", 60.0)
    with TLSLine(secure(echo_hub(close_timeout=60.0)), context, "/echo") as line:
        line.send(closing(1000))
        assert line.close_frame() == (1000, "")
        assert line.rest() == b""
