"""The client against real servers, over both transports, with lines that are cut."""

import asyncio
import random
from collections import Counter

import pytest

import hubbub
from client.chat import LOBBY, Double, Doubled, Say, chat_hub
from client.lines import at_once, soon
from hubbub import (
    Backoff,
    Connection,
    Gap,
    Hubbub,
    Joined,
    Left,
    Member,
    Position,
    Received,
    ReconnectFailed,
    RequestFailed,
    State,
)
from hubbub.client import Client, Line
from hubbub.client.websocket import dialling

pytestmark = pytest.mark.anyio


class Lines:
    """Dials for a client, and cuts what it dialled."""

    def __init__(self, url: str, subprotocol: str = "hubbub.v1.json") -> None:
        self.url = url
        self._dial = dialling(url, subprotocol=subprotocol)
        self.opened: list[Line] = []

    async def dial(self, token: str | None) -> Line:
        line = await self._dial(token)
        self.opened.append(line)
        return line

    def client(self, **options) -> Client:
        options.setdefault("backoff", Backoff([0.0], endless=True))
        return Client(self.dial, messages=[Say], **options)

    def cut(self) -> None:
        """Lose the line, as when a cable is pulled."""
        self.opened[-1]._connection.transport.abort()


async def state_of(client: Client, state: State) -> None:
    """Wait until a client is in a state."""

    async def come() -> None:
        async for change in client.states():
            if change.state is state:
                return

    await soon(come())


async def cut_and_back(client: Client, lines: Lines) -> None:
    """Lose the line; return when the client has come back."""
    watch = client.states()
    await anext(watch)
    lines.cut()
    async for change in watch:
        if change.state is State.OPEN:
            assert change.resumed
            return


@pytest.fixture
def hub() -> Hubbub:
    hub = chat_hub()

    @hub.on_message
    async def remind(connection: Connection, message: Say) -> None:
        await hub.user(connection.user).send(message)

    return hub


@pytest.fixture(params=["hubbub.v1.json", "hubbub.v1.msgpack"])
def lines(hub, start, request) -> Lines:
    """Lines to a hub, over each transport and with each codec."""
    return Lines(start(hub).url, request.param)


async def test_what_one_sends_the_other_receives(lines):
    async with lines.client(token="ada") as ada, lines.client(token="bob") as bob:
        assert (ada.user, bob.inbox.name) == ("ada", "$user/bob")
        with pytest.raises(RequestFailed, match="staff"):
            await ada.join("chat/staff")
        heard = await bob.join(LOBBY)
        room = await ada.join(LOBBY)
        assert await soon(anext(heard)) == Joined(LOBBY, Member("ada"))
        await room.send(Say("hi"))
        assert await soon(anext(heard)) == Received(LOBBY, Say("hi"), "say", "ada", 1)
        assert [member.user for member in await heard.members()] == ["bob", "ada"]
        assert [event.message for event in (await heard.history()).messages] == [Say("hi")]
        assert await ada.request(Double(value=4), Doubled) == Doubled(8)
        assert await ada.request(Double(value=4)) == {"value": 8}
        await room.leave()
        assert await soon(anext(heard)) == Left(LOBBY, Member("ada"))
        with pytest.raises(RequestFailed) as failed:
            await room.send(Say("outside"))
        assert failed.value.code == "not_joined"


async def test_the_inbox_is_yielded_across_lines(lines):
    async with lines.client(token="ada") as ada, hubbub.connect(lines.url, token="ada") as phone:
        await phone.send(Say("one"))
        assert (await soon(anext(ada))).message == Say("one")
        lines.cut()
        await phone.send(Say("two"))
        received = await soon(anext(ada))
        assert (received.room, received.message, received.offset) == ("$user/ada", Say("two"), 2)


async def test_who_joins_with_a_position_is_replayed_what_was_missed(lines):
    async with lines.client() as client:
        room = await client.join(LOBBY)
        for text in "abc":
            await room.send(Say(text))
        assert (await soon(anext(room))).offset == 1
        position = room.position
    async with lines.client() as later:
        room = await later.join(LOBBY, since=position)
        assert [(await soon(anext(room))).message.text for _ in range(2)] == ["b", "c"]
    async with lines.client() as stranger:
        room = await stranger.join(LOBBY, since=Position("", 0))
        assert isinstance(await soon(anext(room)), Gap)


async def test_however_often_the_line_is_cut_nothing_is_lost_or_repeated(lines):
    chance = random.Random(4)
    count, speakers = 60, 3
    async with lines.client(token="listener") as listener:
        room = await listener.join(LOBBY)
        others = [Lines(lines.url) for _ in range(speakers)]

        async def speak(number: int) -> None:
            async with others[number].client(token=f"speaker{number}") as client:
                mine = await client.join(LOBBY)
                for text in range(count):
                    sending = asyncio.ensure_future(mine.send(Say(f"{number}:{text}")))
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.random() * 0.003)
                        others[number].cut()
                    await sending

        async def listen() -> list[Received]:
            heard: list[Received] = []
            async for event in room:
                if isinstance(event, Joined | Left):
                    continue
                assert isinstance(event, Received), event
                heard.append(event)
                if chance.random() < 0.1:
                    lines.cut()
                if len(heard) == count * speakers:
                    break
            return heard

        async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            for number in range(speakers):
                tasks.create_task(speak(number))
        heard = listening.result()
        assert [event.offset for event in heard] == list(range(1, count * speakers + 1))
        texts = [event.message.text for event in heard]
        assert set(Counter(texts).values()) == {1}
        for number in range(speakers):
            own = [text for text in texts if text.startswith(f"{number}:")]
            assert own == [f"{number}:{text}" for text in range(count)]
        assert len(lines.opened) > 5


