"""When a client comes back, after how long, and when it stops."""

import asyncio

import pytest

from client.lines import at_once, joined, settled, soon
from hubbub import ClientError, CloseCode, Message, ReconnectFailed, State, Unacknowledged
from hubbub.client import Backoff, NotConnected
from hubbub.protocol.codes import comes_back

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


def waits_of(*waits: float):
    """Return a back-off, and where it notes that it began."""
    begun: list[int] = []

    def begin():
        begun.append(len(begun))
        return iter(waits)

    return begin, begun


async def ended(client) -> ReconnectFailed:
    """Wait until a client has stopped; return why."""
    with pytest.raises(ReconnectFailed) as failed:
        await soon(anext(client))
    return failed.value


@pytest.mark.parametrize("code", list(CloseCode))
def test_close_codes_say_whether_to_come_back(code):
    assert comes_back(code) is code.comes_back


@pytest.mark.parametrize(
    ("code", "back"),
    [(1004, True), (2000, True), (3999, True), (4000, True), (4399, True), (4400, False), (4499, False),
     (4500, True), (4599, True), (4600, True)],
)  # fmt: skip
def test_one_that_is_not_known_says_so_by_its_range(code, back):
    assert comes_back(code) is back


class TestComingBack:
    @pytest.mark.parametrize("code", [1001, 1006, 1011, 1012, 1013, 3000, 4508, 4513, 4529])
    async def test_after_a_lost_line_there_is_another(self, conversation, exchange, code):
        async with conversation() as (client, line):
            watch = client.states()
            line.lose(code, "why")
            line = await exchange.line()
            line.welcome()
            await line.resume()
            changes = [await soon(anext(watch)) for _ in range(4)]
            states = [change.state for change in changes]
            assert states == [State.OPEN, State.WAITING, State.CONNECTING, State.OPEN]
            assert (changes[1].code, changes[1].reason) == (code, "why")
            assert (changes[0].resumed, changes[3].resumed) == (False, True)

    @pytest.mark.parametrize("turns", range(10))
    async def test_who_closes_it_while_the_line_is_being_lost_need_not_wait(self, conversation, turns):
        async with conversation(backoff=Backoff(endless=True)) as (client, line):
            line.lose()
            for _ in range(turns):
                await asyncio.sleep(0)
            await soon(client.close())
            assert client.state.state is State.CLOSED

    async def test_the_waits_are_those_of_the_back_off(self, conversation, exchange):
        backoff, begun = waits_of(0.0, 0.001, 0.002)
        async with conversation(backoff=backoff) as (client, line):
            watch = client.states()
            exchange.refusals = [NotConnected("refused")] * 3
            line.lose()
            failed = await ended(client)
            assert [change.wait async for change in watch if change.state is State.WAITING] == [
                0,
                0.001,
                0.002,
            ]
            assert "All attempts" in str(failed)
            assert failed.reason == "refused"
            assert begun == [0]

    async def test_a_connection_that_has_held_begins_them_anew(self, conversation, exchange, monkeypatch):
        monkeypatch.setattr("hubbub.client.returning.HELD", 0.0)
        backoff, begun = waits_of(0.0)
        async with conversation(backoff=backoff) as (_client, line):
            for _ in range(3):
                line.lose()
                line = await exchange.line()
                line.welcome()
                await line.resume()
            await settled()
        assert len(begun) == 4

    async def test_one_that_has_not_does_not(self, conversation, exchange):
        async with conversation(backoff=at_once(2)) as (client, line):
            for _ in range(2):
                line.lose()
                line = await exchange.line()
                line.welcome()
                await line.resume()
            await settled()
            line.lose(1011, "again")
            failed = await ended(client)
            assert (failed.code, failed.reason) == (1011, "again")

    async def test_what_was_waited_for_fails_at_the_end(self, conversation, exchange):
        async with conversation(backoff=at_once(0)) as (client, line):
            room = await joined(client, line)
            sent = asyncio.ensure_future(client.send(Say("sent")))
            await line.heard("say")
            receiving = asyncio.ensure_future(anext(room))
            await settled()
            line.lose()
            with pytest.raises(Unacknowledged) as unknown:
                await soon(sent)
            assert isinstance(unknown.value.__cause__, ReconnectFailed)
            with pytest.raises(ReconnectFailed):
                await soon(receiving)
            for late in (client.send(Say("late")), client.join("late"), room.history()):
                with pytest.raises(ReconnectFailed):
                    await late
            assert (client.state.state, client.state.code) == (State.CLOSED, 1006)


