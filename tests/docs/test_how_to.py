"""The applications of the how-to pages do what the pages say of them."""

import asyncio
import json
import logging
import re
import shlex
import subprocess
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
import websockets
from websockets.asyncio.server import serve as serve_websockets

import hubbub
from docs.pages import File, Shelf, blocks, commands, read
from hubbub import ConfigurationError, Connection, Envelope, Message, Received, Settings
from hubbub.brokers import open_broker
from hubbub.brokers.base import Guarantees
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.brokers.rabbitmq.line import OLDEST as RABBITMQ_OLDEST
from hubbub.brokers.redis.lineage import OLDEST as REDIS_OLDEST
from hubbub.testing.servers.redis import RedisServer
from hubbub.transports import publish
from plain_server import plain_server
from troubled import TroubledBroker
from wire import talk

pytestmark = pytest.mark.anyio

FAILING = """
from hubbub import Hubbub, Message

hub = Hubbub()


class Fail(Message):
    pass


@hub.on_message
async def fail(message: Fail) -> None:
    1 / 0
"""


class Leave(Message):
    pass


@pytest.fixture
def page(shelf: Shelf):
    """Import a file of a how-to page."""

    def page(name: str, module: str) -> ModuleType:
        shelf.put_all(f"docs/how-to/{name}.md")
        return shelf.module(module)

    return page


def request(method: str, url: str, body: object = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=5) as response:
        return response.status, response.read().decode()


class TestLogIn:
    async def test_a_token_comes_in_a_header_or_in_the_query(self, page, serve):
        url = serve(page("log-in", "app").hub).url
        async with talk(f"{url}/?token=8c1f5b0e") as client:
            assert client.welcome["user"] == "ada"
        async with talk(url, additional_headers={"Authorization": "Bearer d2a94c77"}) as client:
            assert client.welcome["user"] == "bob"

    async def test_nobody_is_let_in_without(self, page, serve):
        async with talk(serve(page("log-in", "app").hub).url, welcome=False) as client:
            assert await client.closed() == (4401, "Log in first.")

    async def test_a_cookie_counts_only_from_a_known_origin(self, page, serve):
        url = serve(page("log-in", "cookies").hub).url
        cookie = {"Cookie": "session=f3b09d61"}
        async with talk(url, additional_headers=cookie, origin="https://example.com") as client:
            assert client.welcome["user"] == "ada"
        other = {"additional_headers": cookie, "origin": "https://evil.example"}
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with talk(url, **other):
                pass
        assert refused.value.response.status_code == 403
        async with talk(url, origin="https://example.com", welcome=False) as client:
            assert await client.closed() == (4401, "Log in first.")

    async def test_a_room_can_be_refused(self, page, serve):
        async with talk(f"{serve(page('log-in', 'rooms').hub).url}/?token=cleo") as cleo:
            await cleo.join("team/blue")
            refused = await cleo.ask(type="$join", room="team/red")
            assert refused["data"]["code"] == "denied"
            assert refused["data"]["message"] == "You are not in this team."

    async def test_a_login_ends_on_all_connections_of_the_user(self, page, serve):
        module = page("log-in", "log_out")

        @module.hub.on_message
        async def leave(message: Leave) -> None:
            await module.log_out("ada")

        url = serve(module.hub).url
        ada = f"{url}/?token=ada"
        async with talk(ada) as one, talk(ada) as other, talk(f"{url}/?token=bob") as bob:
            assert (await bob.ask(type="leave"))["type"] == "$ack"
            assert await one.closed() == await other.closed() == (4401, "Log in again.")
            assert (await bob.ask(type="$ping"))["type"] == "$pong"


