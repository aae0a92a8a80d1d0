import itertools

from hubbub import Backoff


def test_it_is_at_once_and_after_1_2_4_and_8_seconds():
    assert list(Backoff(jitter=False)()) == [0.0, 1.0, 2.0, 4.0, 8.0]


def test_each_series_begins_anew():
    backoff = Backoff(jitter=False)
    assert next(backoff()) == next(backoff()) == 0.0


def test_jitter_spreads_each_wait_from_nothing_to_all_of_it():
    waits = list(itertools.islice(Backoff([8.0], endless=True)(), 1000))
    assert all(0.0 <= wait < 8.0 for wait in waits)
    assert min(waits) < 1.0
    assert max(waits) > 7.0


def test_an_endless_one_repeats_its_last_wait():
    assert list(itertools.islice(Backoff(jitter=False, endless=True)(), 7)) == [0, 1, 2, 4, 8, 8, 8]


def test_one_without_waits_never_comes_back():
    assert list(Backoff([], endless=True)()) == []
