import asyncio

import pytest

from hubbub.engine.held import OVERHEAD, HeldMessage, Slow
from hubbub.engine.outbox import Chunk, Flusher, Outbox, fan_out

pytestmark = pytest.mark.anyio


class Stalled:
    """An outbox whose transport takes nothing until it resumes, and what is written then."""

    def __init__(self, limit: int = 10_000) -> None:
        self.written: list[Chunk] = []
        self.overflowed = 0
        self.outbox = Outbox(self, Flusher(), limit, self._overflow)
        self.outbox.pause()

    def write(self, chunks: list[Chunk]) -> None:
        self.written += chunks

    def _overflow(self) -> None:
        self.overflowed += 1

    def hold(self, chunk: str, slow: Slow, key: str | None = None, room: str = "", gap: str = "") -> None:
        made = (lambda: (gap, 1)) if gap else None
        self.outbox.hold(HeldMessage(room or slow, slow, key, chunk, 100 - OVERHEAD, made))

    def resume(self) -> list[Chunk]:
        self.outbox.resume()
        written, self.written = self.written, []
        return written


async def test_what_is_held_follows_what_can_not_wait_and_each_room_stays_in_order():
    stalled = Stalled()
    stalled.hold("a", "drop")
    stalled.hold("b", "conflate")
    stalled.outbox.append("answer", 1)
    stalled.hold("c", "drop")
    stalled.hold("d", "conflate")
    assert stalled.outbox.size == 401
    assert stalled.resume() == ["answer", "a", "c", "b", "d"]
    assert stalled.outbox.size == 0
    assert stalled.outbox.written == 5


async def test_a_newer_message_takes_the_place_of_the_older_one_with_its_key_in_the_same_room():
    stalled = Stalled()
    for chunk, key, room in [
        ("x1", "x", "one"), ("y1", "y", "one"), ("free 1", None, "one"), ("x other", "x", "other"),
        ("x2", "x", "one"), ("free 2", None, "one"),
    ]:  # fmt: skip
        stalled.hold(chunk, "conflate", key, room)
    assert stalled.outbox.size == 500
    assert stalled.resume() == ["y1", "free 1", "x other", "x2", "free 2"]


async def test_a_key_conflates_as_often_as_it_comes_and_takes_no_more_room():
    stalled = Stalled(limit=100)
    for number in range(1000):
        stalled.hold(str(number), "conflate", "price")
    assert stalled.overflowed == 0
    assert stalled.resume() == ["999"]


async def test_past_the_limit_the_oldest_goes_first_and_no_more_than_has_to():
    stalled = Stalled(limit=350)
    for chunk in "abc":
        stalled.hold(chunk, "drop", gap=f"lost {chunk}")
    stalled.hold("d", "conflate")
    assert stalled.outbox.size == 300
    stalled.hold("e", "drop", gap="lost e")
    assert stalled.overflowed == 0
    assert stalled.resume() == ["lost b", "c", "e", "d"]


async def test_each_room_is_told_of_its_own_losses_once_and_before_its_next_message():
    stalled = Stalled(limit=300)
    stalled.hold("a1", "drop", room="a", gap="lost a1")
    stalled.hold("b1", "drop", room="b", gap="lost b1")
    stalled.hold("a2", "drop", room="a", gap="lost a2")
    stalled.hold("c1", "drop", room="c")
    stalled.hold("b2", "drop", room="b", gap="lost b2")
    stalled.hold("c2", "drop", room="c")
    stalled.hold("c3", "drop", room="c")
    assert stalled.resume() == ["lost b1", "b2", "c2", "c3", "lost a2"]


async def test_what_can_not_wait_drops_what_is_held_before_it_ends_the_connection():
    stalled = Stalled(limit=250)
    stalled.hold("a", "drop")
    stalled.hold("b", "drop", gap="lost b")
    fan_out([stalled.outbox], "large", 200)
    assert stalled.overflowed == 0
    fan_out([stalled.outbox], "small", 60)
    assert stalled.overflowed == 1


async def test_many_keys_are_too_slow_a_reader():
    stalled = Stalled(limit=350)
    for key in "abc":
        stalled.hold(key, "conflate", key)
    assert stalled.overflowed == 0
    stalled.hold("d", "conflate", "d")
    assert stalled.overflowed == 1


async def test_many_small_messages_are_bounded_by_what_they_take_and_not_by_their_size():
    stalled = Stalled(limit=OVERHEAD * 10)
    for number in range(100):
        stalled.outbox.hold(HeldMessage("room", "drop", None, number, 0, None))
    assert stalled.resume() == list(range(90, 100))


async def test_what_is_held_of_a_room_that_is_left_is_dropped_and_not_told():
    stalled = Stalled(limit=400)
    for room in ("stays", "goes", "goes", "stays", "stays"):
        stalled.hold(room, "drop", room=room, gap=f"lost in {room}")
    stalled.outbox.forget("nothing held of it")
    stalled.outbox.forget("goes")
    assert stalled.outbox.size == 200
    stalled.hold("conflated, stays", "conflate", "key", "stays")
    stalled.hold("conflated, goes", "conflate", "key", "goes")
    stalled.outbox.forget("goes")
    assert stalled.outbox.size == 300
    assert stalled.resume() == ["lost in stays", "stays", "stays", "conflated, stays"]
    stalled.outbox.forget("stays")


async def test_what_is_held_of_a_room_that_is_joined_again_comes_before_the_answer_with_its_gap():
    stalled = Stalled(limit=400)
    stalled.hold("lost", "drop", room="one", gap="gap")
    for chunk, slow, room in [
        ("a", "drop", "one"), ("other", "drop", "other"), ("b", "drop", "one"), ("c", "conflate", "two"),
    ]:  # fmt: skip
        stalled.hold(chunk, slow, room=room)
    for room in ("one", "two"):
        stalled.outbox.release(room)
        stalled.outbox.append("answer", 0)
    assert stalled.outbox.size == 400
    assert stalled.resume() == ["gap", "a", "b", "answer", "c", "answer", "other"]
    assert stalled.outbox.size == 0


async def test_before_a_close_what_is_held_is_written_too():
    stalled = Stalled()
    stalled.hold("a", "drop")
    stalled.outbox.write_all()
    assert stalled.written == ["a"]
    assert stalled.outbox.size == 0


async def test_a_closed_outbox_holds_nothing_and_waits_for_nobody():
    stalled = Stalled()
    stalled.hold("a", "drop")
    stalled.outbox.close()
    assert stalled.outbox.size == 0
    assert stalled.outbox.flusher.paused == set()
    await asyncio.sleep(0)
    assert stalled.written == []
