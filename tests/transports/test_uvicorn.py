"""Plain ASGI events on hubbub's server: how a line ends whose client does not read, and how it is read."""

import asyncio
import queue
import threading

import pytest
from starlette.types import ASGIApp
from websockets.frames import Frame

from hubbub.transports.uvicorn import LimitedProtocol
from transports.applications import accepting
from transports.raw import CLOSE, FIN, PING, PONG, closing, dial, masked, text

ARRIVES_WITHIN = 10.0

MORE_THAN_FITS = 16 << 20
"""Bytes that the kernel's buffers do not take."""

READ = 256 << 10
"""Bytes that an event loop reads at once."""


@pytest.fixture
def lost(monkeypatch) -> "queue.Queue[LimitedProtocol]":
    """The connections whose sockets were given back."""
    lost: queue.Queue[LimitedProtocol] = queue.Queue()
    connection_lost = LimitedProtocol.connection_lost

    def told(self: LimitedProtocol, exc: Exception | None) -> None:
        connection_lost(self, exc)
        lost.put(self)

    monkeypatch.setattr(LimitedProtocol, "connection_lost", told)
    return lost


def saying_too_much(*, stays: bool) -> ASGIApp:
    """An application that sends one large message, and then waits for the end, or returns."""

    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.send", "bytes": b"x" * MORE_THAN_FITS})
        while stays and (await receive())["type"] != "websocket.disconnect":
            pass

    return app


def test_a_stalled_client_is_cut_off_when_the_application_has_returned(serve, lost):
    served = serve(saying_too_much(stays=False), native=False, close_timeout=0.1)
    with dial(served, "/", receive_buffer=4096):
        assert lost.get(timeout=ARRIVES_WITHIN)


def test_a_stalled_client_is_cut_off_when_it_does_not_answer_a_ping(serve, lost):
    quick = {"close_timeout": 0.1, "ping_interval": 0.05, "ping_timeout": 0.05}
    served = serve(saying_too_much(stays=True), native=False, **quick)
    with dial(served, "/", receive_buffer=4096):
        assert lost.get(timeout=ARRIVES_WITHIN)


@pytest.mark.parametrize("last", [closing(1000), masked(FIN | 0x3)], ids=["closes", "breaks the protocol"])
def test_a_stalled_client_is_cut_off_after_it(serve, lost, last):
    served = serve(saying_too_much(stays=True), native=False, close_timeout=0.1)
    with dial(served, "/", receive_buffer=4096) as line:
        line.send(last)
        assert lost.get(timeout=ARRIVES_WITHIN)


def test_a_stalled_client_is_cut_off_when_the_server_stops(serve, lost):
    served = serve(saying_too_much(stays=True), native=False, close_timeout=0.1, drain=60)
    with dial(served, "/", receive_buffer=4096) as line:
        line.read(2)
        served.stop()
        assert lost.get(timeout=ARRIVES_WITHIN)


def test_a_close_right_behind_a_ping_is_answered_though_the_pong_is_left_out(serve):
    served = serve(saying_too_much(stays=True), native=False)
    with dial(served, "/", receive_buffer=4096) as line:
        line.read(2)  # the message is on its way, and waits
        line.send(masked(FIN | PING) + closing(4001))
        assert line.rest().endswith(b"x" + bytes([FIN | CLOSE, 2]) + (4001).to_bytes(2, "big"))


def test_a_flood_that_is_read_in_turns_waits_in_its_socket(serve, monkeypatch):
    left, handle_text = [], LimitedProtocol.handle_text

    def seen(self: LimitedProtocol, event: Frame) -> None:
        left.append(len(self.conn.reader.buffer))
        handle_text(self, event)

    @accepting
    async def app(scope, receive, send):
        while (await receive())["type"] != "websocket.disconnect":
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(LimitedProtocol, "handle_text", seen)
    with dial(serve(app, native=False), "/") as line:
        line.send((text("x") + masked(FIN | PONG, b"x" * 125) * 100) * 200 + closing(1000))
        assert line.close_frame()[0] == 1000
    assert len(left) == 200
    assert max(left) <= 2 * READ


def test_a_flood_that_is_read_in_turns_waits_for_an_application_that_does_not_receive(serve):
    @accepting
    async def app(scope, receive, send):
        await asyncio.to_thread(done.wait, ARRIVES_WITHIN)

    done = threading.Event()
    flood = (text("x") + masked(FIN | PONG, b"x" * 125) * 200) * 600
    with dial(serve(app, native=False), "/") as line:
        try:
            assert line.send_while_taken(flood) < len(flood)
        finally:
            done.set()


def test_an_answer_to_a_close_is_read_behind_a_flood_that_nobody_receives(serve):
    @accepting
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        await asyncio.to_thread(done.wait, ARRIVES_WITHIN)

    done = threading.Event()
    with dial(serve(app, native=False, close_timeout=60), "/") as line:
        try:
            line.send(text("x") * 1000)
            assert line.close_frame()[0] == 4000
            line.send(closing(4000))
            assert line.rest() == b""
        finally:
            done.set()
