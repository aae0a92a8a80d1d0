"""HTTP lines in hostile hands: guessed lines, stolen bookmarks, bodies without end, and what logs have."""

import base64
import logging
import socket
import threading

import msgspec
import pytest

from conftest import Serve, Served
from hostile.chance import random_bits
from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.engine.lines import Lines
from hubbub.protocol.bookmarks import read_bookmark
from hubbub.testing.faults.end import reset_socket
from hubbub.transports.http import HTTPProtocol
from hubbub.transports.streamed import streamed
from transports.raw import Line, request
from transports.streams import EVENTS, JSON_LINES, Stream, ask


class Say(Message):
    text: str


def chat(settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings)
    rooms = hub.room("chat/{name}", history=100)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return None if connection.token is None else connection.token.removeprefix("secret-of-")

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(chat())


def test_a_line_is_not_to_be_guessed(served):
    with Stream(served) as stream:
        instance, name, secret = stream.token.rsplit(".", 2)
        other = "A" if secret[-1] != "A" else "B"
        for guess in [
            f"{instance}.{name}.",
            f"{instance}.{name}",
            f"{instance}.{name}.{secret[:-1]}",
            f"{instance}.{name}.{secret}A",
            f"{instance}.{name}.{secret[:-1]}{other}",
            f"{instance}..{secret}",
            f"{instance}.{'0' * 16}.{secret}",
            f"other.{name}.{secret}",
            f".{name}.{secret}",
            "." * 1000,
            "\xff" * 10,
            f"{instance}.{name}.\xe9",
        ]:
            headers = {"Hubbub-Line": guess, "Content-Type": "application/json", "Hubbub-Received": "0"}
            for method in ("POST", "DELETE", "GET"):
                answer = ask(served, method, headers=headers, body=b'{"type":"$ping","id":"evil"}')
                assert (answer.status, answer.failure["code"]) == (404, "unknown_line"), guess
        assert stream.answer(type="$ping", id="mine")["id"] == "mine"


def test_a_line_s_secret_is_192_random_bits():
    lines, line = Lines(lambda: "one"), object()
    secrets = [lines.open(line).rpartition(".")[2] for _ in range(192 + 36)]  # type: ignore[arg-type]
    assert random_bits(int.from_bytes(base64.urlsafe_b64decode(secret), "big") for secret in secrets) == 192


def test_the_body_of_a_guess_is_not_read(served):
    with Stream(served) as stream, Line(("127.0.0.1", served.port)) as line:
        headers = (
            "Content-Type: application/json",
            f"Hubbub-Line: {stream.token}x",
            "Content-Length: 1000000",
        )
        line.send(request("/", *headers, method="POST"))
        assert line.response().status == 404


@pytest.mark.parametrize("media", ["application/json", JSON_LINES])
def test_a_body_without_end_is_not_kept(serve, media):
    served = serve(chat(Settings(max_message=10_000)))
    with Stream(served) as stream:
        headers = (f"Content-Type: {media}", f"Hubbub-Line: {stream.token}", "Transfer-Encoding: chunked")
        with Line(("127.0.0.1", served.port)) as line:
            line.send(request("/", *headers, method="POST"))
            # One byte more than there may be, and the server knows of no end: it does not wait for one.
            for _ in range(10):
                line.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            line.send(b"1\r\nx\r\n")
            assert line.response().status == 413
        assert stream.answer(type="$ping", id=1)["type"] == "$pong"


def test_a_deep_message_is_refused_as_on_any_line(serve):
    served = serve(chat(Settings(max_depth=10)))
    with Stream(served) as stream:
        deep = b'{"type":"$ping","data":' + b"[" * 11 + b"]" * 11 + b"}"
        assert stream.post_bytes(deep).status == 204
        assert "nested too deeply" in stream.until("$error")["data"]["message"]


def bookmark(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "value",
    [
        ("", {}),
        ("x" * 2000, {}),
        ("forged", {"chat/lobby": ("epoch", 2**63)}),
        ("forged", {"chat/lobby": ("e" * 1000, 1)}),
        ("forged", {"": ("epoch", 1)}),
        ("forged", {"$session/0123": ("epoch", 0), "$user/eve": ("epoch", 0)}),
        ("forged", {"nowhere": ("epoch", 1)}),
        ("forged", [1, 2]),
        [[[[]]]],
        None,
    ],
)
def test_a_forged_bookmark_opens_an_ordinary_line(served, value):
    with Stream(served, "/?room=chat/lobby", {"Last-Event-ID": bookmark(value)}) as stream:
        errors = []
        while (envelope := stream.receive())["type"] != "$ack" or envelope["room"] != "chat/lobby":
            if envelope["type"] == "$error":
                errors.append(envelope)
        assert errors[0]["data"]["code"] == "session_refused"
        assert all(error.get("room") in (None, "nowhere") for error in errors)
        assert stream.answer(type="$ping", id=1)["type"] == "$pong"
        assert set(read_bookmark(stream.last_event_id).rooms) == {"chat/lobby"}


