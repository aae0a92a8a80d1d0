"""The examples of hosts do what their pages say, as programs of their own on real sockets."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from docs.pages import ROOT, files
from hubbub.testing.processes import Process
from wire import talk

pytestmark = pytest.mark.anyio

EXAMPLES = ROOT / "examples"
UVICORN = ("-m", "uvicorn", "app:app", "--port", "{port}")
FAST = ("--ws", "hubbub.server:WebSocketProtocol")


def program(name: str, *arguments: str, ready: str = "/live/readyz") -> Process:
    return Process(
        [sys.executable, *arguments],
        ready=ready,
        directory=EXAMPLES / name,
        environment={"PYTHONDONTWRITEBYTECODE": "1", "HUBBUB_DRAIN": "2"},
    )


def ask(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, object]:
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def code(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and '"""' not in line]


@pytest.mark.parametrize("name", ["tornado", "aiohttp"])
def test_the_page_shows_the_example(name: str):
    (shown,) = files(f"docs/how-to/{name}.md")
    assert code(shown.text) == code((EXAMPLES / name / "app.py").read_text())


@pytest.mark.parametrize("name", ["tornado", "aiohttp"])
class TestTornadoAndAiohttp:
    async def test_clients_and_handlers_meet_in_a_room(self, name: str):
        async with (
            program(name, "app.py", "{port}") as process,
            talk(process.url("/live")) as ada,
            talk(process.url("/live/")) as bob,
        ):
            for client in (ada, bob):
                await client.join("chat/lobby")
            await ada.send(type="say", room="chat/lobby", data={"text": "hi"})
            assert (await bob.receive())["data"] == {"text": "hi"}
            form = urllib.parse.urlencode({"text": "from a request"}).encode()
            url = process.url("/announce/lobby", "http")
            assert await asyncio.to_thread(ask, "POST", url, form) == (200, {"offset": 2})
            assert (await ada.receive())["data"] == {"text": "from a request"}

    async def test_what_is_not_the_hub_s_is_not_its(self, name: str):
        async with program(name, "app.py", "{port}") as process:
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.write(b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"404" in await reader.readline()
            writer.close()
            await writer.wait_closed()

    async def test_a_signal_lets_the_clients_go_and_ends_it(self, name: str):
        async with program(name, "app.py", "{port}") as process:
            async with talk(process.url("/live")) as client:
                os.kill(process.pid, signal.SIGTERM)
                assert (await client.receive())["type"] == "$drain"
                assert await client.closed() == (1012, "the server restarts")
            async with asyncio.timeout(20):
                assert await process.wait() == 0


@pytest.mark.parametrize("options", [(), FAST], ids=["plain", "fast"])
class TestFastAPI:
    async def test_routes_and_the_hub_share_a_login_and_a_room(self, options: tuple[str, ...]):
        async with program("fastapi", *UVICORN, *options) as process:
            live, orders = process.url("/live/"), process.url("/orders/4711", "http")
            body = json.dumps({"status": "sent"}).encode()
            headers = {"Content-Type": "application/json", "Authorization": "Bearer 8c1f5b0e"}
            async with talk(f"{live}?token=8c1f5b0e") as ada, talk(f"{live}?token=d2a94c77") as bob:
                assert (ada.welcome["user"], bob.welcome["user"]) == ("ada", "bob")
                await ada.join("orders/4711")
                refused = await bob.ask(type="$join", room="orders/4711")
                assert refused["data"]["message"] == "This is not your order."
                assert await asyncio.to_thread(ask, "PUT", orders, body, **headers) == (200, {"offset": 1})
                assert (await ada.receive())["data"] == {"status": "sent"}
            headers["Authorization"] = "Bearer made-up"
            detail = {"detail": "This token is not valid."}
            assert await asyncio.to_thread(ask, "PUT", orders, body, **headers) == (401, detail)
            async with talk(f"{live}?token=made-up", welcome=False) as nobody:
                assert await nobody.closed() == (4401, "This token is not valid.")

    async def test_a_second_signal_ends_it_at_once(self, options: tuple[str, ...]):
        async with (
            program("fastapi", *UVICORN, *options) as process,
            talk(process.url("/live/?token=8c1f5b0e")) as client,
        ):
            os.kill(process.pid, signal.SIGTERM)
            assert (await client.receive())["type"] == "$drain"
            os.kill(process.pid, signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()


PORT = ("--port", "{port}")
SERVERS = {
    "hubbub": ("hubbub", "serve", "chat:hub", *PORT),
    "uvicorn-fast": ("uvicorn", "chat:hub", *FAST, *PORT),
    "uvicorn": ("uvicorn", "chat:hub", *PORT),
    "hypercorn": ("hypercorn", "--workers", "0", "chat:hub", "-b", "127.0.0.1:{port}"),
    "daphne": ("daphne", "chat:hub", "-p", "{port}"),
    "granian": ("granian", "--interface", "asgi", "chat:hub", *PORT),
}
"""The page's commands."""


@pytest.mark.parametrize("server", SERVERS)
async def test_the_chat_is_served_as_the_page_says(server: str):
    command = SERVERS[server]
    shown = (ROOT / "docs" / "how-to" / "asgi-servers.md").read_text()
    assert " ".join(command[: command.index("chat:hub") + 1]) in shown
    async with (
        program("asgi_servers", "-m", *command, ready="/readyz") as process,
        talk(process.url("/")) as ada,
        talk(process.url("/")) as bob,
    ):
        for client in (ada, bob):
            await client.join("chat/lobby")
        await ada.send(type="say", room="chat/lobby", data={"text": "hi"})
        assert (await bob.receive())["data"] == {"text": "hi"}


def test_the_chat_for_all_servers_is_the_page_s():
    (shown,) = files("docs/how-to/asgi-servers.md")
    assert code(shown.text) == code((EXAMPLES / "asgi_servers" / "chat.py").read_text())
