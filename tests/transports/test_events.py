"""Other ASGI applications' WebSockets on hubbub's server: the events of the ASGI specification, one by one.

Where a test takes `start`, uvicorn's own protocol is held to the same, so that an application may move from
one to the other.
"""

import asyncio
import logging
import queue
from collections.abc import Callable
from functools import partial

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket
from websockets.exceptions import ProtocolError

from hubbub import Settings
from transports.applications import accepting, application
from transports.raw import BINARY, CLOSE, FIN, PING, PONG, UPGRADE, Line, closing, dial, masked, request, text

ARRIVES_WITHIN = 10.0

# The opening handshake


def test_the_scope_tells_what_the_handshake_did(start, native):
    scopes = queue.Queue()

    @application
    async def app(scope, receive, send):
        scopes.put(scope)
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-mine", b"1")]})

    with dial(start(app)) as line:
        response = line.open(
            "/caf%C3%A9/x?a=1&b=%20", ("Sec-WebSocket-Protocol: a, b", "Cookie: one=1", "X-Two: 2")
        )
        client = line.socket.getsockname()
        server = line.socket.getpeername()
    assert response.headers["sec-websocket-protocol"] == "b"
    assert response.headers["x-mine"] == "1"
    scope = scopes.get(timeout=ARRIVES_WITHIN)
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "1.1")
    assert scope["asgi"]["spec_version"] == "2.4"
    assert (scope["path"], scope["raw_path"]) == ("/café/x", b"/caf%C3%A9/x")
    assert (scope["query_string"], scope["root_path"]) == (b"a=1&b=%20", "")
    assert scope["subprotocols"] == ["a", "b"]
    assert (tuple(scope["client"]), tuple(scope["server"])) == (client, server)
    assert {(b"cookie", b"one=1"), (b"x-two", b"2"), (b"host", b"localhost")} <= set(scope["headers"])
    assert "websocket.http.response" in scope["extensions"]
    assert ("hubbub" in scope["extensions"]) is native


def test_a_path_is_below_the_root_path(start):
    scopes = queue.Queue()

    @application
    async def app(scope, receive, send):
        scopes.put((scope["root_path"], scope["path"], scope["raw_path"]))

    with dial(start(app, root_path="/api")) as line:
        line.send(request("/x"))
        line.response()
    assert scopes.get(timeout=ARRIVES_WITHIN) == ("/api", "/api/x", b"/api/x")


def test_a_close_before_accept_is_403(start):
    @application
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    with dial(start(app)) as line:
        line.send(request("/"))
        assert line.response().status == 403
        assert line.rest() == b""


@pytest.mark.parametrize("status", [401, 302, 503, 499])
def test_a_handshake_is_refused_with_whatever_response_the_application_gives(start, status):
    @application
    async def app(scope, receive, send):
        await receive()
        headers = [(b"content-type", b"text/plain"), (b"location", b"/elsewhere")]
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"here"})

    with dial(start(app)) as line:
        line.send(request("/"))
        response = line.response()
        assert response.status == status
        assert response.headers["location"] == "/elsewhere"
        assert response.headers["connection"] == "close"
        assert line.rest() == b"not here"


def test_a_framework_s_response_refuses_a_handshake_too(start):
    async def refuse(websocket: WebSocket) -> None:
        await websocket.send_denial_response(JSONResponse({"why": "log in"}, 401))

    with dial(start(Starlette(routes=[WebSocketRoute("/", refuse)]))) as line:
        line.send(request("/"))
        response = line.response()
        assert response.status == 401
        body = line.rest()
        assert body == b'{"why":"log in"}'
        assert response.headers["content-length"] == str(len(body))


def test_an_application_that_fails_before_it_answers_is_a_500(start):
    @application
    async def app(scope, receive, send):
        raise LookupError("of the application")

    with dial(start(app)) as line:
        line.send(request("/"))
        assert line.response().status == 500


