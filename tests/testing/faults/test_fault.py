import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.testing.faults import (
    FOREVER,
    BlackHole,
    Clear,
    CloseAfter,
    Cut,
    Delay,
    Direction,
    HalfOpen,
    Refuse,
    Reset,
    Split,
    Stall,
    Throttle,
    parse_fault,
)

SECONDS = st.floats(0, 1e6) | st.just(FOREVER)
JITTER = st.floats(0, 1e6)
RATES = st.floats(1e-3, 1e12)
SIZES = st.integers(1, 10**12)
DIRECTIONS = st.sampled_from(Direction)
FAULTS = st.one_of(
    st.sampled_from([Cut(), Reset(), Clear()]),
    st.builds(HalfOpen, DIRECTIONS, st.booleans()),
    st.builds(Stall, SECONDS, DIRECTIONS),
    st.builds(Delay, SECONDS, JITTER, DIRECTIONS, SECONDS),
    st.builds(Throttle, RATES, DIRECTIONS, SECONDS),
    st.builds(Split, SIZES, SECONDS, DIRECTIONS, SECONDS),
    st.builds(CloseAfter, SIZES, DIRECTIONS, st.booleans()),
    st.builds(Refuse, SECONDS, st.booleans()),
    st.builds(BlackHole, SECONDS),
)


@given(FAULTS)
def test_the_text_of_a_fault_parses_back(fault):
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cut", Cut()),
        ("reset", Reset()),
        ("half-open", HalfOpen()),
        ("half-open:up", HalfOpen(Direction.UP)),
        ("half-open:closed", HalfOpen(closed=True)),
        ("stall:500ms", Stall(0.5)),
        ("stall:forever:down", Stall(FOREVER, Direction.DOWN)),
        ("delay:50ms±20ms", Delay(0.05, 0.02)),
        ("delay:0.1s+-20ms:up:for=2s", Delay(0.1, 0.02, Direction.UP, 2.0)),
        ("throttle:10kB/s", Throttle(10_000)),
        ("throttle:1MB/s:for=1min", Throttle(1_000_000, lasting=60.0)),
        ("split", Split(1)),
        ("split:100:pause=5ms", Split(100, pause=0.005)),
        ("close-after:1000", CloseAfter(1000)),
        ("close-after:2kB:down:reset", CloseAfter(2000, Direction.DOWN, reset=True)),
        ("refuse:2s", Refuse(2.0)),
        ("refuse:2s:reset", Refuse(2.0, reset=True)),
        ("black-hole:2s", BlackHole(2.0)),
        (" clear ", Clear()),
    ],
)
def test_a_text_stands_for_a_fault(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (HalfOpen(Direction.UP), "half-open:up"),
        (Stall(0.5), "stall:0.5s"),
        (Stall(2), "stall:2s"),
        (Delay(0.05, 0.02), "delay:50ms±20ms"),
        (Throttle(10_000, lasting=2.0), "throttle:10kB/s:for=2s"),
        (Split(1, pause=0.001), "split:1:pause=1ms"),
        (CloseAfter(1000, reset=True), "close-after:1000:reset"),
        (Refuse(FOREVER), "refuse:forever"),
    ],
)
def test_the_text_of_a_fault_is_short(fault, text):
    assert str(fault) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("explode", "'explode' is no fault; there are cut, reset, half-open"),
        ("", "is no fault"),
        ("cut:1s", "'1s' in 'cut:1s' is not understood"),
        ("stall:fast", "'fast' is no time, such as"),
        ("stall:1kB", "is no time"),
        ("stall:1s:2s", "not understood"),
        ("stall:up:1s", "not understood"),
        ("stall:1s:up:down", "twice"),
        ("stall:1s:for=2s", "not understood"),
        ("stall:1s:sideways", "not understood"),
        ("half-open:5s", "not understood"),
        ("delay:50ms±much", "'much' is no time"),
        ("delay:50ms:for=", "'' is no time"),
        ("throttle:0/s", "more than no bytes a second"),
        ("throttle:slow", "no number of bytes"),
        ("split:0", "from 1 on"),
        ("close-after:1.5", "from 1 on"),
        ("refuse:1s:closed", "not understood"),
        ("refuse:up", "is no time"),
    ],
)
def test_what_is_no_fault_is_told_in_words(text, said):
    with pytest.raises(ValueError) as problem:  # noqa: PT011  # what it says is looked at below
        parse_fault(text)
    assert said in str(problem.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Stall(-1.0),
        lambda: Stall(math.nan),
        lambda: Delay(0.1, -0.1),
        lambda: Throttle(0),
        lambda: Throttle(-1.0),
        lambda: Split(0),
        lambda: CloseAfter(1.5),
    ],
)
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"can't take|needs"):
        wrong()
