import asyncio
from contextlib import suppress

import pytest
import websockets
import websockets.exceptions

from echo import Say
from fake_transport import fake_connection
from hubbub import Connection, ConnectionClosed, Hubbub, Settings
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


async def test_closing_sends_what_was_sent_before_and_waits_for_the_client():
    connection, line = fake_connection(codec=None)
    await connection.send("first")
    closing = asyncio.create_task(connection.close(4000, "reason"))
    await asyncio.sleep(0)
    assert line.written == [b"first"]
    assert line.closed_with == (4000, "reason")
    assert not closing.done()
    line.end()
    await closing
    await connection.close(1000)
    assert (connection.close_code, connection.close_reason) == (4000, "reason")
    with pytest.raises(ConnectionClosed):
        await connection.send("late")


async def test_whoever_gives_up_waiting_for_the_end_does_not_end_the_wait_of_others():
    connection, line = fake_connection()
    impatient = asyncio.create_task(connection.wait_closed())
    patient = asyncio.create_task(connection.wait_closed())
    await asyncio.sleep(0)
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    line.end()
    await patient


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)])
async def test_a_close_that_can_not_be_sent_is_an_error_and_closes_nothing(code, reason):
    connection, line = fake_connection(codec=None)
    with pytest.raises(websockets.exceptions.ProtocolError):
        await connection.close(code, reason)
    assert line.closed_with is None


async def test_as_a_context_it_is_closed_in_the_end():
    connection, line = fake_connection(codec=None)
    asyncio.get_running_loop().call_soon(line.end)
    async with connection as same:
        assert same is connection
    assert line.closed_with == (1000, "")
    connection, line = fake_connection(codec=None)
    asyncio.get_running_loop().call_soon(line.end)
    with pytest.raises(ZeroDivisionError):
        async with connection:
            raise ZeroDivisionError
    assert line.closed_with == (1011, "")


async def test_the_loss_of_the_line_is_told_once():
    connection, line = fake_connection()
    told = []
    connection.on_lost = lambda: told.append("lost")
    line.end()
    assert told == ["lost"]
    assert connection.on_lost is None


async def test_after_the_client_broke_the_protocol_nothing_more_is_sent():
    connection, line = fake_connection(codec=None)
    await connection.send("x")
    connection.failing()
    sending = asyncio.create_task(connection.send("y"))
    await asyncio.sleep(0)
    line.end()
    with pytest.raises(ConnectionClosed):
        await sending
    assert line.written == []


# Leaving, as the server stops


async def test_one_who_waits_for_messages_is_closed_at_once():
    connection, line = fake_connection()
    waiting = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    connection.shut_down()
    assert line.closed_with == (1012, "the server restarts")
    line.end()
    with pytest.raises(ConnectionClosed):
        await waiting


async def test_messages_that_have_arrived_are_received_before_the_close():
    connection, line = fake_connection(Settings(max_inbox=1))
    connection.received("1")
    connection.shut_down()
    assert line.closed_with is None
    assert await connection.recv() == "1"
    # Nothing more is read, though the inbox is empty.
    assert "resume_reading" not in line.asked
    waiting = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    assert line.closed_with == (1012, "the server restarts")
    line.end()
    with pytest.raises(ConnectionClosed):
        await waiting


async def test_an_endpoint_is_closed_whatever_it_does():
    connection, line = fake_connection(codec=None)
    connection.received("1")
    connection.shut_down()
    assert line.closed_with == (1012, "the server restarts")
    connection.shut_down()


async def test_one_that_closes_already_goes_on_closing():
    connection, line = fake_connection()
    connection.start_close(4000, "")
    connection.shut_down()
    assert line.closed_with == (4000, "")


# Over real sockets


async def test_the_application_can_close_a_connection_with_a_code_of_its_own(start):
    hub, told = Hubbub(), Told()

    @hub.on_message
    async def say(connection: Connection, message: Say) -> str:
        await connection.close(4000, message.text)
        return "not delivered"

    hub.on_disconnect(lambda connection: told(connection.close_code, connection.close_reason))
    async with talk(start(hub).url) as client:
        await client.send(type="say", id=1, data={"text": "bye"})
        assert await client.closed() == (4000, "bye")
        assert await told.next() == (4000, "bye")


async def test_an_endpoint_that_sends_on_another_connection_that_is_closed_has_failed(start, logs):
    hub, told = Hubbub(), Told()
    others: list[Connection] = []

    @hub.endpoint("/wait")
    async def wait(connection: Connection) -> None:
        others.append(connection)
        told("waits")
        await connection.wait_closed()
        told("closed")

    @hub.endpoint("/call")
    async def call(connection: Connection) -> None:
        await others[0].send("hello?")

    url = start(hub).url
    async with websockets.connect(f"{url}/wait"):
        assert await told.next() == "waits"
    assert await told.next() == "closed"
    async with websockets.connect(f"{url}/call") as websocket:
        await websocket.wait_closed()
        assert websocket.close_code == 1011
    record = await logs.wait("error")
    assert "ConnectionClosed" in str(record.exc_info)
