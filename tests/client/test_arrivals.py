import asyncio

import pytest

from client.lines import settled
from hubbub import Gap, Position
from hubbub.client.arrivals import Arrivals, Queue

pytestmark = pytest.mark.anyio


def at(offset: int) -> Position:
    return Position("e", offset)


class Room:
    """Two rooms' queues, and what they tell."""

    def __init__(self, limit: int = 4) -> None:
        self.taken: list[Queue] = []
        self.waits = 0
        self.arrivals = Arrivals(limit, self.taken.append, self._wait)
        self.one = Queue(self.arrivals)
        self.other = Queue(self.arrivals)

    def _wait(self) -> None:
        self.waits += 1


@pytest.fixture
def room() -> Room:
    return Room()


async def test_a_room_s_events_are_yielded_in_order(room):
    for event in "abc":
        room.one.put(event, None)
    assert [await room.one.take() for _ in range(3)] == ["a", "b", "c"]
    assert room.taken == [room.one] * 3


async def test_everything_is_yielded_in_the_order_of_arrival(room):
    for queue, event in ((room.one, "a"), (room.other, "b"), (room.one, "c")):
        queue.put(event, None)
    assert [await room.arrivals.take() for _ in range(3)] == ["a", "b", "c"]
    assert not room.one.full


async def test_an_event_is_yielded_once(room):
    for queue, event in ((room.one, "a"), (room.other, "b"), (room.one, "c")):
        queue.put(event, None)
    assert await room.one.take() == "a"
    assert await room.arrivals.take() == "b"
    assert await room.one.take() == "c"


async def test_iteration_waits_for_what_comes(room):
    takes = [asyncio.ensure_future(take()) for take in (room.one.take, room.arrivals.take)]
    await settled()
    assert (room.arrivals.waiting, room.waits) == (2, 2)
    room.other.put("b", None)
    await settled()
    room.one.put("a", None)
    assert await asyncio.gather(*takes) == ["a", "b"]
    assert room.arrivals.waiting == 0


async def test_two_who_wait_for_one_room_share_it(room):
    takes = [asyncio.ensure_future(room.one.take()) for _ in range(2)]
    await settled()
    room.one.put("a", None)
    await settled()
    room.one.put("b", None)
    assert sorted(await asyncio.gather(*takes)) == ["a", "b"]


async def test_a_wait_that_is_cancelled_takes_nothing(room):
    take = asyncio.ensure_future(room.one.take())
    await settled()
    take.cancel()
    room.one.put("a", None)
    await settled()
    assert take.cancelled()
    assert room.arrivals.waiting == 0
    assert await room.one.take() == "a"


async def test_the_position_is_where_iteration_has_come_to(room):
    room.one.put("a", at(1))
    room.one.put("typing", None)
    room.one.put(Gap("r", at(5)), at(5))
    seen = []
    for _ in range(3):
        await room.one.take()
        seen.append(room.one.position)
    assert seen == [at(1), at(1), at(5)]


async def test_a_queue_tells_how_full_it_is(room):
    levels = []
    for event in range(8):
        levels.append((room.one.low, room.one.full, room.one.overfull))
        room.one.put(str(event), None)
    low, half, full = (True, False, False), (False, False, False), (False, True, False)
    assert levels == [low, low, low, half, full, full, full, full]
    assert room.one.overfull


async def test_what_nobody_iterates_over_was_not_read(room):
    room.one.put("a", None)
    assert not room.one.read
    await room.one.take()
    assert room.one.read
    assert not room.other.read
    room.other.put("b", None)
    await room.arrivals.take()
    assert room.other.read


async def test_the_end_comes_after_what_waits(room):
    room.one.put("a", None)
    room.one.end()
    room.arrivals.end(None)
    room.one.put("too late", None)
    assert await room.one.take() == "a"
    for take in (room.one.take, room.one.take, room.arrivals.take):
        with pytest.raises(StopAsyncIteration):
            await take()


async def test_the_end_can_be_a_failure_for_all_who_wait(room):
    takes = [asyncio.ensure_future(take()) for take in (room.one.take, room.arrivals.take)]
    await settled()
    room.one.end(ValueError("gone"))
    room.one.end(ValueError("not this"))
    room.arrivals.end(ValueError("gone"))
    for take in takes:
        with pytest.raises(ValueError, match="gone"):
            await take


async def test_what_waits_can_be_dropped_at_the_end(room):
    room.one.put("a", None)
    room.other.put("b", None)
    room.one.end(discard=True)
    with pytest.raises(StopAsyncIteration):
        await room.one.take()
    assert await room.arrivals.take() == "b"
