import asyncio
from contextlib import suppress

import pytest

from echo import Say, Wave
from fake_transport import fake_connection
from hubbub import (
    Connection,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Hubbub,
    Room,
    Settings,
)
from hubbub.engine.transport import Ending
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


# What it tells


def test_it_tells_who_and_where_the_client_is():
    connection, _ = fake_connection(
        path="/chat", raw_path=b"/ch%61t", query_string=b"a=1&token=t", client=("10.0.0.1", 4000)
    )
    assert connection.remote_address == ("10.0.0.1", 4000)
    assert connection.request.path == "/ch%61t?a=1&token=t"
    assert connection.request.query_params["a"] == "1"
    assert connection.name == f"guest:{connection.id[:8]}"
    assert connection.subprotocol == "hubbub.v1.json"
    connection.user = "ada"
    assert connection.name == "ada"
    assert repr(connection) == f"<Connection {connection.id} user='ada'>"


def test_over_a_unix_domain_socket_there_is_no_address():
    connection, _ = fake_connection(codec=None, client=None)
    assert connection.remote_address is None
    assert connection.subprotocol is None


def test_a_path_without_its_raw_form_is_quoted():
    connection, _ = fake_connection(path="/käse")
    assert connection.request.path == "/k%C3%A4se"


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ([], b"", None),
        ([], b"token=from-query", "from-query"),
        ([(b"authorization", b"Bearer from-header")], b"", "from-header"),
        ([(b"authorization", b"bearer  spaced ")], b"token=from-query", "spaced"),
        ([(b"authorization", b"Basic YTpi")], b"token=from-query", "from-query"),
        ([(b"authorization", b"Bearer")], b"", None),
    ],
)
def test_the_token_comes_from_the_header_else_from_the_query(headers, query, token):
    connection, _ = fake_connection(headers=headers, query_string=query)
    assert connection.token == token
    connection.token = "newer"
    assert connection.token == "newer"


def test_the_application_can_keep_things_with_it():
    connection, _ = fake_connection()
    other, _ = fake_connection()
    connection.state["cart"] = 1
    assert connection.state == {"cart": 1}
    assert other.state == {}


def test_connections_of_one_kind_share_the_form_of_their_messages():
    connection, _ = fake_connection()
    other, _ = fake_connection()
    assert connection.form is other.form


# Receiving


async def test_messages_are_received_in_order_and_waited_for():
    connection, _ = fake_connection(codec=None)
    connection.received("1")
    connection.received(b"2")
    assert [await connection.recv(), await connection.recv()] == ["1", b"2"]
    waiting = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    connection.received("3")
    connection.received("4")
    assert [await waiting, await connection.recv()] == ["3", "4"]


async def test_giving_up_to_receive_loses_nothing():
    connection, _ = fake_connection(codec=None)
    for moment in ("before", "after"):
        waiting = asyncio.create_task(connection.recv())
        await asyncio.sleep(0)
        if moment == "after":
            connection.received("kept")
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    assert await connection.recv() == "kept"


async def test_what_a_cancelled_task_was_brought_goes_to_who_receives_next():
    connection, _ = fake_connection(codec=None)
    given_up = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    connection.received("1")
    given_up.cancel()
    async with asyncio.timeout(5):
        # Without a turn for the cancelled task in between.
        assert await connection.recv() == "1"
    connection.received("2")
    assert await connection.recv() == "2"


async def test_two_tasks_can_not_receive_at_once():
    connection, _ = fake_connection(codec=None)
    first = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Two tasks can't receive"):
        await connection.recv()
    connection.received("x")
    assert await first == "x"


async def test_a_full_inbox_stops_reading_until_half_of_it_is_handled():
    connection, line = fake_connection(Settings(max_inbox=4), codec=None)
    assert [connection.received(str(number)) for number in range(4)] == [True, True, True, False]
    assert line.asked == ["pause_reading"]
    await connection.recv()
    assert line.asked == ["pause_reading"]
    await connection.recv()
    assert line.asked == ["pause_reading", "resume_reading"]
    await connection.recv()
    assert line.asked == ["pause_reading", "resume_reading"]


async def test_what_arrived_before_the_end_is_still_received():
    connection, _ = fake_connection(codec=None)
    connection.received("last words")
    connection.ended(Ending(received=(1000, "bye"), sent=(1000, "bye"), received_first=True))
    assert await connection.recv() == "last words"
    with pytest.raises(ConnectionClosedOK) as closed:
        await connection.recv()
    assert (closed.value.code, closed.value.reason) == (1000, "bye")


