"""Behind nginx and HAProxy, as the example files have them: two instances, and clients that miss nothing."""

import asyncio
import json
import urllib.request
from contextlib import AsyncExitStack

import pytest

import hubbub
from deploy.chat import Place, Say, Where
from deploy.conftest import instance
from deploy.members import texts
from deploy.proxies import SHORT, Proxy
from wire import talk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOBBY = "chat/lobby"
KEY = "0123456789abcdef"
ARRIVES_WITHIN = 30.0


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request):
    return request.param


@pytest.fixture
async def behind(kind, redis):
    """Two instances and the proxy before them, all started."""
    async with (
        instance(redis, api_keys=KEY) as one,
        instance(redis, api_keys=KEY) as other,
        Proxy(kind, [one.port, other.port], {}) as proxy,
    ):
        yield proxy, one, other


@pytest.fixture
async def join(behind):
    """Connect through the proxy and join the lobby; gives the client and the room."""
    proxy, *_ = behind
    async with AsyncExitStack() as stack:

        async def join():
            client = await stack.enter_async_context(hubbub.connect(proxy.url(), messages=[Say]))
            return client, await client.join(LOBBY)

        yield join


async def place_of(client) -> Place:
    return await client.request(Where(), Place)


async def test_clients_are_shared_out_and_hear_each_other(behind, join):
    _, one, other = behind
    members = [await join() for _ in range(4)]
    processes = [(await place_of(client)).process for client, _ in members]
    assert set(processes) == {one.pid, other.pid}
    for number, (_, room) in enumerate(members):
        await room.send(Say(text=str(number)))
    for _, room in members:
        assert await texts(room, 4) == ["0", "1", "2", "3"]


async def test_an_instance_that_stops_hands_its_clients_over_and_nothing_is_lost(behind, join):
    proxy, one, other = behind
    members = [await join() for _ in range(6)]
    stop = asyncio.Event()
    sent: list[str] = []

    async def speak(client, room, name: str) -> None:
        number = 0
        while not stop.is_set():
            await room.send(Say(text=f"{name} {number}"))
            sent.append(f"{name} {number}")
            number += 1

    assert {(await place_of(client)).process for client, _ in members} == {one.pid, other.pid}
    async with asyncio.TaskGroup() as speakers:
        for name, (client, room) in zip("ab", members[:2], strict=True):
            speakers.create_task(speak(client, room, name))
        # All go to the other instance, then all to the first one again.
        for leaving in (one, other):
            count = len(sent)
            await leaving.stop()
            staying = other if leaving is one else one
            async with asyncio.timeout(ARRIVES_WITHIN):
                for client, _ in members:
                    assert (await place_of(client)).process == staying.pid
                while len(sent) < count + 20:  # noqa: ASYNC110  # a count has no event
                    await asyncio.sleep(0.01)
            if leaving is one:
                await leaving.start()
                await answers(proxy, leaving)
        stop.set()
    views = [await texts(room, len(sent)) for _, room in members]
    assert all(view == views[0] for view in views)
    assert sorted(views[0]) == sorted(sent)
    for name in "ab":
        assert [text for text in views[0] if text.startswith(name)] == [
            text for text in sent if text.startswith(name)
        ]


async def answers(proxy, back) -> None:
    """Wait until the proxy has new connections go to an instance again."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        while True:
            async with hubbub.connect(proxy.url()) as client:
                if (await place_of(client)).process == back.pid:
                    return


async def test_a_line_without_messages_outlives_the_proxy_s_time_out_by_its_heartbeats(kind, redis):
    async with (
        instance(redis, ping_interval=0.3) as lively,
        instance(redis, ping_interval=60.0) as silent,
        Proxy(kind, [lively.port, silent.port], SHORT[kind]) as proxy,
        AsyncExitStack() as stack,
    ):
        kept = []
        cut = 0
        while cut < 2:
            client = await stack.enter_async_context(talk(proxy.url(), ping_interval=None))
            process = (await client.ask(type="where"))["data"]["process"]
            if process == lively.pid:
                kept.append(client)
            elif kept:
                # It says nothing, and nor does its instance: the proxy ends it after the time-out.
                assert (await client.closed())[0] == 1006
                cut += 1
        for client in kept:
            assert (await client.ask(type="where"))["data"]["process"] == lively.pid


async def test_a_reload_keeps_the_connections_that_there_are(behind, join):
    proxy, *_ = behind
    client, room = await join()
    before = client.state
    await proxy.reload()
    _, other_room = await join()
    await other_room.send(Say(text="through the new process"))
    assert await texts(room, 1) == ["through the new process"]
    assert client.state is before


async def test_a_client_is_who_the_proxy_says_and_not_who_it_says_itself(behind):
    proxy, *_ = behind
    headers = {"X-Forwarded-For": "192.0.2.1", "Origin": f"http://127.0.0.1:{proxy.port}"}
    async with talk(proxy.url(), additional_headers=headers) as client:
        assert (await client.ask(type="where"))["data"]["client"] == "127.0.0.1"


async def test_a_large_batch_from_outside_gets_through(behind):
    proxy, *_ = behind
    message = {"room": LOBBY, "type": "say", "data": {"text": "x" * 100_000}}
    body = json.dumps({"messages": [message] * 40}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(proxy.url("/api/publish/batch", "http"), body, headers)

    def post() -> int:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status

    assert await asyncio.to_thread(post) == 200
