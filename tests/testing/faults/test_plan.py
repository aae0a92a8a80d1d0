from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.testing.faults import (
    RANDOM_KINDS,
    Cut,
    RandomFaults,
    Reset,
    Share,
    Stall,
    Step,
    parse_fault,
    parse_script,
    parse_step,
)
from testing.faults.test_fault import FAULTS

TARGETS = st.sampled_from(["open", "future", "all"]) | st.builds(
    Share, st.floats(0, 1, exclude_min=True), st.integers(0, 10**9)
)
STEPS = st.builds(Step, st.floats(0, 1e6), FAULTS, TARGETS, st.just("seconds")) | st.builds(
    Step, st.integers(0, 10**12), FAULTS, TARGETS, st.just("bytes")
)


@given(STEPS)
def test_the_text_of_a_step_parses_back(step):
    assert parse_step(str(step)) == step


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("1.5s cut", Step(1.5, Cut())),
        ("2 cut", Step(2.0, Cut())),
        ("500B reset all", Step(500, Reset(), "all", "bytes")),
        ("10kB stall:1s future", Step(10_000, Stall(1.0), "future", "bytes")),
        ("100ms cut 10%", Step(0.1, Cut(), Share(0.1))),
        ("100ms cut 10%#7", Step(0.1, Cut(), Share(0.1, 7))),
    ],
)
def test_a_line_stands_for_a_step(text, step):
    assert parse_step(text) == step


def test_a_script_may_have_comments_and_empty_lines():
    script = "# seed 7\n\n1s cut  # everybody\n   2s reset 10%#3\n#\n"
    assert parse_script(script) == [Step(1.0, Cut()), Step(2.0, Reset(), Share(0.1, 3))]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("1s", "Line 1: '1s' is no step"),
        ("1s cut all again", "Line 1"),
        ("1s cut\n\nsoon cut", "Line 3: 'soon' is no time"),
        ("1s explode", "'explode' is no fault"),
        ("1s cut some", "'some' is no choice of connections"),
        ("1s cut 0%", "no choice of connections"),
        ("1s cut 101%", "no choice of connections"),
        ("1s cut 10%#many", "no choice of connections"),
        ("2s cut\n1s cut", "Line 2: it is before the step above"),
    ],
)
def test_what_is_no_script_is_told_with_its_line(script, said):
    with pytest.raises(ValueError) as problem:  # noqa: PT011  # what it says is looked at below
        parse_script(script)
    assert said in str(problem.value)


def test_a_seed_brings_back_the_same_faults():
    plans = [list(islice(RandomFaults(seed, 0.1), 200)) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


def test_random_faults_come_about_as_often_as_is_wanted_in_order():
    steps = list(islice(RandomFaults(7, 0.1), 1000))
    times = [step.at for step in steps]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100, rel=0.05)


def test_random_faults_are_of_all_kinds_or_of_those_wanted():
    assert {str(step.fault) for step in islice(RandomFaults(7), 1000)} == {
        str(parse_fault(kind)) for kind in RANDOM_KINDS
    }
    kinds = [Cut(), "stall:1s"]
    steps = list(islice(RandomFaults(7, kinds=kinds, share=0.3), 100))
    assert {step.fault for step in steps} == {Cut(), Stall(1.0)}
    assert {step.to.part for step in steps} == {0.3}
    assert len({step.to.seed for step in steps}) > 1


def test_a_random_plan_can_be_written_down_as_a_script():
    steps = list(islice(RandomFaults(7), 100))
    assert parse_script("\n".join(map(str, steps))) == steps


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomFaults(7, 0),
        lambda: RandomFaults(7, kinds=[]),
        lambda: RandomFaults(7, kinds=["explode"]),
        lambda: RandomFaults(7, share=0),
        lambda: Share(1.5),
    ],
)
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
