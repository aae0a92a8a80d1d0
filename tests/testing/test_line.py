import asyncio
import json
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from hubbub import ConfigurationError, Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.client.line import LineLost, NotConnected
from hubbub.testing import line as lines
from hubbub.testing.line import MOST_ON_THE_WAY, InProcess, InProcessLine

pytestmark = pytest.mark.anyio

URL = "ws://localhost/"


class Say(Message):
    text: str


@pytest.fixture
def hub() -> Hubbub:
    hub = Hubbub()
    chat = hub.room("chat/{name}", history=10)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "forged":
            raise Denied("This token is not valid.")
        return connection.token

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message)

    return hub


async def read(line, kind: str):
    """Return the next envelope of a type; those before it are dropped."""
    async with asyncio.timeout(5):
        while True:
            message = await line.recv()
            envelope = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
            if envelope["type"] == kind:
                return envelope


async def join(line) -> None:
    await line.send(json.dumps({"type": "$join", "id": 1, "room": "chat/lobby"}))
    await read(line, "$ack")


class TestTheProtocol:
    async def test_json_is_spoken_as_over_a_socket(self, hub):
        async with InProcess(hub) as running:
            dial = running.dialling(URL)
            ada, bob = await dial("ada"), await dial("bob")
            assert ada.subprotocol == "hubbub.v1.json"
            assert (await read(ada, "$welcome"))["data"]["user"] == "ada"
            for line in (ada, bob):
                await join(line)
            await ada.send(json.dumps({"type": "say", "room": "chat/lobby", "data": {"text": "hi"}}))
            said = await read(bob, "say")
        assert (said["from"], said["offset"], said["data"]) == ("ada", 1, {"text": "hi"})

    async def test_messagepack_is_spoken_too(self, hub):
        async with InProcess(hub) as running:
            line = await running.dialling(URL, subprotocol="hubbub.v1.msgpack")("ada")
            assert line.subprotocol == "hubbub.v1.msgpack"
            await line.send(msgspec.msgpack.encode({"type": "$ping", "id": 7}))
            assert (await read(line, "$pong"))["id"] == 7

    async def test_a_token_may_be_in_the_query_and_headers_are_the_callers(self, hub):
        seen = {}

        @hub.on_connect
        async def note(connection: Connection) -> None:
            seen["agent"] = connection.request.headers["user-agent"]
            seen["host"] = connection.request.headers["host"]

        async with InProcess(hub) as running:
            dial = running.dialling("ws://example.com:8000/?token=ada", headers={"User-Agent": "x"})
            assert (await read(await dial(None), "$welcome"))["data"]["user"] == "ada"
        assert seen == {"agent": "x", "host": "example.com:8000"}

    async def test_a_hub_may_be_mounted_somewhere(self, hub):
        app = Starlette(routes=[Mount("/live", hub)])  # whose lifespan does not start the hub
        async with InProcess(app) as running:
            line = await running.dialling("ws://localhost/live/")("ada")
            await read(line, "$welcome")

    async def test_the_server_closes_with_its_code(self, hub):
        async with InProcess(hub) as running:
            line = await running.dialling(URL)("forged")
            assert (await read(line, "$error"))["data"]["code"] == "denied"
            with pytest.raises(LineLost) as lost:
                await line.recv()
            with pytest.raises(LineLost):
                await line.send("too late")
        assert (lost.value.code, lost.value.reason) == (4401, "This token is not valid.")

    async def test_the_client_closes_with_its_code(self):
        hub = Hubbub()
        ended = asyncio.get_running_loop().create_future()

        @hub.on_disconnect
        async def note(connection: Connection) -> None:
            ended.set_result((connection.close_code, connection.close_reason))

        async with InProcess(hub) as running:
            line = await running.dialling(URL)(None)
            await read(line, "$welcome")
            await line.close(1000, "done")
            await line.close(1001, "again")
            assert await ended == (1000, "done")
            with pytest.raises(LineLost):
                await line.recv()

    async def test_a_refused_handshake_says_with_which_status(self, hub):
        async with InProcess(hub) as running:
            with pytest.raises(NotConnected, match="HTTP 404") as refused:
                await running.dialling("ws://localhost/nowhere")(None)
        assert (refused.value.status, refused.value.comes_back) == (404, False)

    @pytest.mark.parametrize("url", ["http://localhost/", "localhost", "ws:///path"])
    async def test_only_websockets_have_lines(self, hub, url):
        with pytest.raises(ConfigurationError, match="ws://"):
            InProcess(hub).dialling(url)


