import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from hubbub.engine.outbox import Flusher, Outbox, fan_out

pytestmark = pytest.mark.anyio


class Line:
    """Writes into a list; each item is what was written at once."""

    def __init__(self) -> None:
        self.writes: list[list[object]] = []
        self.outbox: Outbox | None = None
        self.pauses = False

    def write(self, chunks: list[object]) -> None:
        self.writes.append(chunks)
        if self.pauses:
            assert self.outbox is not None
            self.outbox.pause()


class Outboxes:
    """Outboxes of one flusher, and what they complained about."""

    def __init__(self, limit: int = 1000) -> None:
        self.flusher = Flusher()
        self.limit = limit
        self.overflowed: list[Outbox] = []

    def make(self) -> tuple[Outbox, Line]:
        line = Line()
        outbox = Outbox(line, self.flusher, self.limit, lambda: self.overflowed.append(outbox))
        line.outbox = outbox
        return outbox, line


async def next_turn() -> None:
    await asyncio.sleep(0)


async def test_everything_of_one_turn_is_written_at_once_and_in_order():
    outbox, line = Outboxes().make()
    outbox.append("a", 1)
    outbox.append("b", 1)
    assert line.writes == []
    await next_turn()
    assert line.writes == [["a", "b"]]
    outbox.append("c", 1)
    await next_turn()
    assert line.writes == [["a", "b"], ["c"]]
    assert outbox.written == 3
    assert outbox.size == 0


async def test_a_fan_out_reaches_every_outbox_in_the_same_turn():
    outboxes = Outboxes()
    pairs = [outboxes.make() for _ in range(3)]
    pairs[1][0].append("before", 1)
    fan_out([outbox for outbox, _ in pairs], "x", 1)
    await next_turn()
    assert [line.writes for _, line in pairs] == [[["x"]], [["before", "x"]], [["x"]]]


async def test_nothing_is_written_while_the_transport_takes_no_more():
    outbox, line = Outboxes().make()
    outbox.pause()
    outbox.append("a", 1)
    await next_turn()
    outbox.flush()
    assert line.writes == []
    outbox.resume()
    assert line.writes == [["a"]]
    outbox.append("b", 1)
    await next_turn()
    assert line.writes == [["a"], ["b"]]


async def test_what_was_scheduled_before_the_pause_waits_too():
    outbox, line = Outboxes().make()
    outbox.append("a", 1)
    outbox.pause()
    await next_turn()
    assert line.writes == []
    outbox.resume()
    assert line.writes == [["a"]]


async def test_before_a_close_everything_is_written_even_to_a_full_transport():
    outbox, line = Outboxes().make()
    outbox.pause()
    outbox.append("a", 1)
    outbox.write_all()
    outbox.write_all()
    assert line.writes == [["a"]]


async def test_a_transport_that_fills_up_while_it_resumes_keeps_the_waiting_ones_waiting():
    outbox, line = Outboxes().make()
    outbox.pause()
    outbox.append("a", 1)
    drained = asyncio.create_task(outbox.drained())
    await next_turn()
    line.pauses = True
    outbox.resume()
    await next_turn()
    assert line.writes == [["a"]]
    assert not drained.done()
    line.pauses = False
    outbox.resume()
    await drained


async def test_drained_returns_at_once_where_nothing_is_paused():
    outbox, _ = Outboxes().make()
    await outbox.drained()


async def test_one_who_gives_up_waiting_does_not_end_the_wait_of_others():
    outbox, _ = Outboxes().make()
    outbox.pause()
    impatient = asyncio.create_task(outbox.drained())
    patient = asyncio.create_task(outbox.drained())
    await next_turn()
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    assert not patient.done()
    outbox.resume()
    await patient


async def test_all_wait_again_if_the_transport_is_full_again_before_they_run():
    outbox, _ = Outboxes().make()
    outbox.pause()
    waiting = asyncio.create_task(outbox.drained())
    await next_turn()
    outbox.resume()
    outbox.pause()
    await next_turn()
    await next_turn()
    assert not waiting.done()
    outbox.resume()
    await waiting


async def test_a_reader_that_takes_nothing_overflows_past_the_limit():
    outboxes = Outboxes(limit=10)
    outbox, line = outboxes.make()
    outbox.pause()
    outbox.append("a", 10)
    assert outboxes.overflowed == []
    outbox.append("b", 1)
    assert outboxes.overflowed == [outbox]
    assert line.writes == []


async def test_one_that_is_closed_does_not_hold_whom_it_complains_to():
    class Owner:
        def overflowed(self) -> None: ...

    owner = Owner()
    outbox = Outbox(Line(), Flusher(), 1000, owner.overflowed)
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        outbox.close()
        assert gone() is None
    finally:
        gc.enable()


async def test_much_in_one_turn_is_no_slow_reader():
    outboxes = Outboxes(limit=10)
    outbox, line = outboxes.make()
    for chunk in "abc":
        outbox.append(chunk, 6)
    await next_turn()
    assert outboxes.overflowed == []
    assert [chunk for chunks in line.writes for chunk in chunks] == ["a", "b", "c"]


async def test_a_slow_reader_does_not_delay_the_others_of_a_fan_out():
    outboxes = Outboxes(limit=10)
    (slow, _), (quick, line) = outboxes.make(), outboxes.make()
    slow.pause()
    for chunk in "abc":
        fan_out([slow, quick], chunk, 6)
    await next_turn()
    assert outboxes.overflowed == [slow, slow]
    assert [chunk for chunks in line.writes for chunk in chunks] == ["a", "b", "c"]


async def test_a_closed_outbox_drops_what_waits_and_releases_who_waits():
    outbox, line = Outboxes().make()
    outbox.pause()
    outbox.append("a", 1)
    waiting = asyncio.create_task(outbox.drained())
    await next_turn()
    outbox.close()
    await waiting
    outbox.append("b", 1)
    await next_turn()
    assert line.writes == []
    assert outbox.size == 0
