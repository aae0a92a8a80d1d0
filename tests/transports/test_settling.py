"""Answers under plain ASGI: written by the session's own task, which is not lost when they can't be."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message as Event

from hubbub import Connection, Hubbub, Message, Room, Settings

pytestmark = pytest.mark.anyio

ARRIVES_WITHIN = 10.0


class Say(Message):
    text: str


class Line:
    """A client's line as an ASGI server has it; while it is `full`, nothing can be sent."""

    def __init__(self, hub: Hubbub) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.problem: BaseException | None = None
        self.waiting = asyncio.Event()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.senders: list[str] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket", "path": "/", "query_string": b"", "headers": [], "subprotocols": [],
        }  # fmt: skip
        self.application = asyncio.create_task(hub(scope, self._events.get, self._send), name="session")  # type: ignore[arg-type]

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.send":
            task = asyncio.current_task()
            assert task is not None
            self.senders.append(task.get_name())
            if self.problem is not None:
                raise self.problem
            if not self.free.is_set():
                self.waiting.set()
                await self.free.wait()
            self.sent.put_nowait(json.loads(event["text"]))

    def say(self, **message: object) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def leave(self) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def answer(self) -> dict[str, Any]:
        return await self.sent.get()


@asynccontextmanager
async def joined(**settings: Any) -> AsyncIterator[tuple[Hubbub, Line, list[Connection]]]:
    """A client that is in the room `chat`, of a hub that notes who has left."""
    hub, left = Hubbub(Settings(**settings)), []
    chat = hub.room("chat", history=10)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_disconnect
    async def note(connection: Connection) -> None:
        left.append(connection)

    async with asyncio.timeout(ARRIVES_WITHIN), hub.lifespan():
        line = Line(hub)
        assert (await line.answer())["type"] == "$welcome"
        line.say(type="$join", room="chat")
        assert (await line.answer())["type"] == "$ack"
        yield hub, line, left
        line.free.set()
        line.leave()
        await asyncio.wait([line.application])


async def test_an_answer_takes_no_task_of_its_own():
    async with joined() as (_, line, _):
        line.senders.clear()
        line.say(type="$ping", id=1)
        assert await line.answer() == {"type": "$pong", "id": 1}
        assert line.senders == ["session"]


async def test_what_comes_while_an_answer_waits_follows_it_in_order():
    async with joined() as (hub, line, _):
        line.free.clear()
        line.say(type="$ping", id=1)
        await line.waiting.wait()
        room = hub.rooms[0]()
        for text in ("one", "two"):
            await room.send(Say(text))
        line.free.set()
        answers = [await line.answer() for _ in range(3)]
        assert [answer.get("data", {}).get("text") for answer in answers] == [None, "one", "two"]
        line.say(type="$ping", id=2)
        assert await line.answer() == {"type": "$pong", "id": 2}


async def test_a_client_that_leaves_while_an_answer_waits_is_cleaned_up_after():
    async with joined() as (_, line, left):
        line.free.clear()
        line.say(type="$ping", id=1)
        await line.waiting.wait()
        line.leave()
        await asyncio.wait([line.application])
        assert not line.application.cancelled()
        assert line.application.exception() is None
        assert len(left) == 1


async def test_a_client_that_takes_no_answer_is_cut_off_in_time():
    async with joined(close_timeout=0.1, ping_interval=0.1, idle_timeout=0.1) as (_, line, left):
        line.free.clear()
        line.say(type="$ping", id=1)
        await asyncio.wait([line.application])
        assert line.application.exception() is None
        assert len(left) == 1


async def test_an_application_that_is_cancelled_while_an_answer_waits_is_cancelled():
    async with joined() as (_, line, left):
        line.free.clear()
        line.say(type="$ping", id=1)
        await line.waiting.wait()
        line.application.cancel()
        await asyncio.wait([line.application])
        assert line.application.cancelled()
        assert len(left) == 1


async def test_a_line_whose_server_comes_upon_a_cancellation_is_ended_as_it_has_lost_a_message():
    async with joined() as (hub, line, left):
        room = hub.rooms[0]()
        line.problem = asyncio.CancelledError()
        await room.send(Say("lost"))
        await asyncio.wait([line.application])
        assert not line.application.cancelled()
        assert line.application.exception() is None
        assert len(left) == 1


async def test_the_same_is_so_for_an_answer():
    async with joined() as (_, line, left):
        line.problem = asyncio.CancelledError()
        line.say(type="$ping", id=1)
        await asyncio.wait([line.application])
        assert not line.application.cancelled()
        assert len(left) == 1