class TestPresence:
    async def test_members_hear_of_each_other(self, page, serve):
        url = serve(page("presence", "app").hub).url
        async with talk(f"{url}/?name=bob") as bob:
            await bob.join("chat/lobby")
            async with talk(f"{url}/?name=ada&colour=red") as ada, talk(f"{url}/?name=ada") as tab:
                await ada.join("chat/lobby")
                joined = await bob.receive_type("$joined")
                assert joined["data"] == [{"user": "ada", "info": {"colour": "red"}}]
                await tab.join("chat/lobby")
                counted = await bob.ask(type="count", room="chat/lobby")
                assert counted["data"] == {"people": 2}
                members = (await bob.ask(type="$presence", room="chat/lobby"))["data"]["members"]
                assert [member["user"] for member in members] == ["bob", "ada"]
            assert [member["user"] for member in (await bob.receive_type("$left"))["data"]] == ["ada"]

    async def test_the_rest_of_the_program_can_ask(self, page):
        module = page("presence", "app")
        async with module.hub.lifespan():
            assert not await module.is_anybody_there("lobby")

    async def test_the_hooks_run_for_each_connection(self, page, serve):
        module = page("presence", "app")
        url = serve(module.hub).url
        async with talk(f"{url}/?name=ada") as ada:
            await ada.join("chat/lobby")
            ((name, connection),) = module.present
            assert (name, connection.id) == ("lobby", ada.welcome["connection"])
            await ada.ask(type="$leave", room="chat/lobby")
            assert module.present == set()


class TestSendToAUser:
    async def test_all_devices_get_it(self, page, serve):
        url = serve(page("send-to-a-user", "app").hub).url
        async with talk(f"{url}/?token=bob") as phone, talk(f"{url}/?token=bob") as laptop:
            async with talk(f"{url}/?token=ada") as ada:
                await ada.ask(type="whisper", data={"to": "bob", "text": "psst"})
            for device in (phone, laptop):
                assert await device.receive() == {
                    "type": "whispered",
                    "room": "$user/bob",
                    "offset": 1,
                    "data": {"by": "ada", "text": "psst"},
                }

    async def test_a_device_that_was_away_catches_up(self, page, serve):
        url = serve(page("send-to-a-user", "app").hub).url
        async with talk(f"{url}/?token=ada") as ada:
            await ada.ask(type="whisper", data={"to": "bob", "text": "psst"})
        async with talk(f"{url}/?token=bob") as bob:
            history = await bob.ask(type="$history", room="$user/bob")
            assert [message["data"]["text"] for message in history["data"]["messages"]] == ["psst"]

    async def test_guests_are_refused(self, page, serve):
        async with talk(serve(page("send-to-a-user", "app").hub).url) as guest:
            refused = await guest.ask(type="whisper", data={"to": "bob", "text": "psst"})
            assert refused["data"]["message"] == "Log in to whisper."

    async def test_one_connection_gets_what_is_sent_to_it(self, page, serve):
        async with talk(serve(page("send-to-a-user", "app").hub).url) as client:
            await client.send(type="ask_for_tips")
            assert await client.receive() == {"type": "tip", "data": {"text": "Whispers are kept for a day."}}
            assert (await client.receive())["type"] == "tip"


class TestSlowReaders:
    async def test_who_keeps_up_gets_everything_in_all_rooms(self, page, serve):
        module = page("slow-readers", "app")

        @module.hub.on_message
        async def leave(message: Leave) -> None:
            for cents in (1, 2, 3):
                await module.quote("nyse", "HUB", cents)
                await module.log("web1", str(cents))

        async with talk(serve(module.hub).url) as client:
            await client.join("price/nyse")
            await client.join("trace/web1")
            assert (await client.ask(type="$join", room="chat/lobby"))["type"] == "$ack"
            await client.send(type="leave")
            arrived = [(await client.receive())["data"] for _ in range(6)]
            assert arrived == [
                data
                for cents in (1, 2, 3)
                for data in ({"symbol": "HUB", "cents": cents}, {"text": str(cents)})
            ]

    async def test_a_key_is_for_rooms_that_conflate(self, page):
        module = page("slow-readers", "app")
        async with module.hub.lifespan():
            with pytest.raises(ConfigurationError, match="conflate"):
                await module.chat(name="lobby").send(module.Say("hi"), key="x")


