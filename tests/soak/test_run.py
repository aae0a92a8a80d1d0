"""Soaks in small: hubbub keeps its promise through them, and who does not is found out."""

import asyncio

import pytest

from hubbub.errors import ConfigurationError
from hubbub.soak.ledger import Breach
from hubbub.soak.order import FAULTS, Order
from hubbub.soak.progress import Progress
from hubbub.soak.run import run
from hubbub.testing.processes import NotStarted

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.usefixtures("liars")]

SMALL = {"clients": 12, "rooms": 3, "seed": 4}
QUICK = ("cut", "reset", "split:1:for=200ms", "close-after:1000", "delay:10ms±10ms:for=200ms", "refuse:50ms")
"""Faults that clients notice at once."""


async def test_nothing_is_lost_or_doubled_through_all_faults():
    report = await run(Order(seconds=5, fault_every=0.05, **SMALL))
    assert report.sound, report.told
    assert report.published == report.acknowledged > 100
    assert report.receipts + report.in_gaps == 4 * report.published
    assert report.faults.total() > 50
    assert report.lines_lost > 0
    assert 0 < report.recoveries <= report.lines_lost
    assert 0 < report.recovery_p50 <= report.recovery_p99 <= report.recovery_max
    assert 0 < report.memory.begin <= report.memory.peak


@pytest.mark.parametrize("native", [True, False], ids=["native", "asgi"])
async def test_publishers_are_not_shown_what_they_were_excluded_from(native):
    report = await run(Order(messages=2000, faults=QUICK, exclude=True, native=native, **SMALL))
    assert report.sound, report.told
    # Each client that publishes has up to so many messages under way when it hears that they were enough.
    assert 2000 <= report.published < 2000 + 12 * 4
    assert report.receipts + report.in_gaps == 3 * report.published


async def test_after_a_kill_clients_of_a_broker_in_memory_are_told_of_the_gap():
    report = await run(Order(seconds=3, fault_every=0, kills=1, rate=500, **SMALL))
    assert report.sound, report.told
    assert report.kills == 1
    assert report.gaps >= 12


async def test_after_kills_a_broker_on_a_file_has_lost_nothing(tmp_path):
    broker = f"sqlite:///{tmp_path}/soak.db"
    report = await run(Order(seconds=5, faults=QUICK, kills=2, broker=broker, rate=500, **SMALL))
    assert report.sound, report.told
    assert (report.kills, report.gaps, report.unacknowledged) == (2, 0, 0)
    assert report.receipts == 4 * report.acknowledged


async def test_clients_may_be_in_many_rooms():
    report = await run(Order(messages=500, faults=QUICK, rooms_per_client=3, **SMALL))
    assert report.sound, report.told
    assert report.receipts + report.in_gaps == 12 * report.published


async def test_a_message_is_shown_once_however_often_its_acknowledgement_is_lost():
    report = await run(Order(seconds=0.5, rate=100, fault_every=0, lose_acknowledgements=30, **SMALL))
    assert report.sound, report.told
    assert report.lost_acknowledgements == 30
    assert report.lines_lost >= 30
    assert report.published == report.acknowledged


@pytest.mark.parametrize(
    ("app", "breach"),
    [
        ("losing", Breach.LOST),
        ("doubling", Breach.DOUBLED),
        ("reordering", Breach.REORDERED),
        ("straying", Breach.STRAY),
    ],
)
async def test_a_server_that_breaks_the_promise_is_found_out(app, breach):
    report = await run(Order(messages=500, fault_every=0, app=f"soak.liars:{app}", patience=1, **SMALL))
    assert not report.sound
    assert report.breaches[breach] > 0
    assert report.told


async def test_a_server_that_includes_who_was_excluded_is_found_out():
    report = await run(
        Order(messages=500, fault_every=0, exclude=True, app="soak.liars:including", patience=1, **SMALL)
    )
    assert report.breaches[Breach.RETURNED] == report.published


async def test_a_request_that_is_never_answered_is_found():
    report = await run(Order(seconds=0.5, fault_every=0, patience=1, app="soak.liars:hanging", **SMALL))
    assert report.breaches[Breach.HUNG] > 0
    assert any("was never answered" in told for told in report.told)


async def test_a_server_that_ends_by_itself_is_no_end_of_the_soak():
    report = await run(Order(seconds=0.5, fault_every=0, patience=1, app="soak.liars:dying", **SMALL))
    assert not report.sound
    assert any("did not tell what it keeps" in told for told in report.told)
    assert report.breaches[Breach.HUNG] > 12


async def test_it_can_be_stopped_early_and_is_judged_all_the_same():
    stop, seen = asyncio.Event(), []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.published > 100:
            stop.set()

    report = await run(Order(seconds=60, fault_every=0, **SMALL), watch, stop)
    assert report.sound, report.told
    assert report.interrupted
    assert report.seconds < 10
    assert {"connecting", "publishing", "reading history"} <= {progress.stage for progress in seen}
    assert all(0 <= progress.done <= 1 for progress in seen)


async def test_a_seed_brings_the_same_faults():
    stops = []

    async def faults_of(seed: int) -> list[str]:
        report = await run(
            Order(
                seconds=0.7,
                fault_every=0.03,
                clients=2,
                rooms=1,
                rate=20,
                seed=seed,
                faults=("stall:1ms", "cut"),
            )
        )
        stops.append(report.seed)
        return list(report.faults)

    assert await faults_of(3) == await faults_of(3)
    assert stops == [3, 3]


async def test_a_server_that_does_not_start_is_told_with_its_log():
    with pytest.raises(NotStarted, match="no module 'nowhere'"):
        await run(Order(app="nowhere:hub", **SMALL))


async def test_a_broker_that_can_not_be_is_told():
    with pytest.raises(ConfigurationError, match="no broker for nowhere://"):
        await run(Order(broker="nowhere://", **SMALL))


async def test_more_clients_than_this_machine_has_files_for_are_refused():
    with pytest.raises(ConfigurationError, match="ulimit"):
        await run(Order(clients=100_000_000))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"clients": 0}, "at least"),
        ({"rooms_per_client": 21}, "1 to 20"),
        ({"faults": ("thunder",)}, "no fault"),
    ],
)
def test_what_can_not_be_ordered_is_told(wrong, told):
    with pytest.raises(ValueError, match=told):
        Order(**wrong)


def test_faults_that_nobody_can_connect_through_are_short():
    Order(faults=FAULTS)
