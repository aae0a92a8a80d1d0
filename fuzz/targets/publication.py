"""A room message from a broker, to the members of the room: what a broker brings, anybody may have put there.

The first byte of an input chooses how the message was kept, the rest is its payload.
"""

import asyncio
import atexit
import json
import logging
import random
import re

import msgspec
from starlette.types import Scope

from hubbub import Settings
from hubbub.brokers.base import Retention
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.connection import Connection
from hubbub.engine.hub import Hub
from hubbub.engine.outbox import Chunk
from hubbub.engine.transport import Listener
from hubbub.protocol.codecs import CODECS, Codec
from hubbub.protocol.envelope import Page

from ..values import changed

KEPT = 1
"""Bit of the first byte: the message has an offset and is in the history."""

ROOM = "chat/lobby"

SHOWN = {"type", "room", "offset", "from", "data"}
"""What an envelope to members may have."""

_SCOPE: Scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": [], "subprotocols": []}

_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def framing(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001
    return payload


class Line:
    """Keeps what is written to it."""

    framing = staticmethod(framing)
    pings = True

    def __init__(self) -> None:
        self.written: list[Chunk] = []

    async def accept(self, listener: Listener, subprotocol: str | None) -> None: ...

    def write(self, chunks: list[Chunk]) -> None:
        self.written += chunks

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"a member is closed with {code} {reason!r}")

    def abort(self) -> None:
        raise AssertionError("a member's line is cut")

    def ping(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def check(data: bytes) -> list[str]:
    if not data:
        return []
    kept = bool(data[0] & KEPT)
    with _Reasons() as reasons:
        told, pages = _loop.run_until_complete(_deliver(data[1:], kept))
    for page in pages:
        assert len(page.messages) == kept or not page.complete, (
            "history lacks a message and says nothing of it"
        )
        assert page.offset == int(kept)
    return [*reasons.found, *(_read(codec, chunks, kept=kept) for codec, chunks in told)]


class _Reasons(logging.Handler):
    """Notes why messages could not be shown to members: so the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            problem = record.exc_info[1]
            self.found.append(
                f"{type(problem).__name__} {re.split('[^A-Za-z ]', str(problem), maxsplit=1)[0]}"
            )

    def __enter__(self) -> "_Reasons":
        logging.getLogger("hubbub").addHandler(self)
        return self

    def __exit__(self, *problem: object) -> None:
        logging.getLogger("hubbub").removeHandler(self)


async def _deliver(payload: bytes, kept: bool) -> tuple[list[tuple[Codec, list[Chunk]]], list[Page]]:
    """Have a broker deliver to a member of each codec; return what each was sent and reads in history."""
    hub, broker = Hub(Settings()), MemoryBroker()
    await hub.start(broker)
    subscription = await hub.running.subscriptions.subscribe(ROOM)
    members = []
    for codec in CODECS.values():
        line = Line()
        subscription.add(Connection(_SCOPE, line, hub.flusher, hub.settings, codec))
        members.append((codec, line.written))
    keep = Retention(count=10, age=60.0) if kept else None
    await broker.publish(ROOM, payload, sender=None, key=None, keep=keep)
    hub.flusher.flush()
    pages = [await hub.history(ROOM, None, 10, codec=codec) for codec in CODECS.values()]
    await hub.stop()
    return members, pages


def _read(codec: Codec, chunks: list[Chunk], *, kept: bool) -> str:
    """See that a member was sent one envelope it can read, or nothing; return its type."""
    if not chunks:
        assert not kept, "a message has an offset, and members are told nothing"
        return "nothing"
    [chunk] = chunks
    assert isinstance(chunk, bytes)
    if codec.binary:
        # Its data goes to the member as it came.
        envelope = msgspec.msgpack.decode(chunk, type=dict[str, msgspec.Raw])
        shown = {name: msgspec.msgpack.decode(value) for name, value in envelope.items() if name != "data"}
    else:
        envelope = shown = json.loads(chunk)
    assert envelope.keys() <= SHOWN
    assert shown["room"] == ROOM
    if shown["type"] == "$gap" and kept and "offset" not in shown:
        # Ours, and not a message that somebody gave that name: its data may be anything.
        position = msgspec.msgpack.decode(envelope["data"]) if codec.binary else shown["data"]
        assert position["offset"] == 1
        return "$gap"
    assert shown.get("offset") == (1 if kept else None)
    return f"message with {type(shown.get('data')).__name__}"


def mutate(data: bytes, chance: random.Random) -> bytes | None:
    """Return a payload that is MessagePack and new, or None if this one is not."""
    try:
        return data[:1] + msgspec.msgpack.encode(changed(msgspec.msgpack.decode(data[1:]), chance))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