class TestPublishFromARoute:
    @pytest.mark.parametrize("number", ["4711", "0815"])
    async def test_a_request_reaches_the_room(self, page, start, number):
        served = start(page("publish-from-a-route", "app").app)
        async with talk(f"{served.url}/live/") as client:
            await client.join(f"orders/{number}")
            url = f"{served.http}/orders/{number}"
            assert await asyncio.to_thread(request, "PUT", url, {"status": "sent"}) == (200, '{"offset":1}')
            assert await client.receive() == {
                "type": "status_changed",
                "room": f"orders/{number}",
                "offset": 1,
                "data": {"status": "sent"},
            }

    async def test_the_hub_can_be_part_of_a_lifespan(self, page, serve):
        served = serve(page("publish-from-a-route", "own_lifespan").app)
        async with talk(f"{served.url}/live/") as client:
            assert client.welcome["protocol"] == 1

    async def test_probes_are_where_the_hub_is(self, page, serve):
        http = serve(page("publish-from-a-route", "app").app).http
        for path, answer in (("healthz", "alive\n"), ("readyz", "ready\n")):
            assert await asyncio.to_thread(request, "GET", f"{http}/live/{path}") == (200, answer)


class TestEndpoints:
    async def test_they_carry_text_and_binary(self, page, start):
        async with websockets.connect(f"{start(page('endpoints', 'app').hub).url}/echo") as client:
            for message in ("text", b"binary"):
                await client.send(message)
                assert await client.recv() == message

    async def test_a_path_has_named_parts(self, page, start):
        async with websockets.connect(f"{start(page('endpoints', 'app').hub).url}/greet/ada") as client:
            assert [message async for message in client] == ["Hello ada!"]
        assert client.close_code == 1000

    async def test_a_program_that_moved_over_does_the_same(self, page, start):
        served = start(page("endpoints", "after").hub)
        async with serve_websockets(page("endpoints", "before").count_down, "127.0.0.1", 0) as before:
            port = before.sockets[0].getsockname()[1]
            for url in (f"ws://127.0.0.1:{port}", served.url):
                async with websockets.connect(url) as client:
                    await client.send("3")
                    assert [message async for message in client] == ["3", "2", "1"]
                assert client.close_code == 1000

    def test_a_connection_has_what_the_table_says(self):
        rows = re.findall(r"^\| (.*) \| the same.*\|$", read("docs/how-to/endpoints.md"), re.MULTILINE)
        names = set(re.findall(r"websocket\.(\w+)", " ".join(rows)))
        names |= set(re.findall(r"`(\w+)(?:\(\))?`", " ".join(rows)))
        names -= {"websockets", "ConnectionClosedOK", "ConnectionClosedError"}
        assert {"recv", "send", "close", "close_code", "wait_closed", "remote_address"} <= names
        assert {name for name in names if not hasattr(Connection, name)} == set()


class TestValidate:
    async def test_names_on_the_wire(self, page, serve):
        async with talk(serve(page("validate", "app").hub).url) as client:
            await client.join("board/7")
            assert (await client.ask(type="board.cleared", room="board/7"))["type"] == "$ack"

    async def test_parts_of_a_rooms_name_have_types(self, page, serve):
        async with talk(serve(page("validate", "app").hub).url) as client:
            refused = await client.ask(type="$join", room="board/seven")
            assert refused["data"]["code"] == "unknown_room"

    async def test_a_reply_is_what_the_handler_returns(self, page, serve):
        async with talk(serve(page("validate", "app").hub).url) as client:
            await client.join("board/7")
            for _ in range(2):
                points = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
                await client.send(type="draw", room="board/7", data={"points": points})
            assert (await client.ask(type="how_many", room="board/7"))["data"] == {"drawn": 2}

    async def test_pydantic_models_are_messages(self, page, serve):
        url = serve(page("validate", "models").hub).url
        async with talk(url) as one, talk(url) as other:
            await one.join("chat/lobby")
            await other.join("chat/lobby")
            refused = await one.ask(type="say", room="chat/lobby", data={"text": " "})
            assert refused["data"]["errors"] == [
                {"path": "$.text", "message": "Value error, Please say something."}
            ]
            await one.send(type="say", room="chat/lobby", data={"text": "hi"})
            assert (await other.receive_type("say"))["data"] == {"text": "hi"}

    def test_the_schemas_can_be_seen(self, shelf, in_a_shell):
        shelf.put_all("docs/how-to/validate.md")
        for _, command in commands("docs/how-to/validate.md"):
            finished = in_a_shell(*command.split())
            assert finished.returncode == 0, finished.stderr
        described = json.loads(finished.stdout)
        kinds = {message["type"] for rooms in described["rooms"] for message in rooms["messages"]}
        assert kinds == {"draw", "board.cleared", "how_many"}


