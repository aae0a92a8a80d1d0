"""What the Engine.IO protocol asks of a server, one by one: the behaviours that its own test suite checks.

https://github.com/socketio/socket.io/tree/main/docs/engine.io-protocol has both. Its heartbeat is in parts of
a second.
"""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hubbub import Settings
from transports.engine_client import closed, engine_client, received, until
from transports.engine_echo import Engine

PING_INTERVAL, PING_TIMEOUT = 0.3, 0.2
MAX_PAYLOAD = 1_000_000


@pytest.fixture(params=["native", "asgi"])
def engine(request):
    return Engine(
        Settings(
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            max_message=MAX_PAYLOAD,
            native=request.param == "native",
        )
    )


@pytest.fixture(params=[4, 3])
async def client(engine, request):
    async with engine_client(engine, request.param) as client:
        yield client


@pytest.fixture
async def modern(engine):
    """A client of version 4."""
    async with engine_client(engine) as client:
        yield client


def payload(client, *packets):
    """Return packets as the client's version writes them into one body."""
    if client.version == 4:
        return "\x1e".join(packets)
    return "".join(f"{len(packet)}:{packet}" for packet in packets)


def handshake_of(client, text):
    packet = text if client.version == 4 else text.partition(":")[2]
    assert client.version == 4 or text.partition(":")[0] == str(len(packet))
    assert packet[0] == "0"
    return json.loads(packet[1:])


# Handshake


async def test_polling_opens_a_session(client):
    answer = await client.ask("GET", f"EIO={client.version}&transport=polling")

    assert answer.status == 200
    assert answer.headers["content-type"].lower() == "text/plain; charset=utf-8"
    handshake = handshake_of(client, answer.text)
    assert isinstance(handshake.pop("sid"), str)
    assert handshake == {
        "upgrades": ["websocket"],
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": MAX_PAYLOAD,
    }


async def test_a_websocket_opens_a_session_of_its_own(client):
    async with client.websocket() as socket:
        first = await received(socket)

    assert first[0] == "0"
    handshake = json.loads(first[1:])
    assert isinstance(handshake.pop("sid"), str)
    assert handshake == {"upgrades": [], "pingInterval": 300, "pingTimeout": 200, "maxPayload": MAX_PAYLOAD}