@pytest.mark.parametrize(
    ("ending", "kind", "code", "why"),
    [
        (Ending((1001, "a"), (1001, "a"), received_first=True), ConnectionClosedOK, 1001, (1001, "a")),
        (Ending((4000, "a"), (1000, "b")), ConnectionClosedError, 4000, (1000, "b")),
        (Ending((4000, "a"), (4000, "a"), received_first=True), ConnectionClosedError, 4000, (4000, "a")),
        (Ending(sent=(1012, "c")), ConnectionClosedError, 1012, (1012, "c")),
        (Ending(), ConnectionClosedError, 1006, (1006, "")),
    ],
)
async def test_it_tells_how_it_ended(ending, kind, code, why):
    connection, _ = fake_connection(codec=None)
    assert (connection.close_code, connection.close_reason, connection.lost) == (None, None, False)
    waiting = asyncio.create_task(connection.recv())
    await asyncio.sleep(0)
    connection.ended(ending)
    with pytest.raises(kind):
        await waiting
    assert (connection.close_code, connection.lost, connection.why_ended) == (code, True, why)


async def test_iteration_ends_with_a_good_end_and_raises_with_a_bad_one():
    connection, _ = fake_connection(codec=None)
    connection.received("1")
    connection.received("2")
    connection.ended(Ending(received=(1000, ""), sent=(1000, ""), received_first=True))
    assert [message async for message in connection] == ["1", "2"]
    connection, _ = fake_connection(codec=None)
    connection.received("1")
    connection.ended(Ending())
    messages = aiter(connection)
    assert await anext(messages) == "1"
    with pytest.raises(ConnectionClosedError):
        await anext(messages)


# Sending


async def test_an_endpoint_sends_text_and_bytes_and_nothing_else():
    connection, line = fake_connection(codec=None)
    for message in ("ä", b"1", bytearray(b"2"), memoryview(b"3")):
        await connection.send(message)
    connection.outbox.flush()
    assert line.written == ["ä".encode(), b"1", b"2", b"3"]
    with pytest.raises(TypeError, match="An endpoint sends str or bytes, not Say"):
        await connection.send(Say(text="x"))


async def test_elsewhere_messages_are_sent_and_nothing_else():
    connection, line = fake_connection()
    await connection.send(Say(text="x"))
    await connection.send(Wave())
    connection.outbox.flush()
    assert line.envelopes == [{"type": "say", "data": {"text": "x"}}, {"type": "chat.wave", "data": {}}]
    for wrong in ("text", b"bytes"):
        with pytest.raises(TypeError, match="Only an endpoint sends str and bytes"):
            await connection.send(wrong)
    with pytest.raises(TypeError, match="dict is no message"):
        await connection.send({"type": "say"})  # type: ignore[arg-type]


async def test_sending_waits_while_the_client_does_not_read():
    connection, line = fake_connection(codec=None)
    connection.pause_writing()
    sending = asyncio.create_task(connection.send("x"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not sending.done()
    connection.resume_writing()
    await sending
    assert line.written == [b"x"]


async def test_a_send_that_waited_for_a_reader_who_left_raises():
    connection, line = fake_connection(codec=None)
    connection.pause_writing()
    sending = asyncio.create_task(connection.send("x"))
    await asyncio.sleep(0)
    connection.ended(Ending())
    with pytest.raises(ConnectionClosed):
        await sending
    assert line.written == []


async def test_one_who_sends_without_end_gives_others_a_turn():
    connection, _ = fake_connection(codec=None)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    for _ in range(2000):
        await connection.send("x")
    for _ in range(20):
        await connection.send("x" * 100_000)
    assert turns > 20
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_who_reads_too_slowly_is_closed_and_what_waited_is_dropped():
    connection, line = fake_connection(Settings(max_outbox=1024), codec=None)
    connection.pause_writing()
    sending = asyncio.create_task(connection.send("x" * 2000))
    await asyncio.sleep(0)
    assert line.closed_with == (4513, "reads too slowly")
    line.end()
    with pytest.raises(ConnectionClosedError):
        await sending
    assert line.written == []


# Over real sockets


async def test_a_member_that_reads_too_slowly_is_dropped_and_delays_nobody(start):
    hub, told = Hubbub(Settings(max_outbox=65536, close_timeout=0.5)), Told()
    room = hub.room("room")

    @room.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_disconnect
    async def gone(connection: Connection) -> None:
        told(connection.why_ended)

    url = start(hub).url
    text = "x" * 200_000
    async with (
        talk(url, max_size=None, max_queue=1, close_timeout=0.1) as slow,
        talk(url, max_size=None) as quick,
    ):
        await slow.join("room")
        await quick.join("room")
        # Buffers of the kernel and of the library take some megabytes before anybody is slow.
        for number in range(1000):
            await quick.send(type="say", room="room", id=number, data={"text": text})
            assert (await quick.receive())["data"] == {"text": text}
            assert (await quick.receive())["id"] == number
            if not told.silent:
                break
        assert await told.next() == (4513, "reads too slowly")
        assert (await quick.ask(type="$ping"))["type"] == "$pong"
