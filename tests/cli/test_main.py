import subprocess
import sys

import pytest

import hubbub
from hubbub.cli import main


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hubbub", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_it_shows_its_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"hubbub {hubbub.__version__}\n"


def test_without_a_command_it_shows_what_there_is(monkeypatch, capsys):
    run(monkeypatch)
    shown = "".join(capsys.readouterr())
    for command in ("serve", "demo", "connect", "routes"):
        assert command in shown


def test_an_error_is_a_sentence_on_standard_error_with_status_1(monkeypatch, capsys):
    assert run(monkeypatch, "routes", "no_such_module:hub") == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("hubbub: There is no module 'no_such_module' here")
    assert "Traceback" not in error


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "hubbub", "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("hubbub ")
