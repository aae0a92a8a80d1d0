"""The peers: one file each, with the peer's `peer` in it and, where the server is Python, the server too."""

import importlib
import pkgutil
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from hubbub.load import Line, Numbered, Step

__all__ = [
    "ECHO",
    "Across",
    "Echo",
    "FanOut",
    "Held",
    "Line",
    "Numbered",
    "Peer",
    "Rooms",
    "Step",
    "find",
    "plain",
    "text",
]

WORDS = b"Many voices, nothing lost. "


def text(size: int, number: int = 0) -> bytes:
    """`size` bytes of plain ASCII text that can stand between quotes in JSON; another one for each `number`.

    It compresses as messages do: words come again, but not the numbers between them.
    """
    numbers = random.Random(f"{size} {number}")  # the same text for every peer, in every run
    pieces = [WORDS]
    while sum(map(len, pieces)) < size:
        pieces.append(b"%s: %d, " % (numbers.choice(FIELDS), numbers.randrange(10**6)))
    return b"".join(pieces)[:size]


FIELDS = (b"price", b"volume", b"sequence", b"account", b"updated", b"latitude", b"longitude", b"speed")

ECHO = text(64)
"""What an echo peer without an envelope of its own is sent, in all."""


def plain(text: bytes) -> bytes:
    """The message of a peer without an envelope of its own."""
    return text


@dataclass(frozen=True)
class Echo:
    """How to have a message echoed."""

    line: Line
    request: bytes | Numbered
    answer: bytes
    """What the answer must contain. Its size must always be the same."""


@dataclass(frozen=True)
class FanOut:
    """How to have a text given to all subscribers."""

    subscriber: Line
    publisher: Line
    publish: Callable[[bytes], bytes] = plain
    """The message that publishes a text."""
    delivery: Callable[[bytes], bytes] = plain
    """What a subscriber's message must contain for a text. All subscribers must be sent the same bytes,
    but for a compressing server, whose bytes may differ from connection to connection.
    """


@dataclass(frozen=True)
class Rooms:
    """How to have a text given to all members of one of many rooms, which are numbered from 0."""

    member: Callable[[int], Line]
    """A member of the room of that number."""
    publisher: Callable[[int], Line]
    """Who publishes to the room of that number; one connection for each room."""
    publish: Callable[[int, bytes], bytes]
    """The message that publishes a text to the room of that number."""
    delivery: Callable[[bytes], bytes] = plain
    """What a member's message must contain for a text. All members of a room must be sent the same bytes."""


@dataclass(frozen=True)
class Across:
    """How to run instances that share a Redis, and have a text given from one to another's clients."""

    command: Callable[[int, str], list[str]]
    """The command line of an instance at the given port, as :attr:`Peer.command`; and Redis' URL."""
    fanout: FanOut


@dataclass(frozen=True)
class Held:
    """How to have a connection join one more room, by its number."""

    line: Line
    join: Callable[[int], bytes]
    joined: bytes
    """What the answer must contain."""


@dataclass(frozen=True)
class Peer:
    """A server to be measured, and what a client has to say to it; None where it can't do such work."""

    name: str
    command: Callable[[int], list[str]]
    """The command line that serves on 127.0.0.1 at the given port, without compression, and lets at least
    15,000 connections in from one address.
    """
    echo: Echo | None = None
    fanout: FanOut | None = None
    rooms: Rooms | None = None
    across: Across | None = None
    held: Held | None = None
    compressed: Callable[[int], list[str]] | None = None
    """The same with permessage-deflate, for clients that offer it."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions belong beside the figures."""
    versions: Callable[[], dict[str, str]] = dict
    """The versions of what else it stands on, by name; for a peer that is not Python's. Raises `OSError` or
    `subprocess.SubprocessError` if that does not run here.
    """

    def all_versions(self) -> dict[str, str]:
        """The versions of all that it stands on."""
        return {package: version(package) for package in self.packages} | self.versions()


def find() -> tuple[dict[str, Peer], dict[str, str]]:
    """All peers by name, and for each that is not installed here, or does not run, the reason."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for module in pkgutil.iter_modules(__path__):
        try:
            peer: Peer = importlib.import_module(f"{__name__}.{module.name}").peer
            peer.all_versions()
        except (ImportError, OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            missing[module.name.removesuffix("_server")] = f"{error} {said}".strip()
        else:
            peers[peer.name] = peer
    return peers, missing
