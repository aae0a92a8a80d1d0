"""A hub on a real Redis that is killed, paused, emptied and given back, seen from the hub's clients."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

import hubbub
from hubbub import Backoff, Gap, Message, Received
from hubbub.testing.processes import Process
from hubbub.testing.servers.redis import RedisServer
from wire import talk

pytestmark = pytest.mark.anyio

APPLICATION = """
from hubbub import Hubbub, Message, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=1000, presence=True)


class Say(Message):
    text: str


@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)
"""
LOBBY = "chat/lobby"
ENDLESS = Backoff((0.05, 0.1, 0.2), endless=True)


class Say(Message):
    text: str


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # a process has no event
            await asyncio.sleep(0.02)


def status(server: Process) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read().decode()


async def ready(server: Process) -> bool:
    return (await asyncio.to_thread(status, server))[0] == 200


async def away(server: Process) -> bool:
    return await asyncio.to_thread(status, server) == (503, "not ready: the broker can't be reached\n")


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    async with RedisServer() as server:
        yield server


@asynccontextmanager
async def serving(redis: RedisServer, folder: Path, **settings: object) -> AsyncIterator[Process]:
    (folder / "app.py").write_text(APPLICATION)
    broker = {"broker": redis.url, "broker_timeout": 1.0, "lease": 2.0, "drain": 0.2, **settings}
    async with Process.serving("app:hub", ready="/healthz", directory=folder, **broker) as server:
        yield server


def connected(server: Process) -> hubbub.Client:
    return hubbub.connect(server.url(), messages=[Say], backoff=ENDLESS)


async def texts(room: hubbub.Room, count: int) -> list[str]:  # type: ignore[type-arg]
    found = []
    async with asyncio.timeout(20):
        async for event in room:
            assert not isinstance(event, Gap), event
            if isinstance(event, Received):
                found.append(event.message.text)
                if len(found) == count:
                    break
    return found


async def test_a_hub_whose_redis_comes_later_is_alive_and_gets_ready(redis, tmp_path):
    await redis.kill()
    async with serving(redis, tmp_path) as server:
        assert await away(server)
        async with talk(server.url(), welcome=False) as client:
            assert (await client.receive())["data"]["code"] == "unavailable"
            assert (await client.closed())[0] == 1013
        async with connecting(server) as entering:
            await redis.start()
            client = await entering
            await until(lambda: ready(server))
            room = await client.join(LOBBY)
            await room.send(Say("hi"))
            assert await texts(room, 1) == ["hi"]


@asynccontextmanager
async def connecting(server: Process) -> AsyncIterator["asyncio.Task[hubbub.Client]"]:
    client = connected(server)
    task = asyncio.create_task(client.__aenter__())
    try:
        yield task
    finally:
        await client.close()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_connections_stay_and_what_is_sent_meanwhile_lands_once(redis, tmp_path, how):
    async with serving(redis, tmp_path) as server, connected(server) as ada, talk(server.url()) as bob:
        room = await ada.join(LOBBY)
        await bob.join(LOBBY)
        await room.send(Say("before"))
        states = ada.states()
        assert (await anext(states)).state is hubbub.State.OPEN
        if how == "killed":
            await redis.kill()
        else:
            redis.pause()
        # The first may wait for as long as the setting says, the others are answered at once.
        answer = await bob.ask(type="say", room=LOBBY, data={"text": "refused"})
        assert answer["data"]["code"] == "unavailable"
        assert answer["data"]["retry"] is True
        await until(lambda: away(server))
        began = time.monotonic()
        for kind in ("$history", "$presence"):
            assert (await bob.ask(type=kind, room=LOBBY))["data"]["code"] == "unavailable"
        assert (await bob.ask(type="$join", room="chat/other"))["data"]["code"] == "unavailable"
        assert (await bob.ask(type="$ping"))["type"] == "$pong"
        assert time.monotonic() - began < 3.0  # which three that wait would take
        sends = [asyncio.create_task(room.send(Say(str(number)))) for number in range(5)]
        await asyncio.sleep(0.5)
        assert not any(send.done() for send in sends)
        if how == "killed":
            await redis.start()
        else:
            redis.resume()
        await asyncio.wait_for(asyncio.gather(*sends), 20)
        await until(lambda: ready(server))
        await room.send(Say("after"))
        found = await texts(room, 7 + (how == "paused"))
        # One that was sent to a paused server may be carried out when it goes on.
        assert [text for text in found if text != "refused"] == ["before", *"01234", "after"]
        assert ada.state.state is hubbub.State.OPEN
        assert len(await room.members()) == 2


async def test_an_emptied_redis_is_a_gap_for_the_members_who_are_there_again(redis, tmp_path):
    async with serving(redis, tmp_path) as server, connected(server) as ada, talk(server.url()) as bob:
        room = await ada.join(LOBBY)
        await bob.join(LOBBY)
        await room.send(Say("before"))
        assert await texts(room, 1) == ["before"]
        epoch = room.position.epoch
        await redis.ask("FLUSHALL")
        async with asyncio.timeout(10):
            gap = await anext(event async for event in room if isinstance(event, Gap))
            assert gap.position.epoch != epoch
        await room.send(Say("after"))
        assert await texts(room, 1) == ["after"]

        async def both() -> bool:
            return len(await room.members()) == 2

        await until(both)
