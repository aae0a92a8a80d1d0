"""The page on bad networks: its commands and scripts work, and its tests pass."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from docs.pages import commands, files, read
from hubbub.cli import app
from hubbub.testing.faults import KINDS, parse_fault, parse_script

PAGE = "docs/how-to/chaos.md"
COMMANDS = [command for _, command in commands(PAGE) if command.startswith("hubbub chaos")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_work(shelf, monkeypatch, command):
    shelf.put_all(PAGE)
    monkeypatch.chdir(shelf.directory)
    arguments = shlex.split(command)[1:]
    result = CliRunner().invoke(
        app, [*arguments, "--listen", "127.0.0.1:0", "--for", "50ms"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert "Connect to 127.0.0.1:" in result.stderr


def test_the_scripts_are_scripts():
    (script,) = [file.text for file in files(PAGE) if file.name == "faults.txt"]
    assert len(parse_script(script)) == 5
    (shown,) = re.findall(r"^```text\nConnect.*?^```", read(PAGE), re.MULTILINE | re.DOTALL)
    assert len(parse_script("\n".join(line for line in shown.splitlines() if "# " in line))) == 3


def test_all_faults_are_on_the_page():
    told = re.findall(r"^\| `(.*?)` \| ", read(PAGE), re.MULTILINE)
    assert {parse_fault(text).kind for text in told} == KINDS.keys()
    for text in re.findall(r"`((?:stall|delay):[^`]*)`", read(PAGE)):
        parse_fault(text)


def test_the_tests_pass(shelf, in_a_shell):
    shelf.put_all("docs/how-to/test.md")
    for path in shelf.directory.glob("test_*.py"):
        path.unlink()
    shelf.put_all(PAGE)
    finished = in_a_shell("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "3 passed" in finished.stdout
