"""The simulated storms: nobody is lost in them, and they are what their figures say."""

from dataclasses import replace
from math import e, inf

import pytest
from benchmarks.storms import MEASURED, STORMS, Rolling, Storm, roll, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

CALM = Storm(
    instances=4,
    connections=300,
    busy=0.0,
    accepts=1000,
    call=0.0,
    broker=inf,
    opening=0.0,
    noticed_within=0.0,
)

STORM = st.builds(
    Storm,
    instances=st.integers(1, 6),
    dead=st.just(1),
    connections=st.integers(1, 400),
    drain=st.none() | st.floats(0.1, 20),
    noticed_within=st.floats(0, 5),
    away=st.floats(0, 20),
    jitter=st.booleans(),
    endless=st.booleans(),
    failing=st.just(inf) | st.floats(10, 1000),
    accepts=st.floats(1, 5000),
    broker=st.floats(1, 50_000),
    pending=st.integers(1, 500),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(STORM, st.floats(0, 100))
def test_every_client_is_back_or_waits_or_gave_up(storm: Storm, until: float) -> None:
    found = simulate(storm, until)

    assert len(found.back) + found.waiting + found.gave_up == storm.clients
    assert found.waiting >= 0
    assert len(found.away) == len(found.back)
    assert found.longest <= storm.pending
    assert all(away >= 0 for away in found.away)
    assert found.tried >= found.refused + found.late + len(found.back)
    assert not (storm.endless and found.gave_up)


@settings(max_examples=20, deadline=None)
@given(STORM)
def test_the_same_seed_gives_the_same_storm(storm: Storm) -> None:
    first, second = simulate(storm), simulate(storm)

    assert (first.back, first.away, first.refused) == (second.back, second.away, second.refused)


def test_another_seed_gives_another_storm() -> None:
    storm = replace(CALM, noticed_within=1.0)

    assert simulate(storm).back != simulate(replace(storm, seed=2)).back


def test_clients_are_served_by_the_others_in_turn_as_fast_as_these_accept() -> None:
    found = simulate(CALM)

    assert found.back[-1] == pytest.approx(300 / 3 / 1000)
    assert found.longest == 100
    assert (found.refused, found.gave_up) == (0, 0)


def test_a_broker_that_is_slower_than_the_instances_is_what_clients_wait_for() -> None:
    found = simulate(replace(CALM, broker=500, calls=5))

    assert found.back[-1] == pytest.approx(300 / 100, rel=0.01)
    assert found.busiest == pytest.approx(100, abs=1)


def test_who_finds_too_many_waiting_is_refused_and_waits_before_the_next_attempt() -> None:
    found = simulate(replace(CALM, pending=50, jitter=False, refusal=0.0))

    assert found.refused == 150
    assert found.back[150] > 1.0
    assert len(found.back) == 300


def test_clients_give_up_when_their_attempts_are_used_up_unless_they_are_endless() -> None:
    slow = replace(CALM, accepts=5, pending=10)

    assert simulate(slow).gave_up > 0
    endless = simulate(replace(slow, endless=True))
    assert endless.gave_up == 0
    assert len(endless.back) == 300


def test_an_answer_that_comes_too_late_is_of_no_use() -> None:
    found = simulate(replace(CALM, instances=2, accepts=20, pending=1000))

    assert found.late > 0
    assert len(found.back) + found.gave_up == 300


def test_clients_of_a_drained_instance_come_back_over_that_time() -> None:
    found = simulate(replace(CALM, connections=2000, drain=10.0))

    assert (found.refused, found.gave_up) == (0, 0)
    assert found.after(50) == pytest.approx(5, rel=0.1)
    assert 9 < found.after(100) < 10.5
    assert found.busiest < 2000 / 5


@pytest.mark.parametrize(
    ("jitter", "seconds", "p99", "busiest"), [(True, 3.8, 3.4, 4_249), (False, 4.2, 3.5, 3_155)]
)
def test_it_is_near_the_storm_that_was_measured(
    jitter: bool, seconds: float, p99: float, busiest: int
) -> None:
    """The figures are those of docs/reliability.md."""
    found = simulate(replace(MEASURED, jitter=jitter))

    assert len(found.back) == 5_000
    assert found.back[-1] == pytest.approx(seconds, rel=0.35)
    assert found.after(99) == pytest.approx(p99, rel=0.35)
    assert busiest / 2 < found.busiest < busiest * 2


def test_the_more_instances_the_shorter_the_storm() -> None:
    few, some, many = (simulate(STORMS[f"1 of {count} killed"]).after(99) for count in (4, 100, 2000))

    assert few > some > many


def test_with_round_robin_the_last_instance_to_restart_holds_e_times_as_much_in_a_large_fleet() -> None:
    found = roll(Rolling(1000, balance="round robin"))

    assert found.fullest == pytest.approx(e, rel=0.01)
    assert found.moves == pytest.approx(e - 1, rel=0.01)
    assert found.emptiest == 0


def test_by_the_fewest_connections_nothing_fills_up_and_a_client_is_moved_once() -> None:
    found = roll(Rolling(100, balance="fewest connections"))

    assert found.fullest == pytest.approx(1, rel=0.02)
    assert found.moves == pytest.approx(1, rel=0.02)


@given(st.integers(2, 60), st.data(), st.sampled_from(["round robin", "fewest connections"]))
def test_a_restart_takes_as_long_as_its_steps_and_moves_everybody(
    instances: int, data: st.DataObject, balance: str
) -> None:
    at_once = data.draw(st.integers(1, instances - 1))
    found = roll(Rolling(instances, at_once, drain=10.0, starts=2.0, balance=balance))  # type: ignore[arg-type]

    assert found.seconds == 12 * -(-instances // at_once)
    assert found.moves >= 1 - 1e-9
    assert 1 <= found.fullest <= instances + 1e-9


def test_a_whole_fleet_is_not_restarted_at_once() -> None:
    with pytest.raises(ValueError, match="not all"):
        roll(Rolling(4, at_once=4))