async def test_many_at_once_are_applied_once_and_in_order(lines):
    async with lines.client() as client:
        room = await client.join(LOBBY)
        sends = []
        for number in range(200):
            sends.append(asyncio.ensure_future(room.send(Say(str(number)))))
            if number % 40 == 20:
                await asyncio.sleep(0)
                lines.cut()
        await soon(asyncio.gather(*sends))
        texts = [(await soon(anext(room))).message.text for _ in range(200)]
        assert texts == [str(number) for number in range(200)]


async def test_a_consumer_that_asks_while_it_is_flooded_goes_on(lines):
    async with lines.client(inbox=5) as client, lines.client() as flood:
        room, flooding = await client.join(LOBBY), await flood.join(LOBBY)
        sends = [asyncio.ensure_future(flooding.send(Say(str(number)))) for number in range(300)]
        offsets = []
        async with asyncio.timeout(30):
            async for event in room:
                if isinstance(event, Received):
                    offsets.append(event.offset)
                    assert await client.request(Double(value=1), Doubled) == Doubled(2)
                if len(offsets) == 300:
                    break
        assert offsets == list(range(1, 301))
        await asyncio.gather(*sends)


@pytest.mark.parametrize("inbox", [2, 20])
async def test_one_that_is_slow_and_cut_off_misses_nothing(lines, inbox):
    chance, count = random.Random(inbox), 200
    speaking = Lines(lines.url)
    async with lines.client(inbox=inbox) as listener, speaking.client() as speaker:
        room, loud, quiet = (
            await listener.join(LOBBY),
            await speaker.join(LOBBY),
            await listener.join("chat/q"),
        )
        waiting = asyncio.ensure_future(anext(quiet))
        sends = [asyncio.ensure_future(loud.send(Say(str(number)))) for number in range(count)]
        offsets = []
        async with asyncio.timeout(30):
            async for event in room:
                if isinstance(event, Joined | Left):
                    continue
                assert isinstance(event, Received), event
                offsets.append(event.offset)
                if len(offsets) == count:
                    break
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random() * 0.005)
                if chance.random() < 0.03:
                    lines.cut()
                if chance.random() < 0.1:
                    assert await listener.request(Double(value=1), Doubled) == Doubled(2)
        assert offsets == list(range(1, count + 1))
        await soon(asyncio.gather(*sends))
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_a_client_that_only_sends_gets_its_acknowledgements(lines):
    async with lines.client(inbox=5) as client:
        room = await client.join(LOBBY)
        for number in range(50):
            await soon(room.send(Say(str(number))))


async def test_a_refused_login_is_final(lines):
    with pytest.raises(ReconnectFailed, match=r"4401 Not you\.") as failed:
        await lines.client(token="nobody").__aenter__()
    assert failed.value.code == 4401


async def test_a_fresh_token_may_help(lines):
    tokens = iter(["nobody", "ada"])
    async with lines.client(token=lambda: next(tokens)) as client:
        assert client.user == "ada"
        await cut_and_back(client, lines)


async def test_a_guest_who_logs_in_keeps_the_session(lines):
    async with lines.client() as client:
        room = await client.join(LOBBY)
        await room.send(Say("as a guest"))
        assert await client.log_in("ada") == "ada"
        lines.cut()
        await room.send(Say("as ada"))
        said = []
        async for event in room:
            if isinstance(event, Received):
                said.append(event.message.text)
            if len(said) == 2:
                break
        assert said == ["as a guest", "as ada"]
        assert client.state.resumed


class TestWhenTheServerRestarts:
    async def test_the_client_comes_back_when_it_was_told_and_is_told_of_the_gap(self, hub, start):
        first = start(hub)
        lines = Lines(first.url)
        async with lines.client() as client:
            room = await client.join(LOBBY)
            await room.send(Say("before"))
            assert (await soon(anext(room))).offset == 1
            watch = client.states()
            first.begin_to_stop()
            waiting = None
            while waiting is None or waiting.state is not State.WAITING:
                waiting = await soon(anext(watch))
            assert (waiting.code, waiting.reason) == (1012, "the server restarts")
            await asyncio.to_thread(first.stop)
            start(hub, port=first.port)
            assert isinstance(await soon(anext(room)), Gap)
            await room.send(Say("after"))
            assert (await soon(anext(room))).message == Say("after")
            assert client.state.state is State.OPEN

    async def test_after_the_last_attempt_it_is_told(self, hub, start):
        server = start(hub)
        async with Lines(server.url).client(backoff=at_once(2)) as client:
            await asyncio.to_thread(server.stop)
            with pytest.raises(ReconnectFailed, match="attempts"):
                await soon(anext(client))