class TestTheNetwork:
    async def test_a_line_may_be_lost_in_the_handshake(self):
        line = InProcessLine()
        opening = asyncio.create_task(line.opened())
        await asyncio.sleep(0)
        line.cut()
        with pytest.raises(NotConnected, match="lost in the opening handshake"):
            await opening

    async def test_who_sends_on_a_line_that_has_ended_is_told(self):
        told = asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            try:
                await send({"type": "websocket.send", "text": "too late"})
            except OSError as problem:
                told.set_result(str(problem))

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            line.cut()
            assert await told == "the client is gone"

    async def test_who_waits_to_send_when_the_line_is_lost_is_told(self):
        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            await asyncio.Event().wait()

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            for _ in range(MOST_ON_THE_WAY):
                await line.send("x")
            sending = asyncio.create_task(line.send("one too many"))
            await asyncio.sleep(0)
            line.cut()
            with pytest.raises(LineLost):
                await sending
            for task in running._connections:
                task.cancel()

    async def test_a_cut_line_loses_what_is_on_its_way_and_both_sides_see_1006(self):
        ended = asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "on its way"})
            ended.set_result(await receive())

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            await line.send("on its way too")
            line.cut()
            with pytest.raises(LineLost) as lost:
                await line.recv()
            assert lost.value.code == 1006
            assert await ended == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    async def test_on_a_stalled_line_nothing_arrives_until_it_flows_again(self, hub):
        async with InProcess(hub) as running:
            line = await running.dialling(URL)("ada")
            await read(line, "$welcome")
            line.stall()
            await line.send(json.dumps({"type": "$ping", "id": 1}))
            receiving = asyncio.create_task(read(line, "$pong"))
            other = await running.dialling(URL)("bob")
            await other.send(json.dumps({"type": "$ping", "id": 2}))
            await read(other, "$pong")
            assert not receiving.done()
            line.flow()
            assert (await receiving)["id"] == 1

    async def test_who_leaves_a_stalled_line_is_gone_but_the_server_does_not_hear_of_it(self, hub):
        async with InProcess(hub) as running:
            line = await running.dialling(URL)("ada")
            await read(line, "$welcome")
            line.stall()
            await line.close()
            with pytest.raises(LineLost):
                await line.recv()
            assert len(hub._hub.connections) == 1

    async def test_a_cancelled_recv_has_taken_nothing(self, hub):
        async with InProcess(hub) as running:
            line = await running.dialling(URL)("ada")
            await read(line, "$welcome")
            receiving = asyncio.create_task(line.recv())
            await asyncio.sleep(0)
            receiving.cancel()
            await line.send(json.dumps({"type": "$ping", "id": 1}))
            assert (await read(line, "$pong"))["id"] == 1

    async def test_who_sends_faster_than_is_read_waits(self):
        taken = asyncio.Event()

        async def app(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await taken.wait()
            while (await receive())["type"] == "websocket.receive":
                """What it says is of no interest."""

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            for _ in range(MOST_ON_THE_WAY):
                await line.send("x")
            sending = asyncio.create_task(line.send("one too many"))
            await asyncio.sleep(0)
            assert not sending.done()
            taken.set()
            await sending
            await line.close()

    async def test_a_server_that_sends_faster_than_is_read_waits_and_hears_of_the_end(self):
        sent = 0
        over = asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            nonlocal sent
            await receive()
            await send({"type": "websocket.accept"})
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": b"x"})
                    sent += 1
            except OSError as problem:
                over.set_result(str(problem))

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            assert await line.recv() == b"x"
            await line.close()
            assert await over == "the client is gone"
        assert sent <= MOST_ON_THE_WAY + 1


class TestTheApplication:
    async def test_its_lifespan_is_run_and_its_state_handed_on(self):
        events = []

        @asynccontextmanager
        async def lifespan(app):
            events.append("started")
            yield {"colour": "red"}
            events.append("stopped")

        inner = Starlette(lifespan=lifespan)

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await inner(scope, receive, send)
                return
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": scope["state"]["colour"]})

        async with InProcess(app) as running:
            assert events == ["started"]
            line = await running.dialling(URL)(None)
            assert await line.recv() == "red"
        assert events == ["started", "stopped"]

    async def test_one_that_does_not_start_says_why(self):
        hub = Hubbub(Settings(workers=2))
        hub.room("chat")
        with pytest.raises(RuntimeError, match="rooms of their own"):
            async with InProcess(hub):
                """It does not come to this."""

    async def test_one_that_fails_to_stop_says_so(self):
        @asynccontextmanager
        async def lifespan(app):
            yield
            raise ValueError("the cellar is flooded")

        with pytest.raises(RuntimeError, match="the cellar is flooded"):
            async with InProcess(Starlette(lifespan=lifespan)):
                """It has started."""

    async def test_one_that_fails_in_between_says_so_in_the_end(self):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise ValueError("the cellar is flooded")

        with pytest.raises(RuntimeError, match="failed in its lifespan") as failed:
            async with InProcess(app):
                await asyncio.sleep(0)
        assert str(failed.value.__cause__) == "the cellar is flooded"

    async def test_one_that_takes_too_long_to_start_is_cancelled(self, monkeypatch):
        monkeypatch.setattr("hubbub.testing.lifespan.CHANGES_WITHIN", 0.01)
        cancelled = asyncio.Event()

        async def app(scope, receive, send):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        with pytest.raises(TimeoutError, match="did not start within"):
            async with InProcess(app):
                """It does not come to this."""
        assert cancelled.is_set()

    async def test_an_error_in_a_connection_is_logged_and_closes_with_1011(self, caplog):
        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            raise ValueError("no good")

        async with InProcess(app) as running:
            line = await running.dialling(URL)(None)
            with pytest.raises(LineLost) as lost:
                await line.recv()
        assert lost.value.code == 1011
        assert "no good" in caplog.text

    async def test_one_that_does_not_answer_the_handshake_refuses_with_500(self):
        async def app(scope, receive, send):
            """It does nothing."""

        async with InProcess(app) as running:
            with pytest.raises(NotConnected, match="HTTP 500") as refused:
                await running.dialling(URL)(None)
        assert refused.value.comes_back

    async def test_what_is_no_event_of_a_websocket_is_an_error(self, caplog):
        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await send({"type": "http.response.start", "status": 200})

        async with InProcess(app) as running:
            with pytest.raises(NotConnected):
                await running.dialling(URL)(None)
        assert "sends no 'http.response.start'" in caplog.text

    async def test_lines_end_with_it_as_when_a_server_stops(self, hub):
        async with InProcess(hub) as running:
            dial = running.dialling(URL)
            line = await dial("ada")
            await read(line, "$welcome")
        await read(line, "$drain")
        with pytest.raises(LineLost) as lost:
            await line.recv()
        assert lost.value.code == 1012
        with pytest.raises(NotConnected, match="does not run"):
            await dial("ada")

    async def test_connections_that_can_not_be_cancelled_are_an_error(self, monkeypatch):
        monkeypatch.setattr(lines, "ENDS_WITHIN", 0.01)
        enough = asyncio.Event()

        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            while not enough.is_set():
                with suppress(asyncio.CancelledError):
                    await enough.wait()

        with pytest.raises(RuntimeError, match="1 connections don't end"):
            async with InProcess(app) as running:
                await running.dialling(URL)(None)
        enough.set()
        await asyncio.wait(running._connections)

    async def test_connections_that_do_not_end_are_cancelled(self, monkeypatch):
        monkeypatch.setattr(lines, "ENDS_WITHIN", 0.01)
        cancelled = asyncio.Event()

        async def app(scope, receive, send):
            assert scope["type"] == "websocket"
            await receive()
            await send({"type": "websocket.accept"})
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with InProcess(app) as running:
            await running.dialling(URL)(None)
        assert cancelled.is_set()
