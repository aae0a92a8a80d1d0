"""The command within this process: its options, and the two ends of a pipe."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from io import StringIO
from pathlib import Path

import pytest
import typer
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner
from websockets.sync.server import ServerConnection, serve

from hubbub.cli import connect as module
from hubbub.cli.connect import Pipe, address, connect
from hubbub.cli.conversation import Unusable

command = typer.Typer()
command.command()(connect)


@pytest.fixture
def place() -> Iterator[str]:
    """A server that greets with the headers it got, then echoes."""

    def greet(connection: ServerConnection) -> None:
        assert connection.request
        connection.send(f"{connection.request.headers.get('X-One')}, {connection.subprotocol}")
        for message in connection:
            connection.send(message)

    with serve(greet, "127.0.0.1", 0, subprotocols=["chat"]) as server:  # type: ignore[list-item]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:8000", "ws://localhost:8000"),
        ("localhost:8000/a?b=ws://c", "ws://localhost:8000/a?b=ws://c"),
        ("[::1]:8000", "ws://[::1]:8000"),
        ("HTTPS://example.org/ä", "wss://example.org/ä"),
        ("http://example.org", "ws://example.org"),
        ("wss://me:secret@example.org", "wss://me:secret@example.org"),
    ],
)
def test_urls_are_completed(given: str, url: str) -> None:
    assert address(given) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.org", "ftp:// is not for WebSockets"),
        ("ws://", "can't be used"),
        ("ws://localhost/#here", "fragment"),
        ("ws://localhost/a b", "write %20"),
        ("ws://localhost/\r\nX: y", "control character"),
        ("ws://localhost:99999", "is not a URL"),
        ("ws://[::1", "is not a URL"),
        (f"ws://{'x' * 64}.org", "is not a host name"),
        ("ws://ü..org", "is not a host name"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, said: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        address(url)
    assert said in str(refused.value)
    assert CliRunner().invoke(command, [url]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-H", "no colon"], "write it as 'Name: value'"),
        (["-H", "a b: c"], "write it as 'Name: value'"),
        (["-H", "Origin: x"], "Use --origin"),
        (["-H", "Sec-WebSocket-Protocol: x"], "Use --subprotocol"),
        (["-H", "Host: x"], "belongs to the handshake"),
        (["-H", "a: b\r\nc: d"], "control characters"),
        (["-H", "a: →"], "'→'"),
        (["--origin", "a\nb"], "control characters"),
        (["--subprotocol", "a, b"], "name of a subprotocol"),
        (["--timeout", "0"], "--timeout"),
        (["--count", "0"], "--count"),
        (["--binary", "octal"], "--binary"),
        (["--ca", "/nowhere"], "--ca"),
        (["--ca", __file__], "has no certificates in PEM form"),
        (["--ca", "/dev/null", "--insecure"], "Choose one of --ca and --insecure"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str) -> None:
    ended = CliRunner(env={"COLUMNS": "400"}).invoke(command, ["wss://localhost:1", *options])
    assert ended.exit_code == 2
    assert said in ended.output


def test_the_help_tells_the_exit_statuses() -> None:
    ended = CliRunner().invoke(command, ["--help"])
    assert ended.exit_code == 0
    for status in ("0:", "1:", "2:", "3:", "130:"):
        assert f"* {status}" in ended.output


def test_the_command_talks_through_a_pipe(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        connect(place, header=["X-One: 1"], subprotocol=["chat"], count=1, ping=0)
    assert ended.value.exit_code == 0
    assert capfd.readouterr() == ("1, chat\n", "")


def test_the_command_talks_on_a_terminal(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.os, "isatty", lambda descriptor: True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("hello\r/quit\r")
        with pytest.raises(typer.Exit) as ended:
            connect(f"ws://{place}", subprotocol=["chat"])
    assert ended.value.exit_code == 0
    assert "→ hello" in capsys.readouterr().out


def test_an_interrupt_is_an_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupt(*arguments: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "converse", interrupt)
    with pytest.raises(typer.Exit) as ended:
        connect("localhost:1")
    assert ended.value.exit_code == 130


def test_certificates_are_not_checked_when_told_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        connect("wss://localhost:1", insecure=True)
    assert ended.value.exit_code == 1
    assert "localhost:1 refuses connections." in capfd.readouterr().err


class Ends:
    """A pipe, with the ends that a test holds: `into` its input, `out_of` its output."""

    def __init__(self, stack: ExitStack, **settings: object) -> None:
        source, self.into = os.pipe()
        self.out_of, sink = os.pipe()
        self._open = {source, self.into, self.out_of, sink}
        self.diagnostics = StringIO()
        self.pipe = Pipe(source, sink, self.diagnostics, **settings)  # type: ignore[arg-type]
        stack.callback(self.close, *self._open)

    def close(self, *descriptors: int) -> None:
        for descriptor in self._open.intersection(descriptors):
            os.close(descriptor)
        self._open.difference_update(descriptors)

    def give(self, data: bytes) -> None:
        os.write(self.into, data)
        self.close(self.into)

    def taken(self) -> bytes:
        """Everything that was written; returns when the sink is closed."""
        with open(self.out_of, "rb", closefd=False) as output:
            return output.read()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_lines_are_messages(stack: ExitStack) -> None:
    ends = Ends(stack)
    ends.give(b"one\n\nh\xc3\xa9\r\nlast")
    assert [line async for line in ends.pipe.outgoing()] == ["one", "", "hé\r", "last"]


async def test_lines_longer_than_what_is_read_at_once_stay_whole(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    ends = Ends(stack, binary="text")
    ends.give(b"one two three\nfour")
    assert [line async for line in ends.pipe.outgoing()] == [b"one two three", b"four"]


async def test_a_line_that_is_too_long_is_refused(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_MESSAGE", 4)
    ends = Ends(stack)
    ends.give(b"12345")
    with pytest.raises(Unusable, match="longer than a message may be"):
        await anext(ends.pipe.outgoing())


async def test_a_line_that_is_no_message_is_refused_by_its_number(stack: ExitStack) -> None:
    ends = Ends(stack, binary="hex")
    ends.give(b"00\nno")
    async with aclosing(ends.pipe.outgoing()) as outgoing:
        assert await anext(outgoing) == b"\x00"
        with pytest.raises(Unusable, match=r"Line 2 of the input can't be sent\. This is not hexadecimal"):
            await anext(outgoing)


async def test_an_input_that_can_not_be_read_is_told(stack: ExitStack) -> None:
    ends = Ends(stack)
    ends.pipe.source = os.open("/", os.O_RDONLY)
    stack.callback(os.close, ends.pipe.source)
    with pytest.raises(Unusable, match="The input can't be read: Is a directory"):
        await anext(ends.pipe.outgoing())


async def test_waiting_for_input_can_be_given_up(stack: ExitStack) -> None:
    ends = Ends(stack)
    outgoing = ends.pipe.outgoing()
    os.write(ends.into, b"one\n")
    assert await anext(outgoing) == "one"
    others = set(threading.enumerate())
    reading = asyncio.create_task(anext(outgoing))  # type: ignore[arg-type]
    await asyncio.sleep(0)  # the task begins, and with it a thread that reads
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    readers = set(threading.enumerate()) - others
    ends.give(b"too late")
    for reader in readers:
        reader.join()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("text", "text"),
        ("two\nlines", r"two\nlines"),
        ('{"a":\n1}', '{"a": 1}'),
        ('["\x9b"]', r'["\u009b"]'),
        ('{"a":\n', r'{"a":\n'),
        (b"\x00\xff", "00ff"),
        (b"", ""),
    ],
)
async def test_messages_are_lines(message: str | bytes, line: str, stack: ExitStack) -> None:
    ends = Ends(stack)
    await ends.pipe.received(message)
    await ends.pipe.sent(message)
    ends.close(ends.pipe.sink)
    assert ends.taken().decode() == line + "\n"


async def test_binary_messages_are_printed_as_text_on_demand(stack: ExitStack) -> None:
    ends = Ends(stack, binary="text")
    await ends.pipe.received(b"h\xc3\xa9\xff\x1b")
    ends.close(ends.pipe.sink)
    assert ends.taken().decode() == "hé\\xff\\u001b\n"


async def test_json_is_laid_out_on_demand(stack: ExitStack) -> None:
    ends = Ends(stack, json_laid_out=True)
    await ends.pipe.received("[1]")
    await ends.pipe.received("[1")
    ends.close(ends.pipe.sink)
    assert ends.taken() == b"[\n  1\n]\n[1\n"


async def test_a_slow_reader_gets_everything(stack: ExitStack) -> None:
    ends = Ends(stack)
    writing = asyncio.create_task(ends.pipe.received("x" * 1_000_000))
    read = asyncio.create_task(asyncio.to_thread(ends.taken))
    await writing
    ends.close(ends.pipe.sink)
    assert await read == b"x" * 1_000_000 + b"\n"


@pytest.mark.parametrize("length", [1, 100_000])
async def test_it_is_told_when_nobody_reads(length: int, stack: ExitStack) -> None:
    ends = Ends(stack)
    ends.close(ends.out_of)
    with pytest.raises(BrokenPipeError):
        await ends.pipe.received("x" * length)


async def test_an_output_that_can_not_be_written_is_told(stack: ExitStack) -> None:
    ends = Ends(stack)
    ends.pipe.sink = os.open("/dev/full", os.O_WRONLY)
    stack.callback(os.close, ends.pipe.sink)
    with pytest.raises(Unusable, match="The output can't be written: No space left on device"):
        await ends.pipe.received("x")


async def test_only_problems_are_told(stack: ExitStack) -> None:
    ends = Ends(stack)
    await ends.pipe.tell("all is well")
    await ends.pipe.tell("bad [red]\x1b[31m news", problem=True)
    assert ends.diagnostics.getvalue() == "hubbub: bad [red]\\u001b[31m news\n"
