"""Hostile HTTP: requests that two readers would take apart differently, and what is reflected.

Behind a reverse proxy, a request that the proxy takes for one and the server for two lets a client put words
into another one's mouth. So whatever is ambiguous is refused, and the connection is closed.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Message as Event
from starlette.types import Receive, Scope, Send

from conftest import Serve, Served, serving
from hubbub import Connection, Hubbub
from transports.applications import application
from transports.raw import FIN, PING, PONG, TEXT, UPGRADE, Line, dial, masked, request, text

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""What would be a second request, were the first one's end where only one of two readers sees it."""


@dataclass
class Site:
    """A server with pages beside its WebSockets, and which of its pages were asked for."""

    served: Served
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def line(self) -> Line:
        return dial(self.served)


def website(asked: list[tuple[str, bytes]]) -> Starlette:
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    async def page(request: Request) -> Response:
        body = await request.body()
        asked.append((request.url.path, body))
        return PlainTextResponse("page")

    routes = [Route(path, page, methods=["GET", "POST"]) for path in ("/page", "/smuggled", "/after")]
    return Starlette(routes=[*routes, Mount("/", hub)], lifespan=hub.lifespan)


@pytest.fixture(scope="module", params=["native", "asgi"])
def shared(request: pytest.FixtureRequest) -> Iterator[Site]:
    asked: list[tuple[str, bytes]] = []
    with serving() as serve:
        yield Site(serve(website(asked), native=request.param == "native"), asked)


@pytest.fixture
def site(shared: Site) -> Site:
    """One server for all tests of this file, over each transport in turn; nothing was asked of it yet."""
    shared.asked.clear()
    return shared


