"""What is made of a run of the fuzzer; the fuzzer itself is not needed for it."""

import subprocess
from pathlib import Path

import pytest

import fuzz.__main__ as runner

RAN = "#2\tINITED cov: 10 ft: 20 corp: 3\n#900\tDONE   cov: 12 ft: 25 corp: 4\n"


@pytest.fixture
def fuzzed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Fuzz one target with a fuzzer that prints something and exits."""

    def fuzz(printed: str, code: int) -> list[Path]:
        done = subprocess.CompletedProcess([], code, printed)
        monkeypatch.setattr(runner, "_run", lambda *_, **__: done)
        return runner._fuzz("frames", 1, 0)

    monkeypatch.setattr(runner, "FOUND", tmp_path)
    return fuzz


def test_a_run_without_a_finding_tells_what_it_reached(fuzzed, capsys):
    assert fuzzed(RAN, 0) == []
    assert "900 inputs run" in capsys.readouterr().out


def test_a_finding_is_the_input_that_shows_it(fuzzed):
    assert fuzzed(f"{RAN}Test unit written to /found/crash-1\n", 77) == [Path("/found/crash-1")]


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_in_which_nothing_was_run_is_an_error(fuzzed, code, capsys):
    with pytest.raises(SystemExit, match="frames could not be fuzzed"):
        fuzzed("no such thing\n", code)
    assert "no such thing" in capsys.readouterr().out
