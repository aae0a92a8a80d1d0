"""Members that stall: what they cost the server, what the others notice, what they are sent in the end."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from transports.raw import CLOSE, FIN, Line, text

SLOW = ("disconnect", "drop", "conflate")
KILOBYTE = 1024
SIZE = 16 * KILOBYTE
PUBLISHED_AT_ONCE = 16
ROUNDS = 270
KEYS = 5
SMALL_BUFFER = 16 * KILOBYTE
LIMIT = 1024 * KILOBYTE

APPLICATION = """
from hubbub import Hubbub, Message

hub = Hubbub()
rooms = {slow: hub.room(slow, history=5, slow=slow) for slow in ("disconnect", "drop", "conflate")}

class Tick(Message):
    number: int
    padding: str

class Publish(Message):
    first: int
    count: int
    size: int
    keys: int

@hub.on_message
async def publish(message: Publish) -> int:
    for number in range(message.first, message.first + message.count):
        for slow, room in rooms.items():
            key = str(number % message.keys) if slow == "conflate" else None
            await room().send(Tick(number, "x" * message.size), key=key)
    return message.first
"""


class Member(Line):
    """Speaks JSON to a hub."""

    def say(self, **envelope: Any) -> None:
        self.send(text(json.dumps(envelope)))

    def hear(self) -> dict[str, Any]:
        message = self.message()
        assert isinstance(message, str)
        envelope: dict[str, Any] = json.loads(message)
        return envelope

    def join(self, room: str) -> None:
        self.open("/")
        self.say(type="$join", room=room, id=1)
        assert [self.hear()["type"], self.hear()["type"]] == ["$welcome", "$ack"]


class Child:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.pid = process.pid
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"url=http://127.0.0.1:(\d+)", line)
        assert found is not None, line + process.stderr.read()
        self._port = int(found[1])

    def member(self, **options: int) -> Member:
        return Member(("127.0.0.1", self._port), **options)

    def memory(self, name: str = "VmRSS") -> int:
        """Return the memory in bytes that it has now, or at most had (`VmHWM`)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * KILOBYTE


@pytest.fixture
def child(tmp_path: Path, native: bool) -> Iterator[Child]:
    (tmp_path / "application.py").write_text(APPLICATION)
    with serving(tmp_path, "--native" if native else "--no-native") as child:
        yield child


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hubbub", "serve", "application:hub", "--port", "0", "--drain", "0", *options],
        cwd=folder,
        env={**os.environ, "HUBBUB_MAX_OUTBOX": str(LIMIT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Child(process)
        finally:
            process.kill()


class Publisher:
    """Publishes the same to all rooms, and reads along in each."""

    def __init__(self, child: Child, stack: ExitStack) -> None:
        self.line = stack.enter_context(child.member())
        self.line.open("/")
        assert self.line.hear()["type"] == "$welcome"
        self.readers = {slow: stack.enter_context(child.member()) for slow in SLOW}
        for slow, reader in self.readers.items():
            reader.join(slow)
        self.published = 0

    def publish(self) -> None:
        """Publish some, and see that everybody who reads gets all of them."""
        first, count = self.published + 1, PUBLISHED_AT_ONCE
        data = {"first": first, "count": count, "size": SIZE, "keys": KEYS}
        self.line.say(type="publish", id=first, data=data)
        for reader in self.readers.values():
            offsets = [reader.hear()["offset"] for _ in range(count)]
            assert offsets == list(range(first, first + count))
        assert self.line.hear() == {"type": "$ack", "id": first, "data": first}
        self.published += count


def until(reader: Member, offset: int) -> Iterator[dict[str, Any]]:
    """Yield what a reader is sent, up to the message with an offset."""
    while True:
        envelope = reader.hear()
        yield envelope
        if envelope.get("offset") == offset:
            return


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_stalled_reader_costs_its_limit_and_the_others_get_everything(child):
    with ExitStack() as stack:
        publisher = Publisher(child, stack)
        for _ in range(10):
            publisher.publish()
        stalled = {slow: stack.enter_context(child.member(receive_buffer=SMALL_BUFFER)) for slow in SLOW}
        for slow, reader in stalled.items():
            reader.join(slow)
        begins, before = publisher.published, child.memory()
        for _ in range(ROUNDS):
            publisher.publish()
        assert len(SLOW) * ROUNDS * PUBLISHED_AT_ONCE * SIZE > 200 * KILOBYTE * KILOBYTE
        assert child.memory("VmHWM") - before < len(SLOW) * 6 * LIMIT

        newest = publisher.published
        check_disconnected(stalled["disconnect"], begins)
        check_dropped(list(until(stalled["drop"], newest)), begins)
        check_conflated(list(until(stalled["conflate"], newest)), begins)
        publisher.publish()


def check_disconnected(reader: Member, begins: int) -> None:
    for number in itertools.count(begins + 1):
        first, payload = reader.frame()
        if first == FIN | CLOSE:
            break
        assert json.loads(payload)["offset"] == number
    assert payload == (4513).to_bytes(2, "big") + b"reads too slowly"


def check_dropped(arrived: list[dict[str, Any]], begins: int) -> None:
    """Check that what is missing is told, at its place and exactly."""
    at, gaps = begins, 0
    for envelope in arrived:
        if envelope["type"] == "$gap":
            gaps += 1
            assert envelope["data"]["offset"] > at
            at = envelope["data"]["offset"]
        else:
            at += 1
            assert envelope["offset"] == at
    assert gaps > 0


def check_conflated(arrived: list[dict[str, Any]], begins: int) -> None:
    """Check that the newest of each key is there, and that none came after a newer message."""
    offsets = [envelope["offset"] for envelope in arrived]
    assert offsets == sorted(set(offsets))
    newest = offsets[-1]
    assert offsets[-KEYS:] == list(range(newest - KEYS + 1, newest + 1))
    assert offsets[0] == begins + 1
    assert len(offsets) < (newest - begins) / 2
