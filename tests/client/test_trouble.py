"""The server can't reach its broker: what the client sends again, with which id, in which order, how long."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from client.lines import Exchange, FakeLine, joined, position, settled, soon
from hubbub import Gap, Message, RequestFailed
from hubbub.client import outbox as outbox_module
from hubbub.client import retries
from hubbub.client import session as session_module

pytestmark = pytest.mark.anyio

AWAY = {"code": "unavailable", "message": "away", "retry": True}


class Say(Message):
    text: str


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(retries, "SHORTEST", 0.001)


@asynccontextmanager
async def sending(client, *texts: str):
    tasks = [asyncio.ensure_future(client.send(Say(text))) for text in texts]
    await settled()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def refuse(line: FakeLine, request: dict) -> None:
    line.say("$error", id=request["id"], data=AWAY)


def acknowledge(line: FakeLine, request: dict) -> None:
    line.say("$ack", id=request["id"])


async def heard(line: FakeLine, count: int) -> list[dict]:
    return [await line.heard("say") for _ in range(count)]


def texts(requests: list[dict]) -> list[str]:
    return [request["data"]["text"] for request in requests]


async def test_it_is_sent_again_with_the_same_id_until_it_is_acknowledged(conversation):
    async with conversation() as (client, line), sending(client, "hi") as (task,):
        (first,) = await heard(line, 1)
        for _ in range(12):
            refuse(line, first)
            assert await heard(line, 1) == [first]
        acknowledge(line, first)
        assert await soon(task) is None


async def test_those_that_failed_are_sent_in_their_order_and_before_those_that_came_later(conversation):
    async with conversation() as (client, line), sending(client, "one", "two") as before:
        requests = await heard(line, 2)
        for request in requests:
            refuse(line, request)
        async with sending(client, "three") as after:
            again = await heard(line, 3)
            assert again[:2] == requests
            assert texts(again) == ["one", "two", "three"]
            for request in again:
                acknowledge(line, request)
            await asyncio.gather(*before, *after)


async def test_others_are_asked_at_once_while_messages_wait(conversation, monkeypatch):
    monkeypatch.setattr(retries, "SHORTEST", 60.0)
    async with conversation() as (client, line):
        room = await joined(client, line)
        async with sending(client, "one"):
            refuse(line, *await heard(line, 1))
            await settled()
            async with sending(client, "two"):
                members = asyncio.ensure_future(room.members())
                await line.refuse("$presence", "unavailable", retry=True)
                with pytest.raises(RequestFailed, match="unavailable"):
                    await soon(members)
                await client.send(Say("soon outdated"), acknowledged=False)
                assert texts(await heard(line, 1)) == ["soon outdated"]
                assert line.silent


async def test_a_server_in_trouble_is_asked_for_some_at_a_time(conversation, monkeypatch):
    monkeypatch.setattr(outbox_module, "AT_ONCE", 2)
    async with conversation() as (client, line), sending(client, *"abcde") as tasks:
        requests = await heard(line, 5)
        for request in requests:
            refuse(line, request)
        for _ in range(2):
            assert texts(await heard(line, 2)) == ["a", "b"]
            await settled()
            assert line.silent
            refuse(line, requests[0])
            refuse(line, requests[1])
        assert texts(await heard(line, 2)) == ["a", "b"]
        acknowledge(line, requests[0])
        assert texts(await heard(line, 3)) == ["c", "d", "e"]
        for request in requests[1:]:
            acknowledge(line, request)
        await asyncio.gather(*tasks)


async def test_one_that_fails_again_and_again_does_not_hold_up_the_others(conversation):
    async with conversation() as (client, line), sending(client, "bad", "good") as (bad, good):
        first, second = await heard(line, 2)
        refuse(line, first)
        acknowledge(line, second)
        await soon(good)
        for number in range(5):
            assert await heard(line, 1) == [first]
            async with sending(client, str(number)) as (other,):
                refuse(line, first)
                while not other.done():
                    request = await line.heard("say")
                    (refuse if request == first else acknowledge)(line, request)
                    await settled()
        assert not bad.done()


async def test_a_room_in_trouble_holds_up_no_other_and_is_not_asked_as_fast_as_the_line_carries_it(
    conversation, monkeypatch
):
    monkeypatch.setattr(retries, "SHORTEST", 60.0)
    async with conversation() as (client, line):
        away, well = await joined(client, line, "chat/away"), await joined(client, line, "chat/well")
        failing = asyncio.ensure_future(away.send(Say("first")))
        first = await line.heard("say")
        good = asyncio.ensure_future(well.send(Say("0")))
        request = await line.heard("say")
        refuse(line, first)
        await settled()
        behind = asyncio.ensure_future(away.send(Say("second")))
        for number in range(1, 5):
            acknowledge(line, request)
            await soon(good)
            good = asyncio.ensure_future(well.send(Say(str(number))))
            request = await line.heard("say")
            assert request["data"]["text"] == str(number)
        await settled()
        assert line.silent
        monkeypatch.setattr(retries, "SHORTEST", 0.001)
        failing.cancel()
        behind.cancel()
        acknowledge(line, request)
        await soon(good)
        await asyncio.gather(failing, behind, return_exceptions=True)


async def test_a_room_in_trouble_is_asked_again_in_order_though_others_are_well(conversation):
    async with conversation() as (client, line):
        away, well = await joined(client, line, "chat/away"), await joined(client, line, "chat/well")
        failing = [asyncio.ensure_future(away.send(Say(text))) for text in ("first", "second")]
        before = await heard(line, 2)
        good = asyncio.ensure_future(well.send(Say("good")))
        request = await line.heard("say")
        for one in before:
            refuse(line, one)
        acknowledge(line, request)
        await soon(good)
        failing.append(asyncio.ensure_future(away.send(Say("third"))))
        again = await heard(line, 3)
        assert again[:2] == before
        assert texts(again) == ["first", "second", "third"]
        for one in again:
            acknowledge(line, one)
        await soon(asyncio.gather(*failing))


async def test_one_whose_sender_gives_up_is_not_sent_again_and_holds_up_nobody(conversation):
    async with conversation() as (client, line), sending(client, "one", "two") as (one, two):
        first, second = await heard(line, 2)
        refuse(line, first)
        refuse(line, second)
        one.cancel()
        assert await heard(line, 1) == [second]
        two.cancel()
        await settled()
        # Nobody waits for this answer any more; it tells how the server is all the same.
        refuse(line, second)
        async with sending(client, "three") as (three,):
            acknowledge(line, *await heard(line, 1))
            await soon(three)


async def test_it_fails_when_the_server_would_no_longer_know_it_again(conversation):
    async with conversation({"window": 1.0}) as (client, line), sending(client, "hi") as (task,):
        (first,) = await heard(line, 1)
        began = time.monotonic()
        while not task.done():
            refuse(line, first)
            hearing = asyncio.ensure_future(line.heard("say"))
            await asyncio.wait((hearing, task), return_when=asyncio.FIRST_COMPLETED)
            hearing.cancel()
        with pytest.raises(RequestFailed) as problem:
            await task
        assert (problem.value.code, problem.value.retry) == ("unavailable", True)
        assert 0.8 < time.monotonic() - began < 5.0


async def test_a_server_without_a_window_is_not_asked_again(conversation):
    async with conversation({"window": 0.0}) as (client, line), sending(client, "hi") as (task,):
        refuse(line, *await heard(line, 1))
        with pytest.raises(RequestFailed, match="unavailable"):
            await soon(task)


async def test_a_backoff_without_waits_asks_once(conversation):
    async with conversation(backoff=lambda: iter(())) as (client, line), sending(client, "hi") as (task,):
        refuse(line, *await heard(line, 1))
        with pytest.raises(RequestFailed, match="unavailable"):
            await soon(task)


async def test_what_waits_goes_on_on_the_next_line(conversation, exchange, monkeypatch):
    monkeypatch.setattr(retries, "SHORTEST", 60.0)
    async with conversation() as (client, line), sending(client, "one") as (one,):
        (first,) = await heard(line, 1)
        refuse(line, first)
        async with sending(client, "two") as (two,):
            line.lose()
            line = await exchange.line()
            line.welcome()
            await line.resume()
            again = await heard(line, 2)
            assert again[0] == first
            assert texts(again) == ["one", "two"]
            for request in again:
                acknowledge(line, request)
            await asyncio.gather(one, two)


class TestRoomsThatAreJoinedAgain:
    @staticmethod
    async def anew(exchange: Exchange, line: FakeLine) -> FakeLine:
        """Lose the line and the session."""
        line.lose()
        line = await exchange.line()
        line.welcome("another")
        await line.refuse("$resume", "session_refused")
        return line

    async def test_what_is_sent_there_waits_until_the_client_is_in(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            other = await joined(client, line, "chat/other")
            line = await self.anew(exchange, line)
            async with sending(room, "one", "two") as tasks, sending(other, "free") as (free,):
                await line.refuse("$join", "unavailable", retry=True)
                await line.acknowledge("$join", position(0))
                assert texts([await line.acknowledge("say")]) == ["free"]
                await soon(free)
                await line.refuse("$join", "unavailable", retry=True)
                assert not any(task.done() for task in tasks)
                await line.acknowledge("$join", position(0))
                said = [await line.acknowledge("say") for _ in tasks]
                assert texts(said) == ["one", "two"]
                await asyncio.gather(*tasks)

    async def test_what_waits_is_refused_where_the_client_is_let_in_no_more(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line = await self.anew(exchange, line)
            async with sending(room, "one") as (task,):
                await line.refuse("$join", "denied")
                await line.refuse("say", "not_joined")
                with pytest.raises(RequestFailed, match="not_joined"):
                    await soon(task)

    async def test_one_that_is_left_meanwhile_keeps_nothing_waiting(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line = await self.anew(exchange, line)
            async with sending(room, "one") as (task,):
                await line.heard("$join")
                leaving = asyncio.ensure_future(room.leave())
                await line.refuse("say", "not_joined")
                await line.acknowledge("$leave")
                await soon(leaving)
                with pytest.raises(RequestFailed, match="not_joined"):
                    await soon(task)

    async def test_one_that_only_fell_behind_can_be_sent_to(self, conversation):
        async with conversation(inbox=2) as (client, line):
            room = await joined(client, line)
            for offset in range(1, 5):
                line.say("say", room=room.name, offset=offset, data={"text": ""})
            await settled()
            for _ in range(2):
                assert not isinstance(await soon(anext(room)), Gap)
            await line.heard("$join")
            async with sending(room, "one") as (task,):
                await line.acknowledge("say")
                await soon(task)


async def test_the_answer_to_a_resume_has_more_time_than_the_welcome(conversation, exchange):
    async with conversation(open_timeout=0.05) as (client, line):
        line.lose()
        line = await exchange.line()
        line.welcome()
        request = await line.heard("$resume")
        await asyncio.sleep(0.1)
        assert line.closed is None
        data = {"protocol": 1, "session": "token-2", "connection": "c2", "resumed": True, "heartbeat": 20.0}
        line.say("$welcome", id=request["id"], data={**data, "max_message": 1000, "window": 300.0})
        async with sending(client, "hi") as (task,):
            await line.acknowledge("say")
            await soon(task)


async def test_an_answer_to_a_resume_that_does_not_come_ends_the_line(conversation, exchange, monkeypatch):
    monkeypatch.setattr(session_module, "RESUMES_WITHIN", 0.05)
    async with conversation(open_timeout=0.01) as (_, line):
        line.lose()
        line = await exchange.line()
        line.welcome()
        first = await line.heard("$resume")
        line = await exchange.line()
        line.welcome()
        second = await line.heard("$resume")
        assert [one["data"]["attempt"] for one in (first, second)] == [1, 2]
