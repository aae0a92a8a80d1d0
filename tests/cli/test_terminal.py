"""What is shown on a terminal, and what typed lines mean."""

import asyncio
import json
import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from hubbub.cli import terminal
from hubbub.cli.conversation import Action, Close, Interrupted, Ping
from hubbub.cli.terminal import (
    LineHistory,
    Terminal,
    dump,
    escape,
    from_hex,
    history_path,
    pretty,
    to_send,
    understand,
)

NESTED = some.recursive(
    some.none() | some.booleans() | some.floats(allow_nan=False) | some.integers() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï → 😀", "plain ünï → 😀"),
        ("\x1b[31m", r"\u001b[31m"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x00\x7f\x85\x9b\u2028\u202e\ud800", r"\u0000\u007f\u0085\u009b\u2028\u202e\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(some.text())
def test_nothing_escaped_has_control_characters(text: str) -> None:
    assert escape(text).isprintable() or not any(ord(c) < 32 or 0x7F <= ord(c) <= 0x9F for c in escape(text))


@given(NESTED)
def test_laid_out_json_means_the_same(value: object) -> None:
    for ascii_only in (True, False):
        shown = pretty(json.dumps(value, ensure_ascii=ascii_only))
        assert shown is not None
        assert json.loads(shown.plain) == value


def test_json_is_laid_out_token_for_token() -> None:
    shown = pretty('{"a" : [1.50, 1e999,{}],\n\t"a":"\\u00e9\\"", "b":[[]]}')
    assert shown is not None
    assert shown.plain == (
        '{\n  "a": [\n    1.50,\n    1e999,\n    {}\n  ],\n  "a": "\\u00e9\\"",\n  "b": [\n    []\n  ]\n}'
    )


@pytest.mark.parametrize(
    "text", ["", "hello", "{", "[" * 100_000, "[" * 200 + "]" * 200, "1" * 10_000, "[\x00]"]
)
def test_what_is_not_json_or_too_deep_is_not_laid_out(text: str) -> None:
    assert pretty(text) is None


def test_control_characters_within_json_are_escaped() -> None:
    shown = pretty('["\x9b\u202e"]')
    assert shown is not None
    assert shown.plain == '[\n  "\\u009b\\u202e"\n]'


def test_binary_is_dumped_up_to_a_limit() -> None:
    assert dump(b"").plain == "binary, 0 bytes"
    assert dump(b"h").plain == f"binary, 1 byte\n0000  {'68':39}  h"
    lines = dump(bytes(range(256)) + b"12345").plain.splitlines()
    assert lines[0] == "binary, 261 bytes"
    assert lines[7] == "0060  6061 6263 6465 6667 6869 6a6b 6c6d 6e6f  `abcdefghijklmno"
    assert lines[-1] == "… 5 bytes more"
    assert len(lines) == 18


@pytest.mark.parametrize("text", ["dead", "de ad", "DE:AD", "0xde 0xad", "0xdead", "de,ad"])
def test_hexadecimal_is_read_in_its_usual_forms(text: str) -> None:
    assert from_hex(text) == b"\xde\xad"


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("hello", "hello"),
        ("//hello", "/hello"),
        ("/ping", Ping()),
        ("/quit ", Close()),
        ("/close", Close()),
        ("/close 1001", Close(1001)),
        ("/close 4000 so long ", Close(4000, "so long")),
        ("/binary 00 01", b"\x00\x01"),
        ("/binary", b""),
    ],
)
def test_typed_lines_are_understood(line: str, action: Action) -> None:
    assert understand(line, None) == action


@pytest.mark.parametrize(
    ("line", "binary", "message"),
    [
        ("hé", None, "hé"),
        ("hé", "text", b"h\xc3\xa9"),
        ("\udcff", "text", b"\xff"),
        ("68 69", "hex", b"hi"),
    ],
)
def test_lines_are_text_or_binary(line: str, binary: terminal.Binary | None, message: str | bytes) -> None:
    assert to_send(line, binary) == understand(line, binary) == message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/nonsense", "no command /nonsense"),
        ("/binary xyz", "not hexadecimal"),
        ("/binary abc", "not hexadecimal"),
        ("/close soon", "A close code is a number"),
        ("/close 1005", "can't be sent"),
        ("/close 1000 " + "x" * 124, "too long"),
        ("/file", "There is no file ''"),
        ("/file /nowhere", "There is no file '/nowhere'"),
        ("/file /dev/zero", "There is no file '/dev/zero'"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        understand(line, None)


def test_files_are_sent_as_text_or_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, data = tmp_path / "a text", tmp_path / "data"
    text.write_bytes(b"h\xc3\xa9\n")
    data.write_bytes(b"\xff")
    assert understand(f"/file {text}", None) == "hé\n"
    assert understand(f"/file {text}", "hex") == b"h\xc3\xa9\n"
    assert understand(f"/file {data}", None) == b"\xff"
    monkeypatch.setattr(terminal, "LONGEST_MESSAGE", 2)
    with pytest.raises(ValueError, match="larger than a message may be"):
        understand(f"/file {text}", None)


def test_a_file_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"File name too long|There is no file"):
        understand(f"/file {tmp_path / ('x' * 300)}", None)


