"""Users over two servers that share a Redis: who is there, where, and how they are let go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chat_room import LOBBY, nothing_more
from hubbub.testing import Process
from hubbub.testing.servers.redis import RedisServer
from wire import Client, talk

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parent.parent
LEASE = 2.0


class Pair:
    """Two servers on one Redis."""

    def __init__(self, one: Process, other: Process) -> None:
        self.one, self.other = one, other


@pytest.fixture
async def servers() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer(synced="off"))
        serving = [
            Process.serving("moderated_chat:hub", directory=TESTS, broker=redis.url, lease=LEASE, drain=0.5)
            for _ in range(2)
        ]
        async with asyncio.TaskGroup() as tasks:
            for process in serving:
                tasks.create_task(stack.enter_async_context(process))
        yield Pair(*serving)


async def members(client: Client) -> set[str]:
    answer = await client.ask(type="$presence", room=LOBBY)
    return {member["user"] for member in answer["data"]["members"]}


async def told(client: Client, kind: str) -> list[str]:
    return [member["user"] for member in (await client.receive_type(kind))["data"]]


async def test_a_user_with_a_device_on_each_server_is_one(servers):
    async with talk(f"{servers.other.url()}?token=bob") as bob:
        await bob.join(LOBBY)
        async with (
            talk(f"{servers.one.url()}?token=ada") as phone,
            talk(f"{servers.other.url()}?token=ada", subprotocols=["hubbub.v1.msgpack"]) as laptop,
        ):
            await phone.join(LOBBY)
            await laptop.join(LOBBY)
            assert await told(bob, "$joined") == ["ada"]
            for client in (phone, laptop, bob):
                assert await members(client) == {"ada", "bob"}
            # An inbox is all of the user's devices', wherever they are.
            await bob.ask(type="whisper", data={"user": "ada", "text": "hi"})
            for device in (phone, laptop):
                message = await device.receive_type("say")
                assert (message["room"], message["data"]) == ("$user/ada", {"text": "hi"})
            answer = await bob.ask(type="connections", data={"user": "ada"})
            found = answer["data"]["connections"]
            assert {each["id"] for each in found} == {
                phone.welcome["connection"],
                laptop.welcome["connection"],
            }
            assert len({each["instance"] for each in found}) == 2
            assert [each["rooms"] for each in found] == [[LOBBY], [LOBBY]]
        assert await told(bob, "$left") == ["ada"]
        assert await members(bob) == {"bob"}
        await nothing_more(bob)


async def test_a_user_is_kicked_banned_and_let_in_again_on_both_servers(servers):
    async with (
        talk(f"{servers.one.url()}?token=ada") as phone,
        talk(f"{servers.other.url()}?token=ada") as laptop,
        talk(f"{servers.other.url()}?token=bob") as bob,
    ):
        for client in (phone, laptop, bob):
            await client.join(LOBBY)
        assert (await bob.ask(type="kick", data={"user": "ada"}))["data"] == {"of": 2}
        for device in (phone, laptop):
            assert (await device.receive_type("$kicked"))["data"]["code"] == "kicked"
            await device.join(LOBBY)
        assert (await bob.ask(type="ban", data={"user": "ada", "seconds": 60}))["data"] == {"of": 2}
        for device in (phone, laptop):
            assert (await device.receive_type("$kicked"))["data"]["code"] == "banned"
            assert (await device.ask(type="$join", room=LOBBY))["data"]["code"] == "banned"
        await bob.ask(type="unban", data={"user": "ada"})
        await phone.join(LOBBY)
        assert await members(bob) == {"ada", "bob"}


async def test_a_ban_that_is_over_is_over(servers):
    async with talk(f"{servers.one.url()}?token=ada") as ada, talk(f"{servers.other.url()}?token=bob") as bob:
        await bob.ask(type="ban", data={"user": "ada", "seconds": 0.5})
        async with asyncio.timeout(5):
            while (await ada.ask(type="$join", room=LOBBY))["type"] == "$error":  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_a_users_connections_are_closed_on_both_servers(servers):
    async with (
        talk(f"{servers.other.url()}?token=bob") as bob,
        talk(f"{servers.one.url()}?token=ada") as phone,
        talk(f"{servers.other.url()}?token=ada") as laptop,
    ):
        answer = await bob.ask(type="disconnect", data={"user": "ada", "reason": "Goodbye."})
        assert answer["data"] == {"of": 2}
        assert await phone.closed() == await laptop.closed() == (4401, "Goodbye.")
        async with talk(f"{servers.other.url()}?token=ada") as again:
            data = {"session": phone.welcome["session"], "rooms": {}}
            answer = await again.ask(type="$resume", data=data)
            assert answer["data"]["code"] == "session_refused"


async def test_the_members_of_a_killed_server_leave_within_the_lease(servers):
    async with talk(f"{servers.other.url()}?token=bob") as bob:
        await bob.join(LOBBY)
        async with talk(f"{servers.one.url()}?token=ada") as ada:
            await ada.join(LOBBY)
            assert await told(bob, "$joined") == ["ada"]
            await servers.one.kill()
            # Within the lease; a machine with other work may take longer.
            async with asyncio.timeout(5 * LEASE):
                while "ada" in await members(bob):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
