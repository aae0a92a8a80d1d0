import asyncio
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import websockets
from starlette.applications import Starlette
from starlette.routing import Mount

from hubbub import (
    Backoff,
    ConfigurationError,
    Connection,
    Denied,
    Gap,
    Hubbub,
    Message,
    ReconnectFailed,
    Room,
    Settings,
    State,
)
from hubbub.testing import factories, serving
from hubbub.testing.clock import Clock
from hubbub.testing.faults import Reset

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]

RUNS_WITHIN = 50.0

TESTS = '''
import asyncio

import hubbub
import pytest
from hubbub import Connection, Hubbub, Message

hub = Hubbub()
chat = hub.room("chat/{name}", history=10)


class Say(Message):
    text: str


@hub.authenticate
async def who(connection: Connection) -> str | None:
    return connection.token


@chat.on_message
def say(message: Say) -> str:
    return message.text.upper()


def test_a_plain_one(hub_client, hub_server, fault_proxy, server_process, clock):
    """The fixtures need no event loop; two of them don't go together."""

FIXTURES
MARK

async def test_clients_in_the_same_process(hub_client):
    async with hub_client(hub, token="ada") as ada, hub_client(hub, token="bob") as bob:
        assert await (await ada.join("chat/lobby")).request(Say("hi"), str) == "HI"
        assert bob.user == "bob"


MARK
async def test_a_server_and_a_proxy(hub_server, fault_proxy, hub_client):
    async with hub_server(hub) as server, fault_proxy(server) as proxy:
        async with hub_client(proxy) as client, hubbub.connect(server.url) as other:
            await client.join("chat/lobby")
            await other.join("chat/lobby")


MARK
async def test_a_clock(clock, hub_client):
    async with hub_client(hub) as client:
        asleep = asyncio.create_task(asyncio.sleep(3600))
        await clock.advance(3600)
        assert asleep.done()


MARK
async def test_a_failure(hub_client):
    async with hub_client(hub) as client:
        await client.receive(Say, timeout=0.01)
'''

ASYNCIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

"""

PYTEST_ASYNCIO = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]

MODES = {
    "anyio, auto": (["-p", "anyio.pytest_plugin", "-o", "anyio_mode=auto"], ASYNCIO, ""),
    "anyio, strict": (["-p", "anyio.pytest_plugin"], ASYNCIO, "@pytest.mark.anyio"),
    "pytest-asyncio, auto": ([*PYTEST_ASYNCIO, "-o", "asyncio_mode=auto"], "", ""),
    "pytest-asyncio, strict": (PYTEST_ASYNCIO, "", "@pytest.mark.asyncio"),
}


@pytest.mark.parametrize("mode", MODES)
def test_it_works_under_both_plugins_for_asynchronous_tests(mode, tmp_path):
    options, fixtures, mark = MODES[mode]
    (tmp_path / "test_chat.py").write_text(TESTS.replace("FIXTURES", fixtures).replace("MARK", mark))
    # As where nothing else is installed, and whether or not hubbub's entry point is.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [*command, *options, "-p", "hubbub.testing.plugin"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUNS_WITHIN,
    )
    assert "1 failed, 3 passed, 1 error" in finished.stdout, finished.stdout + finished.stderr
    assert "AssertionError: No Say arrived within 0.01 s." in finished.stdout
    assert "use `clock` or `server_process`, not both" in finished.stdout


def test_pytest_finds_it_by_its_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"hubbub": "hubbub.testing.plugin"}


def test_a_run_of_pytest_that_does_not_need_it_pays_next_to_nothing_for_it():
    program = """
import sys, pytest
before = set(sys.modules)
import hubbub.testing.plugin
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "hubbub\n"


class Say(Message):
    text: str


@pytest.fixture
def hub() -> Hubbub:
    hub = Hubbub(Settings(drain=1.0))
    chat = hub.room("chat/{name}", history=10)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "forged":
            raise Denied("This token is not valid.")
        return connection.token

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    return hub


class TestHubClient:
    async def test_who_is_refused_is_told(self, hub, hub_client):
        with pytest.raises(ReconnectFailed, match="This token is not valid") as failed:
            async with hub_client(hub, token="forged"):
                """It does not come to this."""
        assert failed.value.code == 4401

    async def test_who_is_never_welcomed_fails_with_what_was_on_the_wire(self, hub_client, monkeypatch):
        monkeypatch.setattr(factories, "CONNECTS_WITHIN", 0.05)

        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "hubbub.v1.json"})
            await receive()

        with pytest.raises(AssertionError, match=r"(?s)did not connect within 0.05 s.*connected"):
            async with hub_client(app):
                """It does not come to this."""

    async def test_the_application_runs_from_the_first_client_to_the_last(self, hub, hub_client):
        events = []
        hub.on_startup(lambda: events.append("started"))
        hub.on_shutdown(lambda: events.append("stopped"))
        async with hub_client(hub) as one:
            await (await one.join("chat/lobby")).send(Say("hi"))
            async with hub_client(hub) as other:
                history = await (await other.join("chat/lobby")).history()
                assert [received.message for received in history.messages] == [{"text": "hi"}]
            assert events == ["started"]
        assert events == ["started", "stopped"]

    async def test_clients_may_come_and_leave_at_the_same_time(self, hub, hub_client):
        async def visit(name: str) -> str | None:
            async with hub_client(hub, token=name) as client:
                return client.user

        names = [f"user{number}" for number in range(20)]
        assert await asyncio.gather(*(visit(name) for name in names)) == names

    async def test_a_path_and_headers_may_be_given(self, hub, hub_client):
        app = Starlette(routes=[Mount("/live", hub)], lifespan=hub.lifespan)
        headers = {"Authorization": "Bearer ada"}
        async with hub_client(app, url="ws://localhost/live/", headers=headers) as ada:
            assert ada.user == "ada"


