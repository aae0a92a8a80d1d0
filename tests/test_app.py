import asyncio
import urllib.error
import urllib.request

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from hubbub import CollisionError, ConfigurationError, Connection, Hubbub, Message, Settings
from hubbub.brokers.memory import MemoryBroker
from told import Gate, Told, collected_logs, fields_of
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


# Declaring


@pytest.mark.parametrize(
    ("one", "other"), [("chat/{name}", "chat/{id}"), ("chat/{name}", "chat/lobby"), ("a", "a")]
)
def test_rooms_whose_names_could_be_of_both_are_an_error_that_names_both_places(one, other):
    hub = Hubbub()
    hub.room(one)
    with pytest.raises(CollisionError, match=r"test_app.py:\d+\) and .*test_app.py:\d+\)"):
        hub.room(other)


def test_rooms_that_differ_in_a_part_do_not_collide():
    hub = Hubbub()
    for pattern in ("chat/{name}", "game/{name}", "chat/{name}/{thread}", "chat"):
        hub.room(pattern)
    assert len(hub.rooms) == 4


def test_names_that_start_with_a_dollar_are_the_protocols_own():
    with pytest.raises(ConfigurationError, match=r"names that start with \$ are the protocol's own"):
        Hubbub().room("$user/{name}")


def test_two_handlers_of_one_message_are_an_error_that_names_both_places():
    hub = Hubbub()

    @hub.on_message
    async def one(message: Say) -> None: ...

    with pytest.raises(CollisionError, match=r"'say': .*one.*test_app.py:\d+ and .*other.*test_app.py:\d+"):

        @hub.on_message
        async def other(message: Say) -> None: ...


@pytest.mark.parametrize("path", ["/feed/{name}", "/feed/news", "/"])
def test_two_endpoints_of_one_path_are_an_error_that_names_both_places(path):
    hub = Hubbub()

    @hub.endpoint("/feed/{topic}")
    async def feed(websocket, topic): ...

    with pytest.raises(CollisionError, match=r"other.*test_app.py:\d+.* and "):

        @hub.endpoint(path)
        async def other(websocket): ...


@pytest.mark.parametrize("kind", ["authenticate", "on_connect", "on_disconnect"])
def test_two_hooks_of_one_kind_are_an_error_that_names_both_places(kind):
    hub = Hubbub()
    getattr(hub, kind)(lambda connection: None)
    with pytest.raises(CollisionError, match=rf"two {kind} hooks: .*test_app.py:\d+ and .*test_app.py:\d+"):
        getattr(hub, kind)(lambda connection: None)


# Running


async def test_startup_and_shutdown_hooks_run_once_around_everything():
    hub = Hubbub()
    happened = []

    @hub.on_startup
    async def connect_database() -> None:
        happened.append("up")

    @hub.on_shutdown
    def disconnect_database() -> None:
        happened.append("down")

    hub.on_shutdown(lambda: happened.append("first down"))
    async with hub.lifespan():
        await hub.start()
        happened.append("serving")
    await hub.stop()
    assert happened == ["up", "serving", "first down", "down"]


async def test_a_hub_can_be_started_again():
    hub = Hubbub()
    rooms = hub.room("room", history=1)
    for _ in range(2):
        async with hub.lifespan():
            assert (await rooms().send(Say("x"))).offset == 1


async def test_several_workers_need_a_broker_that_they_share():
    hub = Hubbub(Settings(workers=2))
    hub.endpoint("/echo")(lambda websocket: None)
    async with hub.lifespan():
        pass
    hub.room("room")
    with pytest.raises(ConfigurationError, match="Use one worker, or a broker that processes share"):
        await hub.start()


async def test_workers_whose_users_have_inboxes_need_a_broker_that_they_share():
    hub = Hubbub(Settings(workers=2))

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    with pytest.raises(ConfigurationError, match="and users"):
        await hub.start()


async def test_a_hub_that_can_not_start_says_why_to_the_asgi_server():
    hub = Hubbub(Settings(broker="carrier-pigeon://loft"))
    told = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(event):
        told.append(event)

    await hub({"type": "lifespan"}, receive, send)
    assert told[0]["type"] == "lifespan.startup.failed"
    assert told[0]["message"].startswith("There is no broker for carrier-pigeon://")


