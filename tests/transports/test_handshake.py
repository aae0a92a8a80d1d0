"""The opening handshake, as bytes on a socket."""

import threading

import anyio.to_thread
import pytest

from hubbub import Hubbub
from hubbub.transports.handshake import Handshake, Head, read_handshake, read_head, refusal
from transports.raw import ACCEPT, FIN, KEY, PING, PONG, dial, masked, request, text

ARRIVES_WITHIN = 10.0

WITHOUT = {
    "the key": ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    "the version": ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}"),
}
# fmt: off
WRONG = {
    "a key that is no base64": ("Sec-WebSocket-Key: ***", "Sec-WebSocket-Version: 13"),
    "a key of another length": ("Sec-WebSocket-Key: AAAA", "Sec-WebSocket-Version: 13"),
    "two keys": (f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"),
    "two versions": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8",
    ),
    "a subprotocol with a control character": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: a\tb",
    ),
    "a subprotocol that is no token": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: a b",
    ),
    "an empty subprotocol": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: ",
    ),
    "an extension that is no token": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: a/b",
    ),
    "an extension's parameter without a value": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: a; b=",
    ),
    "an extension's value that is no token": (
        f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", 'Sec-WebSocket-Extensions: a; b="c d"',
    ),
}
# fmt: on


def test_a_good_handshake_is_answered_as_rfc_6455_has_it(line):
    response = line.open()
    assert (response.version, response.status, response.phrase) == ("HTTP/1.1", 101, "Switching Protocols")
    assert response.headers["upgrade"].lower() == "websocket"
    assert response.headers["connection"].lower() == "upgrade"
    assert response.headers["sec-websocket-accept"] == ACCEPT
    assert "sec-websocket-protocol" not in response.headers
    assert "sec-websocket-extensions" not in response.headers
    line.send(text("there"))
    assert line.message() == "there"


def test_names_and_values_that_rfc_6455_compares_without_case_are_so_compared(line):
    headers = (
        "UPGRADE: WebSocket",
        "connection: keep-alive, UPGRADE",
        f"sec-websocket-key: {KEY}",
        "SEC-WEBSOCKET-VERSION: 13",
    )
    line.send(request("/echo", *headers))
    assert line.response().status == 101


def test_a_handshake_that_comes_byte_by_byte_is_a_handshake(line):
    for byte in request("/echo"):
        line.send(bytes((byte,)))
    assert line.response().status == 101


@pytest.mark.parametrize("headers", WITHOUT.values(), ids=WITHOUT)
def test_a_handshake_that_lacks_something_is_answered_400(line, headers):
    line.send(request("/echo", *headers))
    response = line.response()
    assert response.status == 400
    body = line.read(int(response.headers["content-length"])).decode()
    assert "missing Sec-WebSocket" in body
    assert line.rest() == b""


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_a_handshake_with_a_wrong_value_is_answered_400(line, headers):
    line.send(request("/echo", "Upgrade: websocket", "Connection: Upgrade", *headers))
    response = line.response()
    assert response.status == 400
    assert "Sec-WebSocket" in line.read(int(response.headers["content-length"])).decode()
    assert line.rest() == b""


