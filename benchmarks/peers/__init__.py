"""The peers: one file each, with the peer's `peer` in it and, where the server is Python, the server too."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

WORDS = b"Many voices, nothing lost. "


def text(size: int) -> bytes:
    """`size` bytes of plain ASCII text."""
    return (WORDS * (size // len(WORDS) + 1))[:size]


ECHO = text(64)
"""What an echo peer without an envelope of its own is sent, in all."""

FANOUT = text(64)
"""The text that every subscriber must be given, whatever envelope a peer puts round it."""


@dataclass(frozen=True)
class Step:
    """One step in the opening of a connection."""

    send: bytes | None
    """Message to send, or None where the server speaks first."""
    answer: bytes
    """What the server's next message must contain."""


@dataclass(frozen=True)
class Line:
    """How a connection opens: the path of the handshake, and what is said before the load begins."""

    path: str
    opening: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Echo:
    """How to have a message echoed."""

    line: Line
    request: bytes
    answer: bytes
    """What the answer must contain. Its size must always be the same."""


@dataclass(frozen=True)
class FanOut:
    """How to have a message given to all subscribers."""

    subscriber: Line
    publisher: Line
    publish: bytes
    delivery: bytes = FANOUT
    """What a subscriber's message must contain. All subscribers must be sent the same bytes."""


@dataclass(frozen=True)
class Peer:
    """A server to be measured, and what a client has to say to it."""

    name: str
    command: Callable[[int], list[str]]
    """The command line that serves on 127.0.0.1 at the given port."""
    echo: Echo
    fanout: FanOut
    packages: tuple[str, ...] = ()
    """Distributions whose versions belong beside the figures."""


def find() -> tuple[dict[str, Peer], dict[str, str]]:
    """All peers by name, and for each that is not installed here the reason."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for module in pkgutil.iter_modules(__path__):
        try:
            peer: Peer = importlib.import_module(f"{__name__}.{module.name}").peer
        except ImportError as error:
            missing[module.name.removesuffix("_server")] = str(error)
        else:
            peers[peer.name] = peer
    return peers, missing