async def test_the_asgi_lifespan_starts_and_stops_it():
    hub, told = Hubbub(), []
    hub.on_startup(lambda: told.append("up"))
    hub.on_shutdown(lambda: told.append("down"))
    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive():
        return {"type": next(events)}

    async def send(event):
        told.append(event["type"])

    await hub({"type": "lifespan"}, receive, send)
    assert told == ["up", "lifespan.startup.complete", "down", "lifespan.shutdown.complete"]


async def test_without_any_lifespan_it_starts_with_the_first_connection_and_says_so(caplog):
    hub = Hubbub(broker=MemoryBroker())
    told = []

    async def receive():
        await asyncio.sleep(0)
        return {"type": "websocket.connect"} if not told else {"type": "websocket.disconnect", "code": 1000}

    async def send(event):
        told.append(event)

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": []}
    async with asyncio.timeout(5):
        await hub(scope, receive, send)
    assert "started without lifespan" in caplog.text
    assert told[0]["type"] == "websocket.accept"
    await hub.stop()


async def test_a_startup_hook_that_fails_is_told_to_the_asgi_server_and_leaves_nothing_running():
    hub, told = Hubbub(), []
    rooms = hub.room("room")
    broken = True

    @hub.on_startup
    async def connect_database() -> None:
        if broken:
            raise ZeroDivisionError("no database")

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(event):
        told.append(event)

    with pytest.raises(ZeroDivisionError):
        await hub({"type": "lifespan"}, receive, send)
    assert told[0]["type"] == "lifespan.startup.failed"
    assert "ZeroDivisionError: no database" in told[0]["message"]
    with pytest.raises(ConfigurationError, match="not started"):
        await rooms().send(Say("x"))
    broken = False
    async with hub.lifespan():
        await rooms().send(Say("x"))


async def test_a_startup_hook_can_publish():
    hub = Hubbub()
    rooms = hub.room("room", history=1)

    @hub.on_startup
    async def announce() -> None:
        await rooms().send(Say("open for business"))

    async with hub.lifespan():
        assert [envelope.data for envelope in await rooms().history()] == [{"text": "open for business"}]


async def test_a_shutdown_hook_that_fails_is_logged_and_keeps_no_other():
    hub, happened = Hubbub(), []
    rooms = hub.room("room")
    hub.on_shutdown(lambda: happened.append("last"))

    @hub.on_shutdown
    async def broken() -> None:
        raise ZeroDivisionError("no database")

    with collected_logs() as logs:
        async with hub.lifespan():
            pass
    assert happened == ["last"]
    [record] = logs.of("error", during="shutdown")
    assert "broken() at" in fields_of(record)["hook"]
    assert "no database" in str(record.exc_info)
    with pytest.raises(ConfigurationError, match="not started"):
        await rooms().send(Say("x"))


async def test_stops_at_the_same_time_are_one_and_a_start_meanwhile_comes_after():
    hub, told = Hubbub(), Told()
    hub.on_startup(lambda: told("startup"))
    hub.on_shutdown(lambda: told("shutdown"))
    await hub.start()
    await asyncio.gather(hub.stop(), hub.stop(), hub.start())
    assert [await told.next() for _ in range(3)] == ["startup", "shutdown", "startup"]
    await hub.user("ada").send(Say("hello"))
    await hub.stop()
    assert await told.next() == "shutdown"
    assert told.silent


async def test_a_broker_that_fails_to_stop_leaves_the_hub_stopped_all_the_same():
    class Failing(MemoryBroker):
        async def stop(self) -> None:
            raise OSError("the store is gone")

    hub, told = Hubbub(broker=Failing()), Told()
    hub.on_startup(lambda: told("startup"))
    hub.on_shutdown(lambda: told("shutdown"))
    await hub.start()
    with pytest.raises(OSError, match="the store is gone"):
        await hub.stop()
    await hub.stop()  # there is nothing left to stop
    with pytest.raises(ConfigurationError, match="The hub is not started"):
        await hub.user("ada").send(Say("hello"))
    await hub.start()
    assert [await told.next() for _ in range(3)] == ["startup", "shutdown", "startup"]
    with pytest.raises(OSError, match="the store is gone"):
        await hub.stop()


