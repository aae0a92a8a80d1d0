import logging

import pytest
import websockets

from hubbub import Connection, Denied, Hubbub, Message, Room, correlation_id
from told import Told, fields_of
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


def with_login() -> Hubbub:
    hub = Hubbub()

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "wrong":
            raise Denied("This token is not valid.")
        return connection.token

    return hub


async def test_authenticate_says_who_the_user_is(start):
    url = start(with_login()).url
    async with talk(f"{url}/?token=ada") as client:
        assert client.welcome["user"] == "ada"
        assert client.welcome["inbox"]["room"] == "$user/ada"
    async with talk(url, additional_headers={"Authorization": "Bearer bob"}) as client:
        assert client.welcome["user"] == "bob"
    async with talk(url) as client:
        assert "user" not in client.welcome


async def test_a_refused_login_is_told_why_and_closed_with_4401(start):
    async with talk(f"{start(with_login()).url}/?token=wrong", welcome=False) as client:
        refused = await client.receive()
        assert refused["type"] == "$error"
        assert refused["data"] == {"code": "denied", "message": "This token is not valid.", "retry": False}
        assert await client.closed() == (4401, "This token is not valid.")


@pytest.mark.parametrize("name", ["guest:1", ""])
async def test_a_name_that_could_be_a_guests_is_refused(start, name):
    hub = Hubbub()
    hub.authenticate(lambda: name)
    async with talk(start(hub).url, welcome=False) as client:
        assert (await client.receive())["type"] == "$error"
        assert (await client.closed())[0] == 4401


async def test_a_hook_that_returns_no_name_is_an_error_of_the_server(start, logs):
    hub = Hubbub()
    hub.authenticate(lambda: 5)
    async with talk(start(hub).url, welcome=False) as client:
        assert await client.closed() == (1011, "internal error")
    record = await logs.wait("error")
    assert "returned a int" in str(record.exc_info[1])


async def test_who_may_not_connect_is_closed_with_4403_and_a_reason_that_fits(start):
    hub = with_login()
    told = Told()

    @hub.on_connect
    def allow(connection: Connection) -> None:
        raise Denied("ä" * 200)

    hub.on_disconnect(lambda connection: told("disconnect"))
    async with talk(f"{start(hub).url}/?token=ada", welcome=False) as client:
        assert (await client.receive())["data"]["message"] == "ä" * 200
        assert await client.closed() == (4403, "ä" * 61)
    assert told.silent


async def test_what_on_connect_sends_comes_after_the_welcome(start):
    hub = Hubbub()

    @hub.on_connect
    async def greet(connection: Connection) -> None:
        await connection.send(Say(text="hello"))

    async with talk(start(hub).url) as client:
        assert await client.receive() == {"type": "say", "data": {"text": "hello"}}


async def test_on_disconnect_runs_after_the_rooms_were_left(start):
    hub, told = Hubbub(), Told()
    room = hub.room("room/{name}")
    hub.on_connect(lambda connection: told("connect", connection.user))
    hub.on_disconnect(lambda connection: told("disconnect", connection.lost))
    room.on_leave(lambda name: told("leave", name))
    async with talk(start(hub).url) as client:
        await client.join("room/1")
    assert await told.next() == ("connect", None)
    assert await told.next() == ("leave", "1")
    assert await told.next() == ("disconnect", True)


async def test_hooks_run_even_where_another_one_fails(start, logs):
    hub, told = Hubbub(), Told()
    room = hub.room("room")

    @room.on_leave
    def fail() -> None:
        raise RuntimeError("broken")

    @hub.on_disconnect
    def tell(connection: Connection) -> None:
        told("disconnect")
        raise RuntimeError("broken too")

    async with talk(start(hub).url) as client:
        await client.join("room")
    assert await told.next() == "disconnect"
    assert (await logs.wait("error", during="leave")).exc_info
    await logs.wait("disconnect")


async def test_an_endpoint_that_refuses_closes_with_4403(start, logs):
    hub = Hubbub()

    @hub.endpoint("/members")
    async def members(connection: Connection) -> None:
        raise Denied("members only")

    async with websockets.connect(f"{start(hub).url}/members") as websocket:
        await websocket.wait_closed()
        assert (websocket.close_code, websocket.close_reason) == (4403, "members only")
    await logs.wait("disconnect", code=4403)
    assert not logs.of("error")


async def test_an_endpoint_that_fails_closes_with_1011_and_is_logged(start, logs):
    hub = Hubbub()

    @hub.endpoint("/broken")
    async def broken(connection: Connection) -> None:
        raise RuntimeError("broken")

    async with websockets.connect(f"{start(hub).url}/broken") as websocket:
        await websocket.wait_closed()
        assert (websocket.close_code, websocket.close_reason) == (1011, "internal error")
    record = await logs.wait("error")
    assert record.levelno == logging.ERROR
    assert "RuntimeError: broken" in logging.Formatter().formatException(record.exc_info)


async def test_a_life_is_told_in_one_line_for_each_event(start, logs):
    hub = with_login()
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        logging.getLogger("application").info("said %s", message.text)
        await room.send(message)

    url = f"{start(hub).url}/?token=ada"
    async with talk(url, additional_headers={"X-Request-ID": "req-7"}) as client:
        await client.join("chat/lobby")
        await client.ask(type="say", room="chat/lobby", data={"text": "hi"})
        await client.websocket.close(1001, "gone fishing")
    await logs.wait("disconnect")
    names = ("hubbub", "application")
    own = [record for record in logs.records if record.correlation_id == "req-7" and record.name in names]
    assert [record.getMessage() for record in own] == ["connect", "join", "said hi", "leave", "disconnect"]
    connect, join, _, leave, disconnect = (fields_of(record) for record in own)
    assert connect["user"] == "ada"
    assert connect["path"] == "/"
    assert connect["peer"].startswith("127.0.0.1:")
    assert join["room"] == leave["room"] == "chat/lobby"
    assert (disconnect["code"], disconnect["reason"]) == (1001, "gone fishing")
    assert disconnect["messages_in"] == 2
    assert disconnect["messages_out"] == 4
    assert disconnect["duration"] > 0
    assert len({record["connection"] for record in (connect, join, leave, disconnect)}) == 1


async def test_a_trace_goes_on_in_the_logs_and_hooks_see_it(start, logs):
    hub, told = Hubbub(), Told()
    hub.on_connect(lambda connection: told(connection.correlation_id, correlation_id.get()))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    async with talk(start(hub).url, additional_headers=headers):
        assert await told.next() == (trace, trace)
    assert (await logs.wait("disconnect")).correlation_id == trace
