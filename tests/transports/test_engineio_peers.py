"""Engine.IO with clients that others wrote: engine.io-client under node, and python-engineio."""

import asyncio
import json
import shutil
from pathlib import Path

import aiohttp
import engineio
import pytest

from hubbub import Settings
from transports.engine_client import engine_client, until
from transports.engine_echo import Engine

PEERS = Path(__file__).parents[1] / "peers"
ENDS_WITHIN = 30.0
COUNT = 500


@pytest.fixture(params=["native", "asgi"])
async def client(request):
    async with engine_client(Engine(Settings(native=request.param == "native"))) as client:
        yield client


async def outcome(script: str, *arguments: str) -> dict[str, object]:
    """Run a script of the folder tests/peers and return what it tells."""
    node = shutil.which("node")
    assert node, "These tests talk to engine.io-client. Install node (Debian: nodejs), or run `make test`."
    process = await asyncio.create_subprocess_exec(
        node,
        str(PEERS / script),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(ENDS_WITHIN):
        out, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    told: dict[str, object] = json.loads(out)
    return told


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_engine_io_client_gets_all_its_messages_in_order(client, transports):
    told = await outcome("engine.js", client.served.http, json.dumps(transports), str(COUNT))

    assert told == {"used": transports, "inOrder": True, "closed": "forced close"}
    await until(lambda: client.engine.opened[0].ends)
    assert client.engine.opened[0].ends == ["transport close"]
    assert len(client.engine.opened[0].messages) == COUNT


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_python_engineio_gets_all_its_messages_in_order(client, transports):
    received: list[str | bytes] = []
    http = aiohttp.ClientSession()
    peer = engineio.AsyncClient(handle_sigint=False, http_session=http)
    peer.on("message", received.append)
    sent = [f"{number}" if number % 3 else f"{number}".encode() for number in range(COUNT)]

    await peer.connect(client.served.http, transports=transports)
    for message in sent:
        await peer.send(message)
    await until(lambda: len(received) == COUNT)
    transport = peer.transport()
    await peer.disconnect()
    await http.close()

    assert received == sent
    assert transport == transports[-1]
    await until(lambda: client.engine.opened[0].ends)
