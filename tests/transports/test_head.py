"""What a request's head may be, as bytes on a socket: each refusal is a whole answer."""

import socket

import pytest

from hubbub import Hubbub
from hubbub.transports import http
from transports.raw import UPGRADE, Line, dial, request, text

HEALTH = ("GET /healthz HTTP/1.1", "Host: localhost")


def head(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def refused(line: Line) -> int:
    """Read a whole answer that ends the connection; return its status."""
    response = line.response()
    body = line.read(int(response.headers["content-length"])).decode()
    assert response.headers["connection"] == "close"
    assert body[0].isupper()
    assert body.endswith(".\n")
    assert line.rest() == b""
    return response.status


MALFORMED = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    "NUL in a header": (head(*HEALTH, "A: b\0c"), 400),
    "a control character in a header": (head(*HEALTH, "A: b\x01c"), 400),
    "DEL in a header": (head(*HEALTH, "A: b\x7fc"), 400),
    "a bare CR": (head(*HEALTH, "A: b\rc"), 400),
    "a bare LF": (head(*HEALTH, "A: b\nc: d"), 400),
    "a folded header": (head(*HEALTH, "A: b", " c"), 400),
    "a name with a space after it": (head(*HEALTH, "A : b"), 400),
    "an empty name": (head(*HEALTH, ": b"), 400),
    "a name that is no token": (head(*HEALTH, "A(: b"), 400),
    "a header without colon": (head(*HEALTH, "abc"), 400),
    "no Host": (head("GET /healthz HTTP/1.1", "A: b"), 400),
    "two Hosts": (head(*HEALTH, "Host: elsewhere"), 400),
    "the same Host twice": (head(*HEALTH, "Host: localhost"), 400),
    "a Host that is none": (head(HEALTH[0], "Host: a b"), 400),
    "a Host with a user": (head(HEALTH[0], "Host: evil@localhost"), 400),
    "a Host with a path": (head(HEALTH[0], "Host: localhost/evil"), 400),
    "two lengths": (head(*HEALTH, "Content-Length: 1", "Content-Length: 2"), 400),
    "the same length twice": (head(*HEALTH, "Content-Length: 0", "Content-Length: 0"), 400),
    "a list of lengths": (head(*HEALTH, "Content-Length: 0, 0"), 400),
    "a length with a sign": (head(*HEALTH, "Content-Length: +0"), 400),
    "a length without end": (head(*HEALTH, "Content-Length: " + "9" * 100), 400),
    "a length and a coding": (head(*HEALTH, "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "a coding and a length": (head(*HEALTH, "Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "a coding that is not known": (head(*HEALTH, "Transfer-Encoding: gzip"), 501),
    "a coding like chunked": (head(*HEALTH, "Transfer-Encoding: xchunked"), 501),
    "chunked, but not last": (head(*HEALTH, "Transfer-Encoding: chunked, gzip"), 400),
    "chunked twice": (head(*HEALTH, *["Transfer-Encoding: chunked"] * 2), 400),
    "a coding before chunked": (head(*HEALTH, "Transfer-Encoding: gzip, chunked"), 501),
    "chunked in HTTP/1.0": (head("GET / HTTP/1.0", "Transfer-Encoding: chunked"), 400),
    "a chunk's size with a prefix": (head(*HEALTH, "Transfer-Encoding: chunked") + b"0x0\r\n\r\n", 400),
    "a chunk's line with LF alone": (head(*HEALTH, "Transfer-Encoding: chunked") + b"0\n\n", 400),
    "HTTP/2.0": (head("GET / HTTP/2.0", HEALTH[1]), 505),
    "HTTP/0.9 with headers": (head("GET / HTTP/0.9", HEALTH[1]), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a method in small letters": (head("get / HTTP/1.1", HEALTH[1]), 400),
    "CONNECT": (head("CONNECT localhost:80 HTTP/1.1", HEALTH[1]), 501),
    "CONNECT for a WebSocket": (head("CONNECT localhost:80 HTTP/1.1", HEALTH[1], *UPGRADE), 501),
    "a target with NUL": (head("GET /\0 HTTP/1.1", HEALTH[1]), 400),
    "a target with a fragment": (head("GET /echo#a HTTP/1.1", HEALTH[1], *UPGRADE), 400),
    "a target that is no path": (head("GET echo HTTP/1.1", HEALTH[1]), 400),
    "a target on another host": (head("GET http://elsewhere/healthz HTTP/1.1", HEALTH[1]), 400),
    "a star": (head("OPTIONS * HTTP/1.1", HEALTH[1]), 400),
    "a WebSocket with a body": (request("/echo", *UPGRADE, "Content-Length: 5") + b"12345", 400),
    "a WebSocket with chunks": (request("/echo", *UPGRADE, "Transfer-Encoding: chunked"), 400),
}


@pytest.mark.parametrize(("sent", "status"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_head_is_answered_and_the_connection_ends(line, sent, status):
    line.send(sent)
    assert refused(line) == status


VALID = {
    "HTTP/1.0 without Host": (head("GET /healthz HTTP/1.0"), "alive\n"),
    "an absolute target": (head("GET http://LOCALHOST/healthz HTTP/1.1", "Host: localhost"), "alive\n"),
    "a Host of IPv6": (head(HEALTH[0], "Host: [::1]:8000"), "alive\n"),
    "another upgrade": (head(*HEALTH, "Connection: upgrade", "Upgrade: h2c"), "alive\n"),
    "empty lines before it": (b"\r\n\r\n" + head(*HEALTH), "alive\n"),
    "obs-text in a header": (head(*HEALTH, "A: \xe9"), "alive\n"),
    "a body in chunks": (
        head(*HEALTH, "Transfer-Encoding: chunked") + b"1;a=b\r\nx\r\n0\r\nT: t\r\n\r\n",
        "alive\n",
    ),
}


@pytest.mark.parametrize(("sent", "answer"), VALID.values(), ids=VALID)
def test_an_unusual_head_that_is_valid_is_served(line, sent, answer):
    line.send(sent)
    response = line.response()
    assert response.status == 200
    assert line.read(len(answer)).decode() == answer


@pytest.mark.parametrize(
    "headers",
    [
        ("Connection: keep-alive", *UPGRADE),
        (*UPGRADE, "Connection: keep-alive"),
        (*UPGRADE, "Content-Length: 0"),
        ("Upgrade: websocket, h2c", *UPGRADE[1:]),
    ],
    ids=["another Connection before", "another Connection after", "an empty body", "a choice of upgrades"],
)
def test_an_unusual_handshake_that_is_valid_is_taken_for_one(line, headers):
    line.send(request("/echo", *headers))
    # Whether it is a good one, the handshake says; it is not served as plain HTTP, which knows no /echo.
    assert line.response().status != 404


def offering(*lists: str) -> bytes:
    return request("/echo", *UPGRADE, *(f"Sec-WebSocket-Protocol: {names}" for names in lists))


MANY = [f"a{number}" for number in range(33)]


@pytest.mark.parametrize(
    "lists",
    [[",".join(MANY)], MANY, [",".join(MANY[:32]), "b"], [",".join(str(name) for name in range(6000))]],
    ids=["a list", "a header each", "one in a header of its own", "thousands"],
)
def test_more_subprotocols_than_anybody_speaks_are_refused_with_a_sentence(line, lists):
    line.send(offering(*lists))
    response = line.response()
    assert response.status == 400
    body = line.read(int(response.headers["content-length"])).decode()
    assert body == "The request offers too many subprotocols; offer no more than 32.\n"
    assert line.rest() == b""


@pytest.mark.parametrize(
    "lists",
    [[",".join(MANY[:32])], MANY[:32], ["," * 1000 + " , ".join(MANY[:32])]],
    ids=["a list", "each", "gaps"],
)
def test_as_many_subprotocols_as_may_be_are_no_trouble(line, lists):
    line.send(offering(*lists))
    assert line.response().status == 101


def test_a_request_for_something_else_may_have_any_subprotocols(line):
    line.send(head(*HEALTH, f"Sec-WebSocket-Protocol: {','.join(MANY)}"))
    assert line.response().status == 200


def test_an_upgrade_in_http_1_0_is_ignored(line):
    line.send(request("/echo", *UPGRADE, version="HTTP/1.0"))
    assert line.response().status == 404


def test_a_websocket_may_be_asked_for_with_an_absolute_target(line):
    line.send(request("http://localhost/echo"))
    assert line.response().status == 101
    line.send(text("there"))
    assert line.message() == "there"


def test_frames_in_one_segment_with_the_handshake_are_not_lost(line):
    line.send(request("/echo") + text("early"))
    assert line.response().status == 101
    assert line.message() == "early"


def test_requests_after_an_upgrade_that_is_not_done_are_served(line):
    line.send(head(*HEALTH, "Connection: upgrade", "Upgrade: h2c") + head(*HEALTH))
    for _ in range(2):
        assert line.response().status == 200
        assert line.read(6) == b"alive\n"


def test_a_websocket_before_the_answer_to_an_earlier_request_ends_the_connection(line):
    line.send(head(*HEALTH) + request("/echo"))
    assert b"101" not in line.rest()


@pytest.fixture
def small(start):
    """A server with narrow limits."""
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    with dial(start(hub, max_headers=10, max_header_bytes=1024, max_target=256)) as line:
        yield line


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(*HEALTH, *(f"A{n}: b" for n in range(10))), 431),
        (head(*HEALTH, *(f"A{n}: b" for n in range(11)))[:-2], 431),
        (request("/echo", *UPGRADE, *(f"A{n}: b" for n in range(10))), 431),
        (head(*HEALTH, "A: " + "b" * 1024), 431),
        (request("/echo", *UPGRADE, "A: " + "b" * 1024), 431),
        (head(*HEALTH)[:-2] + b"A: " + b"b" * 4096, 431),
        (head(*HEALTH)[:-2] + b"a" * 4096, 431),
        (b"GET /" + b"a" * 300, 414),
        (head("GET /healthz?" + "a" * 256 + " HTTP/1.1", HEALTH[1]), 414),
        (request("/echo?" + "a" * 256), 414),
        (b"\r\n" * 4096, 431),
        (b"GET / HTTP/1.1" + b" " * 4096, 400),
    ],
    ids=[
        "too many headers", "too many, without an end", "too many for a WebSocket",
        "too large", "too large for a WebSocket", "a value without end", "a name without end",
        "a target without end", "too long a target", "too long a target for a WebSocket",
        "empty lines without end", "spaces without end",
    ],
)  # fmt: skip
def test_a_head_past_a_limit_is_answered_and_the_connection_ends(small, sent, status):
    small.send(sent)
    assert refused(small) == status


@pytest.mark.parametrize(
    "sent",
    [b"1;" + b"a" * 4096, b"0\r\nT: " + b"a" * 4096, b"0\r\n" + b"T: t\r\n" * 20],
    ids=["a chunk's extension without end", "a trailer without end", "too many trailers"],
)
def test_a_body_is_held_to_the_limits_too_where_nothing_of_it_is_the_bodys(small, sent):
    small.send(head(*HEALTH, "Transfer-Encoding: chunked"))
    assert small.response().status == 200
    assert small.read(6) == b"alive\n"
    small.send(sent)
    assert small.rest() == b""


def test_a_head_at_its_limits_is_served(small):
    filler = "A: " + "b" * (1024 - len("Host: localhost\r\n") - len("A: \r\n"))
    small.send(head("GET /healthz?" + "a" * (256 - len("/healthz?")) + " HTTP/1.1", HEALTH[1], filler))
    assert small.response().status == 200
    assert small.read(6) == b"alive\n"
    small.send(head(*HEALTH, *(f"A{n}: b" for n in range(9))))
    assert small.response().status == 200


def test_limits_are_judged_as_the_bytes_come_and_not_only_in_the_end(small):
    sent = 0
    small.socket.settimeout(0.05)
    small.send(head(*HEALTH)[:-2] + b"A: ")
    while sent < 100_000:
        small.send(b"b" * 100)
        sent += 100
        try:
            if small.socket.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
    assert sent < 100_000
    small.socket.settimeout(10)
    assert small.response().status == 431


def test_no_setting_makes_a_target_longer_than_can_be_read(start):
    with dial(start(Hubbub(), max_target=1_000_000)) as line:
        line.send(head("GET /healthz?" + "a" * 70_000 + " HTTP/1.1", HEALTH[1]))
        assert refused(line) == 414


def test_who_still_sends_when_it_is_refused_can_read_why(small):
    small.send(head(*HEALTH)[:-2] + b"A: " + b"b" * 2_000_000)
    assert refused(small) == 431


def test_trailers_do_not_pass_for_headers(start):
    seen = []
    may_look = Hubbub()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            await may_look(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        seen.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with dial(start(app)) as line:
        line.send(head("POST / HTTP/1.1", HEALTH[1], "Transfer-Encoding: chunked"))
        line.send(b"1\r\nx\r\n0\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        assert line.response().status == 204
    assert seen == [b"host", b"transfer-encoding"]


def test_no_more_requests_are_queued_than_a_few(start):
    with dial(start(Hubbub())) as line:
        line.send(head(*HEALTH) * 5000)
        answers = line.rest()
        assert 30 < answers.count(b"alive\n") < 40


def test_what_is_malformed_does_not_take_away_the_answers_to_what_came_before_it(line):
    line.send(head(*HEALTH) * 3 + b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + b"x" * 1_000_000)
    assert line.rest().count(b"alive\n") == 3


def test_a_request_whose_body_is_malformed_is_refused_after_the_answers_to_those_before_it(line):
    line.send(head(*HEALTH) * 2 + head(*HEALTH, "Transfer-Encoding: chunked") + b"no size\r\n")
    assert line.rest().count(b"alive\n") == 2


def test_an_error_of_the_servers_own_is_answered_500_and_logged(start, monkeypatch, caplog):
    def fail(*arguments):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(http, "judge", fail)
    with dial(start(Hubbub())) as line:
        line.send(head(*HEALTH))
        assert line.response().status == 500
    assert "on purpose" in caplog.text


def answering(scope_type="http", *, first):
    """An application that reads the request's body, and begins its answer before that or after."""

    async def app(scope, receive, send):
        if scope["type"] != scope_type:
            return
        begin = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
        if first:
            await send(begin)
        while (await receive()).get("more_body"):
            pass
        if not first:
            await send(begin)
        await send({"type": "http.response.body", "body": b"done"})

    return app


def test_who_expects_100_continue_is_told_to_go_on(start):
    with dial(start(answering(first=False))) as line:
        line.send(head("POST / HTTP/1.1", HEALTH[1], "Expect: 100-continue", "Content-Length: 3"))
        assert line.response().status == 100
        line.send(b"abc")
        assert line.response().status == 200


def test_a_body_that_breaks_off_is_answered_400_if_nothing_is_answered_yet(start):
    with dial(start(answering(first=False))) as line:
        line.send(head("POST / HTTP/1.1", HEALTH[1], "Transfer-Encoding: chunked") + b"no size\r\n")
        assert refused(line) == 400


def test_a_body_that_breaks_off_ends_an_answer_that_has_begun(start):
    with dial(start(answering(first=True))) as line:
        line.send(head("POST / HTTP/1.1", HEALTH[1], "Transfer-Encoding: chunked"))
        assert line.response().status == 200
        line.send(b"no size\r\n")
        assert line.rest() == b""


def test_a_server_stops_while_one_that_was_refused_has_not_read_why(start):
    served = start(Hubbub())
    with dial(served) as line:
        line.send(head("GET / HTTP/2.0", HEALTH[1]))
        assert line.response().status == 505
        served.stop()
        assert line.rest().endswith(b".\n")