def test_an_application_that_returns_without_an_answer_is_a_500(start):
    @application
    async def app(scope, receive, send):
        await receive()

    with dial(start(app)) as line:
        line.send(request("/"))
        assert line.response().status == 500


def test_an_application_that_stops_in_the_middle_of_its_response_is_a_500(serve):
    @application
    async def app(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 401})

    with dial(serve(app)) as line:
        line.send(request("/"))
        assert line.response().status == 500


def test_a_response_that_can_t_be_sent_is_a_500(serve):
    @application
    async def app(scope, receive, send):
        headers = [("text", "where bytes belong")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})

    with dial(serve(app)) as line:
        line.send(request("/"))
        assert line.response().status == 500


@pytest.mark.parametrize(
    "accept",
    [
        {"headers": [("text", "where bytes belong")]},
        {"headers": [(b"x-mine", b"1\r\nset-cookie: theirs=1")]},
        {"headers": [(b"x-mine: 1\r\nset-cookie", b"theirs=1")]},
        {"headers": [(b"x-mine", b"a\0b")]},
        {"headers": [(b"", b"1")]},
        {"headers": [(b"Sec-WebSocket-Extensions", b"permessage-deflate")]},
        {"headers": [(b"sec-websocket-protocol", b"a")]},
        {"headers": [(b"content-length", b"0")]},
        {"subprotocol": "a\r\nset-cookie: theirs=1"},
        {"subprotocol": "not offered"},
        {"subprotocol": ""},
    ],
    ids=[
        "text", "value with a line", "name with a line", "NUL", "no name", "extensions", "protocol", "length",
        "subprotocol with a line", "subprotocol not offered", "empty subprotocol",
    ],
)  # fmt: skip
def test_an_accept_that_can_t_be_sent_is_a_500_and_nothing_of_it_is_sent(serve, accept):
    @application
    async def app(scope, receive, send):
        await send({"type": "websocket.accept", **accept})

    with dial(serve(app)) as line:
        line.send(request("/", *UPGRADE, "Sec-WebSocket-Protocol: a, b"))
        response = line.response()
        assert response.status == 500
        assert not {"set-cookie", "x-mine"} & set(response.headers)


@pytest.mark.parametrize(
    "header",
    [(b"x-mine", b"1\r\nset-cookie: theirs=1"), (b"x\r\ny", b""), (b"transfer encoding", b"chunked")],
)
def test_a_refusal_s_headers_that_are_none_are_a_500(serve, header):
    @application
    async def app(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [header]})
        await send({"type": "websocket.http.response.body", "body": b""})

    with dial(serve(app)) as line:
        line.send(request("/"))
        response = line.response()
        assert response.status == 500
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize("early", [b"", b"z" * 50_000], ids=["nothing", "what is no frame"])
def test_a_refusal_is_no_error_of_the_server_whatever_came_behind_the_handshake(start, caplog, early):
    @application
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    served = start(app)
    with dial(served) as line:
        line.send(request("/") + early)
        assert line.response().status == 401
    served.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_comes_behind_the_handshake_is_read_once_it_is_accepted(start):
    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    with dial(start(app)) as line:
        line.send(request("/") + text("early"))
        assert line.response().status == 101
        assert line.message() == "early"


def test_what_is_no_frame_behind_the_handshake_is_told_once_it_is_accepted(start, caplog):
    endings = queue.Queue()

    @accepting
    async def app(scope, receive, send):
        endings.put(await receive())

    served = start(app)
    with dial(served) as line:
        line.send(request("/") + b"z" * 100)
        assert line.response().status == 101
        assert line.close_frame()[0] == 1002
        assert line.rest() == b""
    assert endings.get(timeout=ARRIVES_WITHIN)["code"] == 1002
    served.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Events in their order