class TestEphemeral:
    async def test_it_has_no_offset_and_no_place_in_history(self, page, serve):
        url = serve(page("ephemeral", "app").hub).url
        async with talk(url) as one, talk(url) as other:
            await one.join("board/blue")
            await other.join("board/blue")
            await one.send(type="cursor", room="board/blue", data={"x": 1, "y": 2})
            await one.send(type="draw", room="board/blue", data={"shape": "circle"})
            cursor, draw = await other.receive(), await other.receive()
            assert (cursor["type"], "offset" in cursor) == ("cursor", False)
            assert (draw["type"], draw["offset"]) == ("draw", 1)
            history = await other.ask(type="$history", room="board/blue")
            assert [message["type"] for message in history["data"]["messages"]] == ["draw"]

    async def test_a_room_without_history_tells_of_what_was_missed(self, page, serve):
        url = serve(page("presence", "app").hub).url
        async with talk(f"{url}/?name=ada") as ada:
            since = await ada.join("chat/lobby")
            await ada.ask(type="say", room="chat/lobby", data={"text": "missed"})
            async with talk(f"{url}/?name=bob") as bob:
                await bob.join("chat/lobby", since=since)
                assert await bob.receive() == {
                    "type": "$gap",
                    "room": "chat/lobby",
                    "data": {"epoch": since["epoch"], "offset": 1},
                }


class TestTest:
    @pytest.mark.parametrize(
        "options", [["-p", "no:asyncio"], ["-p", "no:anyio", "-o", "asyncio_mode=auto"]], ids=lambda it: it[1]
    )
    def test_the_tests_pass(self, shelf, in_a_shell, options):
        shelf.put_all("docs/how-to/test.md")
        finished = in_a_shell("pytest", "-q", "-p", "no:cacheprovider", *options)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "13 passed" in finished.stdout


