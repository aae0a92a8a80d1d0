"""The brokers' benchmark measures each of them at each work."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.report import number

from hubbub.testing.servers import PLACES

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"(.+?) +(\w+) +([\d.,]+) +([\d.,]+ to [\d.,]+) *(\d+%)? *")
PROGRAMS = {"redis": "redis-server", "rabbitmq": "rabbitmq-server", "nats": "nats-server"}


def rows(*brokers: str, folder: Path, more: tuple[str, ...] = ()) -> list[list[str]]:
    options = ("--rounds", "1", "--seconds", "0.1", "--tasks", "10", "--folder", str(folder), *more)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.brokers", *options, *(f"--broker={broker}" for broker in brokers)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " to " in line][1:]
    return [[(cell or "").strip() for cell in LINE.fullmatch(line).groups()] for line in lines]  # type: ignore[union-attr]


WORKS = ["10 publishers", "10 publishers, with keys", "one publisher", "10 readers of 100 messages"]


def test_every_broker_has_a_rate_at_every_work(tmp_path: Path) -> None:
    found = rows(folder=tmp_path)

    assert [row[:2] for row in found] == [[work, name] for work in WORKS for name in ("memory", "sqlite")]
    assert all(float(row[2].replace(",", "")) > 0 for row in found)
    assert not list(tmp_path.iterdir())


def test_the_figures_are_kept_in_a_file_that_has_a_name(tmp_path: Path) -> None:
    found = rows("memory", folder=tmp_path, more=("--name", "here", "--results", str(tmp_path)))

    (file,) = tmp_path.iterdir()
    assert file.name.endswith("-here.json")
    kept = json.loads(file.read_text())
    assert [(each["work"], each["broker"]) for each in kept["works"]] == [(row[0], row[1]) for row in found]
    assert [[number(rate) for rate in each["rounds"]] for each in kept["works"]] == [
        [row[2]] for row in found
    ]
    assert kept["machine"]["cores"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("broker", PROGRAMS)
def test_a_broker_that_is_a_server_is_given_one_of_its_own(broker: str, tmp_path: Path) -> None:
    if not (shutil.which(PROGRAMS[broker]) or shutil.which(PROGRAMS[broker], path=PLACES)):
        pytest.skip(f"needs {PROGRAMS[broker]}")
    found = rows(broker, folder=tmp_path)

    assert [row[:2] for row in found] == [[work, broker] for work in WORKS]
    assert all(row[4].endswith("%") for row in found)


def test_a_broker_whose_server_is_not_installed_is_left_out(tmp_path: Path) -> None:
    code = "import shutil; shutil.which = lambda *_, **__: None; from benchmarks.brokers import app; app()"
    options = ("--rounds", "1", "--seconds", "0.1", "--folder", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--broker", "redis", "--broker", "memory"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=55,
    )

    assert done.returncode == 0, done.stderr
    assert "Without redis: redis-server is not installed" in done.stdout
    assert "memory" in done.stdout