def test_the_history_is_bounded_and_private(tmp_path: Path) -> None:
    history = LineHistory(tmp_path / "state" / "lines", size=3)
    assert history.load() == []
    for line in ("one", "two", "x" * 20_000, "three\nlines\u2028of it", "\udcff", "five"):
        history.remember(line)
    assert history.load() == ["three\nlines\u2028of it", "\udcff", "five"]
    assert len(history.path.read_text().splitlines()) == 3
    assert [path.name for path in history.path.parent.iterdir()] == ["lines"]
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert history.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_damaged_line_of_the_history_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'"one"\n"tw\n\xff\n7\n"three"\n')
    assert LineHistory(tmp_path / "lines").load() == ["one", "three"]


@pytest.mark.parametrize(
    ("state", "home", "path"),
    [
        ("/state", "/home/me", "/state/hubbub/connect_history"),
        ("", "/home/me", "/home/me/.local/state/hubbub/connect_history"),
        ("relative", "/home/me", "/home/me/.local/state/hubbub/connect_history"),
    ],
)
def test_the_history_lies_where_state_belongs(
    state: str, home: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", home)
    assert history_path() == Path(path)


def test_without_a_home_there_is_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "~")
    assert history_path() == Path(os.devnull)
    assert LineHistory(history_path()).load() == []


class Desk:
    """A terminal whose keys the test presses and whose output it reads."""

    def __init__(self, keys: PipeInput, history: LineHistory, **settings: object) -> None:
        self.keys = keys
        self._written = StringIO()
        console = Console(file=self._written, width=80, highlight=False)
        self.terminal = Terminal(console, history, **settings)  # type: ignore[arg-type]

    @property
    def output(self) -> str:
        return "\n".join(line[13:].rstrip() for line in self._written.getvalue().splitlines())


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


@pytest.fixture
def desk(keys: PipeInput, tmp_path: Path) -> Desk:
    return Desk(keys, LineHistory(tmp_path / "lines"))


async def test_typed_lines_become_actions_until_the_end_of_input(desk: Desk) -> None:
    desk.keys.send_text("hello\r  \r/help\r/ping\r/what\r\x04")
    assert [action async for action in desk.terminal.outgoing()] == ["hello", Ping()]
    assert "• /help lists the commands, Ctrl-D leaves." in desk.output
    assert "/binary HEX" in desk.output
    assert "! There is no command /what." in desk.output
    assert desk.terminal.history.load() == ["hello", "/help", "/ping", "/what"]


async def test_pasted_lines_are_one_message(desk: Desk) -> None:
    desk.keys.send_text('\x1b[200~{"a":\n1}\x1b[201~\r\x04')
    assert [action async for action in desk.terminal.outgoing()] == ['{"a":\n1}']


async def test_control_c_interrupts(desk: Desk) -> None:
    desk.keys.send_text("half a line\x03")
    with pytest.raises(Interrupted):
        await anext(desk.terminal.outgoing())


async def test_the_prompt_goes_when_it_is_cancelled(desk: Desk) -> None:
    outgoing = desk.terminal.outgoing()
    prompting = asyncio.create_task(anext(outgoing))  # type: ignore[arg-type]
    desk.keys.send_text("one\r")
    assert await prompting == "one"
    prompting = asyncio.create_task(anext(outgoing))  # type: ignore[arg-type]
    await desk.terminal.received("while it is up")
    prompting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await prompting
    assert "← while it is up" in desk.output


async def test_messages_are_marked_by_direction(desk: Desk) -> None:
    await desk.terminal.sent("out")
    await desk.terminal.received("in")
    await desk.terminal.received('{"a": 1}')
    await desk.terminal.received(b"\x00")
    await desk.terminal.received("")
    await desk.terminal.tell("news\x1b")
    await desk.terminal.tell("bad news", problem=True)
    assert desk.output.splitlines() == [
        "→ out",
        "← in",
        "← {",
        '    "a": 1',
        "  }",
        "← binary, 1 byte",
        f"  0000  {'00':39}  .",
        "← (empty)",
        r"• news\u001b",
        "! bad news",
    ]


async def test_long_text_is_cut(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LONGEST_TEXT_SHOWN", 5)
    await desk.terminal.received("[1234567]")
    assert desk.output.splitlines() == ["← [1234", "  … 4 characters more"]


async def test_json_can_be_left_as_it_came(keys: PipeInput, tmp_path: Path) -> None:
    desk = Desk(keys, LineHistory(tmp_path / "lines"), json_laid_out=False)
    await desk.terminal.received('{"a": 1}')
    assert desk.output == '← {"a": 1}'


async def test_a_history_that_can_not_be_used_is_told_once(keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    desk = Desk(keys, LineHistory(tmp_path / "file" / "lines"))
    keys.send_text("one\rtwo\r\x04")
    assert [action async for action in desk.terminal.outgoing()] == ["one", "two"]
    assert desk.output.count("are not remembered") == 1


async def test_a_history_that_can_not_be_written_is_told_once(keys: PipeInput, tmp_path: Path) -> None:
    directory = tmp_path / "lines"
    history = LineHistory(directory)
    desk = Desk(keys, history)
    outgoing = desk.terminal.outgoing()
    keys.send_text("one\r")
    assert await anext(outgoing) == "one"
    directory.unlink()
    directory.mkdir()
    keys.send_text("two\rthree\r\x04")
    assert [action async for action in outgoing] == ["two", "three"]
    assert desk.output.count("are not remembered") == 1
