"""HTTP lines event by event: what passes between hub and ASGI server, and what servers do in other ways."""

import asyncio
import json
import logging
import socket
from typing import Any

import pytest
from starlette.types import Message as Event

from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.engine.lines import TAKEN, LineAnswer, LineRequest
from hubbub.engine.relay import Relay
from hubbub.protocol.bookmarks import Bookmark, read_bookmark
from hubbub.transports.streamed import STREAMED, die_after
from transports.engine_client import until

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Twice(Message):
    pass


class Request:
    """One request to an application, in memory. `sent` is what its client got."""

    def __init__(
        self,
        hub: Hubbub,
        *,
        path: str = "/",
        accept: str = "text/event-stream",
        own: bool = True,
        connection: socket.socket | None = None,
        method: str = "GET",
        line: str | None = None,
        body: bytes = b"",
    ) -> None:
        """`own` is whether it comes through hubbub's own server, and by which connection."""
        self.receives: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.receives.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.sent: asyncio.Queue[Event] = asyncio.Queue()
        self.flows = asyncio.Event()
        self.flows.set()
        self.blocked = asyncio.Event()
        """Set when the application waits for a client that does not read."""
        self.sending: Exception | None = None
        self.waiting = 0
        """Calls of `receive` that are under way."""
        self.cancelled = 0
        """Those that were cancelled."""
        path, _, query = path.partition("?")
        headers = [(b"accept", accept.encode())]
        if line is not None:
            headers += [(b"hubbub-line", line.encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
            "extensions": {STREAMED: {"connection": self}} if own else {},
        }
        self.was_cut = False
        self.socket = connection
        self.application = asyncio.create_task(hub(scope, self._receive, self._send))
        self.token = ""

    def cut(self) -> None:
        self.was_cut = True

    def die_after(self, seconds: float) -> None:
        """Do as a connection does."""
        if self.socket is not None:
            die_after(self.socket, seconds)

    async def _receive(self) -> Event:
        self.waiting += 1
        assert self.waiting == 1, "two tasks receive from one request"
        try:
            event = await self.receives.get()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        if isinstance(event, Exception):
            raise event
        return event

    async def _send(self, event: Event) -> None:
        if self.sending is not None:
            raise self.sending
        if not self.flows.is_set():
            self.blocked.set()
            await self.flows.wait()
        self.sent.put_nowait(event)

    async def opened(self) -> "Request":
        assert (await self.sent.get())["status"] == 200
        self.token = self.envelopes(await self.sent.get())[0]["data"]["line"]
        return self

    def envelopes(self, event: Event) -> list[dict[str, Any]]:
        lines = event["body"].decode().splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]

    async def opened_as_lines(self) -> "Request":
        assert (await self.sent.get())["status"] == 200
        self.token = json.loads((await self.sent.get())["body"])["data"]["line"]
        return self

    async def body(self) -> list[dict[str, Any]]:
        """Return the envelopes of the next event."""
        return self.envelopes(await self.sent.get())

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            for envelope in await self.body():
                if envelope["type"] == kind:
                    return envelope

    def leave(self) -> None:
        self.receives.put_nowait({"type": "http.disconnect"})


class Chat:
    def __init__(self) -> None:
        self.hub = Hubbub()
        self.rooms = self.hub.room("chat/{name}", history=10)
        self.ended: asyncio.Queue[int | None] = asyncio.Queue()

        @self.rooms.on_message
        async def say(room: Room, message: Say) -> None:
            await room.send(message)

        @self.rooms.on_message
        async def twice(connection: Connection, room: Room, message: Twice) -> None:
            await room.send(Say(text="one"))
            await room.send(Say(text="two"))

        @self.hub.on_disconnect
        async def ended(connection: Connection) -> None:
            self.ended.put_nowait(connection.close_code)

    async def post(self, request: Request, **envelope: Any) -> int:
        posted = LineRequest("post", request.token, body=json.dumps(envelope).encode())
        return (await self.hub._hub.lines.ask(posted)).status


@pytest.fixture
async def chat():
    chat = Chat()
    async with chat.hub.lifespan():
        yield chat
    assert len(chat.hub._hub.lines) == 0


async def test_all_messages_of_a_turn_are_one_event(chat):
    request = await Request(chat.hub, path="/?room=chat/lobby").opened()
    await request.until("$ack")
    assert await chat.post(request, type="twice", id=1, room="chat/lobby") == 204
    assert [envelope["type"] for envelope in await request.body()] == ["say", "say", "$ack"]
    request.leave()
    await request.application