def test_text_and_binary_go_both_ways(start):
    @accepting
    async def app(scope, receive, send):
        while (message := await receive())["type"] == "websocket.receive":
            content = message.get("text") or message.get("bytes")
            await send({"type": "websocket.send", "text": type(content).__name__})
            await send({**message, "type": "websocket.send"})

    with dial(start(app), "/") as line:
        line.send(text("é"))
        assert (line.message(), line.message()) == ("str", "é")
        line.send(masked(FIN | BINARY, b"\x00\xff"))
        assert (line.message(), line.message()) == ("bytes", b"\x00\xff")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "websocket.send", "text": "early"},
        {"type": "websocket.http.response.body", "body": b"without a start"},
        {"type": "http.response.start", "status": 200},
    ],
    ids=lambda message: message["type"],
)
def test_what_may_not_come_before_accept_is_refused(start, wrong):
    assert problem_of(start, [wrong]) is RuntimeError


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 401},
        {"type": "websocket.unknown"},
    ],
    ids=lambda message: message["type"],
)
def test_what_may_not_come_after_accept_is_refused(start, wrong):
    assert problem_of(start, [{"type": "websocket.accept"}, wrong]) is RuntimeError


def test_nothing_may_come_after_close(start):
    messages = [
        {"type": "websocket.accept"},
        {"type": "websocket.close"},
        {"type": "websocket.send", "text": "late"},
    ]
    assert problem_of(start, messages) is RuntimeError


def test_nothing_but_its_body_may_come_after_the_start_of_a_response(serve):
    messages = [{"type": "websocket.http.response.start", "status": 401}, {"type": "websocket.accept"}]
    assert problem_of(serve, messages) is RuntimeError


def problem_of(start, messages: list[Message]) -> type[BaseException]:
    """Return what the last of the messages raised in an application that sends them."""
    problems = queue.Queue()

    @application
    async def app(scope, receive, send):
        await receive()
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except Exception as problem:
            problems.put(type(problem))
            raise

    with dial(start(app)) as line:
        line.send(request("/"))
        return problems.get(timeout=ARRIVES_WITHIN)


# The end


def test_the_client_is_told_the_application_s_code_and_reason(start):
    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})

    with dial(start(app), "/") as line:
        assert line.close_frame() == (4001, "enough")
        line.send(closing(4001))
        assert line.rest() == b""


def test_a_close_without_a_code_is_1000(start):
    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.close"})

    with dial(start(app), "/") as line:
        assert line.close_frame() == (1000, "")


def ending_of(start, end: Callable[[Line], object]) -> Message:
    """Return the event that an application gets when a client ends like this."""
    endings = queue.Queue()

    @accepting
    async def app(scope, receive, send):
        endings.put(await receive())

    line = dial(start(app), "/")
    end(line)
    with line:
        return endings.get(timeout=ARRIVES_WITHIN)


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [(closing(1001, "left"), 1001, "left"), (closing(4000), 4000, ""), (masked(FIN | CLOSE), 1005, "")],
    ids=["1001", "4000", "none"],
)
def test_the_application_is_told_the_client_s_code_and_reason(start, frame, code, reason):
    ending = ending_of(start, lambda line: line.send(frame))
    assert ending == {"type": "websocket.disconnect", "code": code, "reason": reason}


def test_a_client_that_vanishes_is_a_disconnect_with_1006(serve):
    ending = ending_of(serve, Line.vanish)
    assert ending == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def test_a_client_that_breaks_the_protocol_is_a_disconnect_with_the_code_that_says_how(start):
    def break_the_protocol(line: Line) -> None:
        line.send(masked(FIN | 0x3))
        assert line.close_frame()[0] == 1002
        line.socket.close()

    ending = ending_of(start, break_the_protocol)
    assert (ending["type"], ending["code"]) == ("websocket.disconnect", 1002)


def test_a_message_that_is_too_large_is_a_disconnect_with_1009(serve):
    def send_too_much(line: Line) -> None:
        line.send(masked(FIN | BINARY, b"x" * 1001))
        assert line.close_frame()[0] == 1009
        line.socket.close()

    ending = ending_of(lambda app: serve(app, max_message=1000), send_too_much)
    assert ending["code"] == 1009


