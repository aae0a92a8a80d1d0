"""The client on lines over HTTP, against a real hub: the same as on a WebSocket."""

import asyncio
import random
import ssl

import pytest

import hubbub
from client.chat import LOBBY, Double, Doubled, Say, chat_hub
from client.gate import gate_to
from client.lines import at_once, soon, until
from hubbub import (
    Backoff,
    CloseCode,
    Connection,
    Gap,
    Hubbub,
    Joined,
    Left,
    Member,
    Message,
    Received,
    ReconnectFailed,
    RequestFailed,
    Room,
    Settings,
    State,
)
from hubbub.client import LineLost
from hubbub.client.http_lines import dialling
from hubbub.testing.serving import serving

pytestmark = pytest.mark.anyio


class Wait(Message):
    seconds: float


class Leave(Message):
    code: int


@pytest.fixture(params=["sse", "stream", "poll"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def hub() -> Hubbub:
    hub = chat_hub(Settings(drain=0.5))
    quiet = hub.room("quiet/{name}", history=1000)

    @quiet.on_message
    async def whisper(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def wait(message: Wait) -> None:
        await asyncio.sleep(message.seconds)

    @hub.on_message
    async def leave(connection: Connection, message: Leave) -> None:
        await connection.close(message.code, "as you asked")

    return hub


def connect(kind: str, http: str, **options):
    options.setdefault("messages", [Say])
    return hubbub.connect(f"{kind}+{http}", **options)


async def test_what_one_sends_the_other_receives(hub, kind):
    async with (
        serving(hub) as served,
        connect(kind, served.http, token="ada") as ada,
        hubbub.connect(served.url, token="bob", messages=[Say]) as bob,
    ):
        assert (ada.user, ada.inbox.name) == ("ada", "$user/ada")
        with pytest.raises(RequestFailed, match="staff"):
            await ada.join("chat/staff")
        room = await ada.join(LOBBY)
        heard = await bob.join(LOBBY)
        assert await soon(anext(room)) == Joined(LOBBY, Member("bob"))
        await heard.send(Say("from bob"))
        await room.send(Say("from ada"))
        for there in (room, heard):
            events = [await soon(anext(there)) for _ in range(2)]
            assert events == [
                Received(LOBBY, Say("from bob"), "say", "bob", 1),
                Received(LOBBY, Say("from ada"), "say", "ada", 2),
            ]
        assert {member.user for member in await room.members()} == {"ada", "bob"}
        assert len((await room.history()).messages) == 2
        assert await ada.request(Double(value=4), Doubled) == Doubled(8)
        await bob.close()
        assert await soon(anext(room)) == Left(LOBBY, Member("bob"))
        await room.leave()


async def test_a_lost_line_is_taken_up_where_it_was(hub, kind):
    async with (
        serving(hub) as served,
        gate_to(served.port) as gate,
        connect(kind, gate.url("http"), backoff=at_once(100)) as client,
        hubbub.connect(served.url) as other,
    ):
        room, others = await client.join("quiet/lobby"), await other.join("quiet/lobby")
        for number in range(5):
            gate.lose_all()
            await others.send(Say(str(number)))
            assert (await soon(anext(room))).message == Say(str(number))
        # A poll that broke off is made again at once, perhaps without a reconnect.
        assert client.state.resumed or kind == "poll"


async def test_however_often_it_is_cut_nothing_is_lost_or_repeated(hub, kind):
    chance = random.Random(7)
    count = 150
    async with (
        serving(hub) as served,
        gate_to(served.port) as gate,
        connect(kind, gate.url("http"), backoff=Backoff([0.0], endless=True)) as client,
        hubbub.connect(served.url, messages=[Say]) as other,
    ):
        room, others = await client.join("quiet/a"), await other.join("quiet/a")

        async def speak(there: hubbub.Room, name: str) -> None:
            for number in range(count):
                await there.send(Say(f"{name} {number}"))
                if chance.random() < 0.05:
                    gate.lose_all()

        async def listen(there) -> list[str]:
            texts = []
            async for event in there:
                assert isinstance(event, Received), event
                texts.append(event.message.text)
                if len(texts) == 2 * count:
                    return texts
            return texts

        async with asyncio.timeout(40):
            texts, same, *_ = await asyncio.gather(
                listen(room), listen(others), speak(room, "mine"), speak(others, "other")
            )
    assert texts == same
    for name in ("mine", "other"):
        mine = [text for text in texts if text.startswith(name)]
        assert mine == [f"{name} {number}" for number in range(count)]


@pytest.mark.parametrize(("code", "comes_back"), [(4403, False), (4409, False), (4513, True), (1012, True)])
async def test_a_close_code_means_what_it_means(hub, kind, code, comes_back):
    async with serving(hub) as served, connect(kind, served.http, backoff=at_once(3)) as client:
        states = client.states()
        await client.send(Leave(code), acknowledged=False)
        seen = []
        async with asyncio.timeout(5):
            async for change in states:
                seen.append(change.state)
                if change.code is not None:
                    assert (change.code, change.reason) == (code, "as you asked")
                    break
        assert seen[-1] is (State.WAITING if comes_back else State.CLOSED)


async def test_a_refused_login_is_told(hub, kind):
    async with serving(hub) as served:
        with pytest.raises(ReconnectFailed, match="4401") as failed:
            await connect(kind, served.http, token="nobody").__aenter__()
        assert failed.value.code == CloseCode.NOT_LOGGED_IN


async def test_a_server_that_stops_says_when_to_come_back(hub, kind):
    async with serving(hub) as served:
        client = connect(kind, served.http, backoff=Backoff([60.0], jitter=False))
        await client.__aenter__()
    await until(lambda: client.state.state is State.WAITING)
    assert client.state.code == CloseCode.SERVICE_RESTART
    await client.close()


async def test_a_slow_iteration_loses_nothing(hub, kind):
    count = 500
    async with (
        serving(hub) as served,
        connect(kind, served.http, inbox=10) as client,
        hubbub.connect(served.url) as other,
    ):
        room, others = await client.join("quiet/a"), await other.join("quiet/a")
        sending = asyncio.gather(*(others.send(Say(f"{number} {'x' * 1000}")) for number in range(count)))
        numbers = []
        async with asyncio.timeout(30):
            async for event in room:
                assert not isinstance(event, Gap)
                numbers.append(int(event.message.text.partition(" ")[0]))
                if len(numbers) == count:
                    break
                if len(numbers) % 50 == 0:
                    await asyncio.sleep(0.02)
        await sending
    assert numbers == list(range(count))


async def test_a_session_that_is_behind_has_the_client_wait(hub, kind):
    async with serving(hub) as served, connect(kind, served.http) as client:
        slow = asyncio.ensure_future(client.request(Wait(0.3)))
        quick = [asyncio.ensure_future(client.request(Double(value=n), Doubled)) for n in range(300)]
        async with asyncio.timeout(20):
            assert [answer.value for answer in await asyncio.gather(*quick)] == [2 * n for n in range(300)]
            await slow


async def test_a_cancelled_request_does_no_harm(hub, kind):
    async with serving(hub) as served, connect(kind, served.http) as client:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.request(Wait(0.05))
        assert await soon(client.request(Double(value=1), Doubled)) == Doubled(2)
        assert not client.state.resumed


async def test_heartbeats_keep_an_idle_line(kind):
    hub = Hubbub(Settings(ping_interval=0.1, ping_timeout=0.2, drain=0.5))
    async with serving(hub) as served, connect(kind, served.http, backoff=at_once(0)) as client:
        await asyncio.sleep(1.0)
        assert client.state.state is State.OPEN


async def test_a_line_that_has_gone_silent_is_left(kind):
    hub = Hubbub(Settings(ping_interval=0.1, ping_timeout=0.2, drain=0.5))
    async with (
        serving(hub) as served,
        gate_to(served.port) as gate,
        connect(kind, gate.url("http"), backoff=at_once(9)) as client,
    ):
        gate.stall()
        states = client.states()
        async with asyncio.timeout(5):
            async for change in states:
                if change.state is State.WAITING:
                    break
        assert "nothing was heard" in change.reason


async def test_a_line_that_nobody_reads_ends_when_it_is_closed(hub, kind):
    async with serving(hub) as served:
        line = await dialling(f"{kind}+{served.http}")(None)
        await soon(line.close())
        if kind == "poll":  # it has come with the name of the line
            assert "$welcome" in await line.recv()
        with pytest.raises(LineLost):
            await line.recv()


async def test_an_http_proxy_is_used(hub, kind, monkeypatch):
    async with serving(hub) as served, gate_to(served.port) as gate:
        for options in ({"proxy": gate.url("http")}, {}):
            monkeypatch.setenv("http_proxy", gate.url("http") if not options else "http://127.0.0.1:1")
            del gate.asked[:]
            # The gate stands for a proxy: it hands on what it is asked for, wherever that is.
            async with connect(kind, "http://nowhere.example", **options) as client:
                assert await soon(client.request(Double(value=1), Doubled)) == Doubled(2)
            assert gate.asked
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        del gate.asked[:]
        async with connect(kind, served.http):
            assert not gate.asked


async def test_a_proxy_of_another_kind_is_told(kind):
    with pytest.raises(ReconnectFailed, match="socks5") as failed:
        await connect(kind, "http://127.0.0.1:1", proxy="socks5h://me:secret@127.0.0.1:1").__aenter__()
    assert "secret" not in str(failed.value)


class TestTLS:
    async def test_a_context_says_whom_to_trust(self, hub, kind, certificate):
        async with serving(hub, settings=Settings(**certificate, drain=0.5)) as served:
            url = f"{kind}+https://127.0.0.1:{served.port}"
            trusting = ssl.create_default_context(cafile=certificate["ssl_certfile"])
            for urls in (url, [url, f"sse+http://127.0.0.1:{served.port}"]):
                async with hubbub.connect(urls, ssl=trusting) as client:
                    assert client.state.line == f"{kind}+https"

    async def test_a_certificate_that_is_not_trusted_is_final(self, hub, kind, certificate):
        async with serving(hub, settings=Settings(**certificate, drain=0.5)) as served:
            url = f"{kind}+https://127.0.0.1:{served.port}?token=secret"
            for urls in (url, [url, f"poll+https://127.0.0.1:{served.port}"]):
                with pytest.raises(ReconnectFailed, match="certificate") as failed:
                    await hubbub.connect(urls).__aenter__()
                assert "secret" not in str(failed.value)
