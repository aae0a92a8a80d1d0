"""How a connection ends: with its line, with its session, or with the task that serves it."""

import asyncio
import threading

import anyio
import pytest

from fake_transport import fake_connection, scope
from hubbub import Connection, Hubbub, Settings
from hubbub.engine.callback import CONNECTION, Callback
from hubbub.engine.hub import Hub
from hubbub.engine.lifecycle import serve_endpoint
from hubbub.engine.session import Session
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


# A login that hangs


async def test_a_login_ends_with_its_line_and_its_place_is_free(start, logs):
    hub, told = Hubbub(Settings(max_pending=1)), Told()

    @hub.authenticate
    async def who(connection: Connection) -> None:
        told("asked")
        try:
            await asyncio.Event().wait()
        finally:
            told("cancelled")

    hub.on_disconnect(lambda: told("disconnect"))
    url = start(hub).url
    for _ in range(3):
        async with talk(url, welcome=False):
            assert await told.next() == "asked"
        assert await told.next() == "cancelled"
        await logs.wait("disconnect")
        logs.records.clear()
    assert told.silent, "nobody was connected"


async def test_a_login_that_took_too_long_ends_and_its_place_is_free(start, logs):
    hub = Hubbub(Settings(max_pending=1, handshake_timeout=0.2))

    @hub.authenticate
    async def who(connection: Connection) -> None:
        await asyncio.Event().wait()

    url = start(hub).url
    for _ in range(2):
        async with talk(url, welcome=False) as client:
            assert await client.closed() == (4508, "the login took too long")
        await logs.wait("disconnect")
        logs.records.clear()


async def test_a_login_in_a_thread_that_hangs_holds_no_place_once_its_line_is_lost(start, logs):
    hub, told, may_end = Hubbub(Settings(max_pending=1)), Told(), threading.Event()

    @hub.authenticate
    def who(connection: Connection) -> None:
        told("asked")
        may_end.wait()

    url = start(hub).url
    try:
        for _ in range(2):
            async with talk(url, welcome=False):
                assert await told.next() == "asked"
            await logs.wait("disconnect")
            logs.records.clear()
    finally:
        may_end.set()


async def test_on_disconnect_follows_an_on_connect_that_was_ended_with_its_line(start):
    hub, told = Hubbub(), Told()

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        told("connect")
        await asyncio.Event().wait()

    hub.on_disconnect(lambda: told("disconnect"))
    async with talk(start(hub).url, welcome=False):
        assert await told.next() == "connect"
    assert await told.next() == "disconnect"


# The end, whatever happens: the application's task is cancelled by whoever hosts it


class Host:
    """Serves one connection that has joined a room, in a task that it can cancel."""

    def __init__(self, hub: Hubbub) -> None:
        self._hub = hub
        self._incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        join = '{"type":"$join","id":1,"room":"room/1"}'
        self._incoming.put_nowait({"type": "websocket.receive", "text": join})

    async def serve(self) -> None:
        serving = {**scope(), "root_path": "", "extensions": {}}
        await self._hub(serving, self._incoming.get, self._sent.put)

    async def joined(self) -> None:
        while '"id":1' not in str((await self._sent.get()).get("text")):
            pass


def with_slow_leave(told: list[str], began: asyncio.Event) -> Hubbub:
    hub = Hubbub()
    room = hub.room("room/{name}", presence=True)

    @room.on_leave
    async def left(connection: Connection) -> None:
        began.set()
        for _ in range(10):
            await asyncio.sleep(0)
        told.append("leave")

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        await asyncio.sleep(0)
        told.append("disconnect" if connection.lost else "disconnect too early")

    return hub


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_hooks_run_to_their_end_however_often_the_task_is_cancelled(times):
    told, began = [], asyncio.Event()
    hub = with_slow_leave(told, began)
    async with hub.lifespan():
        host = Host(hub)
        task = asyncio.create_task(host.serve())
        await host.joined()
        task.cancel()
        await began.wait()
        for _ in range(times - 1):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert told == ["leave", "disconnect"]


async def test_hooks_run_to_their_end_in_a_cancelled_scope():
    told = []
    hub = with_slow_leave(told, asyncio.Event())
    async with hub.lifespan():
        host = Host(hub)
        async with anyio.create_task_group() as group:
            group.start_soon(host.serve)
            await host.joined()
            group.cancel_scope.cancel()
    assert told == ["leave", "disconnect"]


async def test_a_hook_that_hangs_after_a_cancellation_is_ended_and_the_next_one_runs():
    hub, told = Hubbub(Settings(close_timeout=0.05)), []
    room = hub.room("room/{name}")

    @room.on_leave
    async def left(connection: Connection) -> None:
        told.append("leave")
        await asyncio.Event().wait()

    hub.on_disconnect(lambda: told.append("disconnect"))
    async with hub.lifespan():
        host = Host(hub)
        task = asyncio.create_task(host.serve())
        await host.joined()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert told == ["leave", "disconnect"]


async def test_a_session_that_fails_has_ended_when_its_hooks_run(start, monkeypatch):
    hub, told = Hubbub(), Told()
    room = hub.room("room")
    room.on_leave(lambda connection: told("leave", connection.lost))
    hub.on_disconnect(lambda connection: told("disconnect", connection.lost, connection.close_code))

    async def fail(session: Session, message: str | bytes) -> None:
        if '"$join"' not in str(message):
            raise RuntimeError("broken")
        await answer(session, message)

    answer = Session.answer
    monkeypatch.setattr(Session, "answer", fail)
    async with talk(start(hub).url) as client:
        await client.join("room")
        await client.send(type="say", data={"text": "hi"})
        assert await client.closed() == (1011, "internal error")
    assert await told.next() == ("leave", True)
    assert await told.next() == ("disconnect", True, 1011)


async def test_a_line_is_cut_if_nobody_waits_for_its_end_any_more():
    hub = Hub(Settings())
    connection, transport = fake_connection(codec=None)

    async def handler(connection: Connection) -> None: ...

    serving = serve_endpoint(hub, connection, Callback(handler, {Connection: CONNECTION}), ())
    task = asyncio.create_task(serving)
    while transport.closed_with is None:  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.asked == ["abort"]
    assert not hub.connections


async def test_no_on_disconnect_follows_an_on_connect_that_waited_for_a_thread_in_vain(start, logs):
    hub, told, may_end = Hubbub(), Told(), threading.Event()

    @hub.on_startup
    async def leave_one_thread() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1

    @hub.on_connect
    def connected(connection: Connection) -> None:
        told("connect", connection.request.query_params["name"])
        may_end.wait()

    hub.on_disconnect(lambda connection: told("disconnect", connection.request.query_params["name"]))
    url = start(hub).url
    try:
        async with talk(f"{url}/?name=first", welcome=False):
            assert await told.next() == ("connect", "first")
            async with talk(f"{url}/?name=second", welcome=False):
                pass
            await logs.wait("disconnect")
    finally:
        may_end.set()
    assert await told.next() == ("disconnect", "first")
    assert told.silent
