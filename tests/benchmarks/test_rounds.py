"""What is made of the readings, with works and peers that need no time."""

import signal
import subprocess
import sys
import threading
import zlib
from typing import Any

import pytest
from benchmarks.activity import Activity
from benchmarks.peers import Peer, text
from benchmarks.report import failures, number, table
from benchmarks.rounds import Results, limited, measure
from benchmarks.works import Reading, Work

LISTEN = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nwhile True: s.accept()"
)
BUSY, FREE = Activity(0.97, 0.0), Activity(0.5, 0.0)


def peer(name: str) -> Peer:
    return Peer(name, command=lambda port: [sys.executable, "-c", LISTEN, str(port)])


class Fake(Work):
    """Reads what it was given off each peer."""

    name = "fake"
    unit = "things/s"

    def __init__(self, **values: Any) -> None:
        self.values = {name: iter(given) for name, given in values.items()}

    def can(self, peer: Peer) -> bool:
        return peer.name in self.values

    def measure(self, peer: Peer, server: object, seconds: float) -> Reading:
        value = next(self.values[peer.name])
        if isinstance(value, Exception):
            raise value
        return Reading(value, seconds, FREE, FREE)


def measured(work: Work, *names: str, rounds: int = 2) -> tuple[Results, list[tuple[int, str]]]:
    told: list[tuple[int, str]] = []
    results = measure(
        work,
        [peer(name) for name in names],
        rounds,
        1.0,
        0,
        lambda _, turn, who, __: told.append((turn, who.name)),
    )
    return results, told


def test_peers_take_turns_and_are_compared_within_a_round() -> None:
    results, told = measured(Fake(a=[10.0, 40.0], b=[5.0, 10.0]), "a", "b")
    assert told == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert results.median("a") == 25
    assert results.ratios("b") == [2, 4]


def test_a_peer_that_can_not_do_a_work_is_left_out_of_it() -> None:
    results, _ = measured(Fake(a=[1.0, 1.0]), "a", "b")
    assert list(results.readings) == ["a"]
    assert failures(results) == []


@pytest.mark.parametrize(
    "failure", [ZeroDivisionError(), subprocess.TimeoutExpired("server", 5.0), TimeoutError(), 0.0]
)
def test_whatever_goes_wrong_with_one_peer_the_others_are_measured(failure: Exception | float) -> None:
    results, told = measured(Fake(a=[1.0, failure], b=[2.0, 4.0]), "a", "b")
    assert told == [(1, "a"), (1, "b"), (2, "b")]
    assert list(results.failures) == ["a"]


def test_a_turn_that_takes_too_long_is_given_up_and_the_next_has_its_own_time() -> None:
    with pytest.raises(TimeoutError, match="longer than 0 seconds"), limited(0.01):
        threading.Event().wait()
    with limited(0.01):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_peer_that_fails_is_named_and_the_others_are_measured_all_the_same() -> None:
    results, told = measured(Fake(a=[1.0, ValueError("wrong answer")], b=[2.0, 4.0]), "a", "b")
    assert told == [(1, "a"), (1, "b"), (2, "b")]
    assert list(results.readings) == ["b"]
    [sentence] = failures(results)
    assert sentence.startswith("a failed at fake: wrong answer")
    assert "printed: nothing" in sentence
    assert table(results).row_count == 1


@pytest.mark.parametrize(
    ("lower", "limited", "generator", "shown"),
    [
        (False, True, FREE, "123"),
        (False, True, BUSY, "≥ 123"),
        (True, True, BUSY, "≤ 123"),
        (True, False, BUSY, "123"),
    ],
)
def test_where_the_generator_was_the_limit_the_figure_says_so(
    lower: bool, limited: bool, generator: Activity, shown: str
) -> None:
    class Shown(Fake):
        lower_is_better = lower

    Shown.limited = limited
    results = Results(Shown(), {"a": [Reading(123.0, 1.0, FREE, generator)]})
    assert list(table(results).columns[1].cells) == [shown]


def test_figures_have_three_digits_or_more() -> None:
    assert [number(value) for value in (0.6164, 5.678, 12.34, 99.96, 123.4, 98765.4)] == [
        "0.616",
        "5.68",
        "12.3",
        "100",
        "123",
        "98,765",
    ]


def test_the_text_of_a_message_has_its_size_fits_json_and_compresses_as_messages_do() -> None:
    for size in (24, 64, 1024):
        assert len(text(size)) == size
        assert text(size).isascii()
        assert not set(text(size)) & set(b'"\\\n')
    assert 0.3 < len(zlib.compress(text(1024))) / 1024 < 0.7