class TestHubServer:
    async def test_it_serves_on_a_free_port_with_the_hubs_settings(self, hub, hub_server, hub_client):
        async with hub_server(hub) as one, hub_server(Hubbub()) as other:
            assert one.port != other.port
            assert (one.url, one.http) == (f"ws://127.0.0.1:{one.port}", f"http://127.0.0.1:{one.port}")
            async with hub_client(one, token="ada") as ada:
                assert ada.user == "ada"

    async def test_it_serves_other_applications_too(self, hub_server):
        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "hello"})
            await receive()

        async with hub_server(app) as server, websockets.connect(server.url) as client:
            assert await client.recv() == "hello"

    async def test_a_client_comes_back_after_a_restart_on_the_same_port(self, hub, hub_server, hub_client):
        async with AsyncExitStack() as stack:
            async with hub_server(hub) as server:
                client = await stack.enter_async_context(hub_client(server, backoff=Backoff((0.01,) * 100)))
            await client.until(State.CONNECTING, State.WAITING)
            async with hub_server(hub, port=server.port):
                await client.until(State.OPEN)
                await client.join("chat/lobby")
                await client.close()

    async def test_an_application_that_does_not_start_is_an_error(self, hub_server, hub):
        @hub.on_startup
        async def fail() -> None:
            raise ValueError("the cellar is flooded")

        with pytest.raises(RuntimeError, match="did not start; the log says why"):
            async with hub_server(hub):
                """It does not come to this."""

    async def test_an_application_that_takes_too_long_to_start_is_an_error(
        self, hub_server, hub, monkeypatch
    ):
        monkeypatch.setattr(serving, "STARTS_WITHIN", 0.05)

        @hub.on_startup
        async def wait() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError, match=r"did not start within 0\.05 s"):
            async with hub_server(hub):
                """It does not come to this."""

    async def test_signals_stay_pytests(self, hub, hub_server):
        before = signal.getsignal(signal.SIGINT)
        async with hub_server(hub):
            assert signal.getsignal(signal.SIGINT) is before


class TestFaultProxy:
    async def test_a_client_survives_its_faults(self, hub, hub_server, hub_client, fault_proxy):
        async with (
            hub_server(hub) as server,
            fault_proxy(server) as proxy,
            hub_client(proxy, messages=[Say], backoff=Backoff((0.0, 0.01, 0.01))) as one,
            hub_client(server) as other,
        ):
            await one.join("chat/lobby")
            room = await other.join("chat/lobby")
            proxy.apply(Reset())
            await room.send(Say("hi"))
            assert (await one.receive(Say, timeout=5.0)).text == "hi"

    async def test_a_port_or_a_url_will_do(self, hub, hub_server, hub_client, fault_proxy):
        async with hub_server(hub) as server:
            for target in (server.port, server.url):
                async with fault_proxy(target) as proxy, hub_client(proxy) as client:
                    await client.join("chat/lobby")

    async def test_a_url_without_a_port_is_an_error(self, fault_proxy):
        with pytest.raises(ConfigurationError, match="to which host and port"):
            fault_proxy("ws://localhost/")


APPLICATION = """
from hubbub import Hubbub

hub = Hubbub()
chat = hub.room("chat/{name}")
"""


class TestServerProcess:
    async def test_a_client_comes_back_after_it_was_killed(self, server_process, hub_client, tmp_path):
        (tmp_path / "chat.py").write_text(APPLICATION)
        async with (
            server_process("chat:hub", directory=tmp_path, drain=0) as process,
            hub_client(process, backoff=Backoff((0.05,), endless=True)) as client,
        ):
            await client.join("chat/lobby")
            await process.kill()
            await client.until(State.CONNECTING, State.WAITING)
            await process.restart()
            await client.until(State.OPEN, timeout=10.0)
            assert isinstance(await client.receive(Gap), Gap)


class TestClock:
    async def test_time_stands_still_from_when_a_client_comes(self, hub, hub_client, clock):
        async with hub_client(hub):
            assert Clock.of(asyncio.get_running_loop()) is clock

    async def test_a_server_stops_all_the_same(self, hub, hub_server, hub_client, clock):
        async with hub_server(hub) as server, hub_client(server) as client:
            await client.join("chat/lobby")
            await clock.advance(60)
            assert client.state.state is State.OPEN

    class TestOfOnesOwn:
        @pytest.fixture
        def clock(self):
            return "something else"

        async def test_it_is_left_alone(self, hub, hub_client, clock):
            async with hub_client(hub):
                assert Clock.of(asyncio.get_running_loop()) is None
