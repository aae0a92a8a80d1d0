"""Lines over HTTP whose requests come to any of three instances, over each broker that they share."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from deploy.by_hand import ARRIVES_WITHIN, ByHand, by_hand
from deploy.conftest import instance
from hubbub.testing.processes import Process
from hubbub.testing.servers import Server
from hubbub.testing.servers.nats import NatsServer
from hubbub.testing.servers.rabbitmq import RabbitServer
from hubbub.testing.servers.redis import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOBBY = "chat/lobby"
KINDS = ("sse", "stream", "poll")

BROKERS = {"redis": lambda: RedisServer(synced="off"), "rabbitmq": RabbitServer, "nats": NatsServer}


class Fleet:
    """Three instances and the broker that they share."""

    def __init__(self, broker: Server, instances: list[Process]) -> None:
        self.broker = broker
        self.instances = instances

    @property
    def urls(self) -> list[str]:
        return [each.url("/", "http") for each in self.instances]

    def turned(self, by: int) -> list[str]:
        """Return the URLs, beginning with another one: the owner, and the others."""
        return self.urls[by:] + self.urls[:by]


async def started(stack: AsyncExitStack, broker: str, **settings: object) -> Fleet:
    server = await stack.enter_async_context(BROKERS[broker]())
    processes = [instance(server.url, **settings) for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        for process in processes:
            tasks.create_task(stack.enter_async_context(process))
    return Fleet(server, processes)


@pytest.fixture
async def on_redis() -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield await started(stack, "redis", lease=2.0)


async def joined(line: ByHand) -> ByHand:
    assert (await line.ask(type="$join", room=LOBBY))["type"] == "$ack"
    return line


def say(text: str) -> dict[str, object]:
    return {"type": "say", "room": LOBBY, "data": {"text": text}}


async def texts(line: ByHand, count: int) -> list[str]:
    found = [await line.receive_type("say", "$gap", "$close") for _ in range(count)]
    assert all(envelope["type"] == "say" for envelope in found), found
    return [envelope["data"]["text"] for envelope in found]


@pytest.mark.parametrize("broker", BROKERS)
async def test_every_request_may_come_to_any_instance(broker):
    async with AsyncExitStack() as stack:
        fleet = await started(stack, broker)
        lines = {}
        for number, kind in enumerate(KINDS):
            line = await stack.enter_async_context(by_hand(kind, *fleet.turned(number)))
            line.elsewhere = iter(fleet.turned(number)[1:] * 1000)  # never the owner
            lines[kind] = await joined(line)

        async def hear(count: int) -> list[list[str]]:
            # All at once: to a line that does not poll for what it was sent, no more is sent.
            return await asyncio.gather(*(texts(line, count) for line in lines.values()))

        async def speak(kind: str) -> None:
            for number in range(30):
                assert await lines[kind].post(say(f"{kind} {number}")) == 204, lines[kind].told

        views, *_ = await asyncio.gather(hear(90), *map(speak, KINDS))
        assert views[0] == views[1] == views[2]
        for kind in KINDS:
            said = [text for text in views[0] if text.startswith(kind)]
            assert said == [f"{kind} {number}" for number in range(30)]
        for line in lines.values():
            # About as large as a message may be: the request, and the answer to a poll, go in parts.
            assert await line.post(say("x" * 1_000_000)) == 204, line.told
            assert await hear(1) == [["x" * 1_000_000]] * 3
        # What was relayed twice is taken once.
        poll = lines["poll"]
        for url in fleet.urls * 2:
            assert await poll.post(say("once"), sequence=poll.sequence + 1, at=url) == 204
        poll.sequence += 1
        assert await poll.post(say("end")) == 204
        assert await hear(2) == [["once", "end"]] * 3
        for line in lines.values():
            assert await line.delete() == 204
            if line.kind == "poll":
                assert (await line.poll())[0] == 404
            else:
                assert (await line.receive_type("$close"))["data"]["code"] == 1000


async def test_a_relayed_poll_whose_client_left_takes_nothing_with_it(on_redis):
    owner, *others = on_redis.urls
    async with by_hand("poll", owner, *others) as line, by_hand("sse", owner) as speaker:
        await joined(line)
        left = asyncio.create_task(line.poll(at=others[0]))
        # It is parked when a newer one replaces it; the client of that one leaves.
        replacing = asyncio.create_task(line.poll(at=others[1]))
        async with asyncio.timeout(ARRIVES_WITHIN):
            done, _ = await asyncio.wait((left, replacing), return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()[0] for task in done] == [204]
        for task in (left, replacing):
            task.cancel()
        await asyncio.wait((left, replacing))
        await joined(speaker)
        assert await speaker.post(say("hello")) == 204
        assert await texts(line, 1) == ["hello"]


async def test_polls_at_two_instances_end_each_other_as_at_one(on_redis):
    owner, *others = on_redis.urls
    async with by_hand("poll", owner, *others) as line:
        await joined(line)
        polls = [asyncio.create_task(line.poll(at=url)) for url in on_redis.urls]
        async with asyncio.timeout(ARRIVES_WITHIN):
            while sum(poll.done() for poll in polls) < 2:
                await asyncio.wait(
                    [poll for poll in polls if not poll.done()], return_when=asyncio.FIRST_COMPLETED
                )
        assert await line.post(say("hello")) == 204
        answers = sorted([await poll for poll in polls])
        assert [status for status, _ in answers] == [200, 204, 204]
        assert json.loads(answers[0][1])["messages"][0]["data"]["text"] == "hello"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_owner_is_killed_and_the_client_goes_on_elsewhere_with_nothing_lost_or_doubled(
    on_redis, kind
):
    urls = on_redis.urls
    async with by_hand("sse", urls[1], *urls[1:]) as speaker, by_hand(kind, *urls) as line:
        line.elsewhere = iter(urls[1:] * 1000)
        position = await joined_at(line)
        await joined(speaker)
        assert await speaker.post(*(say(str(number)) for number in range(50))) == 204
        seen = await texts(line, 20)
        await on_redis.instances[0].kill()
        assert await speaker.post(*(say(str(number)) for number in range(50, 100))) == 204
        # What was asked of the killed one is answered in time.
        began = asyncio.get_running_loop().time()
        assert await line.post(say("unheard of")) == 404, line.told
        assert json.loads(line.told)["code"] == "unknown_line"
        assert (await line.poll())[0] == 404
        assert asyncio.get_running_loop().time() - began < 15
        await line.close()
        async with by_hand(kind, *urls[1:]) as again:
            rooms = {LOBBY: {"epoch": position["epoch"], "offset": position["offset"] + len(seen)}}
            data = {"session": line.welcome["session"], "rooms": rooms}
            assert await again.post({"type": "$resume", "id": "resume", "data": data}) == 204
            assert (await again.receive_type("$welcome", "$error"))["data"]["resumed"]
            seen += await texts(again, 80)
    assert seen == [str(number) for number in range(100)]


async def joined_at(line: ByHand) -> dict[str, object]:
    return (await line.ask(type="$join", room=LOBBY))["data"]


async def test_a_broker_that_answers_nothing_for_a_while_loses_nothing(on_redis):
    owner, *others = on_redis.urls
    async with by_hand("poll", owner, *others) as line:
        await joined(line)
        assert await line.post(say("before")) == 204
        assert await texts(line, 1) == ["before"]
        on_redis.broker.pause()
        try:
            began = asyncio.get_running_loop().time()
            sequence = line.sequence + 1
            status = await line.post(say("meanwhile"), sequence=sequence)
            assert status in (404, 503), line.told
            assert asyncio.get_running_loop().time() - began < 15
        finally:
            on_redis.broker.resume()
        # It goes on, with the same number: whether or not the first one was taken after all.
        await until_taken(line, say("meanwhile"), sequence)
        await until_taken(line, say("after"), sequence + 1)
        assert await texts(line, 2) == ["meanwhile", "after"]


async def until_taken(line: ByHand, envelope: dict[str, object], sequence: int) -> None:
    """Say something until it is taken: each instance finds the broker again in its own time."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        while await line.post(envelope, sequence=sequence) != 204:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_an_instance_that_drains_sends_its_polls_elsewhere(on_redis):
    owner, leaving, staying = on_redis.urls
    async with by_hand("poll", owner, staying) as line:
        await joined(line)
        polled = asyncio.create_task(line.poll(at=leaving))
        async with by_hand("sse", owner) as speaker:
            await joined(speaker)
            # Not before the poll is parked: another one at the owner would end it.
            await asyncio.sleep(0)
            stopping = asyncio.create_task(on_redis.instances[1].stop())
            status, text = await polled
            assert status in (204, 503), text
            await stopping
            assert await speaker.post(say("hello")) == 204
            assert await texts(line, 1) == ["hello"]
