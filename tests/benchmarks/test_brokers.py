"""The brokers' benchmark measures each of them at each work."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_broker_has_a_rate_at_every_work(tmp_path: Path) -> None:
    options = ("--rounds", "1", "--seconds", "0.1", "--tasks", "10", "--folder", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.brokers", *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=5) for line in done.stdout.splitlines() if " to " in line][1:]
    assert [row[0].strip() for row in rows] == [
        "10 publishers",
        "10 publishers, with keys",
        "one publisher",
        "10 readers of 100 messages",
    ]
    assert all(float(row[column].replace(",", "")) > 0 for row in rows for column in (1, 2))
    assert not list(tmp_path.iterdir())
