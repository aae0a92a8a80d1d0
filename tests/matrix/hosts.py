"""The hosts: one chat application under each server and framework, as a child process."""

import sys
from dataclasses import dataclass
from pathlib import Path

from hubbub.testing.processes import Process
from matrix.application import LIMITS

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Host:
    """What serves the chat: ``{port}`` in its command stands for the port."""

    name: str
    """For the test's id."""
    title: str
    """For the page."""
    command: tuple[str, ...]
    path: str = "/"
    """Where the chat is served."""

    def process(self, grpc_port: int) -> Process:
        """Return a child process, not started yet."""
        return Process(
            [sys.executable, "-m", *self.command],
            ready=f"{self.path}readyz",
            environment={**LIMITS, "HUBBUB_GRPC_PORT": str(grpc_port)},
            directory=TESTS,
            stops_within=20,
        )

    def __str__(self) -> str:
        return self.name


def _uvicorn(target: str, *options: str) -> tuple[str, ...]:
    return ("uvicorn", target, "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", *options)


def _daphne(target: str) -> tuple[str, ...]:
    return ("daphne", "-b", "127.0.0.1", "-p", "{port}", target)


NATIVE = ("--ws", "hubbub.server:WebSocketProtocol")

SERVERS = (
    Host("hubbub", "`hubbub serve`", ("hubbub", "serve", "matrix.application:hub", "--port", "{port}")),
    Host("uvicorn-native", "Uvicorn, `--ws`", _uvicorn("matrix.application:hub", *NATIVE)),
    Host("uvicorn", "Uvicorn", _uvicorn("matrix.application:hub")),
    Host("daphne", "Daphne", _daphne("matrix.application:hub")),
    Host(
        "hypercorn",
        "Hypercorn",
        ("hypercorn", "--workers", "0", "-b", "127.0.0.1:{port}", "matrix.application:hub"),
    ),
    Host(
        "granian",
        "Granian",
        (
            "granian",
            "--interface",
            "asgi",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "matrix.application:hub",
        ),
    ),
)
"""ASGI servers, which serve the hub itself."""

FRAMEWORKS = (
    Host("starlette", "Starlette", _uvicorn("matrix.starlette_host:app", *NATIVE), "/live/"),
    Host("fastapi", "FastAPI", _uvicorn("matrix.fastapi_host:app", *NATIVE), "/live/"),
    Host("django", "Django", _uvicorn("matrix.django_host:application", *NATIVE), "/live/"),
    Host("django-daphne", "Django on Daphne", _daphne("matrix.django_host:application"), "/live/"),
    Host("channels", "Beside Channels, on Daphne", _daphne("matrix.channels_host:application"), "/live/"),
    Host("tornado", "Tornado", ("matrix.tornado_host", "{port}"), "/live/"),
    Host("aiohttp", "aiohttp", ("matrix.aiohttp_host", "{port}"), "/live/"),
)
"""Frameworks, in which the hub is mounted."""

HOSTS = (*SERVERS, *FRAMEWORKS)
