"""A WebSocket connection as a person sees it: lines typed at a prompt, messages shown above it."""

import json
import os
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from websockets.exceptions import ProtocolError
from websockets.frames import Close as CloseFrame

from .conversation import LONGEST_MESSAGE, Action, Close, Interrupted, Ping

LONGEST_TEXT_SHOWN = 64 * 2**10
LONGEST_BINARY_SHOWN = 256
DEEPEST_JSON_SHOWN = 100
LONGEST_LINE_REMEMBERED = 10_000
LONGEST_REASON = 123

COMMANDS = """\
TEXT                   send TEXT as a message
//TEXT                 send a message that starts with /
/binary HEX            send a binary message, as in: /binary de ad
/file PATH             send a file: as text if it is UTF-8, else as binary
/ping                  send a ping and time the pong
/close [CODE] [REASON] close the connection, with 1000 by default
/quit                  close the connection, as Ctrl-D and Ctrl-C do
/help                  show this"""

Binary = Literal["hex", "text"]
"""How the lines of a binary conversation are written: as hexadecimal digits, or as they are."""


# What a terminal obeys or hides: control characters (C0, DEL, C1), line separators, overrides of the
# writing direction; and surrogates, which no output can encode.
_UNSAFE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
_SURROGATE = re.compile("[\\ud800-\\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str, *, keep: str = "") -> str:
    """Return `text` with its control characters, except those in `keep`, written as JSON writes them."""

    def written(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        return _SHORT.get(character) or f"\\u{ord(character):04x}"

    return _UNSAFE.sub(written, text)


def is_json(text: str) -> bool:
    """Tell whether `text` is JSON that can be read here."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def pretty(text: str) -> Text | None:
    """Lay out JSON over several lines, in colours; None if `text` is not JSON or is nested too deeply.

    Every token stays as it came: numbers keep their digits, strings their escapes.
    """
    text = escape(text, keep="\n\r\t")
    if not is_json(text):
        return None
    parts = _TOKEN.findall(text)
    shown, depth = Text(), 0
    for part, before, after in zip(parts, ["", *parts], [*parts[1:], ""], strict=False):
        if part in ("}", "]"):
            depth -= 1
            if before not in ("{", "["):
                shown.append("\n" + "  " * depth)
        shown.append(part, _style(part, after))
        if part in ("{", "["):
            depth += 1
            if depth > DEEPEST_JSON_SHOWN:
                return None
        if part == "," or (part in ("{", "[") and after not in ("}", "]")):
            shown.append("\n" + "  " * depth)
        elif part == ":":
            shown.append(" ")
    return shown


def _style(token: str, following: str) -> str:
    if token.startswith('"'):
        return "bold blue" if following == ":" else "green"
    if token in tuple("{}[],:"):
        return "dim"
    return "magenta" if token in ("true", "false", "null") else "cyan"


def dump(data: bytes) -> Text:
    """Show binary data as hexadecimal digits and characters, and how much of it was left out."""
    shown = Text(f"binary, {len(data):,} {'byte' if len(data) == 1 else 'bytes'}", style="italic")
    for offset in range(0, min(len(data), LONGEST_BINARY_SHOWN), 16):
        row = data[offset : offset + 16]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        shown.append(f"\n{offset:04x}  {row.hex(' ', -2):39}  ", "cyan not italic")
        shown.append(printable, "green not italic")
    if len(data) > LONGEST_BINARY_SHOWN:
        shown.append(f"\n… {len(data) - LONGEST_BINARY_SHOWN:,} bytes more", "dim")
    return shown


def from_hex(text: str) -> bytes:
    """Read hexadecimal digits, as ``dead``, ``de ad``, ``de:ad`` or ``0xde 0xad``; else :exc:`ValueError`."""
    try:
        return bytes.fromhex(re.sub(r"\b0x|[\s:,]", "", text, flags=re.IGNORECASE))
    except ValueError:
        raise ValueError(
            "This is not hexadecimal; write two digits for each byte, as in: de ad be ef"
        ) from None


def to_send(line: str, binary: Binary | None) -> str | bytes:
    """Return the message that a line stands for; :exc:`ValueError` if it can't be one."""
    if binary == "hex":
        return from_hex(line)
    if binary == "text":
        return line.encode("utf-8", "surrogateescape")
    if _SURROGATE.search(line):
        raise ValueError("This is not UTF-8, so it can't be a text message; --binary text sends it as it is.")
    return line


def understand(line: str, binary: Binary | None) -> Action:
    """Return what a line typed at the prompt asks for; :exc:`ValueError` says what is wrong with it."""
    if line.startswith("//"):
        return to_send(line[1:], binary)
    if not line.startswith("/"):
        return to_send(line, binary)
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    match command:
        case "/ping":
            return Ping()
        case "/quit":
            return Close()
        case "/close":
            return _close(rest)
        case "/binary":
            return from_hex(rest)
        case "/file":
            return _file(rest, binary)
    raise ValueError(f"There is no command {command}. See /help; to send a line that starts with /, type //")


def _close(rest: str) -> Close:
    code, _, reason = rest.partition(" ")
    if code and not code.isdecimal():
        raise ValueError("A close code is a number, as in: /close 1001 going home")
    close = Close(int(code or 1000), reason.strip())
    try:
        CloseFrame(close.code, close.reason).check()
    except ProtocolError:
        raise ValueError("This code can't be sent; use 1000, 1001 or one from 3000 to 4999.") from None
    if len(close.reason.encode()) > LONGEST_REASON:
        raise ValueError(f"The reason is too long: it may have {LONGEST_REASON} bytes.")
    return close


def _file(name: str, binary: Binary | None) -> str | bytes:
    path = Path(os.path.expanduser(name))
    try:
        if not path.is_file():  # reading from a pipe or a device may never end
            raise ValueError(f"There is no file {name!r}; write the path after /file.")
        with path.open("rb") as file:
            data = file.read(LONGEST_MESSAGE + 1)
    except OSError as problem:
        raise ValueError(f"{name} can't be read: {problem.strerror}.") from None
    if len(data) > LONGEST_MESSAGE:
        raise ValueError(f"{name} is larger than a message may be ({LONGEST_MESSAGE:,} bytes).")
    try:
        return data if binary else data.decode()
    except UnicodeDecodeError:
        return data


class LineHistory:
    """The lines typed in former conversations, in a file that only its owner can read.

    `size` is how many of them are kept. Methods raise :exc:`OSError` where the file can't be used.
    """

    def __init__(self, path: Path, size: int = 1000) -> None:
        self.path = path
        self.size = size

    def load(self) -> list[str]:
        """Return the lines, oldest first; drop what is too old from the file."""
        try:
            written = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        if len(written) > self.size:
            written = written[-self.size :]
            shorter = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            with open(shorter, "w", encoding="utf-8", opener=_private) as file:
                file.writelines(written)
            shorter.replace(self.path)
        return list(_lines_in(written))

    def remember(self, line: str) -> None:
        """Append a line."""
        if len(line) <= LONGEST_LINE_REMEMBERED:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps(line) + "\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lines_in(written: list[str]) -> Iterator[str]:
    for line in written:
        # A line that was cut off when the disk was full must not cost all the others.
        if is_json(line) and isinstance(text := json.loads(line), str):
            yield text


def history_path() -> Path:
    """Return the file of the prompt's history, in the user's directory for state (XDG)."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        state = Path(os.path.expanduser("~/.local/state"))
    # A user without a home has nowhere to keep it.
    return state / "hubbub/connect_history" if state.is_absolute() else Path(os.devnull)


class Terminal:
    """A person at a terminal.

    `json_laid_out` tells whether JSON is laid out in colours or shown as it came.
    """

    def __init__(
        self,
        console: Console,
        history: LineHistory,
        *,
        binary: Binary | None = None,
        json_laid_out: bool = True,
    ) -> None:
        self.console = console
        self.history = history
        self.binary = binary
        self.json_laid_out = json_laid_out
        self._history_works = True

    async def outgoing(self) -> AsyncGenerator[Action]:
        """Prompt for lines until the end of input; raise :exc:`Interrupted` at Ctrl-C."""
        # Here, because it takes longer to import than all the rest, and a pipe does without.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
        from prompt_toolkit.history import InMemoryHistory

        session: PromptSession[str] = PromptSession(
            "> ",
            history=InMemoryHistory(await self._load()),
            auto_suggest=AutoSuggestFromHistory(),
            erase_when_done=True,
            interrupt_exception=Interrupted,
        )
        await self.tell("/help lists the commands, Ctrl-D leaves.")
        while True:
            try:
                line = await session.prompt_async(set_exception_handler=False)
            except EOFError:
                return
            if not line.strip():
                continue
            await self._remember(line)
            if line.strip() == "/help":
                await self._show("•", "dim", Text(COMMANDS))
                continue
            try:
                action = understand(line, self.binary)
            except ValueError as problem:
                await self.tell(str(problem), problem=True)
            else:
                yield action

    async def received(self, message: str | bytes) -> None:
        """Show a message from the server."""
        await self._show("←", "bold green", self._body(message))

    async def sent(self, message: str | bytes) -> None:
        """Show a message that goes to the server."""
        await self._show("→", "bold blue", self._body(message))

    async def tell(self, sentence: str, *, problem: bool = False) -> None:
        """Tell what happened to the connection."""
        style = "red" if problem else "dim"
        await self._show("!" if problem else "•", style, Text(escape(sentence), style))

    def _body(self, message: str | bytes) -> Text:
        if isinstance(message, bytes):
            return dump(message)
        if not message:
            return Text("(empty)", "dim")
        beyond = len(message) - LONGEST_TEXT_SHOWN
        if beyond <= 0 and self.json_laid_out and (laid_out := pretty(message)):
            return laid_out
        shown = Text(escape(message[:LONGEST_TEXT_SHOWN], keep="\n\t"))
        if beyond > 0:
            shown.append(f"\n… {beyond:,} characters more", "dim")
        return shown

    async def _show(self, mark: str, style: str, body: RenderableType) -> None:
        from prompt_toolkit.application import run_in_terminal

        # In columns, so that no line of a message can pose as a message of its own.
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(Text(f"{datetime.now():%H:%M:%S.%f}"[:-3], "dim"), Text(mark, style), body)
        await run_in_terminal(lambda: self.console.print(line))

    async def _load(self) -> list[str]:
        try:
            return self.history.load()
        except OSError as problem:
            await self._without_history(problem)
            return []

    async def _remember(self, line: str) -> None:
        if self._history_works:
            try:
                self.history.remember(line)
            except OSError as problem:
                await self._without_history(problem)

    async def _without_history(self, problem: OSError) -> None:
        self._history_works = False
        reason = f"{self.history.path} can't be used: {problem.strerror}"
        await self.tell(f"The lines you type are not remembered for the next time; {reason}.")
