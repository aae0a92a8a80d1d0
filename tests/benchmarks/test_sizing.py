"""Sizing on paper: what it computes fits together, and grows as it should."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.inputs import INPUTS
from benchmarks.sizing import LIMITS, SIZES, Fleet, amount, bits, memory, most_within, seconds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> object:
    def to(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setitem(INPUTS, name, replace(INPUTS[name], value=value))

    return to


def test_every_input_says_where_it_is_from() -> None:
    for name, given in INPUTS.items():
        assert given.value > 0, name
        assert given.what, name
        assert given.where, name


@pytest.mark.parametrize("size", SIZES)
def test_instances_have_room_and_time_for_their_connections(size: int) -> None:
    fleet = Fleet(size)

    assert fleet.each <= INPUTS["each"].value
    assert fleet.cores / fleet.instances <= INPUTS["utilisation"].value
    assert fleet.broker_work / fleet.masters <= INPUTS["utilisation"].value
    assert sum(fleet.shares(fleet.instances).values()) == pytest.approx(fleet.cores)
    assert 1 <= fleet.copies <= INPUTS["members"].value


def test_a_message_goes_to_few_instances_of_a_small_fleet_and_to_one_for_each_member_of_a_large_one() -> None:
    assert Fleet(1).copies == pytest.approx(Fleet(1).instances, rel=0.05)
    assert Fleet(1_000_000_000).copies == pytest.approx(INPUTS["members"].value, rel=0.01)


def test_ten_times_the_connections_take_ten_times_as_much_when_the_fleet_is_large() -> None:
    large, larger = Fleet(20_000_000), Fleet(200_000_000)

    for what in ("instances", "cores", "masters", "broker_memory", "to_clients"):
        assert getattr(larger, what) == pytest.approx(10 * getattr(large, what), rel=0.05), what


@pytest.mark.parametrize(
    ("name", "factor", "grows"),
    [("publishes", 10, "cores"), ("members", 10, "to_clients"), ("history", 10, "broker_memory")],
)
def test_what_the_application_does_shows(change: object, name: str, factor: float, grows: str) -> None:
    before = getattr(Fleet(1_000_000), grows)
    change(**{name: INPUTS[name].value * factor})  # type: ignore[operator]

    assert getattr(Fleet(1_000_000), grows) > 2 * before


def test_slower_instances_are_more_instances(change: object) -> None:
    before = Fleet(1_000_000).instances
    change(small_rooms=1_000, receive=1_000)  # type: ignore[operator]

    assert Fleet(1_000_000).instances > before


@pytest.mark.parametrize(
    ("what", "which", "beyond"), LIMITS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_limit_holds_up_to_the_connections_that_are_named_and_not_with_one_more(
    what: str, which: str, beyond: object
) -> None:
    most = most_within(beyond)  # type: ignore[arg-type]

    if most is not None:
        assert not beyond(Fleet(most))  # type: ignore[operator]
        assert beyond(Fleet(most + 1))  # type: ignore[operator]


def test_what_never_is_beyond_has_no_limit() -> None:
    assert most_within(lambda _: False) is None


def test_amounts_are_written_as_people_read_them() -> None:
    assert [amount(number) for number in (0.123, 7.0, 12.4, 9_524, 1_000_000, 3.98e6, 2e9)] == [
        "0.12",
        "7",
        "12",
        "9,524",
        "1 million",
        "3.98 million",
        "2 billion",
    ]
    assert [memory(number) for number in (7.4, 80_800, 19e6, 2e9)] == ["7.4 kB", "80.8 MB", "19 GB", "2 TB"]
    assert [bits(number) for number in (4.6e6, 9.2e9)] == ["4.6 Mbit/s", "9.2 Gbit/s"]
    assert [seconds(number) for number in (0.011, 1.4)] == ["11 ms", "1.4 s"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("sizing", "50000"), "Redis masters"),
        (("storms", "--instances", "3", "--connections", "200"), "1 of 3"),
        (("storms", "--instances", "3", "--connections", "200", "--drain", "2"), "1 of 3"),
    ],
)
def test_other_sizes_can_be_asked_for(arguments: tuple[str, ...], shown: str) -> None:
    module, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *rest],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_more_instances_can_not_be_lost_than_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.storms", "--instances", "2", "--dead", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 2
    assert "No more can be lost" in done.stderr