def test_a_send_to_a_client_that_is_gone_raises_oserror_which_may_pass(start, caplog):
    problems = queue.Queue()

    @accepting
    async def app(scope, receive, send):
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "late"})
        except OSError as problem:
            problems.put(problem)
            raise

    served = start(app)
    dial(served, "/").vanish()
    assert problems.get(timeout=ARRIVES_WITHIN)
    served.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# What uvicorn's own protocol does differently: it lets the line go without a close frame


def test_an_application_that_fails_closes_its_connection_with_1011(serve, caplog):
    @accepting
    async def app(scope, receive, send):
        await receive()
        raise LookupError("of the application")

    with dial(serve(app), "/") as line:
        line.send(text("go"))
        assert line.close_frame() == (1011, "")
        line.send(closing(1011))
        assert line.rest() == b""
    assert "LookupError: of the application" in caplog.text


def test_an_application_that_awaits_what_it_cancelled_has_failed_like_any_other(serve, caplog):
    @accepting
    async def app(scope, receive, send):
        own = asyncio.create_task(asyncio.Event().wait())
        own.cancel()
        await own

    with dial(serve(app), "/") as line:
        assert line.close_frame() == (1011, "")
    assert "CancelledError" in caplog.text


def test_a_connection_is_closed_with_1000_when_the_application_returns(serve):
    @accepting
    async def app(scope, receive, send):
        await receive()

    with dial(serve(app), "/") as line:
        line.send(text("go"))
        assert line.close_frame() == (1000, "")


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (1000, "é" * 62)])
def test_a_close_that_can_t_be_sent_is_an_error_of_the_application(serve, code, reason):
    problems = queue.Queue()

    @accepting
    async def app(scope, receive, send):
        try:
            await send({"type": "websocket.close", "code": code, "reason": reason})
        except ProtocolError as problem:
            problems.put(problem)
            raise

    with dial(serve(app), "/") as line:
        assert problems.get(timeout=ARRIVES_WITHIN)
        assert line.close_frame() == (1011, "")


@pytest.mark.parametrize("code", [1000, 4000])
def test_a_client_that_does_not_answer_a_close_is_cut_off_in_time(serve, code):
    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.close", "code": code})

    with dial(serve(app, Settings(close_timeout=0.1)), "/") as line:
        assert line.close_frame() == (code, "")
        assert line.rest() == b""


def test_a_client_that_stays_after_it_broke_the_protocol_is_cut_off_in_time(serve):
    ending = ending_of(partial(serve, close_timeout=0.1), lambda line: line.send(masked(FIN | 0x3)))
    assert ending["code"] == 1002


# The keepalive


def waiting(seen: queue.Queue):
    @accepting
    async def app(scope, receive, send):
        event = await receive()
        while event["type"] == "websocket.receive":
            event = await receive()
        seen.put(event)

    return app


def test_a_silent_client_is_pinged_and_stays_as_long_as_it_answers(start):
    seen = queue.Queue()
    with dial(start(waiting(seen), ping_interval=0.05, ping_timeout=10), "/") as line:
        for _ in range(3):
            first, payload = line.frame()
            assert first == FIN | PING
            line.send(masked(FIN | PONG, payload))
        line.send(closing(1000))
        assert seen.get(timeout=ARRIVES_WITHIN)["code"] == 1000


def test_a_client_that_does_not_answer_a_ping_is_let_go(start):
    seen = queue.Queue()
    served = start(waiting(seen), ping_interval=0.05, ping_timeout=0.1, close_timeout=0.1)
    with dial(served, "/") as line, dial(served, "/") as other:
        for each in (line, other):
            assert each.frame()[0] == FIN | PING
            assert each.close_frame() == (1011, "keepalive ping timeout")
            assert each.rest() == b""
    for _ in range(2):
        # uvicorn's own protocol tells no more than that there was no code from the client.
        assert seen.get(timeout=ARRIVES_WITHIN)["code"] in (1005, 1011)