@pytest.mark.parametrize(
    ("method", "query", "code", "message"),
    [
        ("GET", "transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=abc&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=5&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=2&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=4&EIO=4&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=4", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=abc", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=polling&transport=polling", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=polling&j=0", 0, "Transport unknown"),
        ("GET", "", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
        ("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("PUT", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("DELETE", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("POST", "EIO=4&transport=websocket", 2, "Bad handshake method"),
        ("GET", "EIO=4&transport=polling&sid=nobody", 1, "Session ID unknown"),
        ("POST", "EIO=4&transport=polling&sid=nobody", 1, "Session ID unknown"),
        ("GET", "EIO=4&transport=websocket&sid=nobody", 1, "Session ID unknown"),
        ("GET", "EIO=4&transport=abc&sid=nobody", 0, "Transport unknown"),
    ],
)
async def test_a_request_that_is_none_is_told_why(modern, method, query, code, message):
    answer = await modern.ask(method, query)

    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {"code": code, "message": message}
    assert modern.engine.opened == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("transport=websocket", "Unsupported protocol version"),
        ("EIO=abc&transport=websocket", "Unsupported protocol version"),
        ("EIO=4", "Transport unknown"),
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4&transport=polling", "Bad request"),
        ("EIO=4&transport=websocket&sid=nobody", "Session ID unknown"),
    ],
)
async def test_a_websocket_that_is_none_is_told_why(modern, query, message):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{modern.served.url}/engine.io/?{query}", proxy=None):
            pass

    assert refused.value.response.status_code == 400
    assert refused.value.response.body == message.encode()


# Messages


@pytest.mark.parametrize(
    "packets", [["4hello"], ["4test1", "4test2", "4test3"], ["4"], ["4hello €🎉"], ["4:", "41:4x"]]
)
async def test_polling_carries_messages_both_ways(client, packets):
    session = await client.open()
    body = payload(client, *packets)
    if client.version == 3 and "🎉" in body:
        body = "10:4hello €🎉"

    sent = await client.post(session, body)
    answer = await client.poll(session)

    assert (sent.status, sent.text) == (200, "ok")
    assert (answer.status, answer.text) == (200, body)
    assert client.engine.opened[0].messages == [packet[1:] for packet in packets]


async def test_polling_carries_binary_data_in_base64(modern):
    session = await modern.open()

    sent = await modern.post(session, "4hello\x1ebAQIDBA==")
    answer = await modern.poll(session)

    assert (sent.status, sent.text) == (200, "ok")
    assert (answer.status, answer.text) == (200, "4hello\x1ebAQIDBA==")
    assert modern.engine.opened[0].messages == ["hello", b"\x01\x02\x03\x04"]


@pytest.mark.parametrize("body", ["abc", "", "4a\x1e", "4a\x1e7b", "b!", "bAQID"[:3], "\x1e4a", "\uff12"])
async def test_what_is_no_packet_ends_the_session(modern, body):
    session = await modern.open()

    sent = await modern.post(session, body)
    answer = await modern.poll(session)

    assert sent.status == 400
    assert (answer.status, answer.json) == (400, {"code": 1, "message": "Session ID unknown"})
    assert modern.engine.opened[0].ends == ["parse error"]


async def test_a_second_poll_ends_the_session(client):
    session = await client.open()
    first = await client.start("GET", client.query(session))
    await until(lambda: client.engine.opened[0].socket.poll is not None)

    second = await client.ask("GET", client.query(session) + "&t=burst")
    answer = await first.answer()
    third = await client.poll(session)

    assert (answer.status, answer.text) == (200, payload(client, "1"))
    assert (second.status, second.json) == (400, {"code": 3, "message": "Bad request"})
    assert third.status == 400
    assert client.engine.opened[0].ends == ["transport error"]


async def test_a_second_post_ends_the_session(client):
    session = await client.open()
    first = await client.start("POST", client.query(session), b"4h", declared=6)
    await until(lambda: client.engine.opened[0].socket.post is not None)

    second = await client.post(session, payload(client, "4hello"))

    assert second.status == 400
    assert (await client.poll(session)).status == 400
    assert client.engine.opened[0].ends == ["transport error"]
    assert client.engine.opened[0].messages == []
    await first.leave()


async def test_a_poll_that_its_client_cancels_ends_the_session(client):
    session = await client.open()
    request = await client.start("GET", client.query(session))
    await until(lambda: client.engine.opened[0].socket.poll is not None)

    await request.leave()
    await until(lambda: client.engine.opened[0].ends)

    assert (await client.poll(session)).status == 400
    assert client.engine.opened[0].ends == ["transport close"]


async def test_a_websocket_carries_text(client):
    async with client.websocket() as socket:
        await received(socket)
        await socket.send("4hello €🎉")

        assert await received(socket) == "4hello €🎉"


async def test_a_websocket_carries_binary_data_as_it_is(client):
    data = b"\x01\x02\x03\x04" if client.version == 4 else b"\x04\x01\x02\x03"
    async with client.websocket() as socket:
        await received(socket)
        await socket.send(data)

        assert await received(socket) == data
    assert client.engine.opened[0].messages == [data if client.version == 4 else data[1:]]


async def test_what_is_no_packet_closes_the_websocket(client):
    async with client.websocket() as socket:
        await received(socket)
        await socket.send("abc")

        await closed(socket)
    assert client.engine.opened[0].ends == ["parse error"]


# Heartbeat


async def test_pings_are_there_for_who_polls(modern):
    session = await modern.open()
    loop = asyncio.get_running_loop()

    for _ in range(3):
        before = loop.time()
        answer = await modern.poll(session)
        assert (answer.status, answer.text) == (200, "2")
        assert PING_INTERVAL - 0.1 < loop.time() - before < PING_INTERVAL + PING_TIMEOUT
        assert (await modern.post(session, "3")).text == "ok"
    assert modern.engine.opened[0].control_packets == 3


async def test_who_polls_no_more_is_gone_at_once_when_the_time_is_over(client):
    session = await client.open()
    opened = client.engine.opened[0]

    # No timer: the request itself finds out.
    await asyncio.sleep(PING_INTERVAL + PING_TIMEOUT)
    answer = await client.poll(session)

    assert answer.status == 400
    assert opened.ends == ["ping timeout"]


async def test_pings_come_through_a_websocket(modern):
    async with modern.websocket() as socket:
        await received(socket)
        for _ in range(3):
            assert await received(socket) == "2"
            await socket.send("3")
    assert modern.engine.opened[0].ends == ["transport close"]


async def test_who_does_not_answer_pings_is_closed(client):
    async with client.websocket() as socket:
        await received(socket)

        assert await closed(socket) == 1000
    assert client.engine.opened[0].ends == ["ping timeout"]


async def test_clients_of_version_3_ping_and_are_answered(engine):
    async with engine_client(engine, 3) as client:
        session = await client.open()
        for _ in range(3):
            assert (await client.post(session, "1:2")).text == "ok"
            assert (await client.poll(session)).text == "1:3"
        async with client.websocket() as socket:
            await received(socket)
            for _ in range(3):
                await socket.send("2")
                assert await received(socket) == "3"


@pytest.mark.parametrize(("version", "packet"), [(4, "2"), (3, "3")])
async def test_a_heartbeat_in_the_wrong_direction_ends_the_session(engine, version, packet):
    async with engine_client(engine, version) as client:
        session = await client.open()
        assert (await client.post(session, payload(client, packet))).status == 400
        async with client.websocket() as socket:
            await received(socket)
            await socket.send(packet)
            await closed(socket)
    assert [echo.ends for echo in engine.opened] == [["transport error"]] * 2


# Close


async def test_a_close_packet_ends_the_pending_poll_and_the_session(client):
    session = await client.open()
    request = await client.start("GET", client.query(session))
    await until(lambda: client.engine.opened[0].socket.poll is not None)

    sent = await client.post(session, payload(client, "1"))
    answer = await request.answer()

    assert (sent.status, sent.text) == (200, "ok")
    assert (answer.status, answer.text) == (200, payload(client, "6"))
    assert (await client.poll(session)).status == 400
    assert client.engine.opened[0].ends == ["transport close"]


async def test_a_close_packet_closes_the_websocket(client):
    async with client.websocket() as socket:
        await received(socket)
        await socket.send("1")

        await closed(socket)
    assert client.engine.opened[0].ends == ["transport close"]


# Upgrade


async def test_a_session_changes_over_to_a_websocket(client):
    session = await client.open()
    async with client.probed(session) as socket:
        answer = await client.poll(session)
        await socket.send("5")
        await socket.send("4hello")

        assert (answer.status, answer.text) == (200, payload(client, "6"))
        assert await received(socket) == "4hello"
    assert client.engine.opened[0].ends == ["transport close"]


async def test_after_that_requests_for_the_session_are_refused(client):
    session = await client.open()
    async with client.probed(session) as socket:
        await socket.send("5")
        await socket.send("4one")
        assert await received(socket) == "4one"

        for answer in (await client.poll(session), await client.post(session, payload(client, "4two"))):
            assert (answer.status, answer.json) == (400, {"code": 3, "message": "Bad request"})
        await socket.send("4hello")

        assert await received(socket) == "4hello"


async def test_after_that_another_websocket_for_the_session_is_closed(client):
    session = await client.open()
    async with client.probed(session) as socket:
        await socket.send("5")
        async with client.websocket(session) as second:
            await closed(second)
        await socket.send("4hello")

        assert await received(socket) == "4hello"
