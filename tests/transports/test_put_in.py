"""A client that the server puts into a room is there on every kind of line, and when it comes back."""

import asyncio
from typing import Any

import aiohttp
import pytest

import hubbub
from hubbub import Backoff, Connection, Hubbub, Message, Received, Settings
from hubbub.client import Client
from hubbub.testing.serving import Served, serving
from transports.socketio_peer import javascript

LOBBY = "chat/lobby"
WITHIN = 20.0
LINES = ["ws", "sse+http", "stream+http", "poll+http", "grpc", "socketio+http"]


class Say(Message):
    text: str


class Join(Message, array_like=True):
    name: str


class Leave(Message, array_like=True):
    name: str


class Chat:
    """A chat that clients are put into, the lobby by a message and another room as they connect."""

    def __init__(self, **options: Any) -> None:
        self.hub = hub = Hubbub(Settings(grpc_port=0))
        self.rooms = hub.room("chat/{name}", history=100)
        self.connections: list[Connection] = []
        hub.socketio(**options)

        @hub.on_connect
        async def connected(connection: Connection) -> None:
            self.connections.append(connection)
            await connection.join("chat/everybody")

        @hub.on_message
        async def join(connection: Connection, message: Join) -> str:
            return (await connection.join(f"chat/{message.name}")).name

        @hub.on_message
        async def leave(connection: Connection, message: Leave) -> None:
            await connection.leave(f"chat/{message.name}")

    async def say(self, *texts: str, name: str = "lobby") -> None:
        for text in texts:
            await self.rooms(name=name).send(Say(text=text))

    async def cut(self) -> None:
        """Lose the last client's line, and wait until that is known."""
        connection = self.connections[-1]
        connection.transport.abort()
        await connection.wait_closed()


async def heard(client: Client, count: int) -> list[tuple[str | None, str]]:
    found = []
    async with asyncio.timeout(WITHIN):
        while len(found) < count:
            event = await anext(client)
            assert isinstance(event, Received), event
            assert isinstance(event.message, Say)
            found.append((event.room, event.message.text))
    return found


def url_of(at: Served, scheme: str) -> str:
    return at.grpc or "" if scheme == "grpc" else f"{scheme}://127.0.0.1:{at.port}/"


@pytest.mark.parametrize("scheme", LINES)
async def test_it_has_the_rooms_messages_and_again_after_its_line_was_lost(scheme):
    chat = Chat()
    async with serving(chat.hub) as at:
        url = url_of(at, scheme).removesuffix("/" if scheme == "socketio+http" else "\0")
        async with hubbub.connect(url, messages=[Say], backoff=Backoff((0.05, 0.1))) as client:
            assert await client.request(Join("lobby")) == LOBBY
            await chat.say("one")
            await chat.say("to all", name="everybody")
            assert await heard(client, 2) == [(LOBBY, "one"), ("chat/everybody", "to all")]
            await chat.cut()
            await chat.say("two", "three")
            await chat.say("to all again", name="everybody")
            # The rooms are caught up with one after the other.
            assert sorted(await heard(client, 3)) == sorted(
                [(LOBBY, "two"), (LOBBY, "three"), ("chat/everybody", "to all again")]
            )
            await client.request(Leave("lobby"))
            await chat.say("nobody hears it")
            await chat.say("the end", name="everybody")
            assert await heard(client, 1) == [("chat/everybody", "the end")]


@pytest.mark.parametrize("way", ["websocket", "polling"])
async def test_a_socketio_client_that_has_itself_put_in_recovers(way):
    chat = Chat()
    async with serving(chat.hub) as at, javascript() as program:
        ada = program.open(at.http, "ada", options={"transports": [way]})
        await ada.until("connect")
        assert await ada.ask("join", "lobby") == [LOBBY]
        await chat.cut()
        await chat.say("missed")
        await chat.say("to all", name="everybody")
        assert (await ada.until("connect", 2))["recovered"]
        await chat.say("live")
        await ada.event("say", 3)
        told = [(event[1]["room"], event[0]["text"]) for event in ada.events("say")]
        assert [text for room, text in told if room == LOBBY] == ["missed", "live"]
        assert [text for room, text in told if room != LOBBY] == ["to all"]
        assert await ada.ask("leave", "lobby") == []
        await chat.say("nobody hears it")
        await chat.say("the end", name="everybody")
        await ada.event("say", 4)
        assert ada.events("say")[-1][0]["text"] == "the end"
        # It is told, should it want to know.
        assert [event[1]["room"] for event in ada.events("$leave")] == [LOBBY]


async def test_a_plain_socketio_client_is_told_nothing_but_the_rooms_messages():
    chat = Chat(plain=True)
    async with serving(chat.hub) as at, javascript() as program:
        ada = program.open(at.http, "ada", options={"transports": ["websocket"]})
        assert await ada.ask("join", "lobby") == [LOBBY]
        await chat.say("one")
        assert await ada.event("say") == [{"text": "one"}]
        assert [event[0] for event in ada.values("event")] == ["say"]


async def test_the_bookmark_of_an_event_source_has_the_rooms_that_it_was_put_in():
    chat = Chat()
    async with serving(chat.hub) as at, aiohttp.ClientSession() as http:
        async with source(http, at) as first:
            bookmark, told = await events(first, "$join", "")
            assert told[-1] == "$join"
            await chat.say("one", name="everybody")
            bookmark, told = await events(first, "say", bookmark)
        await chat.say("two", name="everybody")
        async with source(http, at, bookmark) as again:
            _, told = await events(again, "say", bookmark)
            assert told == ["$line", "$welcome", "$join", "$welcome", "say"]


def source(http: aiohttp.ClientSession, at: Served, bookmark: str | None = None) -> Any:
    headers = {"Accept": "text/event-stream"} | ({} if bookmark is None else {"Last-Event-ID": bookmark})
    return http.get(at.http, headers=headers)


async def events(answer: aiohttp.ClientResponse, until: str, bookmark: str) -> tuple[str, list[str]]:
    """Return the last event ID, and the types of what was told, up to one."""
    told: list[str] = []
    async with asyncio.timeout(WITHIN):
        while True:
            line = (await answer.content.readline()).decode().rstrip("\n")
            if line.startswith("id: "):
                bookmark = line[4:]
            elif line.startswith("data: "):
                told.append(line.split('"')[3])
            elif not line and told and told[-1] == until:
                return bookmark, told
