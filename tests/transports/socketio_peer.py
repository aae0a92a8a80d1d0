"""A JavaScript client of Socket.IO, a program of its own that does what a test tells it."""

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[1] / "peers"
TELLS_WITHIN = 20.0
"""Seconds for what is to happen: room for a busy machine."""


class JavaScript:
    """The program, and all that it told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self.told: list[dict[str, Any]] = []
        self.ended = False

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.told.append(_with_bytes(json.loads(line)))
            self._changed.set()
        self.ended = True
        self._changed.set()

    def do(self, command: str, **values: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **_without_bytes(values)}).encode() + b"\n")

    def open(self, url: str, socket: str = "socket", **values: Any) -> "Socket":
        """Open a socket; `options`, `auth`, `namespace` and `over` are as in peers/socketio.js."""
        self.do("open", socket=socket, url=url, **values)
        return Socket(self, socket)

    async def until(self, socket: str, kind: str, count: int = 1) -> Any:
        """Return the value of the `count`-th time that a socket told something of a kind."""
        async with asyncio.timeout(TELLS_WITHIN):
            while len(found := self.values(socket, kind)) < count:
                assert not self.ended, "the program has ended"
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]

    def values(self, socket: str, kind: str) -> list[Any]:
        return [told["value"] for told in self.told if told["socket"] == socket and told["kind"] == kind]

    def number(self) -> int:
        return next(self._numbers)


class Socket:
    """One socket of the program."""

    def __init__(self, program: JavaScript, name: str) -> None:
        self._program = program
        self.name = name

    def do(self, command: str, **values: Any) -> None:
        self._program.do(command, socket=self.name, **values)

    def emit(self, *arguments: Any) -> None:
        self.do("emit", args=arguments)

    async def ask(self, *arguments: Any) -> list[Any]:
        """Emit with an acknowledgement; return its arguments."""
        number = self._program.number()
        before = len(self._program.values(self.name, "answer"))
        self.do("ask", args=arguments, number=number)
        while True:
            found = await self.until("answer", before + 1)
            if found[0] == number:
                return found[1:]
            before += 1

    async def until(self, kind: str, count: int = 1) -> Any:
        return await self._program.until(self.name, kind, count)

    def values(self, kind: str) -> list[Any]:
        return self._program.values(self.name, kind)

    async def event(self, name: str, count: int = 1) -> list[Any]:
        """Return the arguments of the `count`-th event of a name."""
        seen = 0
        while len(found := self.events(name)) < count:
            seen = len(self.values("event"))
            await self.until("event", seen + 1)
        return found[count - 1]

    def events(self, name: str) -> list[list[Any]]:
        """Return the arguments of all events of a name so far."""
        return [event[1:] for event in self.values("event") if event[0] == name]


@asynccontextmanager
async def javascript() -> AsyncIterator[JavaScript]:
    node = shutil.which("node")
    assert node, "These tests talk to node's socket.io-client. Install node (Debian: nodejs)."
    assert (PEERS / "node_modules" / "socket.io-client").is_dir(), (
        "These tests talk to node's socket.io-client. Run `npm ci --ignore-scripts` in tests/peers."
    )
    process = await asyncio.create_subprocess_exec(
        node,
        str(PEERS / "socketio.js"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    program = JavaScript(process)
    reading = asyncio.create_task(program.read())
    try:
        yield program
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(TELLS_WITHIN):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading


def _with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if "$binary" in value:
            return base64.b64decode(value["$binary"])
        return {name: _with_bytes(item) for name, item in value.items()}
    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


def _without_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$binary": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: _without_bytes(item) for name, item in value.items()}
    return [_without_bytes(item) for item in value] if isinstance(value, list | tuple) else value
