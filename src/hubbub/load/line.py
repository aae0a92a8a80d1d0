"""Where a load goes, and what its clients say when a connection opens."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A server, and what is the same for every connection to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    """None is without TLS."""
    headers: tuple[tuple[str, str], ...] = ()
    """More headers for the handshake."""
    subprotocol: str | None = None
    """The subprotocol to offer."""


@dataclass(frozen=True)
class Step:
    """One step in the opening of a connection."""

    send: bytes | None
    """Message to send, or None where the server speaks first."""
    answer: bytes
    """What the server's next message must contain."""
    others: bool = False
    """Whether other messages may come before it."""


@dataclass(frozen=True)
class Line:
    """How a connection opens: the path of the handshake, and what is said before the load begins."""

    path: str
    opening: tuple[Step, ...] = ()