def test_a_stolen_bookmark_is_of_no_use_to_another_user(served):
    with Stream(served, "/?room=chat/lobby&token=ada") as ada:
        ada.until("$ack")
        with Stream(served, "/?token=eve", {"Last-Event-ID": ada.last_event_id}) as eve:
            assert eve.until("$error")["data"]["code"] == "session_refused"
        assert ada.answer(type="$ping", id=1)["type"] == "$pong"


def test_a_thousand_rooms_of_a_request_are_bounded(serve):
    served = serve(chat(Settings(max_rooms=10)))
    path = "/?" + "&".join(f"room=chat/{number}" for number in range(500))
    with Stream(served, path) as stream:
        refused = 0
        for _ in range(500):
            envelope = stream.receive()
            while envelope["type"] == "$welcome":
                envelope = stream.receive()
            refused += envelope["type"] == "$error"
        assert refused == 490
        assert len(read_bookmark(stream.last_event_id).rooms) == 10


def test_who_comes_and_goes_leaves_nothing_behind(serve):
    hub = chat()
    left, count = threading.Event(), [0]

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        count[0] += 1
        if count[0] == 60:
            left.set()

    served = serve(hub)
    for number in range(60):
        stream = Stream(served, "/?room=chat/lobby", accept=(EVENTS, JSON_LINES)[number % 2])
        stream.until("$ack")
        if number % 3 == 0:
            reset_socket(stream.socket)
        stream.leave()
    assert left.wait(10)
    with Stream(served) as stream:
        assert stream.answer(type="$ping", id=1)["type"] == "$pong"
        assert len(hub._hub.lines) == 1


@pytest.mark.parametrize("accept", [EVENTS, JSON_LINES])
def test_no_log_has_a_line_s_name_or_a_bookmark(serve, caplog, accept):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    served = serve(chat())
    with Stream(served, "/?room=chat/lobby&token=secret-of-ada", accept=EVENTS) as stream:
        stream.until("$ack")
        mark = stream.last_event_id
        stream.post({"type": "$ping"})
        stream.post_bytes(b"{")
        stream.until("$error")
    with Stream(served, f"/?token=secret-of-ada&last_event_id={mark}", accept=accept) as again:
        again.until("$welcome")
        names = [stream.token, again.token]
        ask(served, "DELETE", headers={"Hubbub-Line": again.token})
        ask(served, "POST", f"/?last_event_%69d={mark}", {"Hubbub-Line": again.token + "x"}, b"")
        again.closed()
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "connect" in text
    for secret in (*names, *(name.rpartition(".")[2] for name in names), mark, "secret-of-ada"):
        assert secret not in text


def test_a_page_of_another_origin_neither_reads_nor_posts(served):
    evil = {"Origin": "https://evil.example"}
    for accept in (EVENTS, JSON_LINES, "application/json"):
        answer = ask(served, "GET", headers={"Accept": accept, **evil})
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    with Stream(served) as stream:
        assert stream.post({"type": "$ping", "id": "evil"}, **evil).status == 403
        # What a page may send without a preflight is not taken from any.
        assert stream.post({"type": "$ping", "id": "evil"}, **{"Content-Type": "text/plain"}).status == 415
        assert ask(served, "DELETE", headers={"Hubbub-Line": stream.token, **evil}).status == 403
        assert stream.answer(type="$ping", id="good")["id"] == "good"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
def test_a_peer_that_acknowledges_nothing_is_let_go_by_the_kernel(serve):
    hub = chat(Settings(ping_interval=3.0, ping_timeout=4.0))
    found = []

    @hub.on_connect
    async def look(connection: Connection) -> None:
        peer = streamed(connection.scope)
        assert isinstance(peer, HTTPProtocol)
        found.append(peer.transport.get_extra_info("socket"))

    with Stream(serve(hub)) as stream:
        stream.until("$welcome")
        assert found[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
