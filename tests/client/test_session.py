"""What a client says on a line, and how it takes up its session on the next; the server is played."""

import asyncio

import pydantic
import pytest
from msgspec import msgpack

from client.lines import EPOCH, Exchange, joined, position, settled, soon, welcome
from hubbub import (
    ClientError,
    CloseCode,
    Envelope,
    Gap,
    InvalidMessage,
    Joined,
    Left,
    Member,
    Message,
    OutboxFull,
    Position,
    Received,
    Refused,
    RequestFailed,
    State,
    Unacknowledged,
)

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Sum(Message):
    value: int


def say(line, offset: int | None, text: str, room: str = "chat/lobby") -> None:
    at = {} if offset is None else {"offset": offset}
    line.say("say", room=room, data={"text": text}, **at)


async def texts(room, count: int) -> list[object]:
    """Return the texts of the next messages, and other events as they are."""
    found = []
    for _ in range(count):
        event = await soon(anext(room))
        found.append(event.message.text if isinstance(event, Received) else event)
    return found


class Picky(Message):
    value: int

    def __post_init__(self) -> None:
        raise LookupError(self.value)


class TestRequests:
    async def test_a_message_is_acknowledged(self, conversation):
        async with conversation() as (client, line):
            sending = asyncio.ensure_future(client.send(Say("hi")))
            request = await line.heard("say")
            assert request == {"type": "say", "id": request["id"], "data": {"text": "hi"}}
            await settled()
            assert not sending.done()
            line.say("$ack", id=request["id"])
            assert await soon(sending) is None

    async def test_ids_are_new_for_each_request(self, conversation):
        async with conversation() as (client, line):
            sends = [asyncio.ensure_future(client.send(Say(str(number)))) for number in range(3)]
            heard = [await line.acknowledge("say") for _ in sends]
            await asyncio.gather(*sends)
        assert len({request["id"] for request in heard}) == 3
        assert [request["data"]["text"] for request in heard] == ["0", "1", "2"]

    async def test_a_reply_is_plain_or_of_a_class(self, conversation):
        async with conversation() as (client, line):
            for reply, expected in ((), {"value": 5}), ((Sum,), Sum(5)), ((dict[str, int],), {"value": 5}):
                asking = asyncio.ensure_future(client.request(Say("2 + 3"), *reply))
                await line.acknowledge("say", {"value": 5})
                assert await soon(asking) == expected
            asking = asyncio.ensure_future(client.request(Say("nothing")))
            await line.acknowledge("say")
            assert await soon(asking) is None

    async def test_a_reply_can_be_a_pydantic_model(self, conversation):
        class Total(pydantic.BaseModel):
            value: int

        async with conversation(messages=[Total]) as (client, line):
            asking = asyncio.ensure_future(client.request(Total(value=1), Total))
            request = await line.acknowledge("total", {"value": 5})
            assert request["data"] == {"value": 1}
            assert await soon(asking) == Total(value=5)
            line.say("total", data={"value": 6})
            assert (await soon(anext(client))).message == Total(value=6)

    async def test_a_reply_of_another_class_is_an_error(self, conversation):
        async with conversation() as (client, line):
            asking = asyncio.ensure_future(client.request(Say("2 + 3"), Sum))
            await line.acknowledge("say", {"value": "five"})
            with pytest.raises(InvalidMessage, match="value"):
                await soon(asking)

    @pytest.mark.parametrize(
        ("reply", "problem"), [(Sum | Say, TypeError), (Picky, LookupError)], ids=["no schema", "picky"]
    )
    async def test_what_a_reply_s_class_raises_is_the_request_s_alone(self, conversation, reply, problem):
        async with conversation() as (client, line):
            asking = asyncio.ensure_future(client.request(Say("2 + 3"), reply))
            await line.acknowledge("say", {"value": 5})
            with pytest.raises(problem):
                await soon(asking)
            assert client.state.state is State.OPEN

    async def test_an_error_is_raised(self, conversation):
        async with conversation() as (client, line):
            sending = asyncio.ensure_future(client.send(Say("")))
            request = await line.heard("say")
            problems = [{"path": "$.text", "message": "Too short"}]
            data = {"code": "invalid", "message": "No.", "retry": False, "errors": problems}
            line.say("$error", id=request["id"], data=data)
            with pytest.raises(RequestFailed, match=r"No\. \(invalid\)") as failed:
                await soon(sending)
            assert (failed.value.code, failed.value.retry) == ("invalid", False)
            assert failed.value.problems == (("$.text", "Too short"),)

    async def test_an_envelope_says_itself_what_it_is(self, conversation):
        async with conversation() as (client, line):
            sending = asyncio.ensure_future(client.send(Envelope("shout", data=[1, 2])))
            request = await line.acknowledge("shout")
            assert request["data"] == [1, 2]
            await soon(sending)

    async def test_what_is_no_message_is_not_sent(self, conversation):
        async with conversation() as (client, line):
            for wrong in (5, {"text": "hi"}):
                with pytest.raises(TypeError, match="is no message"):
                    await client.send(wrong)
            with pytest.raises(TypeError, match=r"hubbub\.Message"):
                await client.send("text")
            assert line.silent

    async def test_a_full_outbox_refuses_at_once(self, conversation):
        async with conversation(outbox=2) as (client, line):
            sends = [asyncio.ensure_future(client.send(Say(str(number)))) for number in range(2)]
            await settled()
            with pytest.raises(OutboxFull):
                await client.send(Say("one too many"))
            with pytest.raises(OutboxFull):
                await client.send(Say("one too many"), acknowledged=False)
            for _ in sends:
                await line.acknowledge("say")
            await asyncio.gather(*sends)

    async def test_what_is_given_up_is_not_sent_again(self, conversation, exchange):
        async with conversation() as (client, line):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.send(Say("given up"))
            await line.heard("say")
            line.lose()
            line = await exchange.line()
            line.welcome()
            await line.resume()
            await settled()
            assert line.silent

    async def test_what_asks_for_no_acknowledgement_is_dropped_without_a_line(self, conversation, exchange):
        async with conversation() as (client, line):
            await client.send(Say("typing"), acknowledged=False)
            assert "id" not in await line.heard("say")
            line.lose()
            line = await exchange.line()
            await client.send(Say("typing"), acknowledged=False)
            line.welcome()
            await line.resume()
            await settled()
            assert line.silent

    async def test_nor_is_a_room_s_message(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            await room.send(Say("typing"), acknowledged=False)
            assert (await line.heard("say"))["room"] == "chat/lobby"

    async def test_its_failure_is_logged(self, conversation, caplog):
        async with conversation() as (_client, line):
            line.say("$error", data={"code": "denied", "message": "No.", "retry": False})
            line.say("$ping")
            await line.heard("$pong")
        assert "No. (denied)" in caplog.text

    async def test_after_the_end_every_request_fails(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            sending = asyncio.ensure_future(client.send(Say("sent")))
            await line.heard("say")
        with pytest.raises(Unacknowledged):
            await sending
        for request in (client.send(Say("late")), room.send(Say("late")), client.join("other")):
            with pytest.raises(ClientError, match="closed"):
                await request

    async def test_before_the_beginning_too(self, exchange):
        client = exchange.client()
        with pytest.raises(ClientError, match="Not connected"):
            await client.send(Say("early"))


class TestRooms:
    async def test_a_room_yields_its_messages_in_order(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line, offset=4)
            assert (room.name, room.position) == ("chat/lobby", Position(EPOCH, 4))
            line.say("say", room="chat/lobby", offset=5, sender="bob", data={"text": "hi"})
            line.say("wave", room="chat/lobby", sender="bob")
            assert await soon(anext(room)) == Received("chat/lobby", Say("hi"), "say", "bob", 5)
            assert await soon(anext(room)) == Received("chat/lobby", {}, "wave", "bob")
            assert room.position == Position(EPOCH, 5)

    async def test_what_was_seen_is_dropped(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line, offset=4)
            for offset in (4, 5, 5, 3, 6):
                say(line, offset, str(offset))
            assert await texts(room, 2) == ["5", "6"]

    async def test_a_message_that_does_not_fit_its_class_is_plain(self, conversation, caplog):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line)
            line.say("say", room="chat/lobby", offset=1, data={"words": "hi"})
            assert (await soon(anext(room))).message == {"words": "hi"}
        assert "Not a valid 'say'" in caplog.text

    async def test_a_gap_is_yielded_and_moves_the_position(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line, offset=4)
            line.say("$gap", room="chat/lobby", data=position(1, "new"))
            say(line, 2, "two")
            gap = Position("new", 1)
            assert await texts(room, 2) == [Gap("chat/lobby", gap), "two"]
            assert room.position == Position("new", 2)

    async def test_who_comes_and_goes_is_told(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.say("$joined", room="chat/lobby", data=[{"user": "bob", "info": 1}, {"user": "cleo"}])
            line.say("$left", room="chat/lobby", data=[{"user": "bob"}])
            assert await soon(anext(room)) == Joined("chat/lobby", Member("bob", 1))
            assert await soon(anext(room)) == Joined("chat/lobby", Member("cleo"))
            assert await soon(anext(room)) == Left("chat/lobby", Member("bob"))

    async def test_who_is_taken_out_of_a_room_is_told_why_after_what_came_before(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line)
            say(line, 1, "before")
            failure = {"code": "kicked", "message": "Be kind.", "retry": False}
            line.say("$kicked", room="chat/lobby", data=failure)
            say(line, 2, "after")
            assert await texts(room, 1) == ["before"]
            with pytest.raises(RequestFailed) as refused:
                await soon(anext(room))
            assert (refused.value.code, refused.value.message) == ("kicked", "Be kind.")

    async def test_iteration_over_the_client_yields_that_it_was_taken_out(self, conversation):
        async with conversation() as (client, line):
            await joined(client, line)
            failure = {"code": "banned", "message": "Not today.", "retry": False}
            line.say("$kicked", room="chat/lobby", data=failure)
            event = await soon(anext(aiter(client)))
            assert (event.room, event.error.code) == ("chat/lobby", "banned")
            again = await joined(client, line)
            say(line, 1, "hi")
            assert await soon(anext(again)) is not None

    async def test_who_was_taken_out_on_the_way_back_leaves(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            client._session._catch_up(room._membership)
            request = await line.heard("$join")
            failure = {"code": "kicked", "message": "Be kind.", "retry": False}
            line.say("$kicked", room="chat/lobby", data=failure)
            line.say("$ack", id=request["id"], room="chat/lobby", data=position(0))
            assert (await line.heard("$leave"))["room"] == "chat/lobby"

    async def test_everything_is_yielded_in_one_order(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            for name in ("one", "two"):
                await joined(client, line, name)
            say(line, 1, "a", "one")
            say(line, 1, "b", "two")
            line.say("note", data=7)
            say(line, 2, "c", "one")
            say(line, 1, "not for us", "three")
            line.say("$new_in_a_later_version", room="one")
            line.say("$new_in_a_later_version")
            events = [await soon(anext(client)) for _ in range(4)]
            assert [event.room for event in events] == ["one", "two", None, "one"]
            assert events[2].message == 7

    async def test_one_that_is_joined_already_is_the_same(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            await joined(client, line, offset=1)
            room = await client.join("chat/lobby")
            assert line.silent
            rejoining = asyncio.ensure_future(client.join("chat/lobby", Position(EPOCH, 0)))
            request = await line.acknowledge("$join", position(0))
            assert request["data"] == {"since": position(0)}
            await soon(rejoining)
            say(line, 1, "again")
            assert await texts(room, 1) == ["again"]

    async def test_joining_twice_at_once_loses_nothing(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            joins = [asyncio.ensure_future(client.join("chat/lobby")) for _ in range(2)]
            await line.acknowledge("$join", position(0))
            say(line, 1, "a")
            await line.acknowledge("$join", position(1))
            say(line, 2, "b")
            room, _ = await asyncio.gather(*joins)
            assert await texts(room, 2) == ["a", "b"]

    async def test_a_refusal_is_raised(self, conversation):
        async with conversation() as (client, line):
            joining = asyncio.ensure_future(client.join("chat/staff"))
            await line.refuse("$join", "denied")
            with pytest.raises(RequestFailed, match="denied"):
                await soon(joining)

    async def test_a_join_that_is_given_up_is_taken_back(self, conversation):
        async with conversation() as (client, line):
            joining = asyncio.ensure_future(client.join("chat/lobby"))
            await line.heard("$join")
            joining.cancel()
            assert (await line.heard("$leave"))["room"] == "chat/lobby"
            assert joining.cancelled()

    async def test_leaving_ends_the_iteration(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line)
            say(line, 1, "unread")
            waiting = asyncio.ensure_future(room.leave())
            await line.refuse("$leave", "not_joined")
            await soon(waiting)
            say(line, 2, "late")
            assert [event async for event in room] == []
            await joined(client, line, offset=2)

    async def test_its_history_and_its_members_can_be_asked_for(self, conversation):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line)
            asking = asyncio.ensure_future(room.history(Position(EPOCH, 1), limit=2))
            message = {"type": "say", "room": "chat/lobby", "offset": 2, "from": "bob", "data": {"text": "x"}}
            page = {**position(2), "complete": False, "messages": [message]}
            request = await line.acknowledge("$history", page)
            assert request["data"] == {"since": position(1), "limit": 2}
            history = await soon(asking)
            assert history.messages == [Received("chat/lobby", Say("x"), "say", "bob", 2)]
            assert (history.position, history.complete) == (Position(EPOCH, 2), False)
            asking = asyncio.ensure_future(room.members())
            await line.acknowledge("$presence", {"members": [{"user": "bob"}]})
            assert await soon(asking) == [Member("bob")]

    async def test_who_gives_up_joining_does_not_take_another_out_of_the_room(self, conversation):
        async with conversation() as (client, line):
            one, two = (asyncio.ensure_future(client.join("chat/lobby")) for _ in range(2))
            for _ in range(2):
                request = await line.heard("$join")
            one.cancel()
            await settled()
            assert line.silent
            line.say("$ack", id=request["id"], data=position(0))
            assert (await soon(two)).name == "chat/lobby"

    async def test_a_room_that_is_left_is_not_joined_again_later(self, conversation, exchange):
        async with conversation(backoff=lambda: iter([0.0] * 5)) as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            line.welcome("token-2")
            await line.refuse("$resume", "session_refused")
            await line.refuse("$join", "unavailable", retry=True)
            request = await line.heard("$join")
            leaving = asyncio.ensure_future(room.leave())
            await settled()
            line.say("$error", id=request["id"], data={"code": "unavailable", "message": "", "retry": True})
            await line.acknowledge("$leave")
            await soon(leaving)
            await settled()
            assert line.silent

    async def test_an_inbox_that_is_new_loses_nothing_while_a_session_is_refused(
        self, conversation, exchange
    ):
        async with conversation(messages=[Say]) as (client, line):
            line.lose()
            line = await exchange.line()
            line.welcome("token-2", user="ada", inbox={"room": "$user/ada", **position(7)})
            say(line, 8, "early", room="$user/ada")
            await line.refuse("$resume", "session_refused")
            request = await line.acknowledge("$join", position(7))
            assert (request["room"], request["data"]) == ("$user/ada", {"since": position(7)})
            say(line, 8, "early", room="$user/ada")
            assert await texts(client.inbox, 1) == ["early"]

    async def test_a_room_that_is_left_while_it_is_joined_again_is_left(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            joining = asyncio.ensure_future(client.join("chat/lobby", Position(EPOCH, 0)))
            request = await line.heard("$join")
            leaving = asyncio.ensure_future(room.leave())
            await line.heard("$leave")
            line.say("$ack", id=request["id"], data=position(0))
            again = await soon(joining)
            line.say("$ack", id=request["id"] + 1)
            await soon(leaving)
            with pytest.raises(StopAsyncIteration):
                await soon(anext(again))

    async def test_an_inbox_can_not_be_left(self, conversation):
        inbox = {"room": "$user/ada", **position(0)}
        async with conversation({"user": "ada", "inbox": inbox}, messages=[Say]) as (client, line):
            with pytest.raises(ClientError, match="can't be left"):
                await client.inbox.leave()
            say(line, 1, "still here", room="$user/ada")
            assert await texts(client.inbox, 1) == ["still here"]


class TestResuming:
    async def test_the_session_is_taken_up_where_each_room_was(self, conversation, exchange):
        ada = {"user": "ada", "inbox": {"room": "$user/ada", **position(7)}}
        async with conversation(ada, messages=[Say]) as (client, line):
            room = await joined(client, line, offset=1)
            say(line, 2, "two")
            await settled()
            line.lose()
            line = await exchange.line()
            line.welcome("token-of-another", **ada)
            asked = await line.resume(user="ada")
            assert asked == {
                "session": "token-1",
                "rooms": {"$user/ada": position(7), "chat/lobby": position(2)},
                "attempt": 1,
            }
            say(line, 2, "two again")
            say(line, 3, "three")
            assert await texts(room, 2) == ["two", "three"]
            assert client.state.resumed
            line.lose()
            line = await exchange.line()
            line.welcome()
            assert (await line.resume())["session"] == "token-2"

    async def test_what_comes_for_a_room_before_the_answer_comes_again(self, conversation, exchange):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            line.welcome()
            say(line, 1, "too early")
            line.say("note", data=7)
            line.say("$ping")
            await line.resume()
            say(line, 1, "one")
            assert await texts(room, 1) == ["one"]
            assert (await soon(anext(client))).message == 7

    async def test_unanswered_requests_are_sent_again_with_their_ids(self, conversation, exchange):
        async with conversation() as (client, line):
            first = asyncio.ensure_future(client.request(Say("first")))
            before = await line.heard("say")
            line.lose()
            line = await exchange.line()
            second = asyncio.ensure_future(client.request(Say("second")))
            await settled()
            assert line.silent
            line.welcome()
            await line.resume()
            assert await line.acknowledge("say", "done") == before
            assert (await line.acknowledge("say", "too"))["data"] == {"text": "second"}
            assert await asyncio.gather(first, second) == ["done", "too"]

    @pytest.mark.parametrize("code", ["session_refused", "unknown_type"])
    async def test_a_session_that_is_refused_begins_anew_in_all_rooms(self, conversation, exchange, code):
        ada = {"user": "ada", "inbox": {"room": "$user/ada", **position(7)}}
        async with conversation(ada, messages=[Say]) as (client, line):
            room = await joined(client, line, offset=1)
            sent = asyncio.ensure_future(room.send(Say("sent")))
            await line.heard("say")
            line.lose()
            line = await exchange.line()
            unsent = asyncio.ensure_future(room.send(Say("unsent")))
            line.welcome("token-2", user="ada", inbox={"room": "$user/ada", **position(9)})
            await line.refuse("$resume", code)
            inbox = await line.acknowledge("$join", position(7))
            assert (inbox["room"], inbox["data"]) == ("$user/ada", {"since": position(7)})
            lobby = await line.acknowledge("$join", position(1))
            assert (lobby["room"], lobby["data"]) == ("chat/lobby", {"since": position(1)})
            say(line, 2, "two")
            assert await texts(room, 1) == ["two"]
            with pytest.raises(Unacknowledged):
                await soon(sent)
            await line.acknowledge("say")
            await soon(unsent)
            assert not client.state.resumed
            line.lose()
            line = await exchange.line()
            line.welcome()
            assert (await line.resume())["session"] == "token-2"

    async def test_one_that_is_too_long_to_say_begins_anew(self, conversation, exchange):
        async with conversation() as (client, line):
            names = ["1" * 100, "2" * 100]
            for name in names:
                await joined(client, line, name)
            line.lose()
            line = await exchange.line()
            line.welcome(max_message=300)
            assert [(await line.acknowledge("$join", position(0)))["room"] for _ in names] == names

    async def test_an_older_server_s_welcome_is_enough(self, exchange):
        client = exchange.client()
        entering = asyncio.ensure_future(client.__aenter__())
        line = await exchange.line()
        old = {"protocol": 1, "session": "a", "connection": "a", "resumed": False}
        line.say("$welcome", data={**old, "heartbeat": 20.0, "max_message": 1000})
        await soon(entering)
        await client.close()

    async def test_a_gap_on_the_way_is_told(self, conversation, exchange):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line, offset=1)
            line.lose()
            line = await exchange.line()
            line.welcome()
            await line.resume()
            line.say("$gap", room="chat/lobby", data=position(5))
            say(line, 6, "six")
            assert await texts(room, 2) == [Gap("chat/lobby", Position(EPOCH, 5)), "six"]

    async def test_a_room_that_is_refused_for_good_ends(self, conversation, exchange):
        async with conversation(messages=[Say]) as (client, line):
            room, other = await joined(client, line), await joined(client, line, "other")
            say(line, 1, "before")
            await settled()
            line.lose()
            line = await exchange.line()
            line.welcome()
            failure = {"code": "denied", "message": "Not any more.", "retry": False}
            await line.resume(refused={"chat/lobby": failure, "other": failure})
            assert await texts(room, 1) == ["before"]
            for _ in range(2):
                with pytest.raises(RequestFailed, match="Not any more"):
                    await soon(anext(room))
            refused = await soon(anext(client))
            assert isinstance(refused, Refused)
            assert (refused.room, refused.error.code) == ("other", "denied")
            with pytest.raises(RequestFailed):
                await soon(anext(other))
            assert await joined(client, line, offset=3) is not room

    async def test_one_that_is_refused_for_now_is_joined_again(self, conversation, exchange):
        async with conversation(messages=[Say]) as (client, line):
            room = await joined(client, line, offset=3)
            line.lose()
            line = await exchange.line()
            line.welcome()
            failure = {"code": "unavailable", "message": "Later.", "retry": True}
            await line.resume(refused={"chat/lobby": failure})
            await line.refuse("$join", "unavailable", retry=True)
            request = await line.acknowledge("$join", position(3))
            assert request["data"] == {"since": position(3)}
            say(line, 4, "four")
            assert await texts(room, 1) == ["four"]

    async def test_as_often_as_the_back_off_lasts(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            line.welcome()
            failure = {"code": "unavailable", "message": "Later.", "retry": True}
            await line.resume(refused={"chat/lobby": failure})
            for _ in range(6):
                await line.refuse("$join", "unavailable", retry=True)
            with pytest.raises(RequestFailed):
                await soon(anext(room))
            await settled()
            assert line.silent

    async def test_an_answer_that_says_no_position_ends_it(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            line.welcome()
            await line.refuse("$resume", "session_refused")
            await line.acknowledge("$join", {"offset": "x"})
            with pytest.raises(RequestFailed, match="offset"):
                await soon(anext(room))

    async def test_a_room_that_is_left_while_it_is_joined_again_stays_left(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            line.welcome()
            await line.refuse("$resume", "session_refused")
            joining = await line.heard("$join")
            leaving = asyncio.ensure_future(room.leave())
            await line.heard("$leave")
            failure = {"code": "denied", "message": "No.", "retry": False}
            line.say("$error", id=joining["id"], data=failure)
            assert [event async for event in room] == []
            await client.close()
            with pytest.raises(ClientError):
                await leaving

    async def test_another_user_s_inbox_is_given_up(self, conversation, exchange):
        ada = {"user": "ada", "inbox": {"room": "$user/ada", **position(7)}}
        async with conversation(ada) as (client, line):
            inbox = client.inbox
            line.lose()
            line = await exchange.line()
            line.welcome(user="bob", inbox={"room": "$user/bob", **position(2)})
            await line.refuse("$resume", "session_refused")
            await line.refuse("$join", "unknown_room")
            with pytest.raises(RequestFailed):
                await soon(anext(inbox))
            assert (client.user, client.inbox.name) == ("bob", "$user/bob")

    async def test_a_room_that_was_left_meanwhile_is_not_taken_up(self, conversation, exchange):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.lose()
            line = await exchange.line()
            leaving = asyncio.ensure_future(room.leave())
            await settled()
            line.welcome()
            assert (await line.resume())["rooms"] == {}
            await line.refuse("$leave", "not_joined")
            await soon(leaving)

    async def test_a_line_that_is_lost_before_the_answer_changes_nothing(self, conversation, exchange):
        async with conversation() as (client, line):
            await joined(client, line, offset=3)
            sending = asyncio.ensure_future(client.send(Say("hi")))
            await line.heard("say")
            line.lose()
            line = await exchange.line()
            line.welcome("token-of-another")
            await line.heard("$resume")
            line.lose()
            line = await exchange.line()
            line.welcome()
            asked = await line.resume()
            # The server may hear of this attempt before it hears of the first one.
            assert asked == {"session": "token-1", "rooms": {"chat/lobby": position(3)}, "attempt": 2}
            await line.acknowledge("say")
            await soon(sending)

    async def test_the_token_is_renewed_at_half_its_life(self, conversation, exchange):
        async with conversation({"lifetime": 0.02}) as (_client, line):
            await line.acknowledge("$session", {"session": "token-2", "lifetime": 0.02})
            await line.acknowledge("$session", {"session": "token-3", "lifetime": 3600})
            await settled()
            line.lose()
            line = await exchange.line()
            line.welcome()
            assert (await line.resume())["session"] == "token-3"

    async def test_an_answer_that_is_no_token_is_not_asked_for_again(self, conversation):
        async with conversation({"lifetime": 0.001}) as (_, line):
            await line.acknowledge("$session", {"lifetime": "x"})
            await asyncio.sleep(0.01)
            assert line.silent

    async def test_a_server_that_renews_none_is_not_asked_again(self, conversation):
        async with conversation({"lifetime": 0.001}) as (_client, line):
            await line.refuse("$session", "unknown_type")
            await asyncio.sleep(0.01)
            assert line.silent


class TestLoggingIn:
    async def test_a_guest_becomes_a_user_with_an_inbox(self, conversation, exchange):
        async with conversation() as (client, line):
            assert client.user is client.inbox is None
            logging_in = asyncio.ensure_future(client.log_in("token-of-ada"))
            inbox = {"room": "$user/ada", **position(7)}
            await line.acknowledge("$auth", {"user": "ada", "inbox": inbox, "session": "token-2"})
            assert await soon(logging_in) == client.user == "ada"
            line.say("note", room="$user/ada", offset=8, data=1)
            assert (await soon(anext(client.inbox))).message == 1
            line.lose()
            line = await exchange.line()
            assert line.token == "token-of-ada"
            line.welcome(user="ada", inbox=inbox)
            rooms = {"$user/ada": position(8)}
            assert await line.resume() == {"session": "token-2", "rooms": rooms, "attempt": 1}

    async def test_a_refusal_changes_nothing(self, conversation, exchange):
        async with conversation(token="old") as (client, line):
            logging_in = asyncio.ensure_future(client.log_in("new"))
            await line.refuse("$auth", "denied")
            with pytest.raises(RequestFailed):
                await soon(logging_in)
            line.lose()
            assert (await exchange.line()).token == "old"


class TestHeartbeats:
    async def test_a_ping_is_answered(self, conversation):
        async with conversation() as (_client, line):
            line.say("$ping")
            assert await line.heard("$pong") == {"type": "$pong"}

    async def test_many_are_answered_once_where_nothing_is_read(self, conversation):
        async with conversation() as (_client, line):
            line.stuck = True
            for _ in range(50):
                line.say("$ping")
            await settled()
            await line.heard("$pong")
            assert line.silent

    async def test_a_silent_line_is_let_go(self, conversation, exchange):
        async with conversation({"heartbeat": 0.02}) as (_client, line):
            next_line = await exchange.line()
            assert line.closed == CloseCode.ABNORMAL
            next_line.welcome()
            await next_line.resume()

    async def test_a_line_with_no_welcome_too(self, exchange):
        client = exchange.client(open_timeout=0.01)
        entering = asyncio.ensure_future(client.__aenter__())
        line = await exchange.line()
        (await exchange.line()).welcome()
        await soon(entering)
        assert line.closed == CloseCode.ABNORMAL
        await client.close()


class TestWhatCanNotBeUnderstood:
    @pytest.mark.parametrize(
        "garbage", ["hello", "[]", b"{}", '{"type": 5}', '{"type": "x", "data": "\\ud800"}']
    )
    async def test_it_ends_the_client(self, conversation, garbage):
        async with conversation() as (client, line):
            line.send_raw(garbage)
            with pytest.raises(ClientError, match="can't be understood"):
                await soon(anext(client))
            assert line.closed == CloseCode.PROTOCOL_ERROR
            assert client.state.state is State.CLOSED

    async def test_an_error_without_a_code_too_and_its_request_is_not_forgotten(self, conversation):
        async with conversation() as (client, line):
            sending = asyncio.ensure_future(client.send(Say("hi")))
            line.say("$error", id=(await line.heard("say"))["id"], data={})
            with pytest.raises(Unacknowledged):
                await soon(sending)
            assert client.state.state is State.CLOSED

    async def test_what_a_message_s_class_raises_makes_it_plain_data(self, conversation, caplog):
        async with conversation(messages=[Picky]) as (client, line):
            line.say("picky", data={"value": 5})
            assert (await soon(anext(client))).message == {"value": 5}
        assert "LookupError: 5" in caplog.text

    async def test_a_gap_without_a_position_too(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.say("$gap", room="chat/lobby", data={"offset": "x"})
            with pytest.raises(ClientError, match="can't be understood"):
                await soon(anext(room))

    async def test_a_welcome_that_is_none_too(self, exchange):
        client = exchange.client()
        entering = asyncio.ensure_future(client.__aenter__())
        (await exchange.line()).say("$welcome", data={"protocol": "x"})
        with pytest.raises(ClientError, match="can't be understood"):
            await soon(entering)

    async def test_a_server_that_changes_its_protocol_too(self, conversation, exchange):
        async with conversation() as (client, line):
            exchange.subprotocol = None
            line.lose()
            with pytest.raises(ClientError, match="another protocol"):
                await soon(anext(client))


class TestWithMessagePack:
    async def test_messages_are_binary(self):
        exchange = Exchange("hubbub.v1.msgpack")
        client = exchange.client(messages=[Say])
        entering = asyncio.ensure_future(client.__aenter__())
        line = await exchange.line()
        line.send_raw(msgpack.encode({"type": "$welcome", "data": welcome()}))
        await soon(entering)
        sending = asyncio.ensure_future(client.request(Say("hi")))
        request = msgpack.decode(await line.heard_raw())
        line.send_raw(msgpack.encode({"type": "$ack", "id": request["id"], "data": b"raw"}))
        assert await soon(sending) == b"raw"
        await client.close()