class TestStayingAway:
    @pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4401, 4403, 4409, 4444])
    async def test_some_codes_end_the_client(self, conversation, code):
        async with conversation() as (client, line):
            line.lose(code, "why")
            failed = await ended(client)
            assert (failed.code, failed.reason) == (code, "why")
            assert f"{code} why" in str(failed)

    @pytest.mark.parametrize("code", [1000, 1005])
    async def test_a_server_that_is_done_ends_the_iteration_quietly(self, conversation, code):
        async with conversation() as (client, line):
            room = await joined(client, line)
            line.say("note", room="chat/lobby", offset=1)
            line.lose(code)
            assert len([event async for event in room]) == 1
            assert [event async for event in client] == []
            with pytest.raises(ReconnectFailed):
                await client.send(Say("late"))

    async def test_entering_says_why_it_can_not_be(self, exchange):
        client = exchange.client()
        entering = asyncio.ensure_future(client.__aenter__())
        line = await exchange.line()
        line.say("$error", data={"code": "denied", "message": "Not you.", "retry": False})
        line.lose(4403)
        with pytest.raises(ReconnectFailed, match=r"4403 Not you\.") as failed:
            await soon(entering)
        assert failed.value.code == 4403

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
    async def test_some_http_statuses_end_it(self, exchange, status):
        exchange.refusals = [NotConnected(f"HTTP {status}", status=status, comes_back=False)]
        with pytest.raises(ReconnectFailed, match=f"HTTP {status}"):
            await exchange.client().__aenter__()
        assert len(exchange.dialled) == 1

    async def test_a_server_may_say_how_long_to_stay_away(self, exchange, monkeypatch):
        monkeypatch.setattr("hubbub.client.returning.MOST_AFTER", 0.05)
        for after in (0.03, 3600.0):
            exchange.refusals = [NotConnected("HTTP 503", status=503, after=after)]
            client = exchange.client()
            watch = client.states()
            entering = asyncio.ensure_future(client.__aenter__())
            (await exchange.line()).welcome()
            await soon(entering)
            waits = [(await anext(watch)).wait for _ in range(3)]
            assert max(wait or 0.0 for wait in waits) == min(after, 0.05)
            await client.close()

    async def test_entering_tries_as_often_as_the_back_off_lasts(self, exchange):
        exchange.refusals = [NotConnected("no")] * 4
        with pytest.raises(ReconnectFailed, match="no"):
            await exchange.client(backoff=at_once(3)).__aenter__()
        assert len(exchange.dialled) == 4


class TestDraining:
    async def test_the_server_says_when_to_come_back(self, conversation, exchange, monkeypatch):
        monkeypatch.setattr("hubbub.client.returning.HELD", 0.0)
        async with conversation(backoff=at_once(0)) as (client, line):
            watch = client.states()
            line.say("$drain", data={"after": 0.01})
            line.lose(1012, "the server restarts")
            line = await exchange.line()
            line.welcome()
            await line.resume()
            waits = [await soon(anext(watch)) for _ in range(2)]
            assert (waits[1].state, waits[1].wait) == (State.WAITING, 0.01)

    async def test_a_server_that_drains_at_once_each_time_ends_it(self, conversation, exchange):
        async with conversation(backoff=at_once(2)) as (client, line):
            for _ in range(2):
                line.say("$drain", data={"after": 0.0})
                line.lose(1012)
                line = await exchange.line()
                line.welcome()
                await line.resume()
            line.say("$drain", data={"after": 0.0})
            line.lose(1012)
            await ended(client)

    async def test_what_one_line_said_does_not_count_for_the_next(self, conversation, exchange):
        async with conversation() as (client, line):
            line.say("$drain", data={"after": 0.01})
            line.lose(1012)
            line = await exchange.line()
            line.lose()
            watch = client.states()
            line = await exchange.line()
            line.welcome()
            await line.resume()
            assert [(await soon(anext(watch))).wait for _ in range(3)][1] == 0.0


