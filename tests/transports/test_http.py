"""Plain HTTP beside the WebSockets, and the time that a client has for its first request."""

import gc
import socket
import ssl
import threading
import weakref
from queue import Queue

import pytest
from uvicorn.config import LOOP_FACTORIES

from conftest import Served
from hubbub import Hubbub, server
from hubbub.transports import http
from hubbub.transports.http import HTTPProtocol
from transports.raw import Line, dial, request, text

SOON = 0.2
MORE_THAN_A_SOCKET_TAKES = 30_000_000


def body_of(line: Line) -> tuple[int, str]:
    response = line.response()
    return response.status, line.read(int(response.headers["content-length"])).decode()


def echoing() -> Hubbub:
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    return hub


@pytest.mark.parametrize(("path", "answer"), [("/healthz", "alive\n"), ("/readyz", "ready\n")])
def test_probes_are_answered_beside_websockets(line, path, answer):
    line.send(request(path, "Accept: */*"))
    assert body_of(line) == (200, answer)


def test_one_connection_carries_several_requests_and_then_a_websocket(line):
    for _ in range(3):
        line.send(request("/healthz", "Accept: */*"))
        assert body_of(line) == (200, "alive\n")
    line.open()
    line.send(text("there"))
    assert line.message() == "there"


def test_what_is_no_http_is_answered_400(line):
    line.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    assert line.response().status == 400


def test_a_silent_socket_is_let_go_with_408_in_time(serve):
    with dial(serve(Hubbub(), handshake_timeout=SOON)) as line:
        response = line.response()
        assert (response.status, response.phrase) == (408, "Request Timeout")
        assert response.headers["connection"] == "close"
        assert line.rest() == b"The request took too long to arrive.\n"


