"""Falling back from one line to another, and the way back up: which is used, and that nothing is lost."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import hubbub
from client.gate import Gate, gate_to
from client.lines import Exchange, FakeLine, at_once, joined, settled, soon, until
from hubbub import Backoff, ConfigurationError, Hubbub, Message, Received, Room, State
from hubbub.client import Client, LineLost, LineMoved, NotConnected
from hubbub.client import falling_back as module
from hubbub.client.falling_back import FallingBack
from hubbub.client.lines import SCHEMES
from hubbub.testing.servers.haproxy import FILE, HAProxy
from hubbub.testing.serving import serving

pytestmark = pytest.mark.anyio

LOBBY = "chat/lobby"
NEVER = Backoff([])
SOON = Backoff([0.001], endless=True, jitter=False)


class Say(Message):
    text: str


class Ways:
    """Some ways in whose far ends are the test."""

    def __init__(self, *names: str, climb=NEVER, within: float = 5.0) -> None:
        self.exchanges = [Exchange() for _ in names]
        self.falling_back = FallingBack(
            [(name, exchange.dial) for name, exchange in zip(names, self.exchanges, strict=True)],
            within,
            climb,
        )

    def client(self, **options) -> Client:
        options.setdefault("backoff", at_once(20))
        return Client(self.falling_back.dial, **options)

    def refuse(self, number: int, times: int = 1, **problem) -> None:
        problem.setdefault("status", 400)
        problem.setdefault("comes_back", False)
        self.exchanges[number].refusals += [NotConnected("refused", **problem) for _ in range(times)]

    async def opened(self, number: int, **welcome) -> FakeLine:
        """Return the line that is opened on a way, with its welcome said."""
        line = await self.exchanges[number].line()
        line.welcome(**welcome)
        return line

    @property
    def dialled(self) -> list[int]:
        """How often each was dialled."""
        return [len(exchange.dialled) for exchange in self.exchanges]


async def used(ways: Ways, dialling) -> FakeLine:
    line = await soon(dialling)
    return line._line


class TestGoingDown:
    async def test_the_first_that_works_is_used(self):
        ways = Ways("a", "b", "c")
        dialling = asyncio.ensure_future(ways.falling_back.dial("token"))
        far = await ways.opened(0)
        line = await dialling
        assert line._line is far
        assert far.token == "token"
        assert ways.dialled == [1, 0, 0]
        await line.close()

    async def test_a_403_may_be_a_proxys_and_is_followed_by_the_next(self):
        ways = Ways("a", "b")
        ways.refuse(0, status=403)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        far = await ways.opened(1)
        line = await dialling
        assert line._line is far
        await line.close()

    @pytest.mark.parametrize(("last", "comes_back"), [({"status": 403}, False), ({"comes_back": True}, True)])
    async def test_a_403_is_final_once_all_say_so(self, last, comes_back):
        ways = Ways("a", "b")
        ways.refuse(0, status=403)
        ways.refuse(1, **last)
        with pytest.raises(NotConnected) as refused:
            await ways.falling_back.dial(None)
        assert refused.value.comes_back is comes_back
        assert ways.dialled == [1, 1]

    @pytest.mark.parametrize("comes_back", [True, False])
    async def test_what_can_not_be_opened_is_followed_by_the_next(self, comes_back):
        ways = Ways("a", "b", "c")
        ways.refuse(0, comes_back=comes_back)
        ways.refuse(1, status=None)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        far = await ways.opened(2)
        line = await dialling
        assert line._line is far
        await line.close()

    @pytest.mark.parametrize("end", [1006, 1002, 1000])
    async def test_a_line_that_ends_before_a_word_counts_as_none(self, end):
        ways = Ways("a", "b")
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        dead = await ways.exchanges[0].line()
        dead.lose(end)
        far = await ways.opened(1)
        line = await dialling
        assert line._line is far
        assert dead.closed == 1006
        await line.close()

    async def test_a_line_on_which_nothing_is_said_counts_as_none(self):
        ways = Ways("a", "b", within=0.02)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        silent = await ways.exchanges[0].line()
        await ways.opened(1)
        line = await soon(dialling)
        assert silent.closed == 1006
        await line.close()

    @pytest.mark.parametrize("first", ["<html>", '{"type": "news"}', b"\x00"])
    async def test_a_line_that_is_no_hubbubs_counts_as_none(self, first):
        ways = Ways("a", "b")
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        (await ways.exchanges[0].line()).send_raw(first)
        await ways.opened(1)
        line = await soon(dialling)
        await line.close()

    @pytest.mark.parametrize(
        "problem",
        [{"status": 401}, {"status": None, "for_all": True}, {"status": 503, "after": 5.0}],
    )
    async def test_what_is_the_same_for_all_is_told_at_once(self, problem):
        ways = Ways("a", "b")
        ways.refuse(0, **problem)
        with pytest.raises(NotConnected) as refused:
            await ways.falling_back.dial(None)
        assert refused.value.status == problem["status"]
        assert ways.dialled == [1, 0]

    @pytest.mark.parametrize("code", [4401, 4403, 4529])
    async def test_a_refusal_by_the_server_itself_is_taken_as_that(self, code):
        ways = Ways("a", "b")
        for said in (True, False):
            dialling = asyncio.ensure_future(ways.falling_back.dial(None))
            far = await ways.exchanges[0].line()
            if said:
                far.say("$error", data={"code": "denied", "message": "Not you.", "retry": False})
            far.lose(code)
            line = await soon(dialling)
            if said:
                assert "denied" in await line.recv()
            with pytest.raises(LineLost) as lost:
                await line.recv()
            assert lost.value.code == code
            await line.close(1006)
        assert ways.dialled == [2, 0]

    @pytest.mark.parametrize(("second", "comes_back"), [(True, True), (False, False)])
    async def test_where_none_works_each_says_why(self, second, comes_back):
        ways = Ways("a", "b")
        ways.refuse(0)
        ways.refuse(1, comes_back=second)
        with pytest.raises(NotConnected, match="a: refused; b: refused") as refused:
            await ways.falling_back.dial(None)
        assert refused.value.comes_back is comes_back

    async def test_what_worked_comes_first_the_next_time(self):
        ways = Ways("a", "b", "c")
        ways.refuse(0)
        ways.refuse(1)
        for _ in range(2):
            dialling = asyncio.ensure_future(ways.falling_back.dial(None))
            await ways.opened(2)
            line = await dialling
            await line.close(1006)
        assert ways.dialled == [1, 1, 2]
        ways.refuse(2)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        await ways.opened(0)
        line = await dialling
        assert ways.dialled == [2, 1, 3]
        await line.close()

    async def test_a_line_that_dies_young_again_and_again_gives_way(self):
        ways = Ways("a", "b")
        for _ in range(3):
            dialling = asyncio.ensure_future(ways.falling_back.dial(None))
            far = await ways.opened(0)
            line = await dialling
            await line.recv()
            far.lose(1006)
            with pytest.raises(LineLost):
                await line.recv()
            await line.close(1006)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        await ways.opened(1)
        await (await dialling).close()
        assert ways.dialled == [3, 1]

    @pytest.mark.parametrize("code", [1001, 1012, 4401, 4513])
    async def test_a_server_that_ends_lines_itself_has_none_give_way(self, code):
        ways = Ways("a", "b")
        for _ in range(5):
            dialling = asyncio.ensure_future(ways.falling_back.dial(None))
            far = await ways.opened(0)
            line = await dialling
            await line.recv()
            far.lose(code)
            with pytest.raises(LineLost):
                await line.recv()
            await line.close(1006)
        assert ways.dialled == [5, 0]

    async def test_cancelling_closes_what_was_being_opened(self):
        ways = Ways("a", "b")
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        far = await ways.exchanges[0].line()
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert far.closed == 1006

    async def test_a_server_that_is_no_hubbub_is_not_waited_for(self):
        ways = Ways("a", "b")
        ways.exchanges[0].subprotocol = None
        line = await soon(ways.falling_back.dial(None))
        await line.close()


class TestClimbing:
    @asynccontextmanager
    async def on_lower(self, ways: Ways, token: str | None = None):
        """Yield a client that has fallen to the second way, and the far end of its line."""
        ways.refuse(0)
        client = ways.client(token=token)
        entering = asyncio.ensure_future(client.__aenter__())
        far = await ways.opened(1)
        await soon(entering)
        try:
            yield client, far
        finally:
            await client.close()

    async def test_the_session_goes_on_on_the_better_line(self):
        waits = asyncio.Event()
        ways = Ways("a", "b", climb=Backoff([0.05], jitter=False))
        async with self.on_lower(ways) as (client, far):
            room = await joined(client, far, LOBBY)
            watch = client.states()
            sending = asyncio.ensure_future(room.send(Say("kept")))
            said = await far.heard("say")
            better = await ways.opened(0)
            asked = await better.resume()
            assert asked["session"] == "token-1"
            assert far.closed == 1000
            assert (await better.heard("say"))["id"] == said["id"]
            better.say("$ack", id=said["id"])
            await soon(sending)
            states = [await anext(watch) for _ in range(3)]
            assert [change.state for change in states] == [State.OPEN, State.CONNECTING, State.OPEN]
            assert states[2].resumed
            waits.set()

    async def test_a_client_whose_first_line_died_young_climbs_too(self):
        ways = Ways("a", "b", climb=SOON)
        client = ways.client()
        entering = asyncio.ensure_future(client.__aenter__())
        first = await ways.opened(0)
        await soon(entering)
        try:
            ways.refuse(0)
            first.lose()
            lower = await ways.opened(1)
            await lower.resume()
            better = await ways.opened(0)
            await better.resume()
            assert lower.closed == 1000
        finally:
            await client.close()

    async def test_a_better_line_that_does_not_open_leaves_the_one_there_is(self):
        ways = Ways("a", "b", climb=SOON)
        async with self.on_lower(ways) as (_client, far):
            ways.refuse(0, times=3)
            better = await ways.opened(0)
            assert ways.dialled == [5, 1]
            await better.resume()
            assert far.closed == 1000

    async def test_it_moves_also_before_the_server_has_said_who_it_is(self):
        ways = Ways("a", "b", climb=SOON)
        ways.refuse(0)
        client = ways.client()
        entering = asyncio.ensure_future(client.__aenter__())
        try:
            far = await ways.exchanges[1].line()
            far.say("$error", data={"code": "busy", "message": "Wait.", "retry": True})
            await ways.opened(0)
            await soon(entering)
            assert far.closed == 1000
        finally:
            await client.close()

    async def test_where_the_waits_end_it_stays(self):
        ways = Ways("a", "b", climb=Backoff([0.001, 0.001], jitter=False))
        async with self.on_lower(ways) as (_client, far):
            ways.refuse(0, times=10)
            await until(lambda: ways.dialled == [3, 1])
            await asyncio.sleep(0.02)
            assert ways.dialled == [3, 1]
            assert far.closed is None

    async def test_a_better_line_with_a_refused_login_is_none(self):
        ways = Ways("a", "b", climb=SOON)
        async with self.on_lower(ways) as (_client, _far):
            better = await ways.exchanges[0].line()
            better.say("$error", data={"code": "denied", "message": "Too old.", "retry": False})
            again = await ways.opened(0)
            assert better.closed == 1000
            await again.resume()

    async def test_a_better_line_of_another_login_is_not_used(self):
        ways = Ways("a", "b", climb=SOON)
        async with self.on_lower(ways, token="old") as (client, far):
            login = asyncio.ensure_future(client.log_in("new"))
            request = await far.heard("$auth")
            stale = await ways.exchanges[0].line()
            far.say("$ack", id=request["id"], data={"user": "ada"})
            await login
            stale.welcome()
            again = await ways.opened(1)
            await again.resume()
            fresh = await ways.opened(0)
            assert (stale.token, again.token, fresh.token) == ("old", "new", "new")
            assert stale.closed == 1000
            await fresh.resume()

    async def test_closing_leaves_neither_line_open(self):
        for turns in range(12):
            ways = Ways("a", "b", climb=Backoff([0.001], jitter=False))
            async with self.on_lower(ways) as (client, far):
                better = await ways.exchanges[0].line()
                better.welcome()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await soon(client.close())
            assert better.closed is not None
            assert far.closed is not None

    async def test_closing_while_it_looks_leaves_no_task(self):
        before = asyncio.all_tasks()
        ways = Ways("a", "b", climb=SOON)
        async with self.on_lower(ways):
            opening = await ways.exchanges[0].line()
        assert opening.closed is not None
        assert asyncio.all_tasks() == before

    async def test_a_lost_line_stops_the_search_and_its_waits_go_on(self):
        ways = Ways("a", "b", climb=Backoff([0.001, 60.0], jitter=False))
        async with self.on_lower(ways) as (_client, far):
            opening = await ways.exchanges[0].line()
            far.lose()
            again = await ways.opened(1)
            await again.resume()
            assert opening.closed == 1006
            await settled()
            await asyncio.sleep(0.01)
            assert ways.dialled == [2, 2]

    async def test_after_a_line_that_held_the_waits_begin_anew(self, monkeypatch):
        monkeypatch.setattr(module, "HELD", 0.0)
        begun = 0

        def climb():
            nonlocal begun
            begun += 1
            return iter([60.0])

        ways = Ways("a", "b", climb=climb)
        for number in (0, 1, 0, 1):
            other = 1 - number
            ways.refuse(other)
            dialling = asyncio.ensure_future(ways.falling_back.dial(None))
            await ways.opened(number)
            line = await soon(dialling)
            await line.close(1006)
            ways.exchanges[other].refusals.clear()
        assert begun == 2

    async def test_what_opens_and_dies_is_tried_ever_more_rarely(self):
        begun = 0

        def climb():
            nonlocal begun
            begun += 1
            return iter([0.001] * 100)

        ways = Ways("a", "b", climb=climb)
        async with self.on_lower(ways) as (_client, far):
            for _ in range(3):
                better = await ways.opened(0)
                await better.resume()
                ways.refuse(0, times=1)
                better.lose()
                far = await ways.opened(1)
                await far.resume()
        assert begun == 1

    async def test_receiving_goes_on_until_it_moves(self):
        ways = Ways("a", "b", climb=Backoff([0.03], jitter=False))
        ways.refuse(0)
        dialling = asyncio.ensure_future(ways.falling_back.dial(None))
        far = await ways.opened(1)
        line = await soon(dialling)
        assert "$welcome" in await line.recv()
        for number in range(5):
            far.send_raw(str(number))
            assert await soon(line.recv()) == str(number)
        receiving = asyncio.ensure_future(line.recv())
        better = await ways.opened(0)
        with pytest.raises(LineMoved) as moved:
            await soon(receiving)
        with pytest.raises(LineMoved):
            await line.recv()
        await line.send("still")
        assert await far.heard_raw() == "still"
        taken = moved.value.take()
        await line.close()
        assert better.closed is None
        assert "$welcome" in await taken.recv()
        await taken.close()
        assert better.closed == 1000


class TestConnecting:
    def test_one_url_at_the_least(self):
        with pytest.raises(ConfigurationError, match="one URL"):
            hubbub.connect([])

    def test_all_lines_speak_one_codec(self):
        with pytest.raises(ConfigurationError, match="subprotocol"):
            hubbub.connect(["ws://x", "sse+http://x"], subprotocol="hubbub.v1.msgpack")

    @pytest.mark.parametrize("url", ["ftp://x", "sse://x", "poll+ws://x"])
    def test_a_line_that_there_is_not_is_told(self, url):
        with pytest.raises(ConfigurationError, match="There is no line"):
            hubbub.connect(["ws://x", url])

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(
        "rest", ["ada:secret/x@host", "ada:secret@[::1", "ada:secret@host:99999", "ada:secret@\u2100.example"]
    )
    def test_a_url_that_is_none_is_told_and_not_repeated(self, scheme, rest):
        with pytest.raises(ConfigurationError) as refused:
            hubbub.connect(f"{scheme}://{rest}")
        assert "secret" not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.fixture
async def hub() -> Hubbub:
    hub = Hubbub()
    chat = hub.room("chat/{name}", history=10_000)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


@asynccontextmanager
async def gated(hub: Hubbub):
    async with serving(hub) as served, gate_to(served.port) as gate:
        yield gate


def urls(gate: Gate, *schemes: str) -> list[str]:
    return [gate.url(scheme) for scheme in schemes or ("ws", "sse+http", "poll+http")]


class TestThroughProxies:
    async def test_websockets_are_used_where_they_pass(self, hub):
        async with gated(hub) as gate, hubbub.connect(urls(gate)) as client:
            assert client.state.line == "ws"
            assert gate.asked == ["websocket"]

    @pytest.mark.parametrize("rule", ["refuse", "forbid", "mute", "cut"])
    @pytest.mark.parametrize("lower", ["sse+http", "stream+http", "poll+http"])
    async def test_where_they_do_not_another_line_is(self, hub, rule, lower):
        async with gated(hub) as gate:
            gate.websockets = rule
            async with hubbub.connect(
                urls(gate, "ws", lower), messages=[Say], climb=NEVER, open_timeout=0.3
            ) as client:
                assert client.state.line == lower
                room = await client.join(LOBBY)
                await room.send(Say("hi"))
                assert (await soon(anext(room))).message == Say("hi")

    @pytest.mark.parametrize("rule", ["refuse", "forbid", "mute", "cut"])
    async def test_where_streams_do_not_pass_either_it_polls(self, hub, rule):
        async with gated(hub) as gate:
            gate.websockets, gate.streams = "refuse", rule
            async with hubbub.connect(urls(gate), climb=NEVER, open_timeout=0.3) as client:
                assert client.state.line == "poll+http"

    async def test_what_worked_is_remembered(self, hub):
        async with gated(hub) as gate:
            gate.websockets = "refuse"
            async with hubbub.connect(urls(gate), climb=NEVER) as client:
                del gate.asked[:]
                gate.lose_all()
                await until(lambda: client.state.state is State.OPEN and client.state.resumed)
                assert (client.state.line, gate.asked[0]) == ("sse+http", "stream")
                assert "websocket" not in gate.asked

    async def test_the_blocking_client_falls_back_too(self, hub):
        def talk(ways: list[str]) -> str:
            with hubbub.sync.connect(ways, messages=[Say], climb=NEVER) as client:
                room = client.join(LOBBY)
                room.send(Say("hi"))
                room.receive(timeout=5)
                return client.state.line

        async with gated(hub) as gate:
            gate.websockets = "refuse"
            assert await asyncio.to_thread(talk, urls(gate)) == "sse+http"

    @pytest.mark.parametrize("lower", ["sse+http", "stream+http", "poll+http"])
    async def test_whatever_line_it_is_on_nothing_is_lost_or_doubled(self, hub, lower):
        """Lines come and go, the proxy changes its mind, and both directions are counted."""
        count = 400
        heard: list[str] = []
        used: list[str] = []

        async def listen(client: Client, room) -> None:
            async for event in room:
                assert isinstance(event, Received), event
                heard.append(event.message.text)
                if len(heard) == 2 * count:
                    return

        async def watch(client: Client) -> None:
            used.extend([change.line async for change in client.states() if change.state is State.OPEN])

        async def speak(room, name: str) -> None:
            for number in range(count):
                await room.send(Say(f"{name} {number}"))
                await asyncio.sleep(0.002)

        async def change(gate: Gate) -> None:
            for number in range(12):
                gate.websockets = ("pass", "refuse", "cut")[number % 3]
                await asyncio.sleep(0.05)
                if number % 2:
                    gate.lose_all()

        async with gated(hub) as gate:
            gate.websockets = "refuse"
            climb = Backoff([0.02], endless=True)
            backoff = Backoff([0.0, 0.01], endless=True)
            options = {"messages": [Say], "climb": climb, "backoff": backoff}
            async with (
                hubbub.connect(urls(gate, "ws", lower), **options) as client,
                hubbub.connect(f"ws://127.0.0.1:{gate.backend}", messages=[Say]) as other,
            ):
                room, others = await client.join(LOBBY), await other.join(LOBBY)
                watching = asyncio.ensure_future(watch(client))
                listening = asyncio.ensure_future(listen(client, room))
                async with asyncio.timeout(40):
                    await asyncio.gather(speak(room, "mine"), speak(others, "other"), change(gate))
                    await listening
            await watching
        for name in ("mine", "other"):
            assert [text for text in heard if text.startswith(name)] == [
                f"{name} {number}" for number in range(count)
            ]
        assert {"ws", lower} <= set(used)
        assert len(used) > 5


class BlockingProxy(HAProxy):
    """HAProxy as some companies have it: whoever asks for an upgrade is answered 400."""

    blocking = True

    @property
    def configuration(self) -> str:
        rule = "    http-request return status 400 if { req.hdr(Upgrade) -m found }\n"
        backend = "    default_backend instances"
        return super().configuration.replace(backend, (rule if self.blocking else "") + backend)

    async def replace(self) -> None:
        """Have another one in its place that lets all through."""
        self.blocking = False
        assert self._folder is not None
        (Path(self._folder.name) / FILE).write_text(self.configuration)
        await self.restart()


async def test_a_client_behind_haproxy_comes_in_and_climbs_when_it_is_replaced(hub):
    heard: list[str] = []
    count = 300

    async def listen(room) -> None:
        async for event in room:
            assert isinstance(event, Received), event
            heard.append(event.message.text)
            if len(heard) == count:
                return

    async def speak(room, replaced: asyncio.Event) -> None:
        for number in range(count):
            await room.send(Say(str(number)))
            if number == count // 2:
                await replaced.wait()

    async with serving(hub) as served, BlockingProxy([served.port]) as proxy:
        ways = [proxy.url(scheme=scheme) for scheme in ("ws", "sse+http")]
        options = {"climb": SOON, "backoff": Backoff([0.0, 0.05], endless=True)}
        async with (
            hubbub.connect(ways, messages=[Say], **options) as client,
            hubbub.connect(served.url) as other,
        ):
            assert client.state.line == "sse+http"
            room, others = await client.join(LOBBY), await other.join(LOBBY)
            replaced = asyncio.Event()
            listening = asyncio.ensure_future(listen(room))
            speaking = asyncio.ensure_future(speak(others, replaced))
            await proxy.replace()
            await until(lambda: client.state.line == "ws")
            replaced.set()
            async with asyncio.timeout(20):
                await asyncio.gather(listening, speaking)
    assert heard == [str(number) for number in range(count)]
