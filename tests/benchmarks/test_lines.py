"""Every peer of `python -m benchmarks.lines` does what is measured of it."""

import os
from importlib.metadata import PackageNotFoundError, version

import pytest
from benchmarks.lines.__main__ import measure, table
from benchmarks.lines.peers import PEERS, TEXT
from benchmarks.lines.subscribers import Subscriber


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.kind}, {peer.name}")
def test_every_subscriber_has_each_broadcast_once(peer):
    missing = [package for package in peer.packages if not installed(package)]
    if missing:
        pytest.skip(f"for benchmarks alone: {', '.join(missing)}")
    found = measure(peer, min(os.sched_getaffinity(0)), seconds=0.1, subscribers=3, idle=20, first=2)
    assert found["w=1"] > 0
    assert found["w=8"] > 0


class Torn(Subscriber):
    def __init__(self) -> None:
        self._mark = TEXT
        self._rest = b""


@pytest.mark.parametrize("size", [1, 2, 7, len(TEXT) - 1, len(TEXT), len(TEXT) + 1, 1000])
def test_broadcasts_are_counted_once_however_they_are_torn(size):
    stream = b"".join(b"data: %b\n\n" % TEXT for _ in range(5)) + TEXT + TEXT
    torn = Torn()
    assert sum(torn.count(stream[at : at + size]) for at in range(0, len(stream), size)) == 7


def test_a_table_compares_hubbub_with_each_peer_of_the_same_kind():
    readings = {
        ("SSE", "hubbub"): [{"w=1": 300.0, "w=8": 800.0, "kB": 10.0}],
        ("SSE", "other"): [{"w=1": 100.0, "w=8": 400.0, "kB": 40.0}],
    }
    columns = [list(column.cells) for column in table(readings, 200).columns]
    assert columns[3] == ["", "3.00"]
    assert columns[5] == ["", "2.00"]
    assert columns[7] == ["", "0.25"]