@pytest.mark.parametrize(
    "part",
    [b"GET /ec", request("/echo")[:-2], b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: webso"],
    ids=["a part of the first line", "all but the last line break", "a part of a header"],
)
def test_a_part_of_a_request_is_let_go_with_408_in_time(serve, part):
    with dial(serve(echoing(), handshake_timeout=SOON)) as line:
        line.send(part)
        assert body_of(line) == (408, "The request took too long to arrive.\n")
        assert line.rest() == b""


def test_a_drip_of_bytes_does_not_put_the_time_off(serve):
    with dial(serve(echoing(), handshake_timeout=SOON)) as line:
        line.socket.settimeout(0.02)
        answer = b""
        for byte in request("/echo", *(f"X-Filler: {'x' * 100}" for _ in range(1000))):
            try:
                line.socket.send(bytes((byte,)))
                answer = line.socket.recv(4096)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_many_silent_sockets_are_all_let_go_and_others_are_served_meanwhile(serve):
    served = serve(echoing(), handshake_timeout=SOON)
    silent = [dial(served) for _ in range(50)]
    try:
        with dial(served) as line:
            line.open()
            assert [each.response().status for each in silent] == [408] * 50
            line.send(text("still there"))
            assert line.message() == "still there"
    finally:
        for each in silent:
            each.socket.close()


def test_a_websocket_outlives_the_time_for_its_request(serve):
    served = serve(echoing(), handshake_timeout=SOON)
    with dial(served) as line, dial(served) as later:
        line.open()
        # The time of the second, which began after the first one's, is over.
        assert later.response().status == 408
        line.send(text("still there"))
        assert line.message() == "still there"


def test_a_request_in_time_ends_the_wait_for_the_connection(serve):
    served = serve(Hubbub(), handshake_timeout=SOON)
    with dial(served) as line, dial(served) as later:
        line.send(request("/healthz", "Accept: */*"))
        assert body_of(line) == (200, "alive\n")
        assert later.response().status == 408
        line.send(request("/healthz", "Accept: */*"))
        assert body_of(line) == (200, "alive\n")


def test_a_client_that_left_is_not_waited_for(serve):
    served = serve(Hubbub(), handshake_timeout=60)
    waiting = served.server.server_state.heads.waiting
    with dial(served) as line:
        line.send(b"GET / HT")
        # Connections are accepted in their order: once a later one is served, this one is known too.
        with dial(served) as other:
            other.send(request("/healthz", "Accept: */*"))
            body_of(other)
        assert len(waiting) == 1
        line.socket.shutdown(socket.SHUT_WR)
        assert line.rest() == b""
    with dial(served) as other:
        other.send(request("/healthz", "Accept: */*"))
        body_of(other)
    assert not waiting


def gone(served: Served) -> None:
    """Wait until the server has noticed that nobody is there; each look is a connection."""
    while len(served.server.server_state.places):
        with dial(served) as probe:
            probe.send(request("/healthz", "Accept: */*", "Connection: close"))
            probe.rest()


def site(page):
    """An application that answers for a page as it likes, with a hub for everything else."""
    hub = echoing()

    async def app(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/page":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await page(send)
        else:
            await hub(scope, receive, send)

    return app


async def long(send):
    await send({"type": "http.response.body", "body": bytes(MORE_THAN_A_SOCKET_TAKES)})


async def streamed(send):
    for _ in range(MORE_THAN_A_SOCKET_TAKES // 100_000):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def broken(send):
    await send({"type": "http.response.body", "body": bytes(MORE_THAN_A_SOCKET_TAKES), "more_body": True})
    raise ZeroDivisionError("on purpose")


def test_a_websocket_is_refused_while_an_answer_on_its_connection_is_not_read(start, monkeypatch):
    monkeypatch.setattr(http, "LINGER", 60)
    with dial(start(site(long))) as line:
        line.send(request("/page", "Accept: */*"))
        assert line.response().status == 200
        # The answer is written as a whole, and waits for the client.
        line.send(request("/echo"))
        refusal = line.rest()[-1000:]
        assert b"HTTP/1.1 400 " in refusal
        assert refusal.endswith(b"Wait for the answer before you ask for a WebSocket.\n")


def test_a_websocket_may_follow_a_long_answer_that_was_read(start):
    with dial(start(site(long))) as line:
        line.send(request("/page", "Accept: */*"))
        assert line.response().headers["transfer-encoding"] == "chunked"
        size = len(f"{MORE_THAN_A_SOCKET_TAKES:x}\r\n\r\n") + MORE_THAN_A_SOCKET_TAKES
        line.read(size + len("0\r\n\r\n"))
        line.open()
        line.send(text("there"))
        assert line.message() == "there"


def test_an_answer_that_is_not_read_is_given_up_in_time(serve, caplog):
    served = serve(site(long), handshake_timeout=SOON)
    with dial(served) as line:
        line.send(request("/page", "Accept: */*"))
        assert line.response().status == 200
        gone(served)
    assert [record.fields["because"] for record in caplog.records if record.getMessage() == "refused"] == [
        "unread answer"
    ]


def test_trouble_with_ending_one_connection_does_not_end_the_server(serve, monkeypatch, caplog):
    tried = threading.Semaphore(0)

    def fail(self, crowded):
        tried.release()
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(HTTPProtocol, "expire", fail)
    served = serve(Hubbub(), handshake_timeout=SOON)
    for _ in range(2):
        with dial(served):
            assert tried.acquire(timeout=10)
    with dial(served) as line:
        line.send(request("/healthz", "Accept: */*"))
        assert body_of(line) == (200, "alive\n")
    assert "on purpose" in caplog.text


@pytest.fixture(params=["asyncio", "uvloop"])
def freed(request, monkeypatch):
    """An item for each HTTP connection that nothing refers to any more; nothing is collected."""
    freed: Queue[object] = Queue()
    references = []

    class Counted(HTTPProtocol):
        def __init__(self, *arguments: object, **details: object) -> None:
            super().__init__(*arguments, **details)
            references.append(weakref.ref(self, freed.put))

    monkeypatch.setattr(server, "HTTPProtocol", Counted)
    monkeypatch.setitem(LOOP_FACTORIES, "auto", LOOP_FACTORIES[request.param])
    gc.disable()
    yield freed
    gc.enable()


@pytest.fixture(params=["plain", "TLS"])
def dialling(request, serve, certificate):
    """How to connect to a server that echoes."""
    secure = request.param == "TLS"
    served = serve(echoing(), **(certificate if secure else {}))
    context = ssl.create_default_context(cafile=certificate["ssl_certfile"]) if secure else None
    return lambda: Line(("127.0.0.1", served.port), tls=context)


def ask(line: Line) -> None:
    line.send(request("/healthz", "Accept: */*"))
    assert body_of(line) == (200, "alive\n")


@pytest.mark.parametrize("before", [0, 2])
def test_a_websocket_keeps_nothing_of_its_http_connection(freed, dialling, before):
    with dialling() as line:
        for _ in range(before):
            ask(line)
        line.open()
        freed.get(timeout=10)
        line.send(text("still there"))
        assert line.message() == "still there"


@pytest.mark.parametrize("requests", [0, 1, 3])
@pytest.mark.parametrize("end", [Line.vanish, lambda line: line.socket.close()], ids=["a reset", "an end"])
def test_nothing_is_kept_of_a_connection_that_is_gone(freed, dialling, requests, end):
    line = dialling()
    for _ in range(requests):
        ask(line)
    line.send(b"GET / HT")
    end(line)
    freed.get(timeout=10)


@pytest.mark.parametrize(
    "sent",
    [b"no HTTP\r\n\r\n", request("/healthz", "Connection: close"), request("/healthz", "A: b") * 20],
    ids=["refused", "answered", "pipelined"],
)
def test_nothing_is_kept_of_a_connection_that_the_server_has_ended(freed, dialling, sent):
    with dialling() as line:
        line.send(sent)
        line.response()
    freed.get(timeout=10)


def test_nothing_is_kept_of_a_request_of_http_1_0(freed, dialling):
    with dialling() as line:
        line.send(request("/healthz", "A: b", version="HTTP/1.0"))
        line.rest()
    freed.get(timeout=10)
