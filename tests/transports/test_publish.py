"""`POST /api/publish`: who may, what is published, and what is answered to everything else."""

import asyncio
import json
import logging
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Annotated

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from hubbub import ConfigurationError, Hubbub, Message, Meta, Room, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from transports.raw import dial, request
from wire import talk

pytestmark = pytest.mark.anyio

KEY = "first-key-0123456789"
OTHER_KEY = "second-key-0123456789"
SOON = 0.2
SAY = {"room": "chat/lobby", "type": "say", "data": {"text": "hi"}}


class Say(Message):
    text: Annotated[str, Meta(max_length=100)]
    loud: bool = False


class Outage(MemoryBroker):
    """A broker in memory that can be away, and can fail for one room."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.away = False
        self.failing: dict[str, Exception] = {}
        self.tried: list[str] = []

    async def publish(self, room, payload, *, sender, key, keep):
        self.tried.append(room)
        if self.away:
            raise Unavailable("The broker is away.")
        if room in self.failing:
            raise self.failing.pop(room)
        return await super().publish(room, payload, sender=sender, key=key, keep=keep)


def chat(broker: MemoryBroker | None = None, **settings: object) -> Hubbub:
    hub = Hubbub(Settings(**{"api_keys": f"{KEY}, {OTHER_KEY}", **settings}), broker=broker)
    rooms = hub.room("chat/{name}", history=10)
    hub.room("price/{name}", slow="conflate")
    hub.room("page/{number}", history=5).on_join(of_number)

    @hub.authenticate
    async def who(connection):
        return connection.token

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


async def of_number(number: int) -> None:
    pass


class Answer:
    def __init__(self, status: int, headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.text = body.decode()

    @property
    def json(self):
        return json.loads(self.text)


async def post(served, body, path: str = "/api/publish", *, key: str | None = KEY, **headers: str) -> Answer:
    """POST as any program does."""
    given = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    if key is not None:
        given["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(served.http + path, data, given, method="POST")

    def ask() -> Answer:
        try:
            with urllib.request.urlopen(asked, timeout=10) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(refused.code, refused.headers, refused.read())

    return await asyncio.to_thread(ask)


async def batch(served, *messages, **options) -> Answer:
    return await post(served, {"messages": list(messages)}, "/api/publish/batch", **options)


async def test_a_message_reaches_the_room_from_nobody(start):
    served = start(chat())
    async with talk(served.url) as client:
        epoch = (await client.join("chat/lobby"))["epoch"]
        answer = await post(served, SAY)
        assert (answer.status, answer.json) == (200, {"epoch": epoch, "offset": 1})
        assert answer.headers["content-type"] == "application/json"
        assert await client.receive() == {
            "type": "say",
            "room": "chat/lobby",
            "offset": 1,
            "data": {"text": "hi", "loud": False},
        }


async def test_a_message_reaches_all_connections_of_a_user_and_their_history(serve):
    served = serve(chat())
    message = {"user": "alice", "type": "told", "data": {"news": "you won"}}
    async with talk(f"{served.url}/?token=alice") as phone, talk(f"{served.url}/?token=alice") as laptop:
        assert (await post(served, message)).status == 200
        for device in (phone, laptop):
            told = await device.receive()
            assert (told["type"], told["room"], told["data"]) == ("told", "$user/alice", message["data"])
        page = (await phone.ask(type="$history", room="$user/alice"))["data"]
        assert [kept["data"] for kept in page["messages"]] == [message["data"]]


async def test_a_type_that_no_handler_takes_is_sent_as_it_is(serve):
    served = serve(chat())
    async with talk(served.url) as client:
        await client.join("chat/lobby")
        await post(served, {"room": "chat/lobby", "type": "said", "data": {"by": {"ada": [1, 2.5, None]}}})
        assert (await client.receive())["data"] == {"by": {"ada": [1, 2.5, None]}}
        await post(served, {"room": "chat/lobby", "type": "cleared"})
        assert (await client.receive())["data"] == {}


async def test_a_type_that_a_handler_takes_is_checked_as_a_client_s_would_be(serve):
    answer = await post(serve(chat()), SAY | {"data": {"text": "x" * 101}})
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (422, "invalid", False)
    assert answer.json["errors"] == [{"path": "$.text", "message": "Expected `str` of length <= 100"}]


async def test_ephemeral_messages_leave_no_trace(serve):
    served = serve(chat())
    async with talk(served.url) as client:
        await client.join("chat/lobby")
        assert (await post(served, SAY | {"ephemeral": True})).json["offset"] == 0
        assert "offset" not in await client.receive()
        page = (await client.ask(type="$history", room="chat/lobby"))["data"]
        assert page["messages"] == []


@pytest.mark.parametrize("where", ["body", "header"])
async def test_the_same_idempotency_key_publishes_once(serve, where):
    served = serve(chat())
    message = SAY | {"idempotency_key": "order 1"} if where == "body" else SAY
    headers = {} if where == "body" else {"Idempotency_Key": "order 1"}
    first = await post(served, message, **headers)
    again = await post(served, message, **headers)
    other = await post(served, SAY | {"idempotency_key": "order 2"})
    assert (again.json, other.json["offset"]) == (first.json, 2)


async def test_two_idempotency_keys_that_differ_are_refused(serve):
    answer = await post(serve(chat()), SAY | {"idempotency_key": "one"}, Idempotency_Key="other")
    assert answer.status == 422


@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_an_idempotency_key_in_the_header_has_a_length(serve, key):
    assert (await post(serve(chat()), SAY, Idempotency_Key=key)).status == 422


async def test_a_key_conflates_in_rooms_that_do(serve):
    served = serve(chat())
    price = {"room": "price/hub", "type": "price", "data": {"cents": 1}, "key": "HUB"}
    assert (await post(served, price)).status == 200
    refused = await post(served, SAY | {"key": "HUB"})
    assert refused.status == 422
    assert 'slow="conflate"' in refused.json["message"]


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_each_of_several_keys_is_good(serve, key):
    assert (await post(serve(chat()), SAY, key=key)).status == 200


@pytest.mark.parametrize("path", ["/api/publish", "/api/publish/batch"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, "Bearer wrong", f"Bearer {KEY}x", "Bearer \xe9" * 9],
)
async def test_nobody_publishes_without_a_key(serve, path, authorization):
    served = serve(chat())
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await post(served, SAY, path, key=None, **headers)
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await post(served, SAY)).json["offset"] == 1


async def test_without_a_key_in_the_settings_it_is_not_there(serve):
    served = serve(chat(api_keys=""))
    for path in ("/api/publish", "/api/publish/batch"):
        assert (await post(served, SAY, path)).status == 404


@pytest.mark.parametrize(
    "keys", ["guessable", f"{KEY},guessable", "with a space in it 012345", "schlüssel-schlüssel"]
)
def test_a_key_that_can_be_guessed_or_sent_by_nobody_is_refused_without_showing_it(keys):
    with pytest.raises(ConfigurationError, match="api_keys") as refused:
        chat(api_keys=keys)
    assert keys.rpartition(",")[2] not in str(refused.value)


async def test_neither_keys_nor_bodies_get_into_the_log(serve, caplog):
    caplog.set_level(logging.DEBUG)
    served = serve(chat())
    await post(served, SAY | {"data": {"text": "confidential"}})
    await post(served, SAY | {"data": {"text": "confidential" * 100}})
    await post(served, b"confidential")
    await post(served, SAY, key="confidential-0123456789")
    assert "confidential" not in caplog.text
    assert KEY not in caplog.text
    [refused] = [record for record in caplog.records if record.getMessage() == "refused"]
    assert refused.fields["because"] == "api_keys"


@pytest.mark.parametrize(
    "name", ["chat", "chat/", "chat/a/b", "chat/lobby/", "other", "page/seven", "$user/alice", "$rooms"]
)
async def test_a_room_that_is_not_declared_is_not_there(serve, name):
    answer = await post(serve(chat()), SAY | {"room": name})
    assert (answer.status, answer.json["code"]) == (404, "unknown_room")


@pytest.mark.parametrize("name", ["$user/alice", "$session/0123456789abcdef", "$ban/10"])
async def test_what_is_the_protocol_s_own_is_not_there_where_a_pattern_takes_any_name_either(serve, name):
    broker = Outage()
    hub = chat(broker)
    hub.room("{kind}/{name}/all")
    hub.room("{kind}/{name}/all/{rest}")
    hub.room("{kind}")
    served = serve(hub)
    for room in (name, f"{name}/all", f"{name}/all/of", name.split("/")[0]):
        answer = await post(served, SAY | {"room": room})
        assert (answer.status, answer.json["code"]) == (404, "unknown_room")
    assert broker.tried == []


async def test_a_check_of_the_application_that_fails_is_logged_and_harms_no_other_message(serve, caplog):
    class Amount(Message):
        number: int

        def __post_init__(self) -> None:
            raise ZeroDivisionError("inner life")

    hub = chat()

    @hub.rooms[0].on_message
    async def amount(room: Room, message: Amount) -> None:
        raise AssertionError("nothing gets here")

    served = serve(hub)
    wrong = {"room": "chat/lobby", "type": "amount", "data": {"number": 1}}
    answer = await post(served, wrong)
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (500, "internal", False)
    assert "inner life" not in answer.text
    assert "inner life" in caplog.text
    answer = await batch(served, SAY, wrong, SAY)
    assert answer.status == 207
    assert [result.get("offset") for result in answer.json["results"]] == [1, None, 2]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"\xff", "$"),
        (b"[]", "$"),
        (b'{"type": "say"}', None),
        (SAY | {"user": "alice"}, None),
        (SAY | {"type": "$left"}, "$.type"),
        (SAY | {"type": ""}, "$.type"),
        (SAY | {"type": 1}, "$.type"),
        (SAY | {"room": ""}, "$.room"),
        (SAY | {"room": "x" * 256}, "$.room"),
        ({"type": "say", "user": "x" * 250}, "$.user"),
        (SAY | {"idempotency-key": "a name that is none"}, "$"),
        (SAY | {"ephemeral": "yes"}, "$.ephemeral"),
        (SAY | {"key": ""}, "$.key"),
        ({"room": "chat/lobby", "type": "said", "data": {"number": 10**30}}, None),
        (b'{"room": "chat/lobby", "type": "said", "data": ' + b"[" * 101 + b"]" * 101 + b"}", "$"),
        (b'{"room": "chat/lobby", "type": "said", "data": ' + b"[" * 9999, "$"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_message_is_refused_and_nothing_is_published(serve, body, path):
    served = serve(chat())
    answer = await post(served, body)
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (422, "invalid", False)
    if path is not None:
        assert [error["path"] for error in answer.json["errors"]] == [path]
    assert (await post(served, SAY)).json["offset"] == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_only_json_is_read(serve, kind):
    assert (await post(serve(chat()), SAY, Content_Type=kind)).status == 415


async def test_a_charset_may_be_said(serve):
    assert (await post(serve(chat()), SAY, Content_Type="Application/JSON; charset=utf-8")).status == 200


async def test_a_compressed_body_is_not_read(serve):
    assert (await post(serve(chat()), SAY, Content_Encoding="gzip")).status == 415


async def test_it_is_posted_to(serve):
    served = serve(chat())
    with dial(served) as line:
        line.send(request("/api/publish", f"Authorization: Bearer {KEY}"))
        assert line.response().status == 405


def head(*headers: str, path: str = "/api/publish", key: str = KEY) -> bytes:
    usual = (f"Authorization: Bearer {key}", "Content-Type: application/json")
    return request(path, *usual, *headers, method="POST")


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(start):
    with dial(start(chat(max_message=1000))) as line:
        line.send(head("Content-Length: 1001"))
        assert line.response().status == 413


async def test_a_chunked_body_is_read_up_to_the_limit(start):
    served = start(chat(max_message=1000))
    body = json.dumps(SAY).encode()
    with dial(served) as line:
        line.send(head("Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert line.response().status == 200
    with dial(served) as line:
        line.send(
            head("Transfer-Encoding: chunked") + b"1f4\r\n" + b" " * 500 + b"\r\n" + b"1f5\r\n" + b" " * 501
        )
        assert line.response().status == 413


async def test_a_body_without_a_key_is_not_read(start):
    with dial(start(chat(), handshake_timeout=30.0)) as line:
        line.send(head("Content-Length: 1000", key="none-of-this-server-s"))
        assert line.response().status == 401


@pytest.mark.parametrize("path", ["/api/publish", "/api/publish/batch"])
async def test_a_body_that_drips_is_given_up(start, path):
    with dial(start(chat(), handshake_timeout=SOON)) as line:
        line.send(head("Content-Length: 1000", path=path) + b"{")
        assert line.response().status == 408


@pytest.mark.parametrize("path", ["/api/publish", "/api/publish/batch"])
async def test_a_body_that_drips_is_given_up_under_a_server_that_waits_for_ever(path):
    """hubbub's own server has a time for bodies, too; others need have none."""
    hub = chat(handshake_timeout=SOON)
    headers = {"host": "127.0.0.1", "authorization": f"Bearer {KEY}", "content-type": "application/json"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    drops = iter([b"{", b" "])
    sent = []

    async def receive():
        drop = next(drops, None)
        if drop is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": drop, "more_body": True}

    async def send(event):
        sent.append(event)

    async with hub.lifespan(), asyncio.timeout(5):
        await hub(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "too_slow"


async def test_a_client_that_goes_in_the_middle_of_its_body_publishes_nothing_and_harms_nobody(start, caplog):
    served = start(chat())
    body = json.dumps(SAY).encode()
    with dial(served) as line:
        line.send(head(f"Content-Length: {len(body) + 1}") + body)
    assert (await post(served, SAY)).json["offset"] == 1
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_broker_that_is_away_is_told_with_the_time_to_come_back(serve):
    broker = Outage()
    served = serve(chat(broker))
    broker.away = True
    answer = await post(served, SAY)
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (503, "unavailable", True)
    assert int(answer.headers["retry-after"]) > 0


async def test_what_fails_in_the_server_is_logged_and_not_told(serve, caplog):
    broker = Outage()
    served = serve(chat(broker))
    broker.failing["chat/lobby"] = ZeroDivisionError("inner life")
    answer = await post(served, SAY)
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "inner life" not in answer.text
    assert "inner life" in caplog.text


async def test_a_batch_is_answered_message_by_message_in_its_order(serve):
    broker = Outage()
    served = serve(chat(broker))
    answer = await batch(
        served, SAY, {"user": "alice", "type": "told"}, SAY | {"room": "none"}, 7, SAY | {"data": {}}, SAY
    )
    assert answer.status == 207
    results = answer.json["results"]
    assert [result.get("offset") or result["code"] for result in results] == [
        1,
        1,
        "unknown_room",
        "invalid",
        "invalid",
        2,
    ]
    assert {result["retry"] for result in results if "code" in result} == {False}


async def test_a_batch_of_which_all_is_published_is_200(serve):
    served = serve(chat())
    answer = await batch(served, *[SAY] * 300)
    assert answer.status == 200
    assert [result["offset"] for result in answer.json["results"]] == list(range(1, 301))
    assert (await batch(served)).json == {"results": []}


async def test_in_a_batch_nothing_overtakes_what_failed_for_now_in_its_room(serve):
    broker = Outage()
    served = serve(chat(broker))
    broker.failing["chat/a"] = Unavailable("One shard is away.")
    answer = await batch(served, *(SAY | {"room": room} for room in ("chat/a", "chat/b", "chat/a", "chat/b")))
    assert answer.status == 207
    results = answer.json["results"]
    assert [result.get("offset") for result in results] == [None, 1, None, 2]
    assert [result["retry"] for result in results[::2]] == [True, True]
    assert broker.tried.count("chat/a") == 1


async def test_a_batch_of_which_nothing_is_published_since_the_broker_is_away_is_503(serve):
    broker = Outage()
    served = serve(chat(broker))
    broker.away = True
    answer = await batch(served, SAY, {"user": "alice", "type": "told"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert [result["retry"] for result in answer.json["results"]] == [True, True]


async def test_a_batch_sent_again_with_its_keys_publishes_what_was_not(serve):
    served = serve(chat())
    messages = [SAY | {"idempotency_key": f"line {number}"} for number in range(3)]
    assert (await batch(served, *messages[:2])).status == 200
    answer = await batch(served, *messages)
    assert [result["offset"] for result in answer.json["results"]] == [1, 2, 3]


async def test_a_batch_has_no_key_as_a_whole(serve):
    assert (await batch(serve(chat()), SAY, Idempotency_Key="one")).status == 422


async def test_a_batch_has_limits_of_its_own(serve):
    served = serve(chat(max_batch=2, max_batch_bytes=2000, max_message=1000))
    assert (await batch(served, SAY, SAY)).status == 200
    assert (await batch(served, SAY, SAY, SAY)).status == 413
    assert (await batch(served, SAY | {"data": {"text": "x" * 2000}})).status == 413
    large = await batch(served, {"room": "chat/lobby", "type": "said", "data": {"text": "x" * 1000}}, SAY)
    assert large.status == 207
    assert [result.get("code") for result in large.json["results"]] == ["invalid", None]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"messages": {}}', b'{"messages": [], "other": 1}'])
async def test_what_is_no_batch_is_refused(serve, body):
    answer = await post(serve(chat()), body, "/api/publish/batch")
    assert (answer.status, answer.json["code"]) == (422, "invalid")


async def test_it_is_below_the_path_that_the_hub_is_mounted_at(start):
    hub = chat()
    served = start(Starlette(routes=[Mount("/live", hub)], lifespan=hub.lifespan))
    assert (await post(served, SAY, "/live/api/publish")).status == 200
    assert (await post(served, SAY, "/api/publish")).status == 404


async def test_it_is_below_the_path_that_a_proxy_serves_it_under(start):
    served = start(chat(), root_path="/chat")
    assert (await post(served, SAY)).status == 200


async def test_a_hub_that_no_lifespan_started_starts_with_the_first_message(serve):
    served = serve(Starlette(routes=[Mount("/live", chat())]))
    assert (await post(served, SAY, "/live/api/publish")).status == 200


async def test_a_hub_that_drains_takes_nothing_more(serve):
    hub = chat()
    served = serve(hub)
    hub._entrance.leaving = True
    answer = await post(served, SAY)
    assert (answer.status, answer.json["retry"]) == (503, True)
    hub._entrance.leaving = False


async def test_a_host_name_that_is_not_the_server_s_publishes_nothing(serve):
    assert (await post(serve(chat(allowed_hosts="example.com")), SAY)).status == 421


async def test_pages_of_other_origins_are_told_nothing_that_lets_them(serve):
    answer = await post(serve(chat()), SAY, Origin="https://evil.example")
    assert [name for name in answer.headers if name.lower().startswith("access-control-")] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_publishes(serve):
    served = serve(chat())
    async with talk(served.url) as client:
        await client.join("chat/lobby")
        command = ["curl", "--silent", "--fail-with-body", "--json", json.dumps(SAY)]
        command += ["--header", f"Authorization: Bearer {KEY}", f"{served.http}/api/publish"]
        curl = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        assert curl.returncode == 0, curl.stdout + curl.stderr
        assert json.loads(curl.stdout)["offset"] == 1
        assert (await client.receive())["data"]["text"] == "hi"


FETCH = """
const [url, key, body] = process.argv.slice(1);
const headers = {"Content-Type": "application/json", "Authorization": `Bearer ${key}`};
const answer = await fetch(url, {method: "POST", headers, body});
console.log(answer.status, await answer.text());
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
async def test_a_program_in_javascript_publishes(serve):
    served = serve(chat())
    command = ["node", "--input-type=module", "-e", FETCH, f"{served.http}/api/publish", KEY, json.dumps(SAY)]
    node = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert node.returncode == 0, node.stderr
    status, answer = node.stdout.split(" ", 1)
    assert (status, json.loads(answer)["offset"]) == ("200", 1)
