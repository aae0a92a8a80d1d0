"""Socket.IO over several instances: a client whose instance is killed recovers on another."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hubbub.testing import Process
from hubbub.testing.servers.redis import RedisServer
from transports.socketio_peer import Socket, javascript

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parent.parent
LOBBY = "chat/lobby"


@pytest.fixture
async def servers() -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer(synced="off"))
        serving = [
            Process.serving("socketio_chat:hub", directory=TESTS, broker=redis.url, lease=2.0, drain=0.5)
            for _ in range(2)
        ]
        for process in serving:
            await stack.enter_async_context(process)
        yield serving


async def say(socket: Socket, *texts: str) -> None:
    for text in texts:
        [reply] = await socket.ask("say", {"text": text}, {"room": LOBBY})
        assert reply == {"said": text}


async def test_a_client_whose_instance_is_killed_recovers_on_another_and_misses_nothing(servers):
    one, other = servers
    async with javascript() as program:
        options = {"transports": ["websocket"]}
        ada = program.open(one.url("/", "http"), "ada", options=options, auth={"token": "ada"})
        bob = program.open(other.url("/", "http"), "bob", options=options, auth={"token": "bob"})
        for socket in (ada, bob):
            await socket.ask("$join", {"room": LOBBY})
        before = await ada.until("connect")
        await say(bob, "1", "2")
        await ada.event("say", 2)
        ada.do("move", url=other.url("/", "http"))
        await one.kill()
        await ada.until("disconnect")
        await say(bob, "3", "4")
        again = await ada.until("connect", 2)
        assert (again["recovered"], again["id"]) == (True, before["id"])
        await say(bob, "5")
        await ada.event("say", 5)
        assert [event[0]["text"] for event in ada.events("say")] == ["1", "2", "3", "4", "5"]
        assert [event[1]["offset"] for event in ada.events("say")] == [1, 2, 3, 4, 5]
        await say(ada, "from the other instance")
        assert (await bob.event("say"))[0] == {"text": "from the other instance"}
