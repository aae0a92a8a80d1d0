"""The fuzzer's corpus, without the fuzzer: all that was ever found stays mended, on every system."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import CORPUS, TARGETS
from fuzz.seeds import all_seeds

INPUTS = [(target, path) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


def check(target: str, data: bytes) -> list[str]:
    return importlib.import_module(f"fuzz.targets.{target}").check(data)


@pytest.mark.parametrize(("target", "path"), INPUTS, ids=[f"{target}-{path.name}" for target, path in INPUTS])
def test_nothing_is_wrong_with_what_comes_of(target: str, path: Path) -> None:
    check(target, path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_wrong_with_what_comes_of_the_seeds_of(target: str) -> None:
    seeds = {name: data for of, name, data in all_seeds() if of == target}
    assert len(seeds) > 40
    for data in seeds.values():
        check(target, data)


def test_the_names_of_seeds_are_told_apart() -> None:
    names = [(target, name) for target, name, _ in all_seeds()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_small(target: str) -> None:
    sizes = [path.stat().st_size for path in (CORPUS / target).iterdir()]
    assert len(sizes) < 250
    assert sum(sizes) < 100_000


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_too_short_to_say_anything_are_passed_over(target: str) -> None:
    assert check(target, b"") == []


def test_an_input_can_be_run_by_itself() -> None:
    path = min((CORPUS / "frames").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.replay", str(path)],
        cwd=CORPUS.parents[1],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}: nothing is wrong\n"


def test_what_lies_in_no_folder_of_a_target_can_not_be_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.replay", str(tmp_path / "input")],
        cwd=CORPUS.parents[1],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1
    assert "there is frames, envelope, handshake, publication" in done.stderr
