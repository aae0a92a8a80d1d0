"""`hubbub serve --workers 2` on one Redis: the workers are instances, and one is replaced when it dies."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

import hubbub
from deploy.chat import Place, Say, Where
from deploy.conftest import instance
from deploy.members import texts
from wire import talk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOBBY = "chat/lobby"
ARRIVES_WITHIN = 30.0


@pytest.fixture
async def server(redis):
    """A server of two workers."""
    async with instance(redis, workers=2) as server:
        yield server


async def on_both(join, process_of):
    """Join until there is somebody on each of two workers; return the members by their workers' ids."""
    members = {}
    async with asyncio.timeout(ARRIVES_WITHIN):
        while len(members) < 2:
            member = await join()
            members.setdefault(await process_of(member), []).append(member)
    return members


@pytest.fixture
async def members(server):
    """Clients in the lobby with their rooms, by the process ids of the workers."""
    async with AsyncExitStack() as stack:

        async def join():
            client = await stack.enter_async_context(hubbub.connect(server.url(), messages=[Say]))
            return client, await client.join(LOBBY)

        yield await on_both(join, lambda member: process_of(member[0]))


async def process_of(client) -> int:
    return (await client.request(Where(), Place)).process


async def test_workers_share_their_rooms(server, members):
    assert server.pid not in members
    for process, [(_, room), *_] in members.items():
        await room.send(Say(text=str(process)))
    for _, room in [member for there in members.values() for member in there]:
        assert await texts(room, 2) == [str(process) for process in members]


async def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(server, members):
    killed, stays = members
    sent: list[str] = []
    stop = asyncio.Event()

    async def speak(name: str, room) -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            await room.send(Say(text=f"{name} {number}"))
            sent.append(f"{name} {number}")

    async def spoken(count: int) -> None:
        while len(sent) < count:  # noqa: ASYNC110  # a count has no event
            await asyncio.sleep(0.01)

    async with asyncio.timeout(ARRIVES_WITHIN), asyncio.TaskGroup() as speakers:
        for name, process in (("killed", killed), ("stays", stays)):
            speakers.create_task(speak(name, members[process][0][1]))
        await spoken(20)
        os.kill(killed, signal.SIGKILL)
        for client, _ in members[killed]:
            assert await process_of(client) != killed
        # Whether it is the new worker that takes a connection is the system's affair: some time it is.
        while True:
            async with hubbub.connect(server.url()) as client:
                if await process_of(client) not in (killed, stays):
                    break
        await spoken(len(sent) + 20)
        stop.set()
    views = [await texts(room, len(sent)) for there in members.values() for _, room in there]
    assert all(view == views[0] for view in views)
    assert sorted(views[0]) == sorted(sent)
    for name in ("killed", "stays"):
        assert [text for text in views[0] if text.startswith(name)] == [
            text for text in sent if text.startswith(name)
        ]
    assert "worker died" in server.log


async def test_all_workers_drain_when_the_server_is_told_to_stop(server):
    async with AsyncExitStack() as stack:

        async def join():
            client = await stack.enter_async_context(talk(server.url()))
            await client.join(LOBBY)
            return client

        async def process_of(client) -> int:
            return (await client.ask(type="where"))["data"]["process"]

        there = await on_both(join, process_of)
        # To the server alone, as systemd (KillMode=mixed) and Kubernetes do.
        os.kill(server.pid, signal.SIGTERM)
        for client in [client for clients in there.values() for client in clients]:
            assert "after" in (await client.receive_type("$drain"))["data"]
            assert (await client.closed())[0] == 1012
        async with asyncio.timeout(ARRIVES_WITHIN):
            assert await server.wait() == 0
    assert server.log.count(" stopped") == 2