@pytest.mark.parametrize("version", ["8", "7, 13", "014", "13.0", "+13"])
def test_another_version_is_answered_426_with_the_one_there_is(serve, version):
    """RFC 6455 section 4.2.2; uvicorn's own protocol says 400."""
    with dial(serve(Hubbub())) as line:
        headers = (f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Version: {version}")
        line.send(request("/", "Upgrade: websocket", "Connection: Upgrade", *headers))
        response = line.response()
        assert response.status == 426
        assert response.headers["sec-websocket-version"] == "13"
        assert response.headers["upgrade"] == "websocket"
        line.read(int(response.headers["content-length"]))
        assert line.rest() == b""


def test_another_method_than_get_is_answered_405(line):
    line.send(request("/echo", method="POST"))
    response = line.response()
    assert (response.status, response.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "headers",
    [
        (f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"),
        ("Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"),
        ("Upgrade: h2c", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"),
    ],
    ids=["no upgrade", "no Connection: Upgrade", "an upgrade to something else"],
)
def test_what_does_not_ask_for_a_websocket_is_plain_http(line, headers):
    line.send(request("/echo", *headers))
    assert line.response().status == 404, "the endpoint is no HTTP page"


def test_a_path_without_endpoint_is_refused_with_a_sentence(line):
    line.send(request("/elsewhere"))
    response = line.response()
    assert response.status == 404
    body = line.read(int(response.headers["content-length"])).decode()
    assert body == "There is no WebSocket at /elsewhere.\n"
    assert line.rest() == b""


def test_what_comes_before_the_answer_waits_for_it(serve):
    """RFC 6455 section 4.1 has clients wait; one that does not gets its answers in the right order."""
    asked, may_answer = threading.Semaphore(0), threading.Event()

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            return
        asked.release()
        await anyio.to_thread.run_sync(may_answer.wait)
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})

    served = serve(app)
    with dial(served) as line, dial(served) as other:
        line.send(request("/"))
        assert asked.acquire(timeout=ARRIVES_WITHIN)
        line.send(masked(FIN | PING, b"early") + text("early too"))
        # Once what another client sent later has arrived, so has this.
        other.send(request("/"))
        assert asked.acquire(timeout=ARRIVES_WITHIN)
        may_answer.set()
        assert line.response().status == 101
        assert line.frame() == (FIN | PONG, b"early")
        assert line.message() == "early too"


# The functions themselves


def whole(target: str, *headers: str) -> Head:
    return read_head(
        request(
            target, "upgrade: websocket", "connection: Upgrade",
            f"sec-websocket-key: {KEY}", "sec-websocket-version: 13", *headers,
        )
    )  # fmt: skip


def test_the_target_is_taken_apart():
    handshake = read_handshake(whole("/caf%C3%A9/a%2Fb?q=%20&x=?"))
    assert isinstance(handshake, Handshake)
    assert handshake.path == "/café/a/b"
    assert handshake.raw_path == "/caf%C3%A9/a%2Fb"
    assert handshake.query == b"q=%20&x=?"


def test_headers_are_kept_as_they_came():
    handshake = read_handshake(whole("/", "x-empty: ", "cookie: a=1", "cookie: b: 2", "x-latin: \xe9"))
    assert isinstance(handshake, Handshake)
    assert handshake.query == b""
    assert handshake.headers[-4:] == [
        (b"x-empty", b""),
        (b"cookie", b"a=1"),
        (b"cookie", b"b: 2"),
        (b"x-latin", b"\xe9"),
    ]


def test_subprotocols_of_several_headers_are_one_list():
    handshake = read_handshake(whole("/", "sec-websocket-protocol: a, b", "sec-websocket-protocol: c"))
    assert isinstance(handshake, Handshake)
    assert handshake.subprotocols == ["a", "b", "c"]


def test_empty_elements_of_a_list_of_subprotocols_count_for_nothing():
    handshake = read_handshake(whole("/", "sec-websocket-protocol: , a,, b ,"))
    assert isinstance(handshake, Handshake)
    assert handshake.subprotocols == ["a", "b"]


def test_one_handshake_says_nothing_to_the_next():
    first = read_handshake(whole("/", "origin: https://one.example", "sec-websocket-protocol: a"))
    second = read_handshake(whole("/"))
    assert isinstance(first, Handshake)
    assert isinstance(second, Handshake)
    assert second.subprotocols == []
    assert all(name != b"origin" for name, _ in second.headers)


def test_a_refused_handshake_is_a_whole_response():
    answer = read_handshake(read_head(request("/", "upgrade: websocket", "connection: Upgrade")))
    assert isinstance(answer, bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_a_handshake_is_refused_426_where_it_is_no_upgrade():
    answer = read_handshake(read_head(request("/", "connection: keep-alive", f"sec-websocket-key: {KEY}")))
    assert isinstance(answer, bytes)
    assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in answer


def test_a_header_that_can_t_be_one_is_refused_whatever_else_there_is():
    """The parser of uvicorn's own that is written in Python lets it pass."""
    answer = read_handshake(whole("/", "x-a: a\x01b"))
    assert isinstance(answer, bytes)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_the_response_carries_the_subprotocol_and_further_headers():
    handshake = read_handshake(whole("/", "sec-websocket-protocol: hubbub.v1.json"))
    assert isinstance(handshake, Handshake)
    assert handshake.response("hubbub.v1.json", [(b"set-cookie", b"a=1")], [(b"server", b"x")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
        b"Sec-WebSocket-Protocol: hubbub.v1.json\r\nset-cookie: a=1\r\nserver: x\r\n\r\n"
    )


def test_a_refusal_has_one_length_whatever_headers_it_is_given():
    headers = [(b"content-type", b"text/plain"), (b"Content-Length", b"99"), (b"connection", b"keep-alive")]
    assert refusal(401, "Unauthorized", headers, b"log in") == (
        b"HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\n"
        b"Content-Length: 6\r\nConnection: close\r\n\r\nlog in"
    )
