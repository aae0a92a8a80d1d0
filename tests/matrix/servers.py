"""ASGI servers and what each of them does by itself, without a hub: the one table of it."""

import sys
from dataclasses import dataclass
from pathlib import Path

from hubbub.testing.processes import Process

TESTS = Path(__file__).parents[1]
APP = "matrix.bare:app"


@dataclass(frozen=True)
class ASGIServer:
    """A server with options that make it ping soon, where it has any."""

    name: str
    command: tuple[str, ...]

    def process(self) -> Process:
        """Return a child process, not started yet."""
        return Process([sys.executable, "-m", *self.command], ready="/told", directory=TESTS, stops_within=10)

    def __str__(self) -> str:
        return self.name


SERVERS = (
    ASGIServer("Uvicorn", ("uvicorn", APP, "--port", "{port}", "--ws-ping-interval", "1")),
    ASGIServer("Daphne", ("daphne", "-p", "{port}", "--ping-interval", "1", APP)),
    ASGIServer(
        "Hypercorn",
        ("hypercorn", "--workers", "0", "-b", "127.0.0.1:{port}", "--websocket-ping-interval", "1", APP),
    ),
    ASGIServer("Granian", ("granian", "--interface", "asgi", "--port", "{port}", APP)),
)


@dataclass(frozen=True)
class Fact:
    """Something that servers do or don't: `lacking` are the names of those that don't."""

    question: str
    """For the page, and the test's id."""
    lacking: frozenset[str]
    mended: str
    """What a hub does about it."""


def _lacking(*names: str) -> frozenset[str]:
    return frozenset(names)


FACTS = {
    "lifespan": Fact(
        "tells the application that it starts",
        _lacking("Daphne"),
        "The hub starts with the first request, `/readyz` too, and stops at the signal.",
    ),
    "denial": Fact(
        "refuses a WebSocket with the application's status",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "subprotocol": Fact("answers with the application's subprotocol", _lacking(), ""),
    "reason": Fact(
        "closes with the application's reason",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "codes": Fact(
        "closes with codes of the protocol, such as 1012",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "closes while receiving": Fact(
        "closes while the application waits for a message",
        _lacking(),
        "Granian before 2.8.9 does not: the hub stops to wait before it closes.",
    ),
    "closes behind messages": Fact(
        "ends the connection when messages that nobody received are before the client's answer to the close",
        _lacking("Hypercorn"),
        "The hub receives until the end.",
    ),
    "client's code": Fact(
        "tells the application the client's close code",
        _lacking("Hypercorn"),
        "Nothing: `connection.close_code` is 1006.",
    ),
    "client's reason": Fact(
        "tells the application the client's reason",
        _lacking("Daphne", "Hypercorn", "Granian"),
        "Nothing: `connection.close_reason` is empty.",
    ),
    "slow WebSockets": Fact(
        "has the application wait while a client does not read",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "slow responses": Fact(
        "has the application wait while the client of a long response does not read",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "cuts": Fact(
        "ends a WebSocket when the application returns",
        _lacking("Daphne"),
        "Under Daphne the hub does it itself.",
    ),
    "pings": Fact(
        "pings silent WebSockets, where it is told to",
        _lacking("Granian"),
        "The hub's heartbeat goes out all the same. A dead client is found when its system gives up on what "
        "was sent to it.",
    ),
    "tells of the stop": Fact(
        "closes WebSockets with a code that says to come back, when it stops",
        _lacking("Daphne", "Hypercorn", "Granian"),
        "The hub drains at the signal, before the server does anything. Granian does not let it write then.",
    ),
}
