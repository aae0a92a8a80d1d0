import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import websockets
from starlette.applications import Starlette
from starlette.routing import Mount

from hubbub import ConfigurationError, Hubbub, Message, Settings
from hubbub.listening import listen, url_of
from hubbub.server import RESERVE, find_hub, load, places_for, settings_of
from wire import talk

pytestmark = pytest.mark.anyio

CHAT = """
import os, asyncio
from hubbub import Connection, Hubbub, Message, Room
hub = Hubbub()
chat = hub.room("chat/{name}", history=10)
class Say(Message):
    text: str
class Wait(Message):
    pass
@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)
@hub.on_message
async def pid(message: Say) -> dict[str, int]:
    return {"pid": os.getpid()}
@hub.on_message
async def wait(message: Wait) -> str:
    await asyncio.sleep(30)
    return "never"
@hub.endpoint("/echo")
async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an application, as a user has it; the current one."""
    (tmp_path / "chat.py").write_text(CHAT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in ("chat", "broken", "other"):
        sys.modules.pop(name, None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def hubbub_serve(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``hubbub serve`` until it says that it listens; end it by its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hubbub", "serve", *arguments],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listening" in line, line + process.stderr.read()
        yield process
    finally:
        # A first signal, since a reloading server has a child that only it ends.
        process.terminate()
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()


async def test_serve_runs_an_application_until_a_signal_ends_it(folder):
    port = free_port()
    with hubbub_serve("chat:hub", "--port", str(port)) as process:
        async with talk(f"ws://127.0.0.1:{port}") as client:
            await client.join("chat/lobby")
            process.send_signal(signal.SIGTERM)
            assert (await client.receive_type("$drain"))["data"]["after"] >= 0
            assert await client.closed() == (1012, "the server restarts")
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_second_signal_ends_the_server_at_once(folder):
    port = free_port()
    with hubbub_serve("chat:hub", "--port", str(port), "--drain", "60") as process:
        async with talk(f"ws://127.0.0.1:{port}") as client:
            await client.send(type="wait")
            process.send_signal(signal.SIGTERM)
            await client.receive_type("$drain")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) is not None


async def test_serve_takes_settings_from_the_environment_and_options_win(folder):
    port = free_port()
    with hubbub_serve("chat:hub", "--port", str(port), HUBBUB_PORT="1", HUBBUB_PING_INTERVAL="7"):
        async with talk(f"ws://127.0.0.1:{port}") as client:
            assert client.welcome["heartbeat"] == 7


async def test_serve_listens_on_a_unix_domain_socket_and_removes_it(folder):
    path = folder / "hub.sock"
    with hubbub_serve("chat:hub", "--uds", str(path)) as process:
        async with websockets.unix_connect(str(path), uri="ws://localhost/echo") as websocket:
            await websocket.send("hi")
            assert await websocket.recv() == "hi"
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 10)
    assert not path.exists()


async def test_reload_serves_the_changed_code(folder):
    port = free_port()
    with hubbub_serve("chat:hub", "--port", str(port), "--reload"):

        async def pid() -> int:
            async with talk(f"ws://127.0.0.1:{port}") as client:
                return int((await client.ask(type="say", data={"text": ""}))["data"]["pid"])

        async with talk(f"ws://127.0.0.1:{port}") as client:
            before = (await client.ask(type="say", data={"text": ""}))["data"]["pid"]
            closed = asyncio.create_task(client.closed())
            while not closed.done():
                # The watch may begin after the server answers; a person saves again.
                (folder / "chat.py").write_text(CHAT.replace('{"pid": os.getpid()}', '{"pid": -1}'))
                await asyncio.wait([closed], timeout=0.5)
            assert closed.result()[0] == 1012
        assert before > 0
        assert await pid() == -1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "write module:object"),
        (["nothing:hub"], "There is no module 'nothing'"),
        (["chat:nope"], "has no 'nope'"),
        (["chat:CHAT"], "is no ASGI application"),
        (["chat:hub", "--broker", "carrier-pigeon://"], "There is no broker for carrier-pigeon://"),
        (["chat:hub", "--workers", "2"], "Use one worker"),
        (["chat:hub", "--ssl-certfile", "/none.pem"], "can't be used"),
        (["chat:hub", "--host", "192.0.2.1"], "Can't listen on 192.0.2.1 port"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence(folder, arguments, sentence):
    (folder / "chat.py").write_text(CHAT + "\nCHAT = 5\n")
    process = subprocess.run(
        [sys.executable, "-m", "hubbub", "serve", *arguments, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.returncode in (1, 3)
    assert sentence in process.stderr.replace("\n", " ")
    assert "Traceback" not in process.stderr


def test_a_taken_port_is_told_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Can't listen on 127.0.0.1 port {port}"):
            listen(Settings(port=port))


def test_a_socket_file_that_a_killed_server_left_is_taken_over(tmp_path):
    path = tmp_path / "left.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with listen(Settings(uds=str(path))) as listener:
        assert listener.getsockname() == str(path)


def test_a_socket_file_on_which_somebody_listens_is_not_taken(tmp_path):
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        with pytest.raises(ConfigurationError, match="Can't listen"):
            listen(Settings(uds=str(path)))


def test_the_url_says_how_to_reach_the_server(tmp_path):
    with listen(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener, Settings()) == f"http://127.0.0.1:{port}"
        assert url_of(listener, Settings(ssl_certfile="x")) == f"https://127.0.0.1:{port}"
    with listen(Settings(uds=str(tmp_path / "s"))) as listener:
        assert url_of(listener, Settings(uds=str(tmp_path / "s"))) == f"unix:{tmp_path / 's'}"
    with listen(Settings(host="::1", port=0)) as listener:
        assert url_of(listener, Settings()).startswith("http://[::1]:")


RAISE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
from hubbub.server import raise_descriptors
print(raise_descriptors(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_is_let_open_as_many_files_as_it_may():
    # In a process of its own, since the limit is the process's.
    told = subprocess.run(
        [sys.executable, "-c", RAISE], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.split() == ["200", "200", "200"]


@pytest.mark.parametrize(
    ("wanted", "descriptors", "places"),
    [(1000, None, 1000), (1000, 1000 + RESERVE, 1000), (1000, 500, 500 - RESERVE), (1000, 10, 1)],
)
def test_there_are_no_more_places_than_descriptors_and_the_log_says_so(caplog, wanted, descriptors, places):
    assert places_for(wanted, descriptors) == places
    assert ("too few file descriptors" in caplog.text) is (places != wanted)


@pytest.mark.parametrize(
    ("setting", "value"), [("allowed_origins", "example.com"), ("allowed_hosts", "https://example.com")]
)
def test_an_origin_or_a_host_that_cannot_be_is_told_in_a_sentence(folder, setting, value):
    process = subprocess.run(
        [sys.executable, "-m", "hubbub", "serve", "chat:hub", "--port", "0"],
        env={**os.environ, f"HUBBUB_{setting.upper()}": value},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.returncode in (1, 3)
    assert f"{setting} has '{value}'" in process.stderr.replace("\n", " ")
    assert "Traceback" not in process.stderr


def test_an_error_inside_the_users_module_is_not_hidden(folder):
    (folder / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        load("broken:hub")


def test_the_hub_is_found_where_it_is_mounted_and_its_settings_apply():
    hub = Hubbub(Settings(ping_interval=3))
    host = Starlette(routes=[Mount("/deep", Starlette(routes=[Mount("/er", hub)]))])
    assert find_hub(host) is hub
    assert find_hub(hub) is hub
    assert settings_of(host).ping_interval == 3
    route = SimpleNamespace(callback=hub)  # of Django Channels' URLRouter
    middleware = SimpleNamespace(inner=SimpleNamespace(routes=[route]))
    assert find_hub(SimpleNamespace(application_mapping={"websocket": middleware})) is hub
    assert find_hub(Starlette()) is None
    assert settings_of(Starlette()) == Settings.load()


async def test_a_mounted_hub_is_started_and_stopped_even_without_a_lifespan_of_its_host(serve):
    hub = Hubbub()
    events = []
    hub.on_startup(lambda: events.append("up"))
    hub.on_shutdown(lambda: events.append("down"))
    served = serve(Starlette(routes=[Mount("/realtime", hub)]))
    async with talk(f"{served.url}/realtime/") as client:
        assert (await client.ask(type="$ping"))["type"] == "$pong"
    served.stop()
    assert events == ["up", "down"]


async def test_the_lifespan_of_the_host_runs_the_hub_once(serve):
    hub = Hubbub()
    events = []
    hub.on_startup(lambda: events.append("up"))
    hub.on_shutdown(lambda: events.append("down"))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with hub.lifespan():
            events.append("host")
            yield

    served = serve(Starlette(routes=[Mount("/", hub)], lifespan=lifespan))
    served.stop()
    assert events == ["up", "host", "down"]


def test_a_stopped_server_does_not_accept(serve):
    served = serve(Hubbub())
    with urllib.request.urlopen(f"{served.http}/healthz") as answer:
        assert answer.read() == b"alive\n"
    served.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", served.port))


class Say(Message):
    text: str


async def test_a_handler_that_outlives_the_drain_does_not_hold_up_the_stop(start):
    hub = Hubbub(Settings(drain=0.3))
    forever = asyncio.Event()

    @hub.on_message
    async def stuck(message: Say) -> None:
        await forever.wait()

    served = start(hub)
    async with talk(served.url) as client:
        await client.send(type="say", data={"text": ""})
        served.begin_to_stop()
        assert (await client.closed())[0] in (1006, 1012)
    served.stop()


async def test_a_drain_that_fails_is_logged_and_the_server_stops(start, monkeypatch, caplog):
    hub = Hubbub()

    async def fail() -> None:
        monkeypatch.undo()  # the stop itself drains, too
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(hub, "drain", fail)
    start(hub).stop()
    assert "on purpose" in caplog.text
