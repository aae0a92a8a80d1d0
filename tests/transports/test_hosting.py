"""Applications beside hubs, and around them, on one server, from its start to its stop."""

import asyncio
import queue
import threading
from contextvars import ContextVar

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from echo import Wave
from hubbub import Connection, Hubbub
from transports.applications import accepting, application
from transports.raw import closing, dial, request, text
from wire import talk

ARRIVES_WITHIN = 10.0


def test_what_the_application_keeps_in_its_lifespan_is_in_every_connection_s_state(start):
    told = queue.Queue()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["database"] = "connected"
            told.put((await receive())["type"])
            await send({"type": "lifespan.startup.complete"})
            told.put((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
            return
        told.put(dict(scope["state"]))
        scope["state"]["database"] = "this connection's own"
        await receive()
        await send({"type": "websocket.close"})

    served = start(app)
    for _ in range(2):
        with dial(served) as line:
            line.send(request("/"))
            assert line.response().status == 403
    served.stop()
    assert [told.get(timeout=ARRIVES_WITHIN) for _ in range(4)] == [
        "lifespan.startup",
        {"database": "connected"},
        {"database": "connected"},
        "lifespan.shutdown",
    ]


def test_a_stopping_server_closes_with_1012(serve):
    @accepting
    async def app(scope, receive, send):
        await send({"type": "websocket.send", "text": "open"})
        assert (await receive())["type"] == "websocket.disconnect"

    served = serve(app)
    with dial(served, "/") as line:
        assert line.message() == "open"
        served.begin_to_stop()
        assert line.close_frame() == (1012, "the server restarts")
        line.send(closing(1012))
        assert line.rest() == b""


def test_a_stopping_server_refuses_handshakes_that_are_still_open_with_503(serve):
    asked = threading.Event()

    @application
    async def app(scope, receive, send):
        await receive()
        asked.set()
        assert (await receive())["type"] == "websocket.disconnect"

    served = serve(app)
    with dial(served) as line:
        line.send(request("/"))
        assert asked.wait(ARRIVES_WITHIN)
        served.begin_to_stop()
        assert line.response().status == 503


def test_a_hub_and_a_framework_s_own_routes_are_served_side_by_side(start):
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(f"the hub: {message}")

    async def own(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(f"the host: {message}")

    host = Starlette(
        routes=[WebSocketRoute("/own", own), Mount("/live", app=hub)], lifespan=lambda app: hub.lifespan()
    )
    served = start(host)
    with dial(served) as host_line, dial(served) as hub_line:
        host_line.open("/own")
        hub_line.open("/live/echo")
        for line, name in ((host_line, "host"), (hub_line, "hub")):
            line.send(text("hello"))
            assert line.message() == f"the {name}: hello"


def test_a_host_s_middleware_decides_over_the_hub_s_connections(start):
    hub = Hubbub()

    @hub.endpoint("/who")
    async def who(connection: Connection) -> None:
        await connection.send(connection.scope["user_name"])

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            cookie = dict(scope["headers"]).get(b"cookie")
            if cookie is None:
                await receive()
                await send({"type": "websocket.close", "code": 4401})
                return
            scope["user_name"] = cookie.decode()
        await hub(scope, receive, send)

    served = start(middleware)
    with dial(served) as line:
        line.open("/who", ("Cookie: ada",))
        assert line.message() == "ada"
    with dial(served) as line:
        line.send(request("/who"))
        assert line.response().status == 403


@pytest.mark.anyio
async def test_a_host_s_middleware_may_serve_the_hub_in_a_task_of_its_own(start):
    hub, inner = Hubbub(), ContextVar("inner", default=False)

    @hub.on_message
    async def wave(message: Wave) -> bool:
        return inner.get()

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def serve() -> None:
            inner.set(True)
            await hub(scope, receive, send)

        async with asyncio.TaskGroup() as group:
            group.create_task(serve())

    async with talk(start(middleware).url) as client:
        for number in range(3):
            assert (await client.ask(type="chat.wave", id=number))["data"] is True
