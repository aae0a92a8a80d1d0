"""``hubbub chaos`` as its users run it, between real clients and servers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from hubbub.cli import app
from hubbub.testing.faults import KINDS, Cut, RandomFaults, Stall, parse_script
from plain_server import plain_server

ENDS_WITHIN = 30.0
NO_SERVER = "127.0.0.1:9"


def chaos(*arguments: str, stdin: str | None = None) -> Result:
    """Run it in this process, for a fraction of a second if nothing else is said."""
    duration = () if "--for" in arguments else ("--for", "300ms")
    command = ["chaos", "--to", NO_SERVER, "--listen", "127.0.0.1:0", *duration, *arguments]
    return CliRunner().invoke(app, command, input=stdin, catch_exceptions=False)


class Running:
    """The command in a process of its own, with JSON for this one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.began = self.event()
        self.url = f"ws://{self.began['listen']}"

    def event(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()  # type: ignore[union-attr]
        event: dict[str, object] = json.loads(line)
        return event

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[dict[str, object], int]:
        """Have it end; return the figures and the exit status."""
        self._process.send_signal(how)
        output, errors = self._process.communicate(timeout=ENDS_WITHIN)
        assert errors == ""
        return json.loads(output.splitlines()[-1]), self._process.returncode


@contextmanager
def running(port: int, *arguments: str, stdin: str = "") -> Iterator[Running]:
    command = ["chaos", "--to", f"127.0.0.1:{port}", "--listen", "127.0.0.1:0", "--json", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "hubbub", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    with process:
        try:
            yield Running(process)
        finally:
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_client_meets_the_faults_of_a_script_until_ctrl_c(how):
    with plain_server() as server, running(server.port, "--script", "-", stdin="1kB cut\n") as chaos:
        with connect(chaos.url) as client:
            client.send("hello")
            assert client.recv() == "hello"

            def go_on() -> None:
                while True:
                    client.send("x" * 100)
                    client.recv()

            with pytest.raises(ConnectionClosedError):
                go_on()
        fault = chaos.event()
        assert (fault["event"], fault["fault"], fault["connections"]) == ("fault", "cut", [1])
        with connect(chaos.url) as client:
            client.send("back")
            assert client.recv() == "back"
        figures, status = chaos.end(how)
    assert status == 130
    assert figures["event"] == "end"
    assert figures["interrupted"] is True
    assert (figures["accepted"], figures["hit"], figures["faults"]) == (2, 1, {"cut": 1})
    assert figures["bytes_up"] > 0
    assert figures["bytes_down"] > 0


def test_faults_come_at_random_and_a_seed_brings_them_back():
    runs = [chaos("--json", "--seed", "7", "--every", "5ms", "--faults", "cut,stall:1s:up") for _ in range(2)]
    shown = []
    for run in runs:
        assert run.exit_code == 0
        began, *faults, end = [json.loads(line) for line in run.stdout.splitlines()]
        assert began["seed"] == 7
        assert began["every"] == 0.005
        assert began["faults"] == ["cut", "stall:1s:up"]
        assert sum(end["faults"].values()) == len(faults) > 3
        assert end["interrupted"] is False
        shown.append([(fault["fault"], fault["to"]) for fault in faults])
    steps = iter(RandomFaults(7, 0.005, ["cut", "stall:1s:up"]))
    expected = [(str(step.fault), str(step.to)) for step, _ in zip(steps, max(shown, key=len), strict=False)]
    for one in shown:
        assert one == expected[: len(one)]


def test_the_seed_is_told_where_none_was_given():
    runs = [chaos("--for", "10ms") for _ in range(2)]
    seeds = [re.search(r"seed (\d+)\n", run.stderr)[1] for run in runs]
    assert seeds[0] != seeds[1]


def test_what_is_printed_is_a_script_that_brings_the_same_back(tmp_path):
    kinds = "stall:5ms,refuse:5ms,delay:1ms±1ms:for=5ms"
    printed = chaos("--seed", "1", "--every", "5ms", "--faults", kinds).stdout
    script = tmp_path / "faults.txt"
    script.write_text(printed)
    again = chaos("--script", str(script), "--for", "500ms").stdout
    first, second = parse_script(printed), parse_script(again)
    assert len(first) > 10
    assert [step.fault for step in second] == [step.fault for step in first]
    assert [step.to for step in second] == [step.to for step in first]


def test_a_script_that_is_over_leaves_the_proxy_running():
    result = chaos("--script", "-", "--for", "100ms", stdin="0s stall:1s all  # a comment\n\n10ms cut")
    assert result.exit_code == 0
    steps = parse_script(result.stdout)
    assert [(step.fault, step.to) for step in steps] == [(Stall(1.0), "all"), (Cut(), "open")]
    assert "0.1" in result.stderr


def test_people_are_shown_figures_beside_the_script():
    result = chaos("--seed", "7", "--every", "20ms", "--faults", "stall:1ms", "--share", "25")
    assert "Connect to 127.0.0.1:" in result.stderr
    assert f"instead of {NO_SERVER}. Ctrl-C ends it." in result.stderr
    for heading in ("seconds", "connections", "refused", "up", "down", "faults", "hit"):
        assert heading in result.stderr
    assert re.search(r"^stall \d+$", result.stderr, re.MULTILINE)
    assert "25%#" in result.stdout
    assert "# 0 connections" in result.stdout


def test_a_server_that_can_not_be_reached_is_told_of():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with running(port, "--script", "-") as chaos:
            with pytest.raises(Exception, match=r"\w"):  # whether it is refused or broken off
                connect(chaos.url)
            figures, _ = chaos.end()
    assert figures["unreachable"] == 1


def test_all_faults_are_explained():
    shown = re.sub(r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, ["chaos", "--help"]).output)
    for kind in KINDS:
        assert re.search(rf"^ {kind}\b", shown, re.MULTILINE), kind


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "cut,explode"], "'explode' is no fault; there are cut, reset"),
        (["--faults", ""], "'' is no fault"),
        (["--share", "0"], "A share is more than 0"),
        (["--share", "101"], "at most 1"),
        (["--every", "often"], "'often' is no time"),
        (["--every", "0s"], "some time"),
        (["--for", "long"], "'long' is no time"),
        (["--listen", "nowhere"], "write HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "write HOST:PORT"),
        (["--to", "ftp://example.com"], "not for WebSockets"),
        (["--script", "no-such-file"], "no-such-file can't be read"),
        (["--script", "-", "--seed", "7"], "--script says all of"),
        (["--script", "-"], "Line 1: 'now' is no time"),
    ],
)
def test_what_can_not_be_done_is_said_in_words(arguments, said):
    result = chaos(*arguments, stdin="now cut")
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", " ").split())
    assert said in words


def test_an_address_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "hubbub", "chaos", "--listen", f"127.0.0.1:{port}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=ENDS_WITHIN)
    assert result.returncode == 1
    assert f"Can't listen on 127.0.0.1 port {port}: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_who_reads_only_the_beginning_is_no_error(arguments):
    command = [sys.executable, "-m", "hubbub", "chaos", "--listen", "127.0.0.1:0", "--every", "5ms"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(ENDS_WITHIN) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_on_a_terminal_the_figures_are_kept_up_to_date():
    near, far = os.openpty()
    command = ["chaos", "--listen", "127.0.0.1:0", "--seed", "7", "--every", "100ms", "--for", "1s"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hubbub", *command],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=far,
        stderr=far,
    )
    os.close(far)
    shown = b""
    try:
        while data := _read(near):
            shown += data
        assert process.wait(ENDS_WITHIN) == 0
    finally:
        process.kill()
        process.wait()
        os.close(near)
    text = shown.decode()
    assert "0 open · 0 B up · 0 B down" in text
    assert "seconds" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def test_addresses_may_be_of_ipv6_and_without_a_host(tmp_path: Path):
    for listen in ("[::1]:0", ":0"):
        assert chaos("--listen", listen, "--for", "10ms").exit_code == 0