class TestTokens:
    async def test_a_token_is_shown_each_time(self, conversation, exchange):
        async with conversation(token="t") as (_client, line):
            line.lose()
            (await exchange.line()).welcome()
        assert exchange.dialled == ["t", "t"]

    @pytest.mark.parametrize("kind", ["plain", "asynchronous", "lambda"])
    async def test_it_can_be_fetched_and_is_fetched_again_when_it_is_refused(
        self, conversation, exchange, kind
    ):
        fetched: list[str] = []

        def fetch() -> str:
            fetched.append(f"t{len(fetched)}")
            return fetched[-1]

        async def fetch_later() -> str:
            return fetch()

        token = {"plain": fetch, "asynchronous": fetch_later, "lambda": lambda: fetch_later()}[kind]
        async with conversation(token=token, backoff=at_once(1)) as (_client, line):
            assert line.token == "t0"
            line.lose()
            line = await exchange.line()
            assert line.token == "t0"
            line.lose(4401, "log in again")
            line = await exchange.line()
            assert line.token == "t1"
            line.welcome()
            await line.resume()
            await settled()

    async def test_once_for_each_connection(self, conversation, exchange):
        async with conversation(token=lambda: "t") as (client, line):
            for _ in range(2):
                line.lose(4401)
                line = await exchange.line()
                line.welcome()
                await line.resume()
                await settled()
            line.lose(4401)
            (await exchange.line()).lose(4401, "still no")
            failed = await ended(client)
            assert (failed.code, failed.reason) == (4401, "still no")

    async def test_a_server_that_ends_each_login_at_once_does_not_have_it_turn_in_circles(
        self, conversation, exchange
    ):
        async with conversation(token=lambda: "t", backoff=at_once(1)) as (client, line):
            line.lose(4401)
            line = await exchange.line()
            line.welcome()
            await line.resume()
            await settled()
            line.lose(4401)
            await ended(client)

    async def test_a_handshake_refused_with_401_is_tried_with_a_fresh_one(self, exchange):
        exchange.refusals = [NotConnected("HTTP 401", status=401, comes_back=False)] * 2
        tokens = iter("abc")
        with pytest.raises(ReconnectFailed, match="401"):
            await exchange.client(token=lambda: next(tokens)).__aenter__()
        assert exchange.dialled == ["a", "b"]

    async def test_one_that_can_not_be_fetched_ends_it(self, exchange):
        def fetch() -> str:
            raise OSError("no route")

        with pytest.raises(ReconnectFailed, match="no route") as failed:
            await exchange.client(token=fetch).__aenter__()
        assert isinstance(failed.value.__cause__, OSError)

    @pytest.mark.parametrize("handshake", [False, True])
    async def test_one_that_can_not_be_fetched_just_now_is_fetched_later(
        self, conversation, exchange, handshake
    ):
        tokens = iter(["t0", OSError("no route"), OSError("no route"), "t1"])

        async def fetch() -> str:
            token = next(tokens)
            if isinstance(token, OSError):
                raise token
            return token

        backoff, _ = waits_of(0.001, 0.002, 0.003)
        async with conversation(token=fetch, backoff=backoff) as (client, line):
            watch = client.states()
            if handshake:
                exchange.refusals = [NotConnected("HTTP 401", status=401, comes_back=False)] * 3
                line.lose()
            else:
                line.lose(4401)
                for _ in range(2):
                    (await exchange.line()).lose(4401)
            line = await exchange.line()
            assert line.token == "t1"
            line.welcome()
            await line.resume()
            await settled()
            assert client.state.state is State.OPEN
            waits = []
            while (change := await soon(anext(watch))) != client.state or not waits:
                if change.state is State.WAITING:
                    waits.append(change.wait)
            assert waits == ([0.001, 0.002, 0.003, 0.0] if handshake else [0.001, 0.002, 0.0])

    async def test_one_that_can_never_be_fetched_again_ends_it(self, conversation):
        tokens = iter(["t0"])
        async with conversation(token=lambda: next(tokens), backoff=at_once(0)) as (client, line):
            line.lose(4401)
            failed = await ended(client)
            assert "token" in str(failed)


class TestClosing:
    async def test_the_line_is_closed_as_one_that_is_done(self, conversation):
        async with conversation() as (client, line):
            watch = client.states()
        assert line.closed == CloseCode.NORMAL
        assert [change.state async for change in watch] == [State.OPEN, State.CLOSED]
        await client.close()

    async def test_all_who_wait_are_told(self, conversation):
        async with conversation() as (client, line):
            room = await joined(client, line)
            waiting = [asyncio.ensure_future(anext(events, "end")) for events in (room, client)]
            unsent = asyncio.ensure_future(client.send(Say("hi")))
            await client.close()
            assert await asyncio.gather(*waiting) == ["end", "end"]
            with pytest.raises(ClientError, match="closed"):
                await unsent

    async def test_while_it_waits_to_come_back(self, conversation, exchange):
        async with conversation(backoff=lambda: iter([60.0])) as (client, line):
            line.lose()
            await settled()
            assert client.state.state is State.WAITING

    async def test_while_it_connects(self, exchange):
        client = exchange.client()
        entering = asyncio.ensure_future(client.__aenter__())
        line = await exchange.line()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert line.closed == CloseCode.NORMAL
        assert client.state.state is State.CLOSED

    async def test_before_it_has_begun(self, exchange):
        client = exchange.client()
        await client.close()
        assert [change.state async for change in client.states()] == [State.CLOSED]

    async def test_a_client_is_entered_once(self, conversation):
        async with conversation() as (client, _):
            with pytest.raises(RuntimeError, match="once"):
                await client.__aenter__()

    async def test_a_failure_of_its_own_is_raised_at_the_end(self, exchange, monkeypatch):
        client = exchange.client()
        monkeypatch.setattr(client._session, "carry", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await client.__aenter__()
        with pytest.raises(ReconnectFailed, match="met an error"):
            await client.send(Say("late"))

    @pytest.mark.parametrize("turns", range(8))
    async def test_a_close_at_the_moment_at_which_the_line_is_lost_is_one(self, conversation, turns):
        async with conversation(backoff=at_once(1000)) as (client, line):
            line.lose()
            for _ in range(turns):
                await asyncio.sleep(0)
            await soon(client.close())
            assert client.state.state is State.CLOSED
