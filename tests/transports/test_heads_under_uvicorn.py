"""The fast path under plain uvicorn, whose own HTTP judges less of a request's head than hubbub's does."""

import pytest

from hubbub import Connection, Hubbub, Settings
from hubbub.transports import http, native
from transports.raw import UPGRADE, Line, dial, request, text
from transports.test_asgi import running
from transports.test_head import MANY, head


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request):
    """Of a uvicorn that serves an echo on the fast path, over each of its parsers."""
    hub = Hubbub(Settings(max_target=1000))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with running(hub, "hubbub.server:WebSocketProtocol", http=request.param) as server:
        yield server.port


@pytest.fixture
def line(port):
    with Line(("127.0.0.1", port)) as line:
        yield line


FIRST = "GET /echo HTTP/1.1"

REFUSED = {
    "two Hosts": (request("/echo", *UPGRADE, "Host: elsewhere"), 400),
    "the same Host twice": (request("/echo", *UPGRADE, "Host: localhost"), 400),
    "no Host": (head(FIRST, *UPGRADE), 400),
    "a Host that is none": (head(FIRST, "Host: evil@localhost", *UPGRADE), 400),
    "HTTP/1.0": (request("/echo", *UPGRADE, version="HTTP/1.0"), 400),
    "a body": (request("/echo", *UPGRADE, "Content-Length: 5") + b"12345", 400),
    "chunks": (request("/echo", *UPGRADE, "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "too many headers": (request("/echo", *UPGRADE, *(f"A{n}: b" for n in range(101))), 431),
    "too large a header": (request("/echo", *UPGRADE, "A: " + "b" * 33_000), 431),
    "too long a target": (request("/echo?" + "a" * 1000), 414),
    "a fragment in the target": (request("/echo#a"), 400),
    "another host in the target": (request("http://elsewhere/echo"), 400),
    "too many subprotocols": (request("/echo", *UPGRADE, f"Sec-WebSocket-Protocol: {','.join(MANY)}"), 400),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_a_head_that_hubbub_s_own_server_refuses_opens_nothing(line, sent, status):
    line.send(sent)
    response = line.response()
    assert response.status == status
    assert response.headers["connection"] == "close"
    body = line.rest().decode()
    # What its parser does not take, uvicorn refuses itself.
    assert body.endswith(".\n") or "Invalid HTTP request received." in body


VALID = {
    "an ordinary one": request("/echo"),
    "an absolute target": request("http://localhost/echo"),
    "an empty body": request("/echo", *UPGRADE, "Content-Length: 0"),
    "a hundred headers": request("/echo", *UPGRADE, *(f"A{n}: b" for n in range(95))),
}


@pytest.mark.parametrize("sent", VALID.values(), ids=VALID)
def test_a_head_that_hubbub_s_own_server_takes_opens_a_websocket(line, sent):
    line.send(sent)
    assert line.response().status == 101
    line.send(text("there"))
    assert line.message() == "there"


def test_under_hubbub_s_own_server_a_head_is_judged_once(serve, monkeypatch):
    judged, judge = [], http.judge

    def count(*arguments):
        judged.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(http, "judge", count)
    monkeypatch.setattr(native, "judged", count)
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with dial(serve(hub), "/echo"):
        assert len(judged) == 1