async def test_connections_that_come_while_it_starts_late_wait_for_the_startup_hooks(serve):
    hub, told, gate = Hubbub(), Told(), Gate()

    @hub.on_startup
    async def connect_database() -> None:
        told("starting")
        await gate.passed()
        told("started")

    hub.on_connect(lambda connection: told("connected"))

    async def host(scope, receive, send):
        """No server sees through this to the hub within."""
        if scope["type"] != "lifespan":
            await hub(scope, receive, send)

    with collected_logs() as logs:
        url = serve(host).url
        first = asyncio.create_task(websockets.connect(url).__aenter__())
        assert await told.next() == "starting"
        second = asyncio.create_task(websockets.connect(url).__aenter__())
        await asyncio.sleep(0)
        gate.open()
        websockets_open = await asyncio.gather(first, second)
        assert [await told.next() for _ in range(3)] == ["started", "connected", "connected"]
        for websocket in websockets_open:
            await websocket.close()
        warnings = [record for record in logs.records if "started without lifespan" in record.getMessage()]
        assert len(warnings) == 1


# Serving


def answer(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


async def test_probes_tell_that_it_is_alive_and_ready(start):
    served = start(Hubbub())
    assert answer(f"{served.http}/healthz") == (200, "alive\n")
    assert answer(f"{served.http}/readyz") == (200, "ready\n")
    assert answer(f"{served.http}/nothing")[0] == 404


async def test_the_protocol_is_spoken_at_a_path_of_choice(start):
    url = start(Hubbub(path="/live")).url
    async with talk(f"{url}/live") as client:
        assert (await client.ask(type="$ping"))["type"] == "$pong"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url)
    assert refused.value.response.status_code == 404
    assert refused.value.response.body == b"There is no WebSocket at /.\n"


async def test_a_path_whose_part_is_not_what_the_endpoint_takes_is_not_there(start):
    hub = Hubbub()

    @hub.endpoint("/double/{number}")
    async def double(connection: Connection, number: int) -> None:
        await connection.send(str(number * 2))

    url = start(hub).url
    async with websockets.connect(f"{url}/double/21") as websocket:
        assert await websocket.recv() == "42"
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"{url}/double/x")


async def test_mounted_in_a_host_it_serves_its_path_and_the_host_publishes(start):
    hub = Hubbub()
    news = hub.room("news")

    async def publish(request: Request) -> PlainTextResponse:
        await news().send(Say((await request.body()).decode()))
        return PlainTextResponse("published")

    host = Starlette(
        routes=[Route("/publish", publish, methods=["POST"]), Mount("/realtime", hub)],
        lifespan=hub.lifespan,
    )
    served = start(host)
    assert answer(f"{served.http}/realtime/readyz") == (200, "ready\n")
    async with talk(f"{served.url}/realtime/") as client:
        await client.join("news")
        with await asyncio.to_thread(
            urllib.request.urlopen, f"{served.http}/publish", b"extra, extra"
        ) as done:
            assert done.read() == b"published"
        assert (await client.receive())["data"] == {"text": "extra, extra"}


async def test_a_background_task_publishes(start):
    hub, told = Hubbub(), Told()
    ticks = hub.room("ticks")
    tasks = []

    async def tick() -> None:
        while True:
            told((await ticks().send(Say("tick"))).offset)
            await asyncio.sleep(0.01)

    hub.on_startup(lambda: None)

    @hub.on_startup
    async def begin() -> None:
        tasks.append(asyncio.create_task(tick()))

    @hub.on_shutdown
    async def end() -> None:
        tasks[0].cancel()

    async with talk(start(hub).url) as client:
        await client.join("ticks")
        first, second = await client.receive(), await client.receive()
        assert second["offset"] == first["offset"] + 1
        assert "from" not in first
