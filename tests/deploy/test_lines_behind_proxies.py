"""Lines over HTTP behind nginx and HAProxy, which send each request to the next of three instances."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

import hubbub
from deploy.by_hand import by_hand
from deploy.chat import Place, Say, Where
from deploy.conftest import instance
from deploy.members import texts
from deploy.proxies import Proxy
from hubbub.testing.processes import Process

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOBBY = "chat/lobby"
KINDS = ("sse", "stream", "poll")
ARRIVES_WITHIN = 45.0

BUFFERING = {"proxy_buffering off;": "proxy_buffering on;"}
"""As nginx is without being told: what hubbub says in its headers has to do."""


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request):
    return request.param


class Behind:
    def __init__(self, proxy: Proxy, instances: list[Process]) -> None:
        self.proxy = proxy
        self.instances = instances

    def url(self, kind: str) -> str:
        return self.proxy.url(scheme=f"{kind}+http")


@pytest.fixture
async def behind(kind, redis) -> AsyncIterator[Behind]:
    """Three instances and the proxy before them, all started."""
    instances = [instance(redis, lease=2.0) for _ in range(3)]
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            for each in instances:
                tasks.create_task(stack.enter_async_context(each))
        *two, third = (each.port for each in instances)
        before, another = {
            "nginx": ("upstream hubbub {", f"server 127.0.0.1:{third} max_fails=1 fail_timeout=1s;"),
            "haproxy": ("balance roundrobin", f"server instance3 127.0.0.1:{third}"),
        }[kind]
        changes = {before: f"{before}\n    {another}", **(BUFFERING if kind == "nginx" else {})}
        yield Behind(await stack.enter_async_context(Proxy(kind, two, changes)), instances)


async def test_requests_come_to_all_instances_and_each_line_is_whole(behind):
    async with AsyncExitStack() as stack:
        rooms = {}
        for kind in KINDS:
            client = await stack.enter_async_context(hubbub.connect(behind.url(kind), messages=[Say]))
            rooms[kind] = await client.join(LOBBY)

        async def speak(kind: str) -> None:
            for number in range(20):
                await rooms[kind].send(Say(text=f"{kind} {number}"))

        await asyncio.gather(*map(speak, KINDS))
        views = [await texts(room, 60) for room in rooms.values()]
    assert views[0] == views[1] == views[2]
    for kind in KINDS:
        assert [text for text in views[0] if text.startswith(kind)] == [f"{kind} {n}" for n in range(20)]


async def test_an_instance_is_killed_in_the_middle_and_nothing_is_lost_or_doubled(behind):
    sent: list[str] = []
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        clients, rooms = [], {}
        for name in (*KINDS, *(f"{kind} again" for kind in KINDS)):
            client = hubbub.connect(behind.url(name.split()[0]), messages=[Say])
            clients.append(await stack.enter_async_context(client))
            rooms[name] = await clients[-1].join(LOBBY)

        async def speak(name: str) -> None:
            number = 0
            while not stop.is_set():
                await rooms[name].send(Say(text=f"{name}: {number}"))
                sent.append(f"{name}: {number}")
                number += 1

        places = [(await client.request(Where(), Place)).process for client in clients]
        killed = next(each for each in behind.instances if each.pid in places)
        gone = killed.pid
        async with asyncio.TaskGroup() as speakers:
            for name in KINDS:
                speakers.create_task(speak(name))
            async with asyncio.timeout(ARRIVES_WITHIN):
                while len(sent) < 30:  # noqa: ASYNC110  # a count has no event
                    await asyncio.sleep(0.01)
                await killed.kill()
                for client in clients:
                    assert (await client.request(Where(), Place)).process != gone
                count = len(sent)
                while len(sent) < count + 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            stop.set()
        views = [await texts(room, len(sent)) for room in rooms.values()]
    assert all(view == views[0] for view in views)
    assert len(views[0]) == len(set(views[0]))
    for name in KINDS:
        said = [text for text in views[0] if text.startswith(f"{name}:")]
        assert said == [text for text in sent if text.startswith(f"{name}:")]


async def test_what_is_said_arrives_at_once_also_where_the_proxy_buffers(behind):
    url = behind.proxy.url(scheme="http")
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(by_hand(kind, url)) for kind in KINDS]
        for line in lines:
            assert (await line.ask(type="$join", room=LOBBY))["type"] == "$ack"
        for number in range(5):
            began = time.monotonic()
            assert (
                await lines[number % 3].post({"type": "say", "room": LOBBY, "data": {"text": "now"}}) == 204
            )
            for line in lines:
                assert (await line.receive_type("say"))["data"]["text"] == "now"
            assert time.monotonic() - began < 5


async def test_a_silent_line_outlives_the_proxy_s_time_out_by_its_heartbeats(kind, redis):
    short = {
        "nginx": {**BUFFERING, "proxy_read_timeout 60s": "proxy_read_timeout 2s"},
        "haproxy": {"timeout server 60s": "timeout server 2s", "timeout client 60s": "timeout client 2s"},
    }[kind]
    async with (
        instance(redis, ping_interval=0.5) as one,
        instance(redis, ping_interval=0.5) as other,
        Proxy(kind, [one.port, other.port], short) as proxy,
        AsyncExitStack() as stack,
    ):
        lines = [await stack.enter_async_context(by_hand(kind, proxy.url(scheme="http"))) for kind in KINDS]

        async def lives(line) -> None:
            began = time.monotonic()
            if line.kind == "poll":
                while time.monotonic() - began < 4:
                    assert (await line.receive())["type"] == "$ping"
            else:
                await asyncio.sleep(4)
            assert (await line.ask(type="$join", room=LOBBY))["type"] == "$ack"

        await asyncio.gather(*map(lives, lines))
