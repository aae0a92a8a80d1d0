"""What is written to NATS: names as subjects, and records as MessagePack."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from itertools import pairwise

import msgspec
from msgspec import Struct

VERSION = 1

LONGEST = 160
"""Characters of a subject's token; a name that takes more is hashed."""


class Message(Struct, frozen=True, array_like=True, gc=False):
    """One room message. What is too large for one message of NATS lies in `parts`, by their sequences."""

    payload: bytes
    sender: str | None
    key: str | None
    kept: bool
    parts: tuple[int, ...] = ()


class Batch(Struct, frozen=True, array_like=True):
    """Messages of one room that were published in one step; one message of the stream."""

    version: int
    room: str
    writer: str
    """Who wrote it: a name that no other connected instance ever has."""
    number: int
    """Of the writer's attempts, the one that this was."""
    epoch: str
    before: int
    """Offset before its first message."""
    time: float
    """When it was written, in seconds by the server's clock."""
    previous: int
    """Sequence of the room's batch before this one, 0 if there is none."""
    distances: tuple[int, ...]
    """From there, how far back the ones before that lie, each from the next."""
    keyed: float
    """Time of the newest batch before this one that has a message with a key; 0 if there is none."""
    count: int
    """How many messages the room keeps, -1 if it has not been said yet."""
    age: float
    messages: tuple[Message, ...]

    @property
    def kept(self) -> int:
        """How many of its messages have an offset."""
        kept = 0
        for message in self.messages:
            kept += message.kept
        return kept

    @property
    def earlier(self) -> list[int]:
        """Sequences of the batches before it, the newest first, as far as it knows them."""
        found = []
        if at := self.previous:
            found.append(at)
            for distance in self.distances:
                at -= distance
                found.append(at)
        return found


class Fleeting(Struct, frozen=True, array_like=True, gc=False):
    """A room message that is not kept and has no key: sent on, and stored nowhere."""

    version: int
    room: str
    epoch: str
    payload: bytes
    sender: str | None


class Member(Struct, frozen=True, array_like=True):
    """A member of a room: their connections in the order in which they came, as (name, lease, details)."""

    version: int
    room: str
    member: str
    connections: tuple[tuple[str, str, bytes], ...]


class Lease(Struct, frozen=True, array_like=True, gc=False):
    """An instance that takes part, as of `time`.

    `gone` once others have taken it for dead, `swept` once its members were removed.
    """

    version: int
    instance: str
    time: float
    gone: bool = False
    swept: bool = False


def token(name: str) -> str:
    """Return a name as one token of a subject; no two names have the same."""
    raw = name.encode(errors="surrogatepass")
    encoded = urlsafe_b64encode(raw).rstrip(b"=").decode()
    if len(encoded) < LONGEST:
        return f"n{encoded}"
    return f"h{hashlib.blake2b(raw, digest_size=24).hexdigest()}"


def distances(earlier: Sequence[int]) -> tuple[int, ...]:
    """Return how far apart sequences are, the newest first."""
    return tuple(newer - older for newer, older in pairwise(earlier))


encode = msgspec.msgpack.Encoder().encode
