"""Programs that run no server, on the broker that the servers share."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request

import pytest

import hubbub
from deploy.chat import Say, hub
from deploy.conftest import TESTS, instance
from hubbub import Unavailable, sync
from hubbub.testing.servers.redis import RedisServer
from wire import talk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOBBY = "chat/lobby"
KEY = "0123456789abcdef"

SCRIPT = """
import asyncio, sys
import hubbub
from deploy.chat import Say, hub

async def main():
    async with hubbub.Publisher(rooms=hub) as publisher:
        for number in range(3):
            await publisher.send("chat/lobby", Say(text=f"script {number}"), idempotency_key=f"line {number}")
        await publisher.user("ada", Say(text="script"))

asyncio.run(main())
"""


async def test_a_script_reaches_the_clients_and_repeated_publishes_once(redis):
    async with instance(redis) as server, talk(server.url()) as client:
        await client.join(LOBBY)
        environment = {**os.environ, "HUBBUB_BROKER": redis}
        for _ in range(2):
            script = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SCRIPT), cwd=TESTS, env=environment
            )
            assert await asyncio.wait_for(script.wait(), 50) == 0
        async with hubbub.Publisher(redis, rooms=hub) as publisher:
            position = await publisher.send(LOBBY, Say(text="last"))
        assert position.offset == 4
        arrived = [await client.receive() for _ in range(4)]
        assert [message["data"]["text"] for message in arrived] == [
            "script 0",
            "script 1",
            "script 2",
            "last",
        ]
        assert [message["offset"] for message in arrived] == [1, 2, 3, 4]
        assert not any("from" in message for message in arrived)


async def test_what_is_posted_to_one_instance_reaches_the_clients_of_the_other(redis):
    async with instance(redis, api_keys=KEY) as one, instance(redis, api_keys=KEY) as other:  # noqa: SIM117
        async with talk(other.url()) as client:
            await client.join(LOBBY)
            message = {"room": LOBBY, "type": "say", "data": {"text": "hi"}, "idempotency_key": "once"}
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            answers = []
            for server in (one, other):
                request = urllib.request.Request(
                    server.url("/api/publish", "http"), json.dumps(message).encode(), headers
                )
                answers.append(await asyncio.to_thread(answer_to, request))
            assert answers[0] == answers[1]
            assert (await client.receive())["offset"] == answers[0]["offset"] == 1


def answer_to(request: urllib.request.Request) -> dict:
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


async def test_forked_workers_publish_each_over_a_connection_of_their_own(redis):
    """As in Celery: the publisher is made where a module is imported, and used before and after the fork."""
    program = """
import os, sys
import hubbub
from deploy.chat import Say, hub

publisher = hubbub.sync.Publisher(rooms=hub)
publisher.send("chat/lobby", Say(text="parent 0"))
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        for count in range(5):
            publisher.send("chat/lobby", Say(text=f"{number} {count}"))
        publisher.close()
        os._exit(0)
    children.append(child)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
publisher.send("chat/lobby", Say(text="parent 1"))
"""
    async with instance(redis) as server, talk(server.url()) as client:
        await client.join(LOBBY)
        environment = {**os.environ, "HUBBUB_BROKER": redis, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
        script = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program), cwd=TESTS, env=environment, stderr=subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(script.communicate(), 50)
        assert (script.returncode, errors) == (0, b"")
        arrived = [(await client.receive())["data"]["text"] for _ in range(17)]
        assert (arrived[0], arrived[-1]) == ("parent 0", "parent 1")
        for number in range(3):
            mine = [text for text in arrived if text.startswith(f"{number} ")]
            assert mine == [f"{number} {count}" for count in range(5)]


async def test_a_redis_that_is_away_is_told_and_a_repeated_publish_lands_once_when_it_is_back():
    async with RedisServer() as server, hubbub.Publisher(server.url, rooms=hub) as publisher:
        first = await publisher.send(LOBBY, Say(text="first"))
        await server.kill()
        with pytest.raises(Unavailable):
            await publisher.send(LOBBY, Say(text="second"), idempotency_key="second")
        await server.start()
        positions = []
        async with asyncio.timeout(30):
            while len(positions) < 2:
                try:
                    positions.append(
                        await publisher.send(LOBBY, Say(text="second"), idempotency_key="second")
                    )
                except Unavailable:
                    await asyncio.sleep(0.02)
        assert positions[0] == positions[1]
        assert positions[0].offset > first.offset or positions[0].epoch != first.epoch


async def test_a_redis_that_is_away_is_told_in_methods_that_block_too():
    async with RedisServer() as server:
        with sync.Publisher(server.url, rooms=hub) as publisher:
            await asyncio.to_thread(publisher.user, "ada", Say(text="hi"))
            await server.kill()
            with pytest.raises(Unavailable):
                await asyncio.to_thread(publisher.user, "ada", Say(text="hi"))
            await server.start()
