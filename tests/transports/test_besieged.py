"""A server in a process of its own under attack: its memory, its file descriptors, and who still gets in."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from transports.raw import Line, request, text

STARTS_WITHIN = 20.0

APPLICATION = """
import os
from hubbub import Hubbub
hub = Hubbub()
held = []
@hub.endpoint("/echo")
async def echo(websocket):
    async for message in websocket:
        if message == "open files":
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
        if message == "close files":
            while held:
                os.close(held.pop())
        await websocket.send(message)
"""

SERVE = """
import resource, sys
descriptors = int(sys.argv.pop(1))
if descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
from hubbub.cli import main
main()
"""


class Process:
    """``hubbub serve`` in a process of its own, with a log that is read."""

    def __init__(self, folder: Path, descriptors: int, settings: dict[str, object]) -> None:
        (folder / "besieged.py").write_text(APPLICATION)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", SERVE, str(descriptors), "serve", "besieged:hub", "--port=0"),
                "--log-format=json",
            ],
            cwd=folder,
            env={**os.environ, **{f"HUBBUB_{name.upper()}": str(value) for name, value in settings.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        self.logged: list[dict[str, Any]] = []
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listens.wait(STARTS_WITHIN):
            self.stop()
            raise AssertionError(f"the server did not start: {self.logged}")
        self.port = int(self.logged[0]["url"].rsplit(":", 1)[1])

    def _read(self) -> None:
        for line in self._stderr:
            self.logged.append(json.loads(line) if line.startswith("{") else {"event": line})
            if self.logged[0]["event"] == "listening":
                self._listens.set()

    def dial(self) -> Line:
        return Line(("127.0.0.1", self.port))

    def serves(self) -> bool:
        """Whether somebody new gets in."""
        with self.dial() as line:
            line.send(request("/echo"))
            if line.response().status != 101:
                return False
            line.send(text("there"))
            return line.message() == "there"

    @property
    def memory(self) -> int:
        """Bytes of memory that are in use."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    @property
    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        self._stderr.close()


@pytest.fixture
def besieged(native, tmp_path) -> Iterator[Any]:
    if not Path("/proc/self/fd").exists():
        pytest.skip("memory and descriptors of another process are read from /proc")
    with ExitStack() as stack:

        def serve(descriptors: int = 0, **settings: object) -> Process:
            process = Process(tmp_path, descriptors, {"native": str(native).lower(), **settings})
            stack.callback(process.stop)
            return process

        yield serve


@contextmanager
def attackers(process: Process, count: int) -> Iterator[list[Line]]:
    with ExitStack() as stack:
        yield [stack.enter_context(process.dial()) for _ in range(count)]


def until_gone(lines: list[Line]) -> None:
    """Wait until the server has ended every line."""
    for line in lines:
        try:
            line.rest()
        except ConnectionResetError:
            continue


def until_descriptors(process: Process, count: int) -> None:
    """Wait until the server holds no more than so many; each look is a connection, so it goes on there."""
    while process.descriptors > count:
        with suppress(ConnectionError, AssertionError):  # there may be no place yet
            process.serves()


def test_silent_sockets_cost_little_memory_and_no_descriptor_in_the_end(besieged):
    process = besieged(handshake_timeout=2)
    assert process.serves()
    memory, descriptors = process.memory, process.descriptors
    with attackers(process, 300) as silent:
        assert process.serves()
        assert process.memory - memory < 300 * 32_768
        until_gone(silent)
        until_descriptors(process, descriptors)


def test_huge_heads_cost_no_more_memory_than_their_limit(besieged):
    process = besieged()
    assert process.serves()
    memory = process.memory
    with attackers(process, 30) as lines:
        for line in lines:
            line.send(request("/echo")[:-2] + b"A: " + b"b" * 4_000_000)
            assert line.response().status == 431
        assert process.serves()
        # They have sent 120 MB.
        assert process.memory - memory < 30_000_000


def test_a_flood_of_requests_on_one_connection_costs_no_memory(besieged):
    process = besieged()
    assert process.serves()
    memory = process.memory
    with process.dial() as line:
        line.send(request("/healthz", "A: b") * 100_000)
        until_gone([line])
    assert process.serves()
    # So many requests that waited would be hundreds of MB.
    assert process.memory - memory < 30_000_000


def test_a_low_limit_of_descriptors_lowers_the_connections_and_the_log_says_what_to_do(besieged):
    process = besieged(descriptors=128)
    assert process.serves()
    with attackers(process, 300) as lines:
        statuses = []
        for line in lines[64:200]:
            try:
                statuses.append(line.response().status)
            except (AssertionError, ConnectionResetError):
                statuses.append(0)  # so many at once that its answer was lost
        assert set(statuses) <= {503, 0}
        assert statuses.count(503) > 0
        assert process.descriptors <= 128
    until_descriptors(process, 40)
    [warning] = [line for line in process.logged if line["event"].startswith("too few file descriptors")]
    assert "ulimit -n" in warning["event"]
    assert (warning["descriptors"], warning["connections"]) == (128, 64)
    refused = [line for line in process.logged if line["event"] == "refused"]
    assert {line["because"] for line in refused} <= {"max_connections", "handshake_timeout"}
    assert len(refused) < 50


def test_a_process_without_descriptors_neither_dies_nor_spins(besieged):
    process = besieged(descriptors=128)
    with process.dial() as line:
        line.open("/echo")
        line.send(text("open files"))
        assert line.message() == "open files"
        used = process.processor
        with attackers(process, 20) as lines:
            # There is nothing to accept them with. Whoever is connected is served all the same.
            for n in range(100):
                line.send(text(str(n)))
                assert line.message() == str(n)
            line.send(text("close files"))
            assert line.message() == "close files"
            assert process.processor - used < 2
            assert lines
        assert process.serves()