class TestPythonClient:
    @pytest.fixture
    async def lobby(self, page, serve):
        """The URL of the chat, and its lobby with ada and the bot in it."""
        url = serve(page("python-client", "app").hub).url
        async with hubbub.connect(url, token="ada") as client:
            room = await client.join("chat/lobby")
            bot = asyncio.ensure_future(page("python-client", "bot").run(url))
            assert (await anext(room)).member.user == "bot"
            yield url, room
            bot.cancel()
            await asyncio.wait({bot})

    async def test_the_bot_answers(self, lobby):
        url, room = lobby
        async with hubbub.connect(url, token="bob") as other:
            await other.join("chat/lobby")
            assert await said(room, "Welcome, bob!")
        await room.send(Envelope("say", data={"text": "how many?"}))
        assert await said(room, "2 messages")

    async def test_the_script_gets_its_answer(self, lobby, page):
        answer = await asyncio.to_thread(page("python-client", "script").run, lobby[0])
        # The welcome of the bot may come before the question or after it.
        assert answer in ("1 messages", "2 messages")

    async def test_the_service_tells_what_becomes_of_it(self, page, serve):
        told: asyncio.Queue[str] = asyncio.Queue()

        class Teller(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                told.put_nowait(record.getMessage())

        server = serve(page("python-client", "app").hub)
        teller, root = Teller(), logging.getLogger()
        teller.addFilter(lambda record: record.name == "root")
        root.addHandler(teller)
        root.setLevel("INFO")
        service = asyncio.ensure_future(page("python-client", "service").run(server.url))
        try:
            async with asyncio.timeout(5):
                assert await told.get() == "connected as service, resumed: False"
                server.begin_to_stop()
                assert re.fullmatch(r"lost \(1012\), again in \d\.\d s", await told.get())
        finally:
            root.removeHandler(teller)
            root.setLevel("WARNING")
            service.cancel()
            await asyncio.wait({service})

    async def test_the_importer_goes_on_where_it_stopped(self, page, serve, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        url = serve(page("python-client", "app").hub).url
        async with hubbub.connect(url) as client:
            room = await client.join("chat/lobby")
            for text in "abcd":
                await room.send(Envelope("say", data={"text": text}))
        importer = page("python-client", "importer")
        assert await importer.run(url, 3) == ["a", "b", "c"]
        assert await importer.run(url, 1) == ["d"]

    async def test_it_comes_in_by_the_line_that_works(self, page, serve, caplog):
        caplog.set_level("INFO", "root")
        served = serve(page("python-client", "app").hub)
        # Nobody speaks WebSockets at that path.
        ways = [f"{served.url}/nowhere", f"sse+{served.http}", f"poll+{served.http}"]
        texts = asyncio.ensure_future(page("python-client", "anywhere").run(ways, 2))
        async with hubbub.connect(served.url) as client:
            room = await client.join("chat/lobby")
            assert (await anext(room)).room == "chat/lobby"  # it has joined
            for text in "ab":
                await room.send(Envelope("say", data={"text": text}))
            async with asyncio.timeout(5):
                assert await texts == ["a", "b"]
        assert "connected by sse+http" in caplog.messages

    async def test_a_plain_server_is_sent_text(self, page):
        with plain_server() as server:
            assert await page("python-client", "plain").run(server.url) == "hello"


async def said(room, text: str) -> bool:
    """Wait until a text is said in a room."""
    async with asyncio.timeout(5):
        async for event in room:
            if isinstance(event, Received) and event.message == {"text": text}:
                return True
    return False


class TestBrokers:
    def test_the_table_says_what_each_broker_guarantees_and_needs(self):
        found = re.findall(
            r"^\| \[?`(\w+://)[^|]*\|[^|]*\| (yes|no)\b[^|]*\| (yes|no)\b[^|]*\| ([^|]*) \|$",
            read("docs/how-to/brokers.md"),
            re.MULTILINE,
        )
        needs = {
            "redis://": f"Redis {'.'.join(map(str, REDIS_OLDEST))}, `pip install 'hubbub[redis]'`",
            "amqp://": f"RabbitMQ {'.'.join(map(str, RABBITMQ_OLDEST))}, `pip install 'hubbub[rabbitmq]'`",
            "nats://": "NATS 2.9 with JetStream, `pip install 'hubbub[nats]'`",
        }
        urls = [
            "memory://",
            "sqlite:///rooms.db",
            "redis://127.0.0.1",
            "amqp://127.0.0.1",
            "nats://127.0.0.1",
        ]
        rows = []
        for url in urls:
            broker = open_broker(Settings(broker=url))  # which asks nothing of it
            shared, durable = (
                "yes" if whether else "no"
                for whether in (broker.guarantees.shared, broker.guarantees.durable)
            )
            scheme = f"{url.partition(':')[0]}://"
            rows.append((scheme, shared, durable, needs.get(scheme, "nothing")))
        assert found == rows

    async def test_two_instances_share_rooms_by_the_setting_alone(self, shelf, environment, run):
        shelf.put_all("docs/how-to/brokers.md")
        async with RedisServer() as redis:
            environment["HUBBUB_BROKER"] = redis.url
            urls = [f"ws://127.0.0.1:{(await asyncio.to_thread(run, 'chat:hub')).port}" for _ in range(2)]
            async with talk(urls[0]) as ada, talk(urls[1]) as bob:
                await ada.join("chat/lobby")
                position = await bob.join("chat/lobby")
                await ada.send(type="say", room="chat/lobby", data={"text": "hi"})
                said = await bob.receive_type("say")
                assert (said["data"], said["offset"]) == ({"text": "hi"}, position["offset"] + 1)

    def test_the_suite_passes_on_a_broker_of_ones_own(self, shelf, in_a_shell):
        shelf.put_all("docs/how-to/brokers.md")
        finished = in_a_shell("pytest", "-q", "-p", "no:cacheprovider")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert " passed" in finished.stdout

    async def test_what_could_not_be_published_is_told_to_the_application(self, page):
        announced = page("brokers", "announced")
        broker = announced.hub.broker = TroubledBroker(away=True)
        async with announced.hub.lifespan():
            assert not await announced.announce("hi")
            broker.come_back()
            assert await announced.announce("hi")


class TestDeploy:
    async def test_a_proxy_is_believed(self, page, serve, caplog):
        caplog.set_level("INFO", "hubbub")
        headers = {"X-Forwarded-For": "203.0.113.9"}
        async with talk(serve(page("test", "chat").hub).url, additional_headers=headers):
            (connected,) = [record for record in caplog.records if record.message == "connect"]
        assert connected.fields["peer"].startswith("203.0.113.9:")

    async def test_a_proxy_may_take_a_prefix_off(self, page, serve):
        async with talk(serve(page("test", "chat").hub, root_path="/chat").url) as client:
            await client.join("chat/lobby")

    async def test_rooms_are_not_for_several_workers(self, page, monkeypatch):
        monkeypatch.setenv("HUBBUB_WORKERS", "4")
        with pytest.raises(ConfigurationError, match="rooms of their own"):
            await page("test", "chat").hub.start()
        async with page("endpoints", "app").hub.lifespan():
            """Endpoints alone are for as many as there are."""

    async def test_a_hub_is_started_by_who_asks_whether_it_is_ready_and_is_not_while_it_drains(self, page):
        hub = page("test", "chat").hub
        assert hub.unready == "it has not started"
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        async def ask(path):
            scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
            await hub(scope, None, send)

        try:
            await ask("/healthz")
            await ask("/readyz")
            await hub.drain()
            await ask("/readyz")
        finally:
            await hub.stop()
        assert [status for status in statuses if status] == [200, 200, 503]


class TestLogs:
    async def test_events_have_the_fields_of_the_table(self, shelf, environment, run):
        environment["HUBBUB_MAX_CONNECTIONS"] = "100"  # for which there are file descriptors everywhere
        shelf.put_all("docs/how-to/log-in.md")
        process = run("app:hub")
        async with talk(f"ws://127.0.0.1:{process.port}/?token=8c1f5b0e") as client:
            await client.join("chat/lobby")
        process.stop()
        rows = re.findall(r"^\| `(.*?)` \| (\w+) \| (.*?) \|", read("docs/how-to/logs.md"), re.MULTILINE)
        documented = {event: (level, set(re.findall(r"`(\w+)`", told))) for event, level, told in rows}
        events = [json.loads(line) for line in process.log]
        assert [event["event"] for event in events] == [
            "listening",
            "connect",
            "join",
            "leave",
            "disconnect",
            "stopped",
        ]
        for event in events:
            level, names = documented[event["event"]]
            assert event["level"] == level
            always = {"time", "level", "logger", "event", "correlation_id"}
            assert event.keys() - always == names - {"reason"}

    async def test_an_error_names_the_correlation_id(self, shelf, run):
        shelf.put(File("", 0, "app.py", FAILING))
        process = run("app:hub")
        headers = {"X-Request-ID": "from-the-client"}
        async with talk(f"ws://127.0.0.1:{process.port}", additional_headers=headers) as client:
            answer = await client.ask(type="fail")
        process.stop()
        assert "from-the-client" in answer["data"]["message"]
        (error,) = [json.loads(line) for line in process.log if '"error"' in line]
        assert error["correlation_id"] == "from-the-client"
        assert "ZeroDivisionError" in error["traceback"]

    async def test_the_applications_own_lines_have_it_too(self, shelf, run):
        shelf.put_all("docs/how-to/logs.md")
        process = run("app:hub")
        headers = {"X-Request-ID": "from-the-client"}
        async with talk(f"ws://127.0.0.1:{process.port}", additional_headers=headers) as client:
            answer = await client.ask(type="order", data={"article": "tea"})
        process.stop()
        assert answer["data"] == "from-the-client"
        (line,) = [json.loads(line) for line in process.log if "ordered tea" in line]
        assert (line["logger"], line["correlation_id"]) == ("shop", "from-the-client")

    async def test_a_logging_set_up_of_ones_own_has_the_ids(self, shelf, run):
        shelf.put_all("docs/how-to/logs.md")
        process = run("own_logging:hub")
        headers = {"X-Request-ID": "from-the-client"}
        async with talk(f"ws://127.0.0.1:{process.port}", additional_headers=headers):
            pass
        process.stop()
        assert "INFO [from-the-client] hubbub: connect\n" in process.log


API_KEY = "0123456789abcdef"


class SharedMemory(MemoryBroker):
    """Stands for an engine that processes share."""

    guarantees = Guarantees(shared=True, durable=False)


class TestPublish:
    @pytest.fixture
    def opened(self, monkeypatch):
        """Have every broker's URL lead to one broker in memory; gives the URLs."""
        store, urls = MemoryStore(clock=lambda: 0.0), []

        def open_broker(settings):
            urls.append(settings.broker)
            return SharedMemory(store)

        monkeypatch.setattr("hubbub.publisher.open_broker", open_broker)
        monkeypatch.setattr("hubbub.app.open_broker", open_broker)
        return urls

    async def test_a_script_and_a_program_without_the_code_publish(self, page, opened):
        hub = page("publish", "chat").hub
        async with hub.lifespan():
            await page("publish", "announce").announce("from the script")
            await page("publish", "elsewhere").announce("from elsewhere")
            kept = await hub.rooms[0](name="lobby").history()
            assert [message.data for message in kept] == [
                {"text": "from the script"},
                {"text": "from elsewhere"},
            ]
            assert len(await hub.user("ada").history()) == 1
        assert set(opened) == {"memory://", "redis://localhost"}

    async def test_a_task_that_runs_again_publishes_once(self, page, opened):
        hub = page("publish", "chat").hub
        async with hub.lifespan():
            tasks = page("publish", "tasks")
            try:
                for order in ("1", "1", "2"):
                    await asyncio.to_thread(tasks.tell, order, "shipped")
            finally:
                await asyncio.to_thread(tasks.publisher.close)
            assert len(await hub.rooms[0](name="lobby").history()) == 2

    async def test_what_is_posted_is_answered_as_shown(self, page, serve, monkeypatch):
        monkeypatch.setenv("HUBBUB_API_KEYS", API_KEY)
        shown = [block.text for block in blocks("docs/how-to/publish.md") if block.language == "json"]
        single, batch, results = map(json.loads, shown)
        [command] = [text for _, text in commands("docs/how-to/publish.md") if text.startswith("curl")]
        words = shlex.split(command.replace("$HUBBUB_API_KEYS", API_KEY))
        url = serve(page("publish", "chat").hub).http
        words[1] = words[1].replace("http://localhost:8000", url)
        finished = await asyncio.to_thread(subprocess.run, words, capture_output=True, timeout=30)
        assert json.loads(finished.stdout).keys() == single.keys()
        words[1] += "/batch"
        words[-1] = json.dumps(batch)
        finished = await asyncio.to_thread(subprocess.run, words, capture_output=True, timeout=30)
        answers = json.loads(finished.stdout)["results"]
        assert [answer.keys() for answer in answers] == [results["results"][0].keys()] * 2

    def test_the_statuses_in_the_table_are_those_that_there_are(self):
        told = set(re.findall(r"^\| (\d{3}) \|", read("docs/how-to/publish.md"), re.MULTILINE))
        source = Path(publish.__file__).read_text()
        assert told == set(re.findall(r"\b(4\d\d|5\d\d)\b", source))