async def test_what_comes_while_a_client_reads_slowly_is_one_event_too(chat):
    request = await Request(chat.hub, path="/?room=chat/lobby").opened()
    await request.until("$ack")
    request.flows.clear()
    for number in range(5):
        await chat.rooms(name="lobby").send(Say(text=str(number)))
        await asyncio.sleep(0)
    await request.blocked.wait()
    request.flows.set()
    bodies = [await request.body()]
    while len(texts := [envelope["data"]["text"] for body in bodies for envelope in body]) < 5:
        bodies.append(await request.body())
    assert texts == ["0", "1", "2", "3", "4"]
    assert len(bodies) <= 3
    request.leave()
    await request.application


async def test_a_bookmark_is_right_behind_what_is_written_while_much_is_replayed():
    hub = Hubbub(Settings(max_outbox=1024))  # which is written as soon as it is full, in the midst of a turn
    rooms = hub.room("chat/{name}", history=100)
    async with hub.lifespan():
        request = await Request(hub, path="/?room=chat/lobby").opened()
        while "chat/lobby" not in (mark := mark_of(await request.sent.get())).rooms:
            pass
        request.leave()
        await request.application
        for number in range(1, 61):
            await rooms(name="lobby").send(Say(text=str(number)))
        again = await Request(hub, path=f"/?last_event_id={mark.text()}").opened()
        reached = 0
        while reached < 60:
            event = await again.sent.get()
            offsets = [said["offset"] for said in again.envelopes(event) if said["type"] == "say"]
            if offsets:
                reached = offsets[-1]
                assert mark_of(event).rooms["chat/lobby"].offset == reached
        again.leave()
        await again.application


def mark_of(event: Event) -> Bookmark:
    """Return the last bookmark in an event; one of nothing if there is none."""
    found = [line for line in event["body"].decode().splitlines() if line.startswith("id: ")]
    return read_bookmark(found[-1].removeprefix("id: ")) if found else Bookmark("", {})


async def test_an_idle_line_has_no_task_but_its_request_s(chat):
    request = await Request(chat.hub, path="/?room=chat/lobby").opened()
    await request.until("$ack")
    assert await chat.post(request, type="say", id=1, room="chat/lobby", data={"text": "hi"}) == 204
    await request.until("$ack")
    tasks = {"hubbub: read", "hubbub: write"}
    # Until its session waits again, there may be one in its place.
    await until(lambda: not tasks & {task.get_name() for task in asyncio.all_tasks()})
    request.leave()
    await request.application


async def test_another_server_s_wait_for_the_client_is_never_cancelled(chat):
    """Granian loses the news that the client is gone with a `receive` that is cancelled."""
    request = await Request(chat.hub, path="/?room=chat/lobby", own=False).opened()
    await request.until("$ack")
    for number in range(5):
        assert await chat.post(request, type="say", id=number, room="chat/lobby", data={"text": "hi"}) == 204
        await request.until("$ack")
    assert request.cancelled == 0
    request.leave()
    assert await chat.ended.get() == 1006
    await request.application


@pytest.mark.parametrize("own", [True, False])
async def test_a_line_that_is_aborted_is_cut(chat, own):
    request = await Request(chat.hub, own=own).opened()
    await request.until("$welcome")
    (connection,) = chat.hub._hub.connections.values()
    connection.transport.abort()
    await request.application
    assert request.was_cut is own


@pytest.mark.parametrize("own", [True, False])
async def test_the_line_ends_when_its_client_is_gone(chat, own):
    request = await Request(chat.hub, own=own).opened()
    await request.until("$welcome")
    request.leave()
    assert await chat.ended.get() == 1006
    await request.application
    assert await chat.post(request, type="$ping") == 404


@pytest.mark.parametrize("problem", [OSError("gone"), RuntimeError("gone")])
async def test_the_line_ends_when_nothing_can_be_sent_any_more(chat, problem, caplog):
    request = await Request(chat.hub, path="/?room=chat/lobby").opened()
    await request.until("$ack")
    request.sending = problem
    await chat.rooms(name="lobby").send(Say(text="hi"))
    assert await chat.ended.get() == 1006
    await request.application
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_line_that_is_gone_before_its_answer_begins_is_no_error(chat, caplog):
    request = Request(chat.hub)
    request.sending = OSError("gone")
    await request.application
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("own", [True, False])
async def test_a_server_that_fails_is_logged(chat, own, caplog):
    request = await Request(chat.hub, own=own).opened()
    await request.until("$welcome")
    request.receives.put_nowait(ValueError("broken"))
    await request.application
    assert "receiving from the ASGI server" in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("own", [True, False])
