"""A line in polls: nothing lost between two of them, nothing held for longer than it may be."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deploy.by_hand import by_hand
from fake_transport import scope
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.engine.lines import TAKEN, UNKNOWN, LineAnswer, LineRequest
from hubbub.transports.admission import Refusal
from hubbub.transports.http_lines import polling
from hubbub.transports.http_lines.polling import Polling
from told import Logs, collected_logs, shown

pytestmark = pytest.mark.anyio


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged during the test."""
    with collected_logs() as logs:
        yield logs


ROOM = "chat/lobby"


class Say(Message):
    text: str


class Client:
    """Polls as a client does, and remembers how far it is."""

    def __init__(self, hub: Hubbub, opened: LineAnswer) -> None:
        self.lines = hub._hub.lines
        self.received = 0
        self.posted = 0
        self.first = self.read(opened)
        assert self.first[0]["type"] == "$line"
        self.token = self.first[0]["data"]["line"]

    def read(self, answer: LineAnswer) -> list[dict[str, Any]]:
        """Take the messages of an answer."""
        assert answer.status == 200, answer
        told = json.loads(answer.body)
        self.received = told["received"]
        return told["messages"]

    async def poll(self, received: int | None = None) -> LineAnswer:
        """Poll once."""
        async with asyncio.timeout(10):
            return await self.lines.ask(
                LineRequest("poll", self.token, self.received if received is None else received)
            )

    def begin_poll(self) -> "asyncio.Task[LineAnswer]":
        return asyncio.create_task(self.poll())

    async def next(self) -> list[dict[str, Any]]:
        """Poll, and take what comes."""
        return self.read(await self.poll())

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Poll until a message of a type has come; return all that came."""
        found: list[dict[str, Any]] = []
        while kind not in [message["type"] for message in found]:
            found += await self.next()
        return found

    async def post(self, *envelopes: dict[str, Any]) -> LineAnswer:
        self.posted += 1
        body = "\n".join(map(json.dumps, envelopes)).encode()
        return await self.lines.ask(LineRequest("post", self.token, self.posted, len(envelopes) > 1, body))

    async def join(self, room: str = ROOM, **data: Any) -> list[dict[str, Any]]:
        assert await self.post({"type": "$join", "id": "join", "room": room, "data": data}) == TAKEN
        return await self.until("$ack")

    async def delete(self) -> LineAnswer:
        return await self.lines.ask(LineRequest("delete", self.token))


def chat(settings: Settings | None = None, **options: Any) -> Hubbub:
    hub = Hubbub(settings)
    room = hub.room("chat/{name}", **{"history": 1000, **options})

    @room.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


@asynccontextmanager
async def running(hub: Hubbub) -> AsyncIterator[Polling]:
    async with hub.lifespan():
        opens = Polling(hub._hub.lines, hub.open_line)
        yield opens
        # Whoever is left is told nothing any more.
        for connection in list(hub._hub.connections.values()):
            connection.transport.abort()
        await eventually(lambda: not opens._serving)
        assert len(hub._hub.lines) == 0


async def connect(hub: Hubbub, opens: Polling, **changes: Any) -> Client:
    opened = await opens.open(scope(type="http", **changes))
    assert isinstance(opened, LineAnswer)
    return Client(hub, opened)


@asynccontextmanager
async def one(settings: Settings | None = None, **options: Any) -> AsyncIterator[tuple[Hubbub, Client]]:
    """A chat, and a client that is in its lobby."""
    hub = chat(settings, **options)
    async with running(hub) as opens:
        client = await connect(hub, opens)
        await client.join()
        yield hub, client


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # others' work has no event
            await asyncio.sleep(0.001)


async def publish(hub: Hubbub, *texts: str, **options: Any) -> None:
    for text in texts:
        await hub.rooms[0](name="lobby").send(Say(text=text), **options)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["data"]["text"] for message in messages if message["type"] == "say"]


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


async def test_a_line_begins_with_its_token_and_the_welcome():
    hub = chat()
    async with running(hub) as opens:
        client = await connect(hub, opens)
        assert types(client.first) == ["$line", "$welcome"]
        assert client.received == 2
        assert client.token.startswith(hub._hub.running.broker.instance)


async def test_a_poll_waits_until_there_is_something():
    async with one() as (hub, client):
        polled = client.begin_poll()
        await asyncio.sleep(0)
        await publish(hub, "hello")
        assert texts(client.read(await polled)) == ["hello"]


async def test_what_was_said_between_two_polls_comes_with_the_next():
    async with one() as (hub, client):
        await publish(hub, "a", "b", "c")
        await eventually(lambda: client.lines.find(client.token)._unacknowledged[1:])
        assert texts(await client.next()) == ["a", "b", "c"]


async def test_what_is_not_acknowledged_comes_again_and_what_is_does_not():
    async with one() as (hub, client):
        await publish(hub, "a")
        await eventually(lambda: client.lines.find(client.token)._unacknowledged[1:])
        acknowledged = client.received
        assert texts(await client.next()) == ["a"]
        await publish(hub, "b")
        await eventually(lambda: client.lines.find(client.token)._unacknowledged[1:])
        # As if the answer had got lost.
        assert texts(client.read(await client.poll(acknowledged))) == ["a", "b"]
        polled = client.begin_poll()
        await asyncio.sleep(0)
        await publish(hub, "c")
        assert texts(client.read(await polled)) == ["c"]


async def test_a_newer_poll_ends_an_older_one_with_nothing():
    async with one() as (hub, client):
        older = client.begin_poll()
        await asyncio.sleep(0)
        newer = client.begin_poll()
        assert await older == TAKEN
        await publish(hub, "hello")
        assert texts(client.read(await newer)) == ["hello"]


async def test_a_poll_that_comes_after_the_one_that_followed_it_leaves_that_alone():
    async with one() as (hub, client):
        newer = client.begin_poll()
        await asyncio.sleep(0)
        assert await client.poll(client.received - 1) == TAKEN
        assert not newer.done()
        await publish(hub, "hello")
        assert texts(client.read(await newer)) == ["hello"]


async def test_nobody_can_have_received_what_was_not_sent():
    async with one() as (_, client):
        answer = await client.poll(client.received + 1)
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "invalid")


async def test_a_poll_whose_client_left_takes_nothing_with_it():
    async with one() as (hub, client):
        left = client.begin_poll()
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        await publish(hub, "hello")
        assert texts(await client.until("say")) == ["hello"]


async def test_polls_hold_no_task_and_no_timer():
    async with one() as (_, client):
        transport = client.lines.find(client.token)
        before, scheduled = asyncio.all_tasks(), len(asyncio.get_running_loop()._scheduled)
        polled = transport.poll(client.received)
        assert asyncio.all_tasks() == before
        assert len(asyncio.get_running_loop()._scheduled) == scheduled
        assert not polled.done()


async def test_a_heartbeat_ends_a_poll_and_one_who_polls_on_stays(logs):
    settings = Settings(ping_interval=0.2, ping_timeout=0.3)
    async with one(settings) as (_, client):
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 1.0:
            assert types(await client.next()) == ["$ping"]
        assert not logs.of("disconnect")


async def test_a_line_that_is_not_polled_ends(logs):
    settings = Settings(ping_interval=0.1, ping_timeout=0.1, close_timeout=0.3)
    async with one(settings) as (hub, client):
        await eventually(lambda: not hub._hub.connections)
        [ended] = logs.of("disconnect")
        assert ended.fields["code"] == 4508
        assert await client.poll() == UNKNOWN


async def test_who_comes_a_little_late_is_told_why_the_line_ended():
    settings = Settings(ping_interval=0.1, ping_timeout=0.1, close_timeout=10.0)
    async with one(settings) as (hub, client):
        connection = next(iter(hub._hub.connections.values()))
        await eventually(lambda: connection.closing)
        [*_, last] = await client.next()
        assert (last["type"], last["data"]["code"]) == ("$close", 4508)
        await eventually(lambda: not hub._hub.connections)
        assert await client.poll() == UNKNOWN


async def test_a_close_is_the_last_that_is_said_and_the_line_is_unknown_then(logs):
    hub = chat()

    @hub.on_message
    async def leave(connection: Connection, message: Say) -> None:
        await connection.send(Say(text="last words"))
        await connection.close(1000, "enough")

    async with running(hub) as opens:
        client = await connect(hub, opens)
        polled = client.begin_poll()
        await client.post({"type": "say", "data": {"text": "go"}})
        found = client.read(await polled)
        assert texts(found) == ["last words"]
        assert found[-1] == {"type": "$close", "data": {"code": 1000, "reason": "enough"}}
        await eventually(lambda: not hub._hub.connections)
        for answer in (await client.poll(), await client.post({"type": "$ping"}), await client.delete()):
            assert answer == UNKNOWN
        assert logs.of("disconnect", code=1000, reason="enough")


async def test_a_login_that_is_refused_is_told_in_the_first_answer():
    hub = chat()

    @hub.authenticate
    async def nobody(connection: Connection) -> str:
        raise Denied("not you")

    async with running(hub) as opens:
        client = await connect(hub, opens)
        assert types(client.first) == ["$line", "$error", "$close"]
        assert client.first[1]["data"]["message"] == "not you"
        assert client.first[2]["data"]["code"] == 4401


async def test_who_is_not_let_in_opens_no_line():
    hub = chat(Settings(max_connections=1))
    async with running(hub) as opens:
        await connect(hub, opens)
        refused = await opens.open(scope(type="http"))
        assert isinstance(refused, Refusal)
        assert refused.status == 503
        assert len(hub._hub.lines) == 1


async def test_a_client_that_leaves_before_it_has_a_token_leaves_no_line():
    hub, gate = chat(), asyncio.Event()

    @hub.authenticate
    async def slow(connection: Connection) -> str:
        await gate.wait()
        return "ada"

    async with running(hub) as opens:
        opening = asyncio.create_task(opens.open(scope(type="http")))
        await eventually(lambda: len(hub._hub.lines))
        opening.cancel()
        await asyncio.wait([opening])
        await eventually(lambda: not hub._hub.connections)
        assert not opens._serving


async def test_a_delete_ends_the_line(logs):
    async with one() as (hub, client):
        polled = client.begin_poll()
        await asyncio.sleep(0)
        assert await client.delete() == TAKEN
        assert await polled == UNKNOWN
        await eventually(lambda: not hub._hub.connections)
        assert logs.of("disconnect", code=1000)
        assert await client.delete() == UNKNOWN


async def test_a_wrong_secret_opens_nothing():
    async with one() as (_, client):
        right = client.token
        client.token = right[:-1] + ("A" if right[-1] != "A" else "B")
        assert await client.poll() == await client.post({"type": "$ping"}) == await client.delete() == UNKNOWN
        client.token, client.posted = right, 1
        assert await client.post({"type": "$ping", "id": 1}) == TAKEN
        assert types(await client.next()) == ["$pong"]


async def test_posts_are_taken_once_and_in_order():
    async with one() as (_, client):
        say = {"type": "say", "room": ROOM, "data": {"text": "one"}}
        assert await client.post(say) == TAKEN
        client.posted -= 1
        assert await client.post(say) == TAKEN
        client.posted += 1
        assert (await client.post(say)).status == 409
        client.posted -= 2
        assert await client.post({**say, "data": {"text": "two"}}, {"type": "$ping", "id": 1}) == TAKEN
        assert texts(await client.until("$pong")) == ["one", "two"]


async def test_a_backlog_comes_in_answers_of_a_bounded_size(monkeypatch):
    monkeypatch.setattr(polling, "LARGEST_ANSWER", 1000)
    async with one() as (hub, client):
        said = [str(number) * 100 for number in range(10, 40)]
        await publish(hub, *said)
        found, answers = [], 0
        while len(found) < len(said):
            answer = await client.poll()
            assert len(answer.body) < 1100
            found += texts(client.read(answer))
            answers += 1
        assert found == said
        assert answers > 3


async def test_a_message_that_is_larger_than_an_answer_comes_all_the_same(monkeypatch):
    monkeypatch.setattr(polling, "LARGEST_ANSWER", 1000)
    async with one() as (hub, client):
        await publish(hub, "x" * 5000, "y")
        assert texts(await client.until("say")) == ["x" * 5000]
        assert texts(await client.until("say")) == ["y"]


async def flood(hub: Hubbub, count: int = 100, **options: Any) -> None:
    """Say more than a line holds, each turn a part of it."""
    for number in range(count):
        await publish(hub, f"{number} " + "x" * 1000, **options)
        await asyncio.sleep(0)


async def test_one_who_does_not_poll_is_closed_and_comes_back_for_what_it_missed():
    async with one(Settings(max_outbox=20_000)) as (hub, client):
        connection = next(iter(hub._hub.connections.values()))
        await flood(hub)
        assert connection.closing
        transport = client.lines.find(client.token)
        assert transport._size < polling.ENOUGH + 20_000
        found: list[dict[str, Any]] = []
        while types(found)[-1:] != ["$close"]:
            found += await client.next()
        assert found[-1]["data"]["code"] == 4513
        numbers = [int(text.split()[0]) for text in texts(found)]
        assert numbers == list(range(len(numbers)))


async def test_a_room_that_drops_has_the_newest_for_one_who_does_not_poll():
    async with one(Settings(max_outbox=20_000), slow="drop") as (hub, client):
        await flood(hub)
        found = await client.next()
        found += await client.next()
        numbers = [int(text.split()[0]) for text in texts(found)]
        assert numbers[-1] == 99
        assert len(numbers) < 100
        assert numbers == sorted(set(numbers))
        assert "$gap" in types(found)


async def test_a_room_that_conflates_has_the_last_of_each_key_for_one_who_does_not_poll():
    async with one(slow="conflate") as (hub, client):
        await flood(hub, 70, key="place")
        transport = client.lines.find(client.token)
        await flood(hub, 100, key="place")
        assert transport._size < polling.ENOUGH * 2
        await client.next()
        [last] = texts(await client.next())
        assert last.startswith("99 ")


async def test_writing_goes_on_when_the_client_has_what_waited():
    async with one() as (hub, client):
        for _ in range(3):
            await flood(hub)
            found: list[str] = []
            while len(found) < 100:
                found += texts(await client.next())
            assert [int(text.split()[0]) for text in found] == list(range(100))


async def test_one_who_polls_all_the_time_sends_too_much():
    async with one(Settings(max_message_burst=50, max_message_rate=1.0)) as (_, client):
        polls = [client.begin_poll() for _ in range(100)]
        answers = await asyncio.gather(*polls)
        told = [json.loads(answer.body)["messages"] for answer in answers if answer.status == 200]
        assert told[0][-1]["data"]["code"] == 4529
        assert sum(answer == TAKEN for answer in answers) >= 40


async def test_a_session_goes_on_on_the_next_line_with_nothing_lost_or_doubled():
    hub = chat()
    async with running(hub) as opens:
        first = await connect(hub, opens)
        [*_, joined] = await first.join()
        await publish(hub, "a", "b")
        assert texts(await first.until("say")) == ["a", "b"]
        await publish(hub, "c", "d")
        # It does not fetch these: it comes back on another line instead.
        second = await connect(hub, opens)
        position = {**joined["data"], "offset": 2}
        rooms = {ROOM: {"epoch": position["epoch"], "offset": position["offset"]}}
        session = first.first[1]["data"]["session"]
        await second.post({"type": "$resume", "id": 1, "data": {"session": session, "rooms": rooms}})
        assert texts(await second.until("say")) == ["c", "d"]
        [*_, last] = await first.until("$close")
        assert last["data"]["code"] == 4409


# Over HTTP, under hubbub's server and as plain ASGI


async def test_a_line_is_opened_spoken_on_polled_and_ended_over_http(start):
    async with by_hand("poll", start(chat()).http) as line:
        assert (await line.ask(type="$join", room=ROOM))["type"] == "$ack"
        say = {"type": "say", "room": ROOM, "data": {"text": "hi"}}
        assert await line.post(say, {**say, "data": {"text": "ho"}}) == 204
        assert [(await line.receive_type("say"))["data"]["text"] for _ in range(2)] == ["hi", "ho"]
        assert await line.delete() == 204
        status, told = await line.poll()
        assert (status, json.loads(told)["code"]) == (404, "unknown_line")


async def test_a_poll_may_wait_for_longer_than_a_request_may_take_to_arrive(start):
    settings = Settings(handshake_timeout=0.3, close_timeout=0.3, ping_interval=1.5)
    async with by_hand("poll", start(chat(settings)).http) as line:
        for _ in range(2):
            assert (await line.receive())["type"] == "$ping"


async def test_answers_to_polls_are_kept_by_nobody_and_read_by_pages_that_may(start):
    served = start(chat(Settings(allowed_origins="https://example.com")))
    async with by_hand("poll", served.http) as line:
        for origin, status in (("https://example.com", 200), ("https://evil.example", 403)):
            headers = {"Hubbub-Line": line.token, "Hubbub-Received": "0", "Origin": origin}
            async with line.session.get(served.http, headers=headers) as answer:
                assert answer.status == status
                if status == 200:
                    assert answer.headers["Cache-Control"] == "no-store, no-transform"
                    assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize("received", [None, "", "-1", "1.5", "many", "9" * 17])
async def test_a_poll_says_how_much_has_come(serve, received):
    served = serve(chat())
    async with by_hand("poll", served.http) as line:
        headers = {"Hubbub-Line": line.token}
        if received is not None:
            headers["Hubbub-Received"] = received
        async with line.session.get(served.http, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["code"] == "invalid"


async def test_a_stream_is_not_polled(serve):
    async with by_hand("stream", serve(chat()).http) as line:
        status, told = await line.poll(0)
        assert (status, json.loads(told)["code"]) == (409, "not_polled")


async def test_an_instance_that_stops_says_so_in_the_answer_to_a_poll(start):
    served = start(chat())
    async with by_hand("poll", served.http) as line:
        polled = asyncio.create_task(line.receive_type("$close"))
        await asyncio.sleep(0)
        served.begin_to_stop()
        assert (await polled)["data"]["code"] == 1012


async def test_a_line_s_token_is_in_no_log(serve, logs):
    async with by_hand("poll", serve(chat()).http) as line:
        assert (await line.ask(type="$join", room=ROOM))["type"] == "$ack"
        right = line.token
        line.token += "x"
        assert (await line.poll())[0] == 404
        line.token = right
    secret = right.rpartition(".")[2]
    assert not [record for record in logs.records if secret in shown(record)]
