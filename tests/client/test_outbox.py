import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from client.lines import FakeLine, settled, soon
from hubbub import ClientError, InvalidMessage, OutboxFull, RequestFailed, Unacknowledged
from hubbub.client.line import LineLost
from hubbub.client.outbox import Outbox, Request
from hubbub.client.wire import Arrived

pytestmark = pytest.mark.anyio

WINDOW = 300.0


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(3)


@asynccontextmanager
async def writing(outbox: Outbox, largest: int | None = None):
    line = FakeLine(None, None)
    task = asyncio.ensure_future(outbox.write(line, largest))
    try:
        yield line
    finally:
        task.cancel()
        await asyncio.wait({task})


def request(outbox: Outbox, payload: str = "x", *, answer: bool = True, **options) -> Request:
    accept = (lambda answer: answer.type) if answer else None
    made = Request(outbox.number(), payload, accept, **options)
    outbox.add(made)
    return made


def answered(outbox: Outbox, number: object) -> None:
    waiting = outbox.answered(number)
    if waiting is not None:
        waiting.acknowledged(Arrived("$ack", id=number))


async def test_requests_are_sent_in_order_and_answered_by_their_number(outbox):
    one, two = request(outbox, "one"), request(outbox, "two")
    async with writing(outbox) as line:
        assert [await line.heard_raw(), await line.heard_raw()] == ["one", "two"]
        answered(outbox, two.number)
        answered(outbox, one.number)
    assert await one.outcome == await two.outcome == "$ack"
    assert not outbox


async def test_answers_that_nobody_waits_for_are_ignored(outbox):
    for number in (17, "text", None):
        answered(outbox, number)


async def test_an_answer_that_can_not_be_read_fails_the_request(outbox):
    def unreadable(answer: Arrived) -> object:
        raise InvalidMessage("no")

    waiting = Request(outbox.number(), "x", unreadable)
    outbox.add(waiting)
    answered(outbox, waiting.number)
    with pytest.raises(InvalidMessage):
        await waiting.outcome


async def test_what_asks_for_no_answer_is_done_when_it_was_sent(outbox):
    told = request(outbox, answer=False)
    async with writing(outbox):
        assert await soon(told.outcome) is None
    assert not outbox


async def test_more_than_the_limit_is_refused_at_once(outbox):
    for _ in range(3):
        outbox.check_room()
        request(outbox)
    with pytest.raises(OutboxFull, match="3 messages"):
        outbox.check_room()
    answered(outbox, 1)
    outbox.check_room()


async def test_what_was_given_up_is_not_sent(outbox):
    given_up, wanted = request(outbox, "given up"), request(outbox, "wanted")
    outbox.drop(given_up)
    async with writing(outbox) as line:
        assert await line.heard_raw() == "wanted"
    assert wanted.sent is not None


@pytest.mark.parametrize("text", ["xxxxx", "éé "])
async def test_what_the_server_would_not_take_is_not_sent(outbox, text):
    large, small = request(outbox, text), request(outbox, "éx")
    async with writing(outbox, largest=4) as line:
        assert await line.heard_raw() == "éx"
    with pytest.raises(RequestFailed, match="4 bytes") as refused:
        await large.outcome
    assert refused.value.code == "invalid"
    assert small.sent is not None


async def test_a_lost_line_ends_the_writing(outbox):
    line = FakeLine(None, None)
    line.lose()
    lost = request(outbox)
    with pytest.raises(LineLost):
        await outbox.write(line, None)
    assert lost.sent is not None


class TestAfterALostLine:
    async def sent(self, outbox: Outbox, **options) -> Request:
        made = request(outbox, "sent", **options)
        async with writing(outbox) as line:
            await line.heard_raw()
        outbox.lost()
        return made

    async def again(self, outbox: Outbox, window: float | None, first=()) -> list[str | bytes]:
        outbox.restart(first, window)
        heard = []
        async with writing(outbox) as line:
            await settled()
            while not line.silent:
                heard.append(await line.heard_raw())
        return heard

    async def test_a_session_that_goes_on_is_asked_again_in_the_same_order(self, outbox):
        await self.sent(outbox)
        request(outbox, "unsent")
        assert await self.again(outbox, WINDOW) == ["sent", "unsent"]

    async def test_a_new_session_is_not_asked_what_may_have_been_done(self, outbox):
        sent, unsent = await self.sent(outbox), request(outbox, "unsent")
        assert await self.again(outbox, None) == ["unsent"]
        with pytest.raises(Unacknowledged):
            await sent.outcome
        assert not unsent.outcome.done()

    async def test_neither_is_one_that_may_have_forgotten_it(self, outbox):
        sent = await self.sent(outbox)
        sent.sent -= WINDOW + 1
        assert await self.again(outbox, WINDOW) == []
        with pytest.raises(Unacknowledged):
            await sent.outcome

    async def test_nor_one_that_was_sent_before_the_machine_slept(self, outbox, monkeypatch):
        sent = await self.sent(outbox)
        woken = time.time() + WINDOW + 1  # while the loop's clock stood still
        monkeypatch.setattr(time, "time", lambda: woken)
        assert await self.again(outbox, WINDOW) == []
        with pytest.raises(Unacknowledged):
            await sent.outcome

    async def test_the_window_counts_from_when_it_was_sent_first(self, outbox):
        sent = await self.sent(outbox)
        first = sent.sent
        assert await self.again(outbox, WINDOW) == ["sent"]
        assert sent.sent == first

    async def test_what_changes_nothing_is_asked_in_any_session(self, outbox):
        await self.sent(outbox, repeatable=True)
        assert await self.again(outbox, None) == ["sent"]

    async def test_what_the_new_session_needs_comes_first(self, outbox):
        request(outbox, "unsent")
        first = [Request(outbox.number(), name, lambda _: None) for name in ("join 1", "join 2")]
        assert await self.again(outbox, None, first) == ["join 1", "join 2", "unsent"]

    async def test_what_is_for_one_line_only_is_dropped(self, outbox):
        dropped = request(outbox, "typing", answer=False, kept=False)
        outbox.lost()
        assert await dropped.outcome is None
        assert await self.again(outbox, WINDOW) == []

    async def test_what_asks_for_no_answer_but_is_kept_waits_for_the_next(self, outbox):
        kept = request(outbox, "kept", answer=False)
        outbox.lost()
        assert await self.again(outbox, None) == ["kept"]
        assert await kept.outcome is None


async def test_at_the_end_all_fails_and_says_what_is_known(outbox):
    sent = request(outbox)
    async with writing(outbox) as line:
        await line.heard_raw()
    unsent, given_up = request(outbox), request(outbox)
    given_up.outcome.cancel()
    end = ClientError("over")
    outbox.fail(end)
    with pytest.raises(Unacknowledged) as unknown:
        await sent.outcome
    assert unknown.value.__cause__ is end
    with pytest.raises(ClientError, match="over"):
        await unsent.outcome
    assert not outbox
