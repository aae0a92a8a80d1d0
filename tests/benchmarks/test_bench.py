"""The benchmark is itself a program: a small run of it has to give figures that make sense."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from benchmarks.servers import redis_missing

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and a core each for the server and for the load generator",
)

WITHOUT = """
import shutil
shutil.which = lambda *_, **__: None
from benchmarks.__main__ import app
app()
"""
PEERS = ("hubbub", "websockets", "floor")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=55,
    )


def small_run(folder: Path, work: str, *peers: str) -> tuple[dict[str, Any], str]:
    """Run one work with few clients; return its figures and what was printed."""
    done = run(
        *(option for peer in peers for option in ("--peer", peer)),
        *("--work", work, "--rounds", "1", "--seconds", "0.2", "--connections", "3", "--subscribers", "10"),
        *("--idle", "400", "--rooms", "5", "--held", "2000", "--name", "small", "--results", str(folder)),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    [path] = folder.iterdir()
    assert path.name.endswith("-small.json")
    document = json.loads(path.read_text())
    [figures] = document["works"]
    return figures | {"packages": document["packages"]}, done.stdout


@pytest.mark.parametrize(
    ("work", "name", "unit"),
    [
        ("echo", "echo, 3 connections", "echoes/s"),
        ("fanout-1", "fan-out to 10, w=1", "deliveries/s"),
        ("fanout-8", "fan-out to 10, w=8", "deliveries/s"),
        ("fanout-1-1k", "fan-out to 10, w=1, 1024 bytes", "deliveries/s"),
        ("fanout-8-1k", "fan-out to 10, w=8, 1024 bytes", "deliveries/s"),
        ("rooms", "5 rooms of 10, 32 at once", "deliveries/s"),
        ("accepts", "new connections, 32 at once", "connections/s"),
    ],
)
def test_a_rate_is_measured_of_all_peers_in_turn(tmp_path: Path, work: str, name: str, unit: str) -> None:
    figures, printed = small_run(tmp_path, work, *PEERS)
    assert f"{name}: {unit}" in printed
    assert "less is better" not in printed
    assert (figures["name"], figures["unit"], figures["better"]) == (name, unit, "higher")
    assert set(figures["packages"]) == {"hubbub", "websockets", "uvicorn", "uvloop", "msgspec"}
    assert list(figures["peers"]) == list(PEERS)
    for peer in figures["peers"].values():
        [reading] = peer["rounds"]
        assert len(peer["ratios"]) == 1
        assert reading["value"] > 0
        assert reading["seconds"] >= 0.2
        assert reading["server"]["working"] > 0
        assert reading["generator"]["working"] > 0
    assert figures["peers"]["hubbub"]["ratios"] == [1]


def test_compressed_broadcasts_are_measured_of_peers_that_compress(tmp_path: Path) -> None:
    figures, _ = small_run(tmp_path, "fanout-1-1k-deflate", "hubbub", "websockets", "floor")
    assert figures["name"] == "fan-out to 10, w=1, 1024 bytes compressed"
    assert all(peer["median"] > 0 for peer in figures["peers"].values())


@pytest.mark.parametrize(
    ("work", "peers", "details"),
    [
        ("memory", PEERS[:2], {"before_kB", "after_kB", "connections"}),
        ("latency", PEERS, {"p50_ms", "max_ms", "deliveries"}),
        ("stalled", PEERS, {"p99_before_ms", "p99_stalled_ms"}),
    ],
)
def test_where_less_is_better_it_says_so(
    tmp_path: Path, work: str, peers: tuple[str, ...], details: set[str]
) -> None:
    figures, printed = small_run(tmp_path, work, *peers)
    assert "less is better" in printed
    assert figures["better"] == "lower"
    for peer in figures["peers"].values():
        assert peer["median"] > 0
        assert all(reading[detail] > 0 for reading in peer["rounds"] for detail in details)


@pytest.mark.skipif(redis_missing() is not None, reason="needs redis-server")
@pytest.mark.parametrize(
    ("work", "details"),
    [
        ("across-1", {"publisher_working", "redis_working", "server_working"}),
        ("across-8", {"publisher_working", "redis_working", "server_working"}),
        ("across-latency", {"p99_ms", "max_ms", "deliveries"}),
        ("held", {"joins_per_second", "rooms"}),
        ("held-redis", {"joins_per_second", "rooms"}),
    ],
)
def test_peers_that_can_are_measured_on_many_instances(tmp_path: Path, work: str, details: set[str]) -> None:
    # What the other peers stand on is installed for the benchmarks only.
    peers = ["hubbub", "socketio"] if find_spec("socketio") else ["hubbub"]
    figures, printed = small_run(tmp_path, work, *peers)
    assert ("p99" in printed) == ("latency" in work)
    assert ("joins/s" in printed) == ("held" in work)
    assert list(figures["peers"]) == peers
    for peer in figures["peers"].values():
        assert peer["median"] > 0
        assert all(reading[detail] > 0 for reading in peer["rounds"] for detail in details)
        assert all(reading["server"]["waiting"] >= 0 for reading in peer["rounds"])


def test_without_redis_the_works_that_need_it_are_left_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *("--work", "across-1", "--work", "held-redis", "--peer", "hubbub")],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=55,
    )

    assert done.returncode == 1
    assert "Without across-1: redis-server is not installed" in done.stdout
    assert "Without held-redis: redis-server is not installed" in done.stdout


def test_an_unknown_peer_is_refused_with_the_names_there_are() -> None:
    done = run("--peer", "nobody")

    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert "websockets" in done.stderr
