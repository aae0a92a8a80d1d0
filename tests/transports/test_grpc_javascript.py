"""gRPC as a JavaScript client speaks it, with @grpc/grpc-js and no generated code."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.testing.faults import Clear, FaultProxy, Refuse, Reset
from hubbub.testing.serving import Served, serving
from transports.grpc_calls import connected, settled

pytestmark = pytest.mark.anyio

PEERS = Path(__file__).parents[1] / "peers"
PROTO = files("hubbub.protocol.protobuf") / "hubbub.proto"
LOBBY = "chat/lobby"
TELLS_WITHIN = 20.0
"""Seconds for what is to happen: room for a busy machine."""


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


class Say(Message):
    text: str


def make_hub(port: int = 0) -> Hubbub:
    hub = Hubbub(Settings(grpc_port=port, drain=0.5))

    @hub.authenticate
    async def who(connection: Connection) -> str:
        if connection.token not in ("ada", "bob"):
            raise Denied("This token is not valid.")
        return connection.token

    @hub.room("chat/{name}", history=100).on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


def address_of(served: Served) -> str:
    assert served.grpc is not None
    return served.grpc.partition("://")[2]


class Program:
    """The program, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def prints(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(TELLS_WITHIN):
            line = await self.process.stdout.readline()
        assert line, "the program has ended"
        return line.decode().rstrip("\n")

    async def goes_on_to_print(self, expected: str) -> list[str]:
        """Return what it prints before a line."""
        printed: list[str] = []
        while (line := await self.prints()) != expected:
            printed.append(line)
        return printed


@asynccontextmanager
async def javascript(address: str, token: str = "ada") -> AsyncIterator[Program]:
    node = shutil.which("node")
    assert node, "These tests talk to node's @grpc/grpc-js. Install node (Debian: nodejs)."
    assert (PEERS / "node_modules" / "@grpc").is_dir(), (
        "These tests talk to node's @grpc/grpc-js. Run `npm ci --ignore-scripts` in tests/peers."
    )
    process = await asyncio.create_subprocess_exec(
        node, str(PEERS / "grpc.js"), str(PROTO), address, token,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_talks_in_a_room_with_others():
    async with (
        serving(make_hub()) as served,
        javascript(address_of(served)) as ada,
        connected(served.grpc, token="bob") as bob,
    ):
        assert await ada.prints() == "(here)"
        await bob.join(LOBBY)
        ada.say("hé 😀")
        assert await ada.prints() == "ada: hé 😀"
        said = await bob.receive()
        assert (said["type"], said["from"], said["data"]) == ("say", "ada", {"text": "hé 😀"})
        await bob.send(type="say", id=1, room=LOBBY, data={"text": "hello"})
        assert await ada.prints() == "bob: hello"


async def test_a_line_that_is_cut_is_resumed_and_nothing_is_lost_or_said_twice():
    async with serving(make_hub()) as served:
        host, _, port = address_of(served).rpartition(":")
        async with (
            FaultProxy(host, int(port)) as proxy,
            javascript(f"{proxy.host}:{proxy.port}") as ada,
            connected(served.grpc, token="bob") as bob,
        ):
            assert await ada.prints() == "(here)"
            await bob.join(LOBBY)
            ada.say("before")
            assert await ada.prints() == "ada: before"
            proxy.apply(Refuse())
            proxy.apply(Reset())
            assert await ada.prints() == "(lost: UNAVAILABLE)"
            ada.say("from afar")
            answer = await bob.ask(type="say", id=1, room=LOBBY, data={"text": "missed"})
            assert answer["type"] == "$ack"
            proxy.apply(Clear(), "all")
            lost = await ada.goes_on_to_print("(back)")
            assert set(lost) <= {"(lost: UNAVAILABLE)"}
            assert [await ada.prints(), await ada.prints()] == ["bob: missed", "ada: from afar"]
            answer = await bob.ask(type="$history", id=2, room=LOBBY)
        assert [one["data"]["text"] for one in answer["data"]["messages"]] == [
            "before",
            "missed",
            "from afar",
        ]


async def test_where_the_session_is_not_known_it_begins_anew():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    async with AsyncExitStack() as stack:
        ada = await stack.enter_async_context(javascript(f"127.0.0.1:{port}"))
        async with serving(make_hub(port)):
            await ada.goes_on_to_print("(here)")
            ada.say("before")
            assert await ada.prints() == "ada: before"
        # Another server, which has another key and another history.
        async with serving(make_hub(port)):
            await ada.goes_on_to_print("(something was missed)")
            ada.say("after")
            assert "ada: before" not in await ada.goes_on_to_print("ada: after")


async def test_it_stays_away_where_its_token_is_refused():
    async with serving(make_hub()) as served, javascript(address_of(served), "mallory") as program:
        await program.goes_on_to_print("(lost: UNAUTHENTICATED)")
        async with asyncio.timeout(TELLS_WITHIN):
            assert await program.process.wait() == 1
        assert program.process.stderr is not None
        assert b"This token is not valid." in await program.process.stderr.read()
