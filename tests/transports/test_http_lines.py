"""The endpoint of the HTTP lines: who may open one, who may speak to it, what each request is answered."""

import asyncio
import json
import socket

import pytest

from conftest import Serve, Served
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from transports.raw import Line, request
from transports.streams import EVENTS, JSON_LINES, Answer, Stream, ask

PAGE = "https://page.example"


class Say(Message):
    text: str


class Add(Message):
    left: int
    right: int


class Sum(Message):
    value: int


def chat(settings: Settings | None = None, **options: str) -> Hubbub:
    hub = Hubbub(settings, **options)
    room = hub.room("chat/{name}", history=100)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "wrong":
            raise Denied("This token is not valid.")
        return connection.token

    @room.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def add(message: Add) -> Sum:
        return Sum(value=message.left + message.right)

    return hub


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(chat())


class TestOpening:
    def test_the_accept_header_says_which_line_it_is(self, served):
        for accept, media in [
            (EVENTS, EVENTS),
            (JSON_LINES, JSON_LINES),
            ("application/x-ndjson, text/event-stream;q=0.5", JSON_LINES),
            ("text/event-stream;q=0.5, Application/X-NDJSON", JSON_LINES),
            ("text/event-stream;q=0, application/x-ndjson;q=0.1", JSON_LINES),
            ("text/event-stream; charset=utf-8, */*", EVENTS),
        ]:
            form = EVENTS if media == EVENTS else JSON_LINES
            with Stream(served, headers={"Accept": accept}, accept=form) as stream:
                assert stream.response.status == 200
                assert stream.response.headers["content-type"] == f"{media}; charset=utf-8"
                assert stream.receive()["type"] == "$welcome"

    @pytest.mark.parametrize(
        "accept", [None, "*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "text/plain"]
    )
    def test_who_asks_for_no_line_is_told_how_to_connect(self, served, accept):
        answer = ask(served, "GET", headers={} if accept is None else {"Accept": accept})
        assert answer.status == 426
        assert answer.headers["upgrade"] == "websocket"
        assert b"EventSource" in answer.body

    @pytest.mark.parametrize(
        "accept", ["application/xml", "text/event-stream;q=0", "image/*", "text/event-stream;q=x"]
    )
    def test_who_takes_nothing_that_there_is_is_told_so_too(self, served, accept):
        answer = ask(served, "GET", headers={"Accept": accept})
        assert answer.status == 406
        assert "upgrade" not in answer.headers

    def test_nothing_is_kept_changed_or_held_back_on_the_way(self, served):
        with Stream(served) as stream:
            assert stream.response.headers["cache-control"] == "no-store, no-transform"
            assert stream.response.headers["x-accel-buffering"] == "no"
            assert stream.post({"type": "$ping"}).headers["cache-control"] == "no-store, no-transform"

    def test_head_says_what_a_get_would_and_opens_nothing(self, served):
        answer = ask(served, "HEAD", headers={"Accept": EVENTS})
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-type"].startswith(EVENTS)
        assert ask(served, "HEAD").status == 426
        assert ask(served, "HEAD").body == b""
        with Line(("127.0.0.1", served.port)) as line:
            line.send(request("/", f"Accept: {EVENTS}", method="HEAD"))
            assert line.response().status == 200
            line.send(request("/healthz", "Accept: */*"))
            assert line.response().status == 200

    def test_a_line_is_at_the_hub_s_path_and_nowhere_else(self, serve):
        served = serve(chat(path="/live"))
        with Stream(served, "/live") as stream:
            assert stream.receive()["type"] == "$welcome"
        assert ask(served, "GET", "/", {"Accept": EVENTS}).status == 404
        assert ask(served, "GET", "/healthz", {"Accept": EVENTS}).status == 200

    def test_another_method_is_refused_with_those_that_there_are(self, served):
        answer = ask(served, "PUT")
        assert answer.status == 405
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"

    @pytest.mark.parametrize("query", ["room=", "room=" + "x" * 256])
    def test_a_room_that_can_have_no_such_name_is_refused_at_once(self, served, query):
        assert ask(served, "GET", f"/?{query}", {"Accept": EVENTS}).status == 400

    def test_a_refused_login_is_told_on_the_line(self, served):
        with Stream(served, "/?token=wrong") as stream:
            assert stream.receive()["data"]["code"] == "denied"
            assert stream.closed() == (4401, "This token is not valid.")

    def test_a_login_comes_in_the_header_or_in_the_query(self, served):
        with Stream(served, "/?token=ada") as stream:
            assert stream.receive()["data"]["user"] == "ada"
        with Stream(served, headers={"Authorization": "Bearer bob"}) as stream:
            assert stream.receive()["data"]["user"] == "bob"

    def test_there_are_so_many_lines_of_an_address_and_no_more(self, serve):
        served = serve(chat(Settings(max_connections_per_address=3)))
        client = {"X-Forwarded-For": "203.0.113.1"}
        lines = [Stream(served, headers=client) for _ in range(3)]
        try:
            answer = ask(served, "GET", headers={"Accept": EVENTS, **client})
            assert answer.status == 429
            assert answer.headers["retry-after"] == "5"
            with lines.pop() as last:
                assert (last.delete().status, last.closed()) == (204, (1000, ""))
            lines.append(Stream(served, headers=client))
            assert lines[-1].response.status == 200
        finally:
            for line in lines:
                line.leave()

    def test_a_hub_that_stops_lets_nobody_in(self, serve):
        hub = chat()
        served = serve(hub)
        hub._entrance.leaving = True
        try:
            assert ask(served, "GET", headers={"Accept": EVENTS}).status == 503
            assert ask(served, "GET", headers={"Accept": JSON_LINES, "Last-Event-ID": "x"}).status == 503
        finally:
            hub._entrance.leaving = False

    def test_an_event_source_that_comes_back_too_early_is_put_off(self, serve):
        # At 429 or 503 it would give up for good.
        hub = chat(Settings(max_connections_per_address=1))
        served = serve(hub)
        client = {"Accept": EVENTS, "X-Forwarded-For": "203.0.113.1", "Last-Event-ID": "x"}
        with Stream(served, headers=client):
            full = ask(served, "GET", headers=client)
        hub._entrance.leaving = True
        try:
            stopping = ask(served, "GET", headers=client)
        finally:
            hub._entrance.leaving = False
        for answer, code, seconds in [(full, 1013, 5), (stopping, 1012, 1)]:
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            retry, data, *end = answer.body.decode().split("\n")
            assert seconds * 1000 <= int(retry.removeprefix("retry: ")) < (seconds + 1) * 1000
            assert json.loads(data.removeprefix("data: "))["data"]["code"] == code
            assert end == ["", ""]


class TestPosting:
    def test_an_envelope_is_taken_and_answered_on_the_line(self, served):
        with Stream(served) as stream:
            answer = stream.post({"type": "add", "id": 1, "data": {"left": 2, "right": 3}})
            assert (answer.status, answer.body) == (204, b"")
            assert stream.until("$ack") == {"type": "$ack", "id": 1, "data": {"value": 5}}

    def test_several_are_taken_in_their_order(self, served):
        with Stream(served) as stream:
            stream.join("chat/lobby")
            says = [{"type": "say", "room": "chat/lobby", "data": {"text": str(n)}} for n in range(50)]
            assert stream.post(*says).status == 204
            assert [stream.until("say")["data"]["text"] for _ in says] == [str(n) for n in range(50)]

    def test_empty_lines_between_envelopes_are_nothing(self, served):
        with Stream(served) as stream:
            ping = b'{"type":"$ping","id":%d}'
            body = b"\r\n\n" + ping % 1 + b"\r\n\n" + ping % 2 + b"\n"
            assert stream.post_bytes(body, **{"Content-Type": JSON_LINES}).status == 204
            assert [stream.until("$pong")["id"] for _ in range(2)] == [1, 2]

    def test_what_is_no_envelope_is_answered_on_the_line(self, served):
        with Stream(served) as stream:
            assert stream.post_bytes(b"[1]").status == 204
            assert stream.until("$error")["data"]["code"] == "invalid"

    def test_a_post_names_its_line(self, served):
        answer = ask(served, "POST", headers={"Content-Type": "application/json"}, body=b"{}")
        assert answer.status == 400
        assert "Hubbub-Line" in answer.failure["message"]

    def test_a_line_that_is_not_there_is_unknown(self, served):
        with Stream(served) as stream:
            assert stream.delete().status == 204
            assert stream.closed() == (1000, "")
            answer = stream.post({"type": "$ping"})
            assert answer.status == 404
            assert answer.failure == {
                "code": "unknown_line",
                "message": "There is no such line now; open a new one and resume the session.",
                "retry": False,
            }
            assert stream.delete().status == 404

    @pytest.mark.parametrize(
        "media", ["text/plain", "", "application/msgpack", "application/x-www-form-urlencoded"]
    )
    def test_other_content_is_not_taken(self, served, media):
        with Stream(served) as stream:
            assert stream.post_bytes(b"{}", **{"Content-Type": media}).status == 415
            assert stream.post_bytes(b"{}", **{"Content-Encoding": "gzip"}).status == 415

    def test_text_has_to_be_utf_8(self, served):
        with Stream(served) as stream:
            assert stream.post_bytes(b'{"type":"\xff"}').status == 400

    def test_a_body_has_a_size(self, serve):
        served = serve(chat(Settings(max_message=1000)))
        with Stream(served, "/?token=ada") as stream:
            stream.until("$welcome")
            fits = {"type": "add", "id": 1, "data": {"left": 1, "right": 1, "more": ""}}
            fits["data"]["more"] = "x" * (1000 - len(json.dumps(fits)))
            assert stream.post(fits).status == 204
            fits["data"]["more"] += "x"
            answer = stream.post(fits)
            assert (answer.status, answer.failure["code"]) == (413, "too_large")
            body = json.dumps(fits).encode()
            assert stream.post_bytes(iter([body[:500], body[500:]])).status == 413
            assert stream.answer(type="$ping", id=2)["type"] == "$pong"

    def test_before_the_login_it_is_another(self, serve):
        hub = Hubbub(Settings(max_message=1000, max_message_before_login=500))
        let = asyncio.Event()

        @hub.authenticate
        async def who(connection: Connection) -> str | None:
            await let.wait()
            return None

        @hub.endpoint("/let")
        async def let_in(connection: Connection) -> None:
            let.set()

        served = serve(hub)
        with Stream(served) as stream, Line(("127.0.0.1", served.port)) as line:
            long = b'{"type":"$ping","id":1,"more":"' + b"x" * 600 + b'"}'
            assert stream.post_bytes(long).status == 413
            assert stream.post({"type": "$ping", "id": 0}).status == 204
            line.open("/let")
            assert stream.until("$pong")["id"] == 0
            assert stream.post_bytes(long).status == 204
            assert stream.until("$pong")["id"] == 1

    def test_there_are_not_too_many_envelopes_in_one(self, served):
        with Stream(served) as stream:
            body = b'{"type":"$pong"}\n'
            assert stream.post_bytes(body * 1000, **{"Content-Type": JSON_LINES}).status == 204
            assert stream.post_bytes(body * 1001, **{"Content-Type": JSON_LINES}).status == 413

    def test_a_body_that_does_not_come_is_not_waited_for_long(self, serve):
        served = serve(chat(Settings(handshake_timeout=0.3)))
        with Stream(served) as stream, Line(("127.0.0.1", served.port)) as line:
            head = request(
                "/", "Content-Type: application/json", f"Hubbub-Line: {stream.token}", "Content-Length: 5",
                method="POST",
            )  # fmt: skip
            line.send(head + b"{")
            assert line.response().status == 408


class TestSequence:
    def test_what_came_already_is_not_taken_again(self, served):
        with Stream(served) as stream:
            stream.join("chat/lobby")
            for text, sequence in [("one", 1), ("one", 1), ("two", 2), ("one", 1), ("two", 2), ("three", 3)]:
                say = {"type": "say", "room": "chat/lobby", "data": {"text": text}}
                assert stream.post(say, sequence=sequence).status == 204
            assert [stream.until("say")["data"]["text"] for _ in range(3)] == ["one", "two", "three"]
            assert stream.answer(type="$ping", id="end")["type"] == "$pong"

    def test_a_hole_is_told(self, served):
        with Stream(served) as stream:
            answer = stream.post({"type": "$ping"}, sequence=2)
            assert (answer.status, answer.failure["code"]) == (409, "sequence")
            assert stream.post({"type": "$ping"}, sequence=1).status == 204
            assert stream.post({"type": "$ping"}, sequence=2).status == 204

    @pytest.mark.parametrize("sequence", ["0", "-1", "1.5", "one", "", str(2**53), "1" * 100])
    def test_it_counts_from_one(self, served, sequence):
        with Stream(served) as stream:
            assert stream.post({"type": "$ping"}, **{"Hubbub-Sequence": sequence}).status == 400

    def test_posts_without_one_are_taken_as_they_come(self, served):
        with Stream(served) as stream:
            for n in range(3):
                assert stream.answer(type="$ping", id=n)["id"] == n


class TestDeleting:
    def test_it_ends_the_line(self, served):
        with Stream(served) as stream:
            stream.until("$welcome")
            assert (stream.delete().status, stream.closed()) == (204, (1000, ""))

    def test_it_names_its_line(self, served):
        assert ask(served, "DELETE").status == 400
        assert ask(served, "DELETE", headers={"Hubbub-Line": "made.up.token"}).status == 404


class TestPolling:
    def test_a_stream_is_not_polled(self, served):
        with Stream(served) as stream:
            headers = {"Hubbub-Line": stream.token, "Accept": "application/json"}
            assert ask(served, "GET", headers={**headers, "Hubbub-Received": "0"}).status == 409
            assert ask(served, "GET", headers=headers).status == 400


class TestOtherOrigins:
    @pytest.fixture
    def listed(self, serve: Serve) -> Served:
        return serve(chat(Settings(allowed_origins=PAGE)))

    def every(self, served: Served, origin: str) -> dict[str, Answer]:
        """Return what each kind of request from a page is answered."""
        with Stream(served) as stream:
            line = {"Hubbub-Line": stream.token, "Origin": origin}
            post = {**line, "Content-Type": "application/json"}
            asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "hubbub-line"}
            return {
                "OPTIONS": ask(served, "OPTIONS", headers={"Origin": origin, **asked}),
                "POST": ask(served, "POST", headers=post, body=b'{"type":"$ping","id":1}'),
                "poll": ask(served, "GET", headers={**line, "Hubbub-Received": "0"}),
                "DELETE": ask(served, "DELETE", headers=line),
            }

    def test_a_listed_one_may_do_all_with_its_credentials(self, listed):
        with Stream(listed, headers={"Origin": PAGE}) as stream:
            headers = stream.response.headers
            assert headers["access-control-allow-origin"] == PAGE
            assert headers["access-control-allow-credentials"] == "true"
            assert headers["vary"] == "Origin"
        for kind, answer in self.every(listed, PAGE).items():
            assert answer.status == {"poll": 409}.get(kind, 204)
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-allow-credentials"] == "true"

    def test_another_may_do_nothing(self, listed):
        assert ask(listed, "GET", headers={"Accept": EVENTS, "Origin": "https://evil.example"}).status == 403
        for answer in self.every(listed, "https://evil.example").values():
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers

    def test_what_another_posts_is_not_taken(self, listed):
        with Stream(listed) as stream:
            ping = {"type": "$ping", "id": "evil"}
            assert stream.post(ping, Origin="https://evil.example").status == 403
            assert stream.answer(type="$ping", id="good")["id"] == "good"

    def test_where_any_may_none_brings_credentials(self, serve):
        served = serve(chat(Settings(allowed_origins="*")))
        for answer in self.every(served, PAGE).values():
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers

    def test_where_any_may_a_listed_one_brings_them(self, serve):
        served = serve(chat(Settings(allowed_origins=f"*, {PAGE}")))
        for answer in self.every(served, PAGE).values():
            assert answer.headers["access-control-allow-origin"] == PAGE

    def test_the_server_s_own_pages_may(self, served):
        answer = self.every(served, f"http://127.0.0.1:{served.port}")["POST"]
        assert answer.status == 204

    def test_a_refusal_can_be_read_by_a_page_that_may_read(self, listed):
        headers = {"Origin": PAGE, "Hubbub-Line": "made.up.token", "Content-Type": "application/json"}
        answer = ask(listed, "POST", headers=headers, body=b"{}")
        assert answer.status == 404
        assert answer.headers["access-control-allow-origin"] == PAGE

    def test_a_preflight_allows_the_headers_that_are_asked_for(self, listed):
        asked = "authorization,content-type,hubbub-line,hubbub-sequence"
        headers = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": asked,
        }
        answer = ask(listed, "OPTIONS", headers=headers)
        assert answer.status == 204
        assert answer.headers["access-control-allow-headers"] == asked
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-max-age"] == "600"

    def test_options_without_a_page_names_the_methods(self, served):
        answer = ask(served, "OPTIONS")
        assert (answer.status, answer.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, POST")

    def test_the_host_is_checked_for_every_request(self, serve):
        served = serve(chat(Settings(allowed_hosts="hub.example")))
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            assert ask(served, method, headers={"Accept": EVENTS, "Host": "evil.example"}).status == 421


class TestVersions:
    def test_http_1_0_gets_a_stream_that_ends_with_the_connection(self, served):
        with Line(("127.0.0.1", served.port)) as line:
            line.send(request("/", f"Accept: {JSON_LINES}", version="HTTP/1.0"))
            response = line.response()
            assert response.status == 200
            assert "transfer-encoding" not in response.headers
            assert response.headers["connection"] == "close"
            file = line.socket.makefile("rb")
            # What `response` has read ahead comes first.
            text = line._received + file.readline() if b"\n" not in line._received else line._received
            token = json.loads(text.split(b"\n")[0])["data"]["line"]
            assert ask(served, "DELETE", headers={"Hubbub-Line": token}).status == 204
            last = (text + file.read()).strip().split(b"\n")[-1]
            assert json.loads(last)["type"] == "$close"
            file.close()

    def test_a_connection_serves_on_after_its_stream_has_ended(self, served):
        with Stream(served) as stream:
            assert stream.delete().status == 204
            assert stream.closed() == (1000, "")
            stream._connection.request("GET", "/healthz")
            assert stream._connection.getresponse().read() == b"alive\n"

    def test_who_closes_its_half_is_gone(self, served):
        with Stream(served) as watcher, Stream(served) as stream:
            stream.socket.shutdown(socket.SHUT_WR)
            while stream.response.readline():
                pass
            assert watcher.answer(type="$ping", id=1)["id"] == 1
