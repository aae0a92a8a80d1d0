import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hubbub.testing.processes import LOG, NotStarted, Process
from wire import talk

pytestmark = pytest.mark.anyio

APPLICATION = """
from hubbub import Connection, Hubbub, Message, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=10)


class Say(Message):
    text: str


@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)
"""

HTTP = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request):
    """Both event loops, one after the other."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    return tmp_path


@pytest.fixture
async def server(folder):
    async with Process.serving("application:hub", directory=folder, drain=0.0) as server:
        yield server


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code, "{port}"]


async def gone(pid: int) -> None:
    """Wait until there is no such process, or nothing is left of it but its name."""

    def there() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    await until(lambda: not there())


async def until(true: Callable[[], bool]) -> None:
    """Look again and again whether it is true: processes tell nobody."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_hub_is_served_and_ready(server):
    async with talk(server.url()) as client:
        await client.join("chat/lobby")
    assert "listening" in server.log
    assert server.running
    assert server.returncode is None
    assert server.url("/x", "http") == f"http://127.0.0.1:{server.port}/x"


async def test_settings_reach_the_server(folder):
    settings = {"ping_interval": 7.0, "drain": 0.0}
    server = Process.serving("application:hub", directory=folder, **settings)
    async with server, talk(server.url()) as client:
        assert client.welcome["heartbeat"] == 7


async def test_a_killed_server_leaves_its_clients_and_comes_back_where_it_was(server):
    port, pid = server.port, server.pid
    async with talk(server.url()) as client:
        await server.kill()
        assert (await client.closed())[0] == 1006
    assert server.returncode == -signal.SIGKILL
    assert not server.running
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))  # its place is kept
    await server.start()
    assert server.port == port
    assert server.pid != pid
    async with talk(server.url()) as client:
        await client.join("chat/lobby")


async def test_a_stopped_server_says_good_bye(server):
    async with talk(server.url()) as client:
        assert await server.stop() == 0
        assert await client.closed() == (1012, "the server restarts")
    assert "stopped" in server.log
    assert server.returncode == 0


async def test_a_restart_stops_and_starts(server):
    pid = server.pid
    async with talk(server.url()) as client:
        await server.restart()
        assert (await client.closed())[0] == 1012
    assert server.pid != pid
    await server.kill()
    await server.restart()
    assert server.running
    assert server.log.count("listening") == 3


async def test_its_memory_can_be_looked_at(server):
    assert 10**7 < server.memory() <= server.memory("VmHWM") < 10**9


async def test_what_is_not_running_is_told(folder):
    server = Process.serving("application:hub", directory=folder)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid
    await server.kill()
    await server.close()


async def test_a_running_server_is_not_started_twice(server):
    with pytest.raises(RuntimeError, match="already"):
        await server.start()


async def test_an_application_that_fails_is_told_of_with_its_log(folder):
    (folder / "application.py").write_text("1 / 0")
    with pytest.raises(NotStarted) as problem:
        async with Process.serving("application:hub", directory=folder):
            pass
    assert "ended with 1 before it was ready" in str(problem.value)
    assert "ZeroDivisionError" in str(problem.value)


async def test_who_does_not_get_ready_in_time_is_ended():
    process = Process(python("print('I think', flush=True); import time; time.sleep(60)"), starts_within=0.5)
    with pytest.raises(NotStarted, match=r"not ready within 0\.5 seconds") as problem:
        await process.start()
    assert "I think" in str(problem.value)
    assert not process.running
    await process.close()


async def test_any_command_can_be_served(tmp_path):
    (tmp_path / "index.html").write_text("hello")
    async with Process(HTTP, directory=tmp_path, ready="/index.html") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        await writer.wait_closed()


async def test_who_only_listens_is_ready_without_a_path(tmp_path):
    async with Process(HTTP, ready=None, directory=tmp_path) as server:
        assert server.running


async def test_who_answers_with_an_error_is_not_ready(tmp_path):
    with pytest.raises(NotStarted, match="GET /readyz"):
        async with Process(HTTP, directory=tmp_path, starts_within=1.0):
            pass


async def test_an_environment_is_added_to_this_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['ITS'])"
    with pytest.raises(NotStarted, match="1 2"):
        async with Process(python(code), environment={"ITS": "2"}):
            pass


LISTEN = """
import signal, socket, subprocess, sys
{before}
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""


async def test_who_does_not_stop_is_killed():
    code = LISTEN.format(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    async with Process(python(code), ready=None, stops_within=0.2) as server:
        assert await server.stop() == -signal.SIGKILL


async def test_what_it_started_ends_with_it():
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)']).pid"
    async with Process(python(LISTEN.format(before=f"print({child}, flush=True)")), ready=None) as server:
        pid = int(server.log)
        os.kill(pid, 0)
    await gone(pid)


async def test_it_is_ended_when_the_test_fails(folder):
    pids = []

    async def test() -> None:
        async with Process.serving("application:hub", directory=folder) as server:
            pids.append(server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()
    await gone(pids[0])


async def test_it_is_ended_when_its_start_is_cancelled():
    process = Process(python("import time; time.sleep(60)"))
    starting = asyncio.create_task(process.start())
    await until(lambda: process.running)
    pid = process.pid
    starting.cancel()
    await asyncio.wait([starting])
    await gone(pid)
    await process.close()


async def test_its_end_can_be_waited_for():
    code = LISTEN.replace("while True:\n    ", "").format(before="")
    async with Process(python(code + "\nsys.exit(7)"), ready=None) as server:
        assert await server.wait() == 7
        assert server.returncode == 7


async def test_the_end_of_a_long_log_is_kept():
    code = LISTEN.format(before="print('x' * 1_000_000, flush=True); print('the end', flush=True)")
    async with Process(python(code), ready=None) as server:
        await server.kill()
        assert len(server.log) == LOG
        assert server.log.endswith("the end\n")


async def test_a_port_can_be_asked_for(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await Process(HTTP, port=port).start()
    async with Process.serving("application:hub", directory=folder, port=port) as server:
        assert server.port == port
