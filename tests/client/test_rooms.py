"""What becomes of events that nobody takes: reading stops, or a room falls behind and is caught up with."""

import asyncio

import pytest

from client.lines import EPOCH, joined, position, settled, soon
from hubbub import Gap, Message, Position, Received, Unacknowledged

pytestmark = pytest.mark.anyio

LIMIT = 4


class Say(Message):
    text: str


def say(line, *offsets: int, room: str = "chat/lobby") -> None:
    for offset in offsets:
        line.say("say", room=room, offset=offset, data={"text": str(offset)})


async def offsets(room, count: int) -> list[int]:
    """Return the offsets of the next messages."""
    found = []
    for _ in range(count):
        event = await soon(anext(room))
        assert isinstance(event, Received), event
        found.append(event.offset)
    return found


async def read_first(room, line, at: int = 1) -> None:
    """Take one event, so that the room is one that somebody iterates over."""
    say(line, at)
    assert await offsets(room, 1) == [at]


async def test_reading_stops_where_the_reader_is_slow(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        await read_first(room, line)
        say(line, *range(2, 30))
        await settled()
        assert line.unread == 30 - 2 - LIMIT - 1
        assert await offsets(room, 28) == list(range(2, 30))
        assert line.silent


async def test_an_answer_that_is_awaited_is_read(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        await read_first(room, line)
        say(line, *range(2, 4 + LIMIT))
        await settled()
        asking = asyncio.ensure_future(room.request(Say("?")))
        await line.acknowledge("say", "!")
        assert await soon(asking) == "!"
        assert await offsets(room, 2 + LIMIT) == list(range(2, 4 + LIMIT))


async def test_whatever_stands_before_it(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        await read_first(room, line)
        say(line, *range(2, 100))
        asking = asyncio.ensure_future(room.request(Say("?")))
        await line.acknowledge("say", "!")
        assert await soon(asking) == "!"
        # The room fell behind after twice what should wait, and is caught up with from there.
        last = 1 + 2 * LIMIT
        assert await offsets(room, 2 * LIMIT) == list(range(2, last + 1))
        request = await line.acknowledge("$join", position(last))
        assert request["data"] == {"since": position(last)}
        say(line, last + 1)
        assert await offsets(room, 1) == [last + 1]


async def test_a_slow_reader_of_one_room_does_not_hold_up_another(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        slow, quick = await joined(client, line), await joined(client, line, "quick")
        await read_first(slow, line)
        waiting = asyncio.ensure_future(offsets(quick, 1))
        await settled()
        say(line, *range(2, 100))
        say(line, 1, room="quick")
        assert await waiting == [1]


async def test_the_patience_ends(conversation):
    async with conversation({"heartbeat": 0.02}, inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        await read_first(room, line)
        say(line, *range(2, 30))
        line.say("$ping")
        await line.heard("$pong")
        assert await offsets(room, LIMIT) == list(range(2, 2 + LIMIT))


async def test_a_room_that_nobody_iterates_over_holds_nothing_up(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        say(line, *range(1, 30))
        line.say("$ping")
        await line.heard("$pong")
        # When somebody does, nothing of it is lost.
        assert await offsets(room, LIMIT) == list(range(1, 1 + LIMIT))
        request = await line.acknowledge("$join", position(LIMIT))
        assert request["data"] == {"since": position(LIMIT)}
        say(line, *range(1 + LIMIT, 30))
        assert await offsets(room, 29 - LIMIT) == list(range(1 + LIMIT, 30))


async def test_it_may_be_the_iteration_over_everything(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        await joined(client, line)
        say(line, *range(1, 30))
        await settled()
        assert await offsets(client, LIMIT) == list(range(1, 1 + LIMIT))
        await line.acknowledge("$join", position(LIMIT))


async def test_what_is_gone_when_a_room_is_caught_up_with_is_a_gap(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        say(line, *range(1, 30))
        await settled()
        assert await offsets(room, LIMIT) == list(range(1, 1 + LIMIT))
        await line.acknowledge("$join", position(LIMIT))
        line.say("$gap", room="chat/lobby", data=position(28))
        say(line, 29)
        assert await soon(anext(room)) == Gap("chat/lobby", Position(EPOCH, 28))
        assert await offsets(room, 1) == [29]


async def test_it_can_fall_behind_again_and_again(conversation):
    async with conversation(inbox=LIMIT) as (client, line):
        room = await joined(client, line)
        unanswered = asyncio.ensure_future(client.send(Say("?")))
        await line.heard("say")
        say(line, *range(1, 40))
        await settled()
        seen: list[int] = []
        while len(seen) < 39:
            seen += await offsets(room, min(39 - len(seen), 2 * LIMIT if seen else LIMIT))
            if len(seen) < 39:
                request = await line.acknowledge("$join", position(seen[-1]))
                assert request["data"] == {"since": position(seen[-1])}
                say(line, *range(seen[-1] + 1, 40))
                await settled()
        assert seen == list(range(1, 40))
        unanswered.cancel()


class TestWhenTheLineIsLost:
    async def test_a_room_far_behind_is_taken_up_without_a_replay(self, conversation, exchange):
        async with conversation(inbox=LIMIT) as (client, line):
            room = await joined(client, line)
            say(line, *range(1, 30))
            await settled()
            line.lose()
            line = await exchange.line()
            line.welcome()
            assert (await line.resume())["rooms"] == {"chat/lobby": None}
            say(line, 40)
            await settled()
            assert await offsets(room, LIMIT) == list(range(1, 1 + LIMIT))
            assert (await line.heard("$join"))["data"] == {"since": position(LIMIT)}

    async def test_one_that_was_consumed_meanwhile_is_replayed(self, conversation, exchange):
        async with conversation(inbox=LIMIT) as (client, line):
            room = await joined(client, line)
            say(line, *range(1, 30))
            await settled()
            line.lose()
            line = await exchange.line()
            assert await offsets(room, LIMIT) == list(range(1, 1 + LIMIT))
            line.welcome()
            assert (await line.resume())["rooms"] == {"chat/lobby": position(LIMIT)}
            say(line, LIMIT + 1)
            assert await offsets(room, 1) == [LIMIT + 1]

    async def test_one_that_is_consumed_before_the_answer_is_joined_again(self, conversation, exchange):
        async with conversation(inbox=LIMIT) as (client, line):
            room = await joined(client, line)
            say(line, *range(1, 30))
            await settled()
            line.lose()
            line = await exchange.line()
            line.welcome()
            await settled()
            assert await offsets(room, LIMIT) == list(range(1, 1 + LIMIT))
            assert (await line.resume())["rooms"] == {"chat/lobby": None}
            assert (await line.heard("$join"))["data"] == {"since": position(LIMIT)}

    async def test_catching_up_goes_on_on_the_next_line(self, conversation, exchange):
        async with conversation(inbox=LIMIT) as (client, line):
            room = await joined(client, line)
            say(line, *range(1, 30))
            await settled()
            await offsets(room, LIMIT)
            await line.heard("$join")
            line.lose()
            line = await exchange.line()
            line.welcome()
            assert (await line.resume())["rooms"] == {"chat/lobby": position(LIMIT)}
            say(line, LIMIT + 1)
            assert await offsets(room, 1) == [LIMIT + 1]
            await settled()
            assert line.silent


class TestMessagesToTheConnection:
    async def test_too_many_that_nobody_takes_are_told_as_a_gap(self, conversation):
        async with conversation(inbox=LIMIT) as (client, line):
            for number in range(10):
                line.say("note", data=number)
            line.say("$ping")
            await line.heard("$pong")
            taken = [await soon(anext(client)) for _ in range(LIMIT // 2)]
            line.say("note", data="later")
            taken += [await soon(anext(client)) for _ in range(LIMIT // 2 + 2)]
            notes = [event.message if isinstance(event, Received) else event for event in taken]
            assert notes == [0, 1, 2, 3, Gap(None, None), "later"]


class TestWithoutHubbub:
    async def test_reading_stops_for_as_long_as_the_reader_takes(self, conversation, exchange):
        exchange.subprotocol = None
        async with conversation(inbox=LIMIT) as (client, line):
            line.send_raw("first")
            assert await soon(anext(client)) == "first"
            for number in range(30):
                line.send_raw(str(number))
            await settled()
            assert line.unread == 30 - LIMIT - 1
            assert [await soon(anext(client)) for _ in range(30)] == [str(number) for number in range(30)]

    async def test_a_lost_line_is_noticed_all_the_same_when_something_is_sent(self, conversation, exchange):
        exchange.subprotocol = None
        async with conversation(inbox=LIMIT) as (client, line):
            line.send_raw("first")
            assert await soon(anext(client)) == "first"
            for number in range(30):
                line.send_raw(str(number))
            await settled()
            line.lose()
            sending = asyncio.ensure_future(client.send("hello?"))
            next_line = await exchange.line()
            with pytest.raises(Unacknowledged):
                await soon(sending)
            await client.send("hello!")
            assert await next_line.heard_raw() == "hello!"
