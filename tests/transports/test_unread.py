"""Answers that are not read, on both event loops, with TLS and without."""

import socket
import ssl
import threading
import time
from asyncio import AbstractEventLoop, get_running_loop
from queue import Queue

import pytest
from uvicorn.config import LOOP_FACTORIES

from conftest import Served
from hubbub.transports.unread import progress_of
from transports.raw import Line, request
from transports.test_http import MORE_THAN_A_SOCKET_TAKES, broken, long, site, streamed

ENDS_WITHIN = 20.0


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def event_loop(request, monkeypatch):
    """Both event loops, one after the other."""
    monkeypatch.setitem(LOOP_FACTORIES, "auto", LOOP_FACTORIES[request.param])


class Site:
    """A server of one page, that looks at its answers when it is told to."""

    def __init__(self, served: Served, tls: ssl.SSLContext | None, loops: Queue[AbstractEventLoop]) -> None:
        self.served = served
        self.state = served.server.server_state
        self._tls = tls
        self._loops = loops
        self._loop: AbstractEventLoop | None = None

    def dial(self) -> Line:
        # Of a size of its own, the buffer does not grow.
        return Line(("127.0.0.1", self.served.port), receive_buffer=65_536, tls=self._tls)

    def ask(self, line: Line, header: str = "Accept: */*") -> None:
        line.send(request("/page", header))
        assert line.response().status == 200
        self._loop = self._loops.get(timeout=10)

    def look(self) -> None:
        """Have the server look as if the time until the next look were over."""
        loop, looked = self._loop, threading.Event()
        assert loop is not None

        def expire() -> None:
            self.state.unread.expire(loop.time() + 61)
            looked.set()

        loop.call_soon_threadsafe(expire)
        assert looked.wait(10)

    def look_until_nobody_is_there(self) -> None:
        deadline = time.monotonic() + ENDS_WITHIN
        while len(self.state.places):
            assert time.monotonic() < deadline, "the connection is still there"
            self.look()


@pytest.fixture(params=["plain", "TLS"])
def serving(request, serve, certificate):
    """Serve a page, over TLS and without."""

    def serve_one(page, **settings: object) -> Site:
        loops: Queue[AbstractEventLoop] = Queue()

        async def told(send):
            loops.put(get_running_loop())
            await page(send)

        if request.param == "plain":
            return Site(serve(site(told), handshake_timeout=60, **settings), None, loops)
        context = ssl.create_default_context(cafile=certificate["ssl_certfile"])
        return Site(serve(site(told), handshake_timeout=60, **certificate, **settings), context, loops)

    return serve_one


def why(caplog) -> list[str]:
    """Return why somebody was refused."""
    return [record.fields["because"] for record in caplog.records if record.getMessage() == "refused"]


@pytest.mark.parametrize("page", [long, streamed, broken])
@pytest.mark.parametrize("header", ["Connection: close", "Connection: keep-alive"])
def test_who_does_not_read_an_answer_is_let_go(serving, page, header, caplog):
    there = serving(page)
    with there.dial() as line:
        there.ask(line, header)
        there.look_until_nobody_is_there()
    assert not there.state.unread.waiting
    assert why(caplog) == ["unread answer"]


@pytest.mark.parametrize(
    ("page", "header"),
    [(long, "Connection: close"), (long, "Connection: keep-alive"), (streamed, "Connection: keep-alive")],
)
def test_who_reads_an_answer_slowly_may_take_its_time(serving, page, header, caplog):
    there = serving(page)
    with there.dial() as line:
        there.ask(line, header)
        there.look()
        # More than the sockets of both sides hold, so that the server has had to send some.
        line.read(MORE_THAN_A_SOCKET_TAKES // 2)
        there.look()
        assert len(there.state.places) == 1
        line.read(MORE_THAN_A_SOCKET_TAKES // 2)
    assert why(caplog) == []


def test_a_whole_answer_that_waits_in_the_kernel_may_be_read_whenever(serving, caplog):
    sent = threading.Event()

    async def page(send):
        await send({"type": "http.response.body", "body": b"x" * 500_000})
        sent.set()

    there = serving(page)
    with there.dial() as line:
        there.ask(line)
        assert sent.wait(10)
        for _ in range(5):
            there.look()
        assert len(there.state.places) == 1
        assert line.read(500_000).count(b"x") > 499_900  # the rest is how it was framed
    assert why(caplog) == []


def test_an_answer_without_end_that_waits_for_nothing_lets_others_have_their_turn_once_it_is_cut(serving):
    over = threading.Event()

    async def endless(send):
        while not over.is_set():
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})

    there = serving(endless, drain=0.2)
    try:
        with there.dial() as line:
            there.ask(line)
            there.look_until_nobody_is_there()
        with there.dial() as other:
            other.send(request("/healthz", "Accept: */*"))
            assert other.response().status == 200
        # Nobody ends it but the server, which stops.
        there.served.stop()
    finally:
        over.set()


def test_of_a_socket_that_is_gone_or_has_no_peer_nothing_is_known():
    with socket.socket() as gone:
        pass
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as alone:
        assert [progress_of(each).waiting for each in (None, gone, ours, alone)] == [0, 0, 0, 0]