def post(*headers: str, version: str = "HTTP/1.1") -> bytes:
    lines = [f"POST /page {version}", "Host: localhost", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def another_answer(line: Line) -> bool:
    """Read to the end; tell whether there was a second answer."""
    return re.search(rb"HTTP/1\.1 [0-9]", line.rest()) is not None


CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"

AMBIGUOUS = {
    # aiohttp's CVE-2023-47641 and Tornado's GHSA-753j-mpmx-qq6g: one reader takes the one, another the other.
    "a length and chunks": post("Content-Length: 5", CHUNKED) + END,
    "chunks and a length": post(CHUNKED, "Content-Length: 5") + END,
    "two lengths": post("Content-Length: 0", f"Content-Length: {len(SMUGGLED)}"),
    "one length twice": post("Content-Length: 0", "Content-Length: 0"),
    "a list of lengths": post("Content-Length: 0, 0"),
    # Tornado's GHSA-qppv-j76h-2rpx and aiohttp's CVE-2023-47627: int() takes more than HTTP allows.
    "a length with a plus": post("Content-Length: +0"),
    "a length with a minus": post("Content-Length: -0"),
    "a length with an underscore": post("Content-Length: 0_0"),
    "a length in hexadecimal": post("Content-Length: 0x0"),
    "a length that overflows": post(f"Content-Length: {2**64}"),
    "a length in other digits": post("Content-Length: \xb2"),
    "another coding": post("Transfer-Encoding: xchunked"),
    "chunks, then another coding": post("Transfer-Encoding: chunked, identity") + END,
    "chunks and another coding": post(CHUNKED, "Transfer-Encoding: identity") + END,
    "a coding after a vertical tab": post("Transfer-Encoding: \x0bchunked") + END,
    # aiohttp's CVE-2025-69224: letters beyond ASCII that fold into others.
    "a coding with a letter beyond ASCII": post("Transfer-Encoding: chun\xe2\x84\xaaed") + END,
    "a coding with a space beyond ASCII": post("Transfer-Encoding: chunked\xa0") + END,
    "a space before the colon": post("Transfer-Encoding : chunked") + END,
    # aiohttp's CVE-2023-37276 and daphne's CVE-2026-44546: what ends a line for one and not for another.
    "a folded header": post("X-Folded: a", "\tTransfer-Encoding: chunked"),
    "a carriage return alone": post("X-Odd: \rTransfer-Encoding: chunked") + END,
    "a line feed alone": post("X-Odd: a\nTransfer-Encoding: chunked") + END,
    "line feeds only": post("Content-Length: 0").replace(b"\r\n", b"\n"),
    "a vertical tab in a header": post("X-Odd: a\x0bContent-Length: 5"),
    "a file separator in a header": post("X-Odd: a\x1cContent-Length: 5"),
    "a null in a header": post("X-Odd: a\x00b"),
    "a header without a colon": post("X-Odd"),
    "a header with a space in its name": post("X Odd: a"),
    # aiohttp's CVE-2024-52304, CVE-2025-53643 and Tornado's GHSA-qppv-j76h-2rpx.
    "a line feed in a chunk's extension": post(CHUNKED) + b"2;\nxx\r\nab\r\n" + END,
    "a chunk's size with 0x": post(CHUNKED) + b"0x0\r\n\r\n",
    "a chunk's size with a plus": post(CHUNKED) + b"+0\r\n\r\n",
    "a chunk's size that overflows": post(CHUNKED) + b"f" * 17 + b"\r\n",
    "a chunk longer than its size": post(CHUNKED) + b"2\r\nabcd\r\n" + END,
    "chunks ended by line feeds": post(CHUNKED) + b"2\nab\n0\n\n",
    "a trailer without a colon": post(CHUNKED) + b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    "a space in the target": b"GET /page /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no version": b"GET /page\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("start", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(site: Site, start: bytes) -> None:
    with site.line() as line:
        line.send(start + SMUGGLED)
        assert line.response().status in (400, 501, 505)
        assert not another_answer(line)
    assert "/smuggled" not in [path for path, _ in site.asked]


REPEATED = {
    # aiohttp's CVE-2026-34525: a proxy looks at the one, the application at the other.
    "Host": b"GET /page HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
    "Host, the same": b"GET /page HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "Transfer-Encoding": post("Transfer-Encoding: identity", CHUNKED) + END,
    "Host in a handshake": request("/echo", *UPGRADE, "Host: other"),
}


@pytest.mark.parametrize("start", REPEATED.values(), ids=REPEATED)
def test_a_header_that_may_come_once_comes_once(site: Site, start: bytes) -> None:
    with site.line() as line:
        line.send(start + SMUGGLED)
        assert line.response().status in (400, 501)
        assert not another_answer(line)
    assert site.asked == []


def test_a_body_is_not_taken_for_a_request(site: Site) -> None:
    with site.line() as line:
        line.send(post(f"Content-Length: {len(SMUGGLED)}") + SMUGGLED)
        assert line.response().status == 200
    assert site.asked == [("/page", SMUGGLED)]


@pytest.mark.parametrize(
    ("length", "body"), [(f"Content-Length: {len(SMUGGLED)}", SMUGGLED), (CHUNKED, END + SMUGGLED)]
)
def test_a_handshake_with_a_body_opens_nothing_that_the_body_could_get_through(
    site: Site, length: str, body: bytes
) -> None:
    """aiohttp's CVE-2026-69243: the body of a request to upgrade is read as the next request.

    A handshake is a GET request, and there is nothing that a body in it could mean.
    """
    with site.line() as line:
        line.send(request("/echo", *UPGRADE, length) + body)
        assert line.response().status == 400
        assert not another_answer(line)
    assert site.asked == []


@pytest.mark.parametrize("path", ["/echo", "/nowhere"])
def test_a_request_behind_a_handshake_is_not_served(site: Site, path: str) -> None:
    """What follows an upgrade, or one that was refused, is WebSocket or nothing."""
    with site.line() as line:
        line.send(request(path) + SMUGGLED)
        line.socket.shutdown(socket.SHUT_WR)
        answers = re.findall(rb"HTTP/1\.1 ([0-9]+)", line.rest())
        assert answers in ([b"101"], [b"404"], [])
    assert site.asked == []


def test_frames_that_come_with_the_handshake_are_not_torn(site: Site) -> None:
    """A client has to wait for the answer (RFC 6455 section 4.1); of one that does not, half a frame must not
    be dropped, so that the other half is taken for a frame of its own."""
    whole = text("\x81\x85abcd")
    with site.line() as line:
        line.send(request("/echo") + whole[:6])
        assert line.response().status == 101
        line.send(whole[6:] + masked(FIN | PING, b"x"))
        # The pong is the transport's, the message the application's: either may be first.
        assert sorted([line.frame(), line.frame()]) == [
            (FIN | TEXT, "\x81\x85abcd".encode()), (FIN | PONG, b"x")
        ]  # fmt: skip


@pytest.mark.parametrize("upgrade", ["h2c", "websocket2", "WebSocket/13", "tls/1.0"])
def test_another_protocol_is_not_switched_to(site: Site, upgrade: str) -> None:
    """What asks for another protocol too, or almost for this one, is plain HTTP."""
    with site.line() as line:
        headers = (f"Upgrade: {upgrade}", "Connection: Upgrade", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
        line.send(request("/page", *headers))
        assert line.response().status == 200
        assert line.read(4) == b"page"


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/page",
        "http://evil.example/echo",
        "//evil.example/page",
        "*",
        "page",
        "/page#part",
    ],
)
def test_a_target_in_another_form_opens_no_websocket_and_leads_to_no_other_host(
    site: Site, target: str
) -> None:
    """Absolute, network-path and asterisk forms: another host's page is none of ours."""
    with site.line() as line:
        line.send(request(target))
        assert line.response().status in (400, 403, 404)
    assert site.asked == []


@pytest.mark.parametrize("count", [101, 1_000, 20_000])
def test_trailers_are_limited_like_headers(site: Site, count: int) -> None:
    """aiohttp's CVE-2026-22815: headers after the last chunk, without end."""
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 20) for number in range(count))
    with site.line() as line:
        line.send_while_taken(post(CHUNKED) + b"0\r\n" + trailers + b"\r\n" + SMUGGLED)
        assert line.response().status in (400, 431)
    assert "/smuggled" not in [path for path, _ in site.asked]


