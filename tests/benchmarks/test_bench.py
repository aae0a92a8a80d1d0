"""The benchmark is itself a program: a small run of it has to give figures that make sense."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and a core each for the server and for the load generator",
)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_a_small_run_prints_tables_and_keeps_the_figures(tmp_path: Path) -> None:
    done = run(
        *("--peer", "websockets", "--peer", "floor", "--rounds", "1", "--seconds", "0.2"),
        *("--connections", "3", "--subscribers", "10", "--name", "small", "--results", str(tmp_path)),
    )

    assert done.returncode == 0, done.stderr
    assert "echo, 3 connections: echoes/s" in done.stdout
    assert "generator" in done.stdout
    [path] = tmp_path.iterdir()
    assert path.name.endswith("-small.json")
    figures = json.loads(path.read_text())
    assert set(figures["packages"]) == {"websockets", "uvloop"}
    assert [work["name"] for work in figures["works"]] == [
        "echo, 3 connections",
        "fan-out to 10, w=1",
        "fan-out to 10, w=8",
    ]
    for work in figures["works"]:
        assert list(work["peers"]) == ["websockets", "floor"]
        for peer in work["peers"].values():
            assert len(peer["rounds"]) == len(peer["ratios"]) == 1
            for reading in peer["rounds"]:
                assert reading["value"] > 0
                assert reading["seconds"] >= 0.2
                assert reading["server"]["working"] > 0
                assert reading["generator"]["working"] > 0
        assert work["peers"]["websockets"]["ratios"] == [1]


def test_an_unknown_peer_is_refused_with_the_names_there_are() -> None:
    done = run("--peer", "nobody")

    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert "websockets" in done.stderr
