"""The hosts run once for all tests of a module, in whatever order these come."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from hubbub.client.line import LineLost
from hubbub.testing.processes import Process
from matrix.application import LIMITS
from matrix.differences import difference, inapplicable
from matrix.hosts import HOSTS, Host
from matrix.lines import ADA, ARRIVES_WITHIN, LINES, Caller, Kind, Speaker


@dataclass(frozen=True)
class Running:
    """A host that runs."""

    host: Host
    process: Process
    grpc_port: int

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of lines that apply to it."""
        return [kind for kind in LINES if inapplicable(kind.name, self.host.name) is None]

    def port(self, kind: Kind) -> int:
        """Return where lines of a kind come."""
        return self.grpc_port if kind.has_own_port else self.process.port

    def caller(self, kind: Kind, port: int | None = None) -> Caller:
        """Return who opens lines of a kind to it, or to a `port` that leads there."""
        return Caller(kind, port or self.port(kind), self.host.path)


@dataclass(frozen=True)
class Cell:
    """A line on a host, which a test is about."""

    line: Kind
    running: Running
    record: Callable[[str, object], None]
    """Keeps a property of the test for the summary."""

    @property
    def caller(self) -> Caller:
        """Who opens lines."""
        return self.running.caller(self.line)

    def check(self, behaviour: str, seen: object, promised: object) -> None:
        """Compare what was seen with the promise, or with the difference that the table has of it."""
        self.record(AS_PROMISED, seen == promised)
        known = difference(behaviour, self.line.name, self.running.host.name)
        if known is None:
            assert seen == promised
        else:
            assert seen == known.seen, f"the table of differences says: {known.reason}"


AS_PROMISED = "as promised"

_seen: dict[tuple[str, str], dict[str, str]] = {}
"""By host and line, what was seen of each behaviour that was tried."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a cell's test has seen."""
    found = re.search(r"test_matrix.py::test_(\w+)\[([\w-]+)-(\w+)\]$", report.nodeid)
    if found is None or (report.when != "call" and report.passed):
        return
    behaviour, host, line = found.groups()
    checks = [kept for name, kept in report.user_properties if name == AS_PROMISED]
    seen = "FAILED" if not report.passed else AS_PROMISED if all(checks) else "different"
    _seen.setdefault((host, line), {})[behaviour.replace("_", " ")] = seen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix as it was seen."""
    if not _seen:
        return
    terminalreporter.section("the matrix, as it was seen")
    heads = ["", *(kind.title for kind in LINES)]
    rows = [
        [host.title, *(_cell(_seen.get((host.name, kind.name), {})) for kind in LINES)]
        for host in HOSTS
        if any(name == host.name for name, _ in _seen)
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, ["-" * width for width in widths], *rows):
        terminalreporter.write_line(
            "| " + " | ".join(map(str.ljust, row, widths)) + " |",
        )


def _cell(seen: dict[str, str]) -> str:
    if not seen:
        return "-"
    good = sum(what == AS_PROMISED for what in seen.values())
    others = [f"{behaviour}: {what}" for behaviour, what in seen.items() if what != AS_PROMISED]
    return ", ".join([f"{good} of {len(seen)}", *others])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for all, in which the hosts' processes are looked after."""
    return "asyncio"


@asynccontextmanager
async def _run(host: Host) -> AsyncIterator[Running]:
    with socket.socket() as place:
        # Nobody else is given the port meanwhile; a server may listen there all the same.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        async with host.process(port) as process:
            yield Running(host, process, port)


@pytest.fixture(scope="module", params=HOSTS, ids=str)
async def running(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Running]:
    """Each host, as a child process."""
    async with _run(request.param) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the cells that don't apply, of which `test_what_does_not_apply` shows it."""
    items[:] = [item for item in items if _applies(item)]


def _applies(item: pytest.Item) -> bool:
    parameters = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    line, host = parameters.get("line"), parameters.get("running")
    return not (isinstance(line, Kind) and isinstance(host, Host) and inapplicable(line.name, host.name))


@pytest.fixture(params=LINES, ids=str)
def line(request: pytest.FixtureRequest) -> Kind:
    """Each kind of line."""
    return request.param


@pytest.fixture
def cell(line: Kind, running: Running, record_property: Callable[[str, object], None]) -> Cell:
    """Each line on each host."""
    return Cell(line, running, record_property)


Seen = dict[str, object]


async def _on_all(running: Running, look: Callable[[Caller], Awaitable[object]]) -> Seen:
    """Return what is seen on each kind of line, by its name: on all at once, as it takes a while."""
    seen = await asyncio.gather(*(look(running.caller(kind)) for kind in running.kinds))
    return dict(zip((kind.name for kind in running.kinds), seen, strict=True))


async def _sign_of_life(caller: Caller) -> bool:
    """Tell whether something comes on a line on which nobody says anything."""
    async with caller.logged_in() as ada:
        before = ada.heard_at
        receiving = asyncio.create_task(ada.receive_any())
        while not receiving.done() and ada.heard_at == before:
            await asyncio.wait((receiving,), timeout=0.02)
        if receiving.done():
            return (await receiving)["type"] == "$ping"
        receiving.cancel()
        await asyncio.wait((receiving,))
        return True


@pytest.fixture(scope="module")
async def heard_in_silence(running: Running) -> Seen:
    """Whether a sign of life comes on each kind of line."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        return await _on_all(running, _sign_of_life)


async def _send_too_big(caller: Caller) -> object:
    async with caller.logged_in() as ada:
        await ada.send(type="say", room="chat/lobby", data={"text": "x" * int(LIMITS["HUBBUB_MAX_MESSAGE"])})
        return (await ada.closed()).code


@pytest.fixture(scope="module")
async def ends_of_too_big(running: Running) -> Seen:
    """The codes that lines are closed with after a message that is too big."""
    return await _on_all(running, _send_too_big)


@dataclass(frozen=True)
class LastWords:
    """What came on a line as its host stopped: types of envelopes, and the end."""

    told: list[str]
    end: LineLost


async def _listen(speaker: Speaker) -> LastWords:
    told: list[str] = []
    try:
        while True:
            told.append((await speaker.receive())["type"])
    except LineLost as lost:
        return LastWords(told, lost)


@pytest.fixture(scope="module")
async def last_words(running: Running) -> dict[str, LastWords]:
    """What came on each kind of line as another process of the host took a SIGTERM."""
    async with _run(running.host) as stopping:
        callers = {kind.name: stopping.caller(kind) for kind in running.kinds}
        speakers = {name: Speaker(await caller.dial(ADA)) for name, caller in callers.items()}
        try:
            for speaker in speakers.values():
                assert (await speaker.receive())["type"] == "$welcome"
            os.kill(stopping.process.pid, signal.SIGTERM)
            heard = await asyncio.gather(*(_listen(speaker) for speaker in speakers.values()))
        finally:
            for speaker in speakers.values():
                await speaker.line.close()
        return dict(zip(speakers, heard, strict=True))