def test_trailers_are_no_headers(serve: Serve) -> None:
    """A proxy has looked at the headers and let them pass; what comes after the body is not among them."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass
            seen.append({name for name, _ in scope["headers"]})
            await PlainTextResponse("page")(scope, receive, send)

    with dial(serve(application(app))) as line:
        line.send(post(CHUNKED) + b"2\r\nab\r\n")
        line.send(b"0\r\nX-Forwarded-For: 10.0.0.1\r\nAuthorization: Bearer x\r\n\r\n")
        assert line.response().status in (200, 400)
    assert [names & {b"x-forwarded-for", b"authorization"} for names in seen] in ([], [set()])


# What is reflected


@pytest.mark.parametrize(
    "path",
    [
        "/<script>alert(1)</script>",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/%0d%0aSet-Cookie:%20a=b",
        "/" + "x" * 2000,
    ],
)
def test_what_a_refusal_quotes_is_plain_text_and_never_a_header(site: Site, path: str) -> None:
    """Tornado's CVE-2025-67724, aiohttp's CVE-2024-27306: text of the request as markup or header."""
    with site.line() as line:
        line.send(request(path))
        response = line.response()
        assert response.status in (403, 404)
        assert response.phrase in ("Not Found", "Forbidden")
        assert response.headers.get("content-type", "text/plain").startswith("text/plain")
        assert "set-cookie" not in response.headers
        assert len(line.rest()) < 4096


INJECTED = "a\r\nSet-Cookie: session=eve\r\n\r\n<script>"
ANSWERS = {
    "a subprotocol": [{"type": "websocket.accept", "subprotocol": INJECTED}],
    "a header": [{"type": "websocket.accept", "headers": [(b"x-name", INJECTED.encode())]}],
    "a header's name": [{"type": "websocket.accept", "headers": [(INJECTED.encode(), b"x")]}],
    "a line feed": [{"type": "websocket.accept", "headers": [(b"x-name", b"a\nSet-Cookie: session=eve")]}],
    "a carriage return": [
        {"type": "websocket.accept", "headers": [(b"x-name", b"a\rSet-Cookie: session=eve")]}
    ],
    "a null": [{"type": "websocket.accept", "headers": [(b"x-name", b"a\0Set-Cookie: session=eve")]}],
    "a refusal's header": [
        {"type": "websocket.http.response.start", "status": 403, "headers": [(b"x-name", INJECTED.encode())]},
        {"type": "websocket.http.response.body", "body": b""},
    ],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_line_breaks_in_what_an_application_answers_split_no_response(
    serve: Serve, answer: list[Event]
) -> None:
    """uvicorn's CVE-2020-7695, Tornado's CVE-2012-2374: an application puts a client's text into a header.

    On the native transport; another server's answers are its own.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for event in answer:
            await send(event)

    with dial(serve(application(app))) as line:
        line.send(request("/"))
        assert b"set-cookie: session=eve" not in line.rest().lower()


def test_a_redirect_leads_where_the_application_says(serve: Serve, native: bool) -> None:
    """Tornado's CVE-2023-28370, aiohttp's CVE-2021-21330: where it leads is made of the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await RedirectResponse("/?next=" + INJECTED)(scope, receive, send)

    with dial(serve(application(app), native=native)) as line:
        line.send(request("/"))
        response = line.response()
        assert response.headers["location"].startswith("/?next=a%0D%0ASet-Cookie:")
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "target", ["//evil.example/healthz/", "/\\\\evil.example/healthz/", "/healthz//evil.example/.."]
)
def test_nothing_is_redirected_to_another_host(site: Site, target: str) -> None:
    """The same, of hubbub's own paths."""
    with site.line() as line:
        line.send(request(target, "Accept: */*"))
        response = line.response()
        assert "evil.example" not in response.headers.get("location", "").partition("?")[0].split("/")[2:3]
        assert response.status in (400, 404)


def test_a_client_that_asks_one_by_one_is_answered_one_by_one(site: Site) -> None:
    """Many requests in one go are answered in order; what is asked of a page is not answered by another."""
    with site.line() as line:
        line.send(b"".join(request(path, "Accept: */*") for path in ("/page", "/after") * 15))
        for _ in range(30):
            assert line.response().status == 200
            assert line.read(4) == b"page"
    assert [path for path, _ in site.asked] == ["/page", "/after"] * 15


def test_a_body_without_end_is_not_kept(site: Site) -> None:
    """A route that takes no body: what is sent to it does not add up in memory."""
    with site.line() as line:
        line.send(request("/healthz", f"Content-Length: {10**12}", method="POST"))
        assert line.response().status == 405
        line.socket.shutdown(socket.SHUT_WR)
