"""A request that came to the wrong instance is answered by the right one, or its client soon told so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from hubbub import Hubbub, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine import questions, relay
from hubbub.engine.control import MAX_CONTROL, Controls, Relayed, Returned
from hubbub.engine.lines import TAKEN, UNKNOWN, LineAnswer, LineRequest
from hubbub.engine.questions import Questions
from hubbub.engine.relay import PATIENCE, Relay, Serve
from hubbub.transports.http_lines import posts

pytestmark = pytest.mark.anyio

POLL = LineRequest("poll", "token", 3)
SETTINGS = Settings()


def post(body: bytes) -> LineRequest:
    return LineRequest("post", "token", 1, body=body)


class Instance:
    """One that takes part, as far as a relay goes."""

    def __init__(self, store: MemoryStore, name: str, serve: Serve, settings: Settings = SETTINGS) -> None:
        self.broker = MemoryBroker(store, instance=name)
        self.questions = Questions(self.broker)
        self.relay = Relay(self.questions, settings, serve)
        self.control = Controls({Relayed: self.relay.asked, Returned: self.questions.answered}).take

    async def start(self) -> "Instance":
        await self.broker.start(self)  # type: ignore[arg-type]
        return self

    async def stop(self) -> None:
        await self.relay.stop()
        await self.questions.stop(5)
        await self.broker.stop()


async def unknown(request: LineRequest) -> LineAnswer:
    return UNKNOWN


async def mirrored(request: LineRequest) -> LineAnswer:
    return LineAnswer(200, request.body[::-1])


@asynccontextmanager
async def pair(serve: Serve, settings: Settings = SETTINGS) -> AsyncIterator[tuple[Instance, Instance]]:
    """One that asks, and one that answers by `serve`."""
    store = MemoryStore()
    one = await Instance(store, "one", unknown, settings).start()
    other = await Instance(store, "other", serve).start()
    try:
        yield one, other
    finally:
        await one.stop()
        await other.stop()


def waiting() -> tuple[Serve, list[asyncio.Future[LineAnswer]]]:
    """Return what parks each request, and what is parked."""
    parked: list[asyncio.Future[LineAnswer]] = []

    def serve(request: LineRequest) -> Awaitable[LineAnswer]:
        parked.append(asyncio.get_running_loop().create_future())
        return parked[-1]

    return serve, parked


def requests_that_reach(instance: Instance) -> list[LineRequest]:
    """Return what fills with the requests that others hand to an instance, whatever it makes of them."""
    reached: list[LineRequest] = []
    asked = instance.relay.asked

    def noted(relayed: Relayed) -> None:
        reached.append(relayed.request)
        asked(relayed)

    instance.control = Controls({Relayed: noted, Returned: instance.questions.answered}).take
    return reached


def answer(text: str) -> LineAnswer:
    return LineAnswer(200, text.encode())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # others' work has no event
            await asyncio.sleep(0)


async def test_a_request_is_answered_by_the_instance_that_is_named():
    seen = []

    async def taken(request: LineRequest) -> LineAnswer:
        seen.append(request)
        return LineAnswer(503, b"{}", retry=True)

    async with pair(taken) as (one, _):
        for request in (post(b"abc"), POLL, LineRequest("post", "token", None, True, b"a\nb")):
            assert await one.relay.ask("other", request) == LineAnswer(503, b"{}", retry=True)
            assert seen.pop() == request


@pytest.mark.parametrize("size", [MAX_CONTROL - 1, MAX_CONTROL, 1_048_576, 5_000_000])
async def test_a_large_request_and_its_large_answer_go_in_parts_that_every_broker_carries(size, monkeypatch):
    sizes = []
    send_control = MemoryBroker.send_control

    async def noted(self: MemoryBroker, instance: str | None, payload: bytes) -> None:
        sizes.append(len(payload))
        await send_control(self, instance, payload)

    monkeypatch.setattr(MemoryBroker, "send_control", noted)
    body = bytes(range(256)) * (size // 256 + 1)
    async with pair(mirrored) as (one, other):
        assert (await one.relay.ask("other", post(body))).body == body[::-1]
        assert max(sizes) <= MAX_CONTROL
        assert not other.relay._answering


async def test_a_poll_that_waits_takes_no_task_at_its_owner():
    serve, parked = waiting()
    async with pair(serve) as (one, _):
        before = asyncio.all_tasks()
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        assert asyncio.all_tasks() - before == {asking}
        parked[0].set_result(answer("news"))
        assert await asking == answer("news")


async def test_many_polls_that_end_at_once_are_answered_in_one_message(monkeypatch):
    serve, parked = waiting()
    async with pair(serve) as (one, _):
        asking = [asyncio.create_task(one.relay.ask("other", POLL)) for _ in range(500)]
        await until(lambda: len(parked) == 500)
        sent = []
        send_control = MemoryBroker.send_control

        async def noted(self: MemoryBroker, instance: str | None, payload: bytes) -> None:
            sent.append(payload)
            await send_control(self, instance, payload)

        monkeypatch.setattr(MemoryBroker, "send_control", noted)
        for number, each in enumerate(parked):
            each.set_result(answer(str(number)))
        assert await asyncio.gather(*asking) == [answer(str(number)) for number in range(500)]
        assert len(sent) == 1


async def test_where_no_answer_comes_in_time_what_can_be_asked_again_is_and_else_the_line_is_unknown(
    monkeypatch,
):
    monkeypatch.setattr(relay, "PATIENCE", 0.01)
    serve, parked = waiting()
    once = LineRequest("post", "token", body=b"")
    async with pair(serve, Settings(ping_interval=0.01, ping_timeout=0.01)) as (one, _):
        for request, status in ((post(b""), 503), (POLL, TAKEN.status), (once, UNKNOWN.status)):
            assert (await one.relay.ask("other", request)).status == status
            # What comes later does nothing.
            parked.pop().set_result(answer("late"))


def test_another_instance_is_waited_for_longer_than_it_lets_a_post_wait():
    assert PATIENCE > posts.PATIENCE


async def test_an_instance_that_goes_is_not_waited_for():
    serve, parked = waiting()
    async with pair(serve) as (one, other):
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        await other.broker.stop()
        await one.questions.look()
        assert await asking == UNKNOWN


async def test_an_instance_that_is_missed_for_a_moment_is_still_asked(monkeypatch):
    serve, parked = waiting()
    async with pair(serve) as (one, _):
        one.questions._patience = 60.0
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        instances = one.broker.instances

        async def all_leases_over() -> list[str]:
            return []

        monkeypatch.setattr(one.broker, "instances", all_leases_over)
        await one.questions.look()
        assert await one.questions.are_there({"other"})
        monkeypatch.setattr(one.broker, "instances", instances)
        await one.questions.look()
        parked[0].set_result(answer("news"))
        assert await asking == answer("news")


async def test_an_instance_that_is_not_there_is_sent_nothing_and_the_broker_asked_once_at_a_time():
    async with pair(unknown) as (one, _):
        looks, gate = [], asyncio.Event()
        instances = one.broker.instances

        async def noted() -> list[str]:
            looks.append(None)
            await gate.wait()
            return await instances()

        one.broker.instances = noted  # type: ignore[method-assign]
        asking = [asyncio.create_task(one.relay.ask(f"made up {number}", POLL)) for number in range(20)]
        await until(lambda: looks)
        asking[0].cancel()
        gate.set()
        await asyncio.wait(asking)
        assert [each.result() for each in asking[1:]] == [UNKNOWN] * 19
        assert len(looks) == 1
        assert await one.relay.ask("other", POLL) == UNKNOWN
        assert len(looks) == 1


async def test_a_look_at_the_leases_leaves_alone_what_waits_for_an_instance_that_is_there():
    serve, parked = waiting()
    async with pair(serve) as (one, _):
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        await one.questions.look()
        parked[0].set_result(answer("news"))
        assert await asking == answer("news")


async def test_a_failure_at_the_owner_is_logged_there_and_the_client_is_told_at_once(logs):
    async def broken(request: LineRequest) -> LineAnswer:
        raise ZeroDivisionError

    async with pair(broken) as (one, _):
        assert await one.relay.ask("other", POLL) == UNKNOWN
    assert logs.of("error", during="answering for another instance")


async def test_an_owner_that_stops_says_so():
    serve, parked = waiting()
    async with pair(serve) as (one, other):
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        await other.relay.stop()
        assert await asking == UNKNOWN
        assert await one.relay.ask("other", POLL) == UNKNOWN


async def test_an_instance_that_is_about_to_stop_keeps_no_poll_waiting():
    serve, parked = waiting()
    async with pair(serve) as (one, _):
        polling = asyncio.create_task(one.relay.ask("other", POLL))
        posting = asyncio.create_task(one.relay.ask("other", post(b"")))
        await until(lambda: len(parked) == 2)
        one.relay.leave()
        assert await polling == TAKEN
        later = await one.relay.ask("other", POLL)
        assert (later.status, later.retry) == (503, True)
        parked[1].set_result(answer("taken"))
        assert await posting == answer("taken")


async def test_a_client_that_leaves_takes_nothing_with_it():
    serve, parked = waiting()
    async with pair(serve) as (one, other):
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: parked)
        asking.cancel()
        await asyncio.wait([asking])
        assert not one.questions._asked
        assert not one.relay._polls
        # The owner need not know: its answer goes nowhere.
        parked[0].set_result(answer("news"))
        await until(lambda: not other.relay._answering)


async def test_bytes_under_way_are_bounded_here_and_at_the_owner(monkeypatch):
    serve, parked = waiting()
    monkeypatch.setattr(relay, "MAX_RELAYED", 1000)
    large = post(b"x" * 600)
    async with pair(serve) as (one, other):
        reached = requests_that_reach(other)
        asking = asyncio.create_task(one.relay.ask("other", large))
        await until(lambda: parked)
        refused = await one.relay.ask("other", large)
        assert (refused.status, refused.retry) == (503, True)
        # It was refused here: it costs the broker and the owner nothing.
        assert reached == [large]
        # Another instance asks the same owner.
        third = await Instance(other.broker.store, "third", unknown).start()
        refused = await third.relay.ask("other", large)
        assert (refused.status, refused.retry) == (503, True)
        # It was refused there: no line is told of it.
        assert (reached, len(parked)) == ([large, large], 1)
        parked[0].set_result(TAKEN)
        assert await asking == TAKEN
        assert (one.relay._asking, other.relay._answering_bytes) == (0, 0)
        await third.stop()


@pytest.mark.parametrize("owner", [True, False], ids=["at the owner", "here"])
async def test_requests_that_wait_are_bounded_in_number(owner, monkeypatch):
    monkeypatch.setattr(*((relay, "MAX_ANSWERED") if owner else (questions, "MAX_ASKED")), 2)
    serve, parked = waiting()
    async with pair(serve) as (one, other):
        reached = requests_that_reach(other)
        asking = [asyncio.create_task(one.relay.ask("other", POLL)) for _ in range(2)]
        await until(lambda: len(parked) == 2)
        # Without the bound it would wait as they do.
        asking.append(asyncio.create_task(one.relay.ask("other", post(b""))))
        await until(lambda: asking[2].done() or len(parked) == 3)
        assert (len(reached), len(parked)) == (3 if owner else 2, 2)
        refused = await asking[2]
        assert (refused.status, refused.retry) == (503, True)
        for each in parked:
            each.set_result(TAKEN)
        await asyncio.gather(*asking)


@pytest.mark.parametrize("call", ["send_control", "instances"])
async def test_while_the_broker_is_away_the_client_is_told_to_try_again(call, monkeypatch):
    monkeypatch.setattr(relay, "PAUSE", 0.01)
    async with pair(mirrored) as (one, _):

        async def away(*arguments: object) -> None:
            raise Unavailable("The broker is away.")

        monkeypatch.setattr(one.broker, call, away)
        refused = await one.relay.ask("other", post(b""))
        assert (refused.status, refused.retry) == (503, True)
        assert b"The broker is away." in refused.body
        # A poll has no answer that says so; it is not answered at once, so that its client does not run wild.
        assert await one.relay.ask("other", POLL) == TAKEN


async def test_a_hub_that_stops_waits_for_no_look_at_the_leases():
    async with pair(unknown) as (one, _):

        async def hangs() -> list[str]:
            return await asyncio.get_running_loop().create_future()

        one.broker.instances = hangs  # type: ignore[method-assign]
        asking = asyncio.create_task(one.relay.ask("other", post(b"")))
        await until(lambda: one.questions._looking.under_way)
        await one.questions.stop(5)
        assert (await asking).status == 503


async def test_a_hub_looks_for_instances_that_are_gone_while_it_renews_its_leases():
    store = MemoryStore()
    hub = Hubbub(Settings(lease=0.1), broker=MemoryBroker(store))
    deaf = MemoryBroker(store, instance="deaf")
    heard = asyncio.Event()

    class Nobody:
        def control(self, payload: bytes) -> None:
            heard.set()

    await deaf.start(Nobody())  # type: ignore[arg-type]
    async with hub.lifespan(), asyncio.timeout(5):
        asking = asyncio.create_task(hub._hub.running.relay.ask("deaf", POLL))
        await heard.wait()
        await deaf.stop()
        assert await asking == UNKNOWN


async def test_hubs_answer_each_other_while_they_run():
    store = MemoryStore()
    hubs = [Hubbub(broker=MemoryBroker(store, instance=name)) for name in ("one", "other")]
    request = LineRequest("poll", "other.name.secret", 0)
    async with hubs[1].lifespan():
        async with hubs[0].lifespan():
            assert await hubs[0]._hub.lines.ask(request) == UNKNOWN
        assert await hubs[0]._hub.lines.ask(request) == UNKNOWN


async def test_a_look_that_fails_when_nobody_waits_for_it_any_more_leaves_no_trace():
    async with pair(unknown) as (one, _):
        gate = asyncio.Event()

        async def away() -> list[str]:
            await gate.wait()
            raise Unavailable("The broker is away.")

        one.broker.instances = away  # type: ignore[method-assign]
        asking = asyncio.create_task(one.relay.ask("other", POLL))
        await until(lambda: one.questions._looking.under_way)
        asking.cancel()
        gate.set()
        await until(lambda: not one.questions._looking.under_way)
