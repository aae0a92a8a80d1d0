import asyncio

import pytest

from hubbub.protocol.envelope import Position
from hubbub.soak.background import background
from hubbub.soak.ledger import Ledger
from hubbub.soak.recovery import Recoveries

pytestmark = pytest.mark.anyio


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def recoveries(clock):
    recoveries = Recoveries(clock)
    async with background(recoveries.watch()):
        yield recoveries


@pytest.fixture
def room():
    """A room in which two messages were shown to client 0, and only the first one to client 1."""
    ledger = Ledger()
    record = ledger.room("r")
    views = [record.view(client, Position("one", 0)) for client in range(2)]
    for offset in (1, 2):
        number = ledger.published(record, 0)
        views[0].received(offset, number)
        if offset == 1:
            views[1].received(offset, number)
    return views


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what it waits for is no event
            await asyncio.sleep(0.001)


async def test_who_is_back_and_has_missed_nothing_has_recovered(recoveries, clock, room):
    recoveries.line_lost(0)
    clock.now += 2
    recoveries.back(0, room[:1])
    await until(lambda: not recoveries.away)
    assert recoveries.times.longest == pytest.approx(2)
    assert (recoveries.lost, recoveries.returned, len(recoveries.times)) == (1, 1, 1)


async def test_who_is_back_has_not_recovered_before_it_was_shown_what_it_missed(recoveries, clock, room):
    recoveries.line_lost(1)
    recoveries.back(1, room[1:])
    await asyncio.sleep(0.02)
    assert recoveries.away == 1
    clock.now += 3
    room[1].received(2, 1)
    await until(lambda: not recoveries.away)
    assert recoveries.times.longest == pytest.approx(3)


async def test_to_be_told_of_a_gap_is_to_have_caught_up(recoveries, room):
    recoveries.line_lost(1)
    recoveries.back(1, room[1:])
    room[1].gap(Position("one", 2))
    await until(lambda: not recoveries.away)


async def test_a_line_that_is_lost_again_does_not_begin_it_anew(recoveries, clock, room):
    recoveries.line_lost(1)
    recoveries.back(1, room[1:])
    clock.now += 1
    recoveries.line_lost(1)
    clock.now += 1
    room[1].received(2, 1)
    recoveries.back(1, room[1:])
    await until(lambda: not recoveries.away)
    assert (recoveries.lost, len(recoveries.times)) == (2, 1)
    assert recoveries.times.longest == pytest.approx(2)


async def test_who_was_not_away_has_nothing_to_recover_from(recoveries, room):
    recoveries.back(0, room[:1])
    assert (recoveries.away, recoveries.returned) == (0, 0)


async def test_a_client_is_without_a_line_until_it_has_the_next_one(recoveries, clock, room):
    recoveries.line_lost(1)
    clock.now += 1
    recoveries.back(1, room[1:])
    clock.now += 5
    recoveries.line_lost(1)
    clock.now += 2
    recoveries.back(1, room[1:])
    assert (len(recoveries.gone), recoveries.gone.longest) == (2, pytest.approx(2))
