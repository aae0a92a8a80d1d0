"""``hubbub connect`` as a person sees it, on a pseudo-terminal, against real servers."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PATIENCE = 30.0
COMMAND = (sys.executable, "-m", "hubbub", "connect")
READY = "{ready}"
"""Stands for the sequence with which the prompt begins to take keys."""


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def serving(
    handler: Callable[[ServerConnection], Awaitable[None]] = echo,
    **settings,  # type: ignore[no-untyped-def]
) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, **settings) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Screen:
    """A pseudo-terminal with a command on it."""

    def __init__(self, master: int, process: Process) -> None:
        self.process = process
        self._master = master
        self._written = b""
        self._seen = 0
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self._written += os.read(self._master, 65536)
        except OSError:  # the command has ended
            asyncio.get_running_loop().remove_reader(self._master)
        self._more.set()

    @property
    def raw(self) -> bytes:
        return self._written

    @property
    def text(self) -> str:
        """All that was written, without the terminal's escape sequences."""
        written = self._written.decode().replace("\x1b[?2004h", READY)
        return re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])", "", written)

    async def expect(self, text: str) -> str:
        """Wait for text beyond what was expected before; return what came with it."""
        async with asyncio.timeout(PATIENCE):
            while (position := self.text.find(text, self._seen)) < 0:
                self._more.clear()
                await self._more.wait()
        start, self._seen = self._seen, position + len(text)
        return self.text[start : self._seen]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def exit_status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(*arguments: str, state: Path) -> AsyncIterator[Screen]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"XDG_STATE_HOME": str(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )
    os.close(slave)
    screen = Screen(master, process)
    try:
        yield screen
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


async def test_a_person_talks_on_a_terminal(tmp_path: Path) -> None:
    async with serving() as place, on_terminal(place, state=tmp_path) as screen:
        await screen.expect(f"• Connected to ws://{place}, no subprotocol.")
        await screen.expect(READY)
        screen.type("hello\r")
        assert re.search(r"\d\d:\d\d:\d\d\.\d{3} → hello", await screen.expect("→ hello"))
        await screen.expect("← hello")
        screen.type('{"a":[1,null]}\r')
        await screen.expect("←")
        assert re.sub(r"\s+", " ", await screen.expect("}")) == ' { "a": [ 1, null ] }'
        screen.type("//literal\r")
        await screen.expect("← /literal")
        screen.type("/binary 00 68 69\r")
        await screen.expect("← binary, 3 bytes")
        await screen.expect("0000  0068 69")
        await screen.expect(".hi")
        screen.type("/ping\r")
        await screen.expect("The pong came after")
        screen.type("/nonsense\r")
        await screen.expect("! There is no command /nonsense.")
        await screen.expect(READY)
        screen.type("\x04")
        await screen.expect("Closed: 1000.")
        assert await screen.exit_status() == 0
    assert re.search(rb"\x1b\[1;34m\"a\"", screen.raw), "JSON has no colours"


async def test_a_terminal_shows_the_subprotocol_and_why_the_server_closed(tmp_path: Path) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1013, "come \x1b[31mback")

    async with (
        serving(close, subprotocols=["chat"]) as place,
        on_terminal(place, "--subprotocol", "chat", state=tmp_path) as screen,
    ):
        await screen.expect("subprotocol chat.")
        await screen.expect(READY)
        screen.type("hello\rhalf a li")
        await screen.expect(r"! The server closed the connection: 1013 “come \u001b[31mback”.")
        await screen.expect("The server is overloaded.")
        assert await screen.exit_status() == 3


async def test_a_message_can_not_take_over_the_terminal(tmp_path: Path) -> None:
    async def attack(connection: ServerConnection) -> None:
        await connection.send("\x1b]0;evil\x07\x9b2J\r12:00:00.000 → forged\n12:00:00.000 → forged")
        await connection.wait_closed()

    async with serving(attack) as place, on_terminal(place, state=tmp_path) as screen:
        await screen.expect(r"← \u001b]0;evil\u0007\u009b2J\r12:00:00.000 → forged")
        assert re.fullmatch(r" *\r\n {10,}12:00:00.000 → forged", await screen.expect("→ forged"))
        assert b"\x1b]0;evil" not in screen.raw
        await screen.expect(READY)
        screen.type("\x03")
        assert await screen.exit_status() == 130


async def test_a_flood_of_messages_can_be_left(tmp_path: Path) -> None:
    async def flood(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await connection.send("drop")
                await asyncio.sleep(0)

    async with serving(flood) as place, on_terminal(place, state=tmp_path) as screen:
        await screen.expect(READY)
        for _ in range(10):
            await screen.expect("← drop")
        screen.type("\x03")
        assert await screen.exit_status() == 130


async def test_lines_are_remembered_for_the_next_time(tmp_path: Path) -> None:
    async with serving() as place:
        for keys in ("remember me\r", "\x1b[A\x1b[A\r"):  # arrow up: "/quit", "remember me"
            async with on_terminal(place, state=tmp_path) as screen:
                await screen.expect(READY)
                screen.type("x")
                await screen.expect("x")  # by now the history is loaded
                screen.type("\x7f" + keys)
                await screen.expect("← remember me")
                screen.type("/quit\r")
                assert await screen.exit_status() == 0
    history = tmp_path / "hubbub" / "connect_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.read_text().splitlines() == ['"remember me"', '"/quit"'] * 2


async def test_a_terminal_is_told_why_it_can_not_connect(tmp_path: Path) -> None:
    async with serving() as place:
        pass
    async with on_terminal(place, state=tmp_path) as screen:
        await screen.expect(f"! {place} refuses connections.")
        assert await screen.exit_status() == 1
