"""Files of the documentation's pages, written down so that they can be imported, served and run."""

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from docs.pages import Block, Shelf, files

STOPS_WITHIN = 15.0


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A directory for a page's files; what is imported from it is forgotten afterwards."""
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.forget()


@pytest.fixture
def app_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Callable[[Block], ASGIApp]:
    """Make the application that a page showed last before a block, with the settings that the block names."""

    def app_for(block: Block) -> ASGIApp:
        for name, value in block.attributes.items():
            monkeypatch.setenv(f"HUBBUB_{name.upper()}", value)
        shown = [file for file in files(block.page) if file.name.endswith(".py") and file.line < block.line]
        for file in shown:
            shelf.put(file)
        module = shelf.module(shown[-1].name.removesuffix(".py"))
        app: ASGIApp = getattr(module, "app", None) or module.hub
        return app

    return app_for


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a shell in which hubbub is installed."""
    here = os.path.dirname(sys.executable)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def in_a_shell(shelf: Shelf, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command where the page's files are, and wait for its end."""
    return functools.partial(_run, cwd=shelf.directory, env=environment)


def _run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=50, **options)  # type: ignore[call-overload]


class Process:
    """`hubbub serve` in a process of its own; `log` is what it wrote, complete after `stop`."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.log: list[str] = []
        self._process = subprocess.Popen(
            command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        first = self._process.stderr.readline()
        assert "listening" in first, first + self._process.stderr.read()
        self.log.append(first)
        self.port = int(json.loads(first)["url"].rpartition(":")[2])
        # Read on, so that the server never waits for a reader of its log.
        self._reader = threading.Thread(target=self.log.extend, args=(self._process.stderr,))
        self._reader.start()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOPS_WITHIN)
        finally:
            self._process.kill()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()


Run = Callable[[str], Process]


@pytest.fixture
def run(shelf: Shelf, environment: dict[str, str]) -> Iterator[Run]:
    """Run `hubbub serve` on what lies on the shelf, on a free port, with its log as JSON."""
    processes: list[Process] = []

    def run(target: str) -> Process:
        command = ["hubbub", "serve", target, "--port", "0", "--log-format", "json"]
        processes.append(Process(command, shelf.directory, environment))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()