async def test_so_is_one_that_fails_while_the_session_is_busy(chat, own, caplog):
    handling = asyncio.Event()

    @chat.hub.on_message
    async def wait(connection: Connection, message: Twice) -> None:
        handling.set()
        await connection.wait_closed()

    request = await Request(chat.hub, own=own).opened()
    assert await chat.post(request, type="twice") == 204
    await handling.wait()
    request.receives.put_nowait(ValueError("broken"))
    await request.application
    assert "receiving from the ASGI server" in str([vars(record) for record in caplog.records])


async def test_a_connection_that_was_lost_before_its_answer_began_gives_its_place_back(chat):
    with socket.socket() as lost:
        lost.close()
        request = Request(chat.hub, connection=lost)
        request.sending = OSError("gone")
        await request.application
    assert len(chat.hub._entrance.counts) == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
async def test_a_connection_may_live_longer_than_the_kernel_counts():
    with socket.socket() as connection:
        die_after(connection, 1e12)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2**31 - 1


async def test_a_line_that_has_ended_cuts_nothing_that_comes_after_it(chat):
    request = await Request(chat.hub).opened()
    await request.until("$welcome")
    (connection,) = chat.hub._hub.connections.values()
    assert (await chat.hub._hub.lines.ask(LineRequest("delete", request.token))).status == 204
    await request.application
    connection.transport.abort()  # as a drain does that began before
    assert not request.was_cut


@pytest.mark.parametrize("own", [True, False])
async def test_a_server_that_cancels_the_request_ends_the_line(chat, own):
    request = await Request(chat.hub, own=own).opened()
    await request.until("$welcome")
    request.application.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request.application
    assert await chat.ended.get() == 1006


@pytest.mark.parametrize("own", [True, False])
async def test_a_message_and_an_end_in_the_same_turn_are_no_error(chat, own, caplog):
    request = await Request(chat.hub, own=own).opened()
    await request.until("$welcome")
    posting = asyncio.create_task(chat.post(request, type="$ping"))
    for connection in chat.hub._hub.connections.values():
        asyncio.get_running_loop().call_soon(connection.transport.abort)
    await request.application
    assert await posting in (204, 404)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_delete_ends_the_answer(chat):
    request = await Request(chat.hub, accept="application/x-ndjson").opened_as_lines()
    assert (await chat.hub._hub.lines.ask(LineRequest("delete", request.token))).status == 204
    assert (await chat.hub._hub.lines.ask(LineRequest("delete", request.token))).status in (204, 404)
    while (event := await request.sent.get())["more_body"]:
        pass
    assert json.loads(event["body"]) == {"type": "$close", "data": {"code": 1000, "reason": ""}}
    await request.application
    assert await chat.ended.get() == 1000


async def test_a_body_of_the_request_means_nothing(chat):
    request = await Request(chat.hub).opened()
    for _ in range(3):
        request.receives.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
    assert await chat.post(request, type="$ping", id=1) == 204
    assert (await request.until("$pong"))["id"] == 1
    request.leave()
    await request.application


async def test_another_instance_s_line_is_asked_for_by_the_relay(chat):
    asked = []

    async def relay(instance: str, request: LineRequest) -> LineAnswer:
        asked.append((instance, request.kind))
        return TAKEN

    assert await chat.post(_named("elsewhere.0123.secret"), type="$ping") == 404
    chat.hub._hub.lines.relay = relay
    assert await chat.post(_named("elsewhere.0123.secret"), type="$ping") == 204
    assert await chat.post(_named("a.dotted.name.0123.secret"), type="$ping") == 204
    own = chat.hub._hub.running.broker.instance
    for token in (f"{own}.0123.secret", ".0123.secret", "secret", "..", "a..b", ""):
        assert await chat.post(_named(token), type="$ping") == 404
    assert asked == [("elsewhere", "post"), ("a.dotted.name", "post")]


async def test_a_post_for_another_instance_starts_a_hub_that_its_host_did_not(monkeypatch):
    asked = []

    async def ask(self: Relay, instance: str, request: LineRequest) -> LineAnswer:
        asked.append((instance, request.body))
        return TAKEN

    monkeypatch.setattr(Relay, "ask", ask)
    hub = Hubbub()
    request = Request(hub, method="POST", line="elsewhere.0123.secret", body=b"{}")
    await request.application
    assert (await request.sent.get())["status"] == 204
    assert asked == [("elsewhere", b"{}")]
    await hub.stop()


def _named(token: str) -> Request:
    request = Request.__new__(Request)
    request.token = token
    return request
