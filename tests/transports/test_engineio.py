"""Engine.IO beyond what its protocol asks: who is let in, how much, how fast, and what happens at the end."""

import asyncio
import json
import logging
import os

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hubbub import Settings
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.testing.serving import serving
from transports.engine_client import Client, closed, engine_client, received, until
from transports.engine_echo import Engine


@pytest.fixture(params=["native", "asgi"])
def engine(request):
    return Engine(Settings(native=request.param == "native", max_message=2000))


@pytest.fixture
async def client(engine):
    async with engine_client(engine) as client:
        yield client


# Who is let in


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        (Settings(), ["Origin: https://evil.example"], 403),
        (Settings(allowed_hosts="example.com"), [], 421),
    ],
)
async def test_pages_and_names_that_may_not_connect_are_refused(settings, headers, status):
    async with engine_client(Engine(settings)) as client:
        polling = await client.ask("GET", "EIO=4&transport=polling", b"", headers)
        with pytest.raises(InvalidStatus) as refused:
            async with connect(
                f"{client.served.url}/engine.io/?EIO=4&transport=websocket",
                proxy=None,
                additional_headers=[tuple(header.split(": ")) for header in headers],
            ):
                pass

    assert polling.status == status
    assert polling.json["code"] == 4
    assert polling.json["message"]
    assert "access-control-allow-origin" not in polling.headers
    assert refused.value.response.status_code == status
    assert client.engine.opened == []


@pytest.mark.parametrize(
    ("allowed", "origin", "credentials"),
    [("https://a.example", "https://a.example", "true"), ("*", "*", None)],
)
async def test_pages_that_may_connect_may_poll(allowed, origin, credentials):
    engine = Engine(Settings(allowed_origins=allowed))
    own = "Origin: https://a.example"
    async with engine_client(engine) as client:
        preflight = await client.ask(
            "OPTIONS",
            "EIO=4&transport=polling",
            b"",
            [own, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"],
        )
        answers = [
            await client.ask("GET", "EIO=4&transport=polling", b"", [own]),
            await client.ask("GET", "EIO=4&transport=polling&sid=nobody", b"", [own]),
        ]
        sent = await client.post(json.loads(answers[0].text[1:])["sid"], "4a", own)

    assert preflight.status == 204
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    for answer in (*answers, sent):
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers.get("access-control-allow-credentials") == credentials
        assert answer.headers["cache-control"] == "no-store"
    assert sent.status == 200


async def test_no_cookie_is_set(client):
    answer = await client.ask("GET", "EIO=4&transport=polling")

    assert "set-cookie" not in answer.headers


async def test_session_ids_are_never_logged(caplog):
    engine = Engine(broker=MemoryBroker(MemoryStore()))
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "uvicorn.access"):
        async with engine_client(engine) as client:
            session = await client.open()
            await client.post(session, "4a")
            async with client.probed(session) as socket:
                await socket.send("5")
                await socket.send("x")
                await closed(socket)
            await client.poll(session)

    secret = session.rpartition(".")[2]
    assert secret
    ours = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert ours
    assert not any(secret in record.getMessage() for record in ours)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
async def test_other_methods_of_a_session_are_refused_and_leave_it_alone(client, method):
    session = await client.open()

    request = await client.start(method, client.query(session))
    if method == "HEAD":
        await request.leave()
    else:
        answer = await request.answer()
        assert (answer.status, answer.json["code"]) == (400, 3)

    assert (await client.post(session, "4a")).status == 200


async def test_a_session_is_spoken_to_in_the_version_that_it_was_opened_in(client):
    session = await client.open()

    for version in ("EIO=3&", ""):
        answer = await client.ask("GET", f"{version}transport=polling&sid={session}")
        assert (answer.status, answer.json["code"]) == (400, 5)
    assert (await client.post(session, "4a")).status == 200


async def test_session_ids_are_not_to_be_guessed(client):
    polling = [await client.open() for _ in range(20)]
    websockets = []
    for _ in range(20):
        async with client.websocket() as socket:
            websockets.append(json.loads((await received(socket))[1:])["sid"])

    for guess in (polling[0][:-1], polling[0] + "A", polling[0].swapcase(), "A" * 20):
        assert (await client.poll(guess)).status == 400
    for ids in (polling, websockets):
        assert len({session_id[-20:] for session_id in ids}) == 20
        # The random characters of one have nothing to do with those of another.
        for place in range(-20, 0):
            assert len({session_id[place] for session_id in ids}) > 5


# How many that nobody has use of


async def test_sessions_that_nobody_has_use_of_end_in_time():
    engine = Engine(Settings(handshake_timeout=0.2), keeps=False)
    async with engine_client(engine) as client:
        await client.open()
        async with client.websocket() as socket:
            await received(socket)
            await closed(socket)
        await until(lambda: engine.opened[0].ends)
        kept = await client.open()
        engine.opened[2].socket.keep()
        await asyncio.sleep(0.3)

        assert (await client.post(kept, "4a")).status == 200
        engine.opened[2].socket.release()
        await until(lambda: engine.opened[2].ends)
    assert [echo.ends for echo in engine.opened] == [["connect timeout"]] * 3


async def test_so_many_may_wait_and_the_oldest_makes_room_after_a_moment(monkeypatch):
    engine = Engine(Settings(max_pending=2), keeps=False)
    async with engine_client(engine) as client:
        first, second = await client.open(), await client.open()
        refused = await client.ask("GET", "EIO=4&transport=polling")
        assert (refused.status, refused.json["code"]) == (503, 4)
        assert refused.headers["retry-after"] == "5"

        monkeypatch.setattr("hubbub.transports.engineio.application.GRACE", 0.0)
        third = await client.open()

        assert (await client.poll(first)).status == 400
        assert [(await client.post(each, "4a")).status for each in (second, third)] == [200, 200]
        assert engine.opened[0].ends == ["connect timeout"]


async def test_a_client_that_changes_over_takes_nobodys_place(monkeypatch):
    monkeypatch.setattr("hubbub.transports.engineio.application.GRACE", 0.0)
    engine = Engine(Settings(max_pending=2), keeps=False)
    async with engine_client(engine) as client:
        first, second = await client.open(), await client.open()
        async with client.probed(second) as socket:
            await socket.send("5")
            await socket.send("4a")
            assert await received(socket) == "4a"
            assert (await client.post(first, "4a")).status == 200


async def test_a_session_that_is_closed_while_it_is_opened_is_told_so():
    engine = Engine()
    opening = engine.open

    def refuse(socket):
        echo = opening(socket)
        socket.send("bye")
        socket.abort()
        return echo

    engine.engine._on_open = refuse
    async with engine_client(engine) as client:
        session = await client.open()
        assert (await client.poll(session)).status == 400
        async with client.websocket() as socket:
            assert (await received(socket))[0] == "0"
            await closed(socket)
    assert [echo.ends for echo in engine.opened] == [["forced close"]] * 2


# How large


async def test_a_body_that_is_too_large_is_refused_and_the_session_goes_on(client):
    session = await client.open()

    assert (await client.post(session, "4" + "x" * 2000)).status == 413
    request = await client.start("POST", client.query(session), b"4", declared=10**9)
    assert (await request.answer()).status == 413
    assert (await client.post(session, "4" + "x" * 1999)).status == 200
    assert [len(message) for message in client.engine.opened[0].messages] == [1999]


async def test_a_body_of_unknown_length_is_bounded_too(client):
    session = await client.open()
    body = b"7d0\r\n" + b"4" * 2000 + b"\r\n" + b"1\r\nx\r\n0\r\n\r\n"

    reader, writer = await asyncio.open_connection("127.0.0.1", client.served.port)
    head = (
        f"POST /engine.io/?{client.query(session)} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()

    assert b"413" in answer
    assert client.engine.opened[0].messages == []


async def test_a_websocket_message_that_is_too_large_closes(client):
    async with client.websocket() as socket:
        await received(socket)
        await socket.send("4" + "x" * 2000)

        assert await closed(socket) == 1009
    await until(lambda: client.engine.opened[0].ends)


async def test_before_it_has_changed_over_a_websocket_may_only_say_little(client):
    session = await client.open()
    async with client.websocket(session) as socket:
        await socket.send("4" + "x" * 200)

        assert await closed(socket) == 1009
    assert (await client.post(session, "4a")).status == 200


async def test_binary_bodies_are_refused_in_version_4(client):
    session = await client.open()

    sent = await client.post(session, b"4a", "Content-Type: application/octet-stream")

    assert sent.status == 400
    assert client.engine.opened[0].ends == ["parse error"]


async def test_version_3_carries_binary_bodies_both_ways(engine):
    async with engine_client(engine, 3) as client:
        session = await client.open()
        body = b"\x00\x06\xff4hello\x01\x05\xff\x04\x01\x02\x03\x04"

        sent = await client.post(session, body, "Content-Type: application/octet-stream")
        answer = await client.poll(session)

        assert (sent.status, sent.text) == (200, "ok")
        assert (answer.body, answer.headers["content-type"]) == (body, "application/octet-stream")


async def test_clients_that_take_no_binary_data_are_sent_base64(engine):
    async with engine_client(engine, 3) as client:
        session = await client.open("&b64=1")
        await client.post(session, "10:b4AQIDBA==")
        assert (await client.poll(session)).text == "10:b4AQIDBA=="
        async with client.websocket(more="&b64=1") as socket:
            await received(socket)
            await socket.send("b4AQIDBA==")
            assert await received(socket) == "b4AQIDBA=="
    assert [echo.messages for echo in engine.opened] == [[b"\x01\x02\x03\x04"]] * 2


# How fast


async def test_all_that_is_sent_in_one_turn_is_one_answer(client):
    await client.open()
    socket = client.engine.opened[0].socket
    request = await client.start("GET", client.query(socket.id))
    await until(lambda: socket.poll is not None)

    socket.send("one")
    socket.send("two", b"\x00")

    assert (await request.answer()).text == "4one\x1e4two\x1ebAA=="


async def test_a_poll_brings_as_many_packets_as_the_client_takes(client):
    session = await client.open()
    socket = client.engine.opened[0].socket
    socket.send(*map(str, range(20)))

    answers = [await client.poll(session), await client.poll(session)]

    assert [answer.text.count("\x1e") + 1 for answer in answers] == [16, 4]
    browser = "User-Agent: Mozilla/5.0"
    opened = await client.ask("GET", "EIO=4&transport=polling", b"", [browser])
    client.engine.opened[1].socket.send(*map(str, range(100)))
    answer = await client.poll(json.loads(opened.text[1:])["sid"])
    assert answer.text.count("\x1e") == 99


async def test_what_waits_for_a_poll_has_the_listener_pause(client):
    session = await client.open()
    echo = client.engine.opened[0]

    echo.socket.send("x" * 70_000)
    assert echo.paused == [True]
    await client.poll(session)

    assert echo.paused == [True, False]


async def test_a_websocket_that_is_not_read_has_the_listener_pause(client):
    async with client.websocket() as socket:
        await received(socket)
        echo = client.engine.opened[0]
        for _ in range(200):
            echo.socket.send(os.urandom(100_000))
        await until(lambda: echo.paused == [True])
        for _ in range(200):
            await received(socket)
        await until(lambda: echo.paused == [True, False])


async def test_heartbeats_without_end_take_no_task_and_no_timer(client):
    async with client.websocket() as socket:
        await received(socket)
        tasks, times = len(asyncio.all_tasks()), len(client.engine.engine.schedule._heap)
        for _ in range(200):
            await socket.send("3")
        await socket.send("4a")
        assert await received(socket) == "4a"

        assert client.engine.opened[0].control_packets == 200
        assert len(asyncio.all_tasks()) <= tasks
        assert len(client.engine.engine.schedule._heap) <= times + 1


async def test_a_session_that_a_heartbeat_ends_is_looked_at_no_more(client):
    session = await client.open()
    echo = client.engine.opened[0]
    echo.heard_from = lambda _: echo.socket.close()
    poll = await client.start("GET", client.query(session))
    await until(lambda: echo.socket.poll is not None)

    await client.post(session, "3")

    assert (await poll.answer()).text == "1"
    assert len(client.engine.engine.schedule) == 0


async def test_a_request_with_very_many_packets_gives_others_their_turns(client):
    turns = 0
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        ticking[0] = loop.call_soon(turn)

    session = await client.open()
    client.engine.opened[0].echoes = False
    client.engine.opened[0].on_message = lambda _: seen.append(turns)
    ticking = [loop.call_soon(turn)]
    assert (await client.post(session, "\x1e".join(["4"] * 600))).status == 200
    ticking[0].cancel()

    assert len(seen) == 600
    assert max(seen.count(number) for number in set(seen)) <= 64


async def test_pings_of_version_3_are_not_answered_without_end(engine):
    async with engine_client(engine, 3) as client:
        session = await client.open()
        ping = "1001:2" + "x" * 1000
        for _ in range(100):
            assert (await client.post(session, ping)).text == "ok"

        answer = await client.poll(session)

        assert len(answer.body) < 16 * 1010
        assert client.engine.opened[0].paused[0]


async def test_posts_wait_while_nothing_is_to_be_read(client):
    session = await client.open()
    echo = client.engine.opened[0]
    echo.on_message = lambda message: echo.socket.pause_reading() if message == "b" else None
    request = await client.start("POST", client.query(session), b"4a\x1e4b\x1e4c\x1e4d")
    await until(lambda: len(echo.messages) == 2)

    await asyncio.sleep(0.05)
    assert echo.messages == ["a", "b"]
    echo.socket.resume_reading()

    assert (await request.answer()).text == "ok"
    assert echo.messages == ["a", "b", "c", "d"]


async def test_a_client_that_is_not_read_is_not_taken_for_silent():
    engine = Engine(Settings(ping_interval=0.05, ping_timeout=0.05))
    async with engine_client(engine) as client, client.websocket() as socket:
        await received(socket)
        engine.opened[0].socket.pause_reading()
        assert await received(socket) == "2"
        await asyncio.sleep(0.3)
        assert engine.opened[0].ends == []
        engine.opened[0].socket.resume_reading()
        await until(lambda: engine.opened[0].ends)
    assert engine.opened[0].ends == ["ping timeout"]


# Changing over


@pytest.mark.parametrize("says", ["4hello", "2", "2prob", "abc", "1", b"2probe"])
async def test_a_websocket_that_makes_no_probe_is_closed_and_polling_goes_on(client, says):
    session = await client.open()
    async with client.websocket(session) as socket:
        await socket.send(says)
        await closed(socket)

    assert (await client.post(session, "4a")).text == "ok"
    assert (await client.poll(session)).text == "4a"
    async with client.probed(session) as socket:
        await socket.send("5")
        await socket.send("4b")
        assert await received(socket) == "4b"


async def test_a_second_probe_is_none(client):
    session = await client.open()
    async with client.probed(session) as socket:
        await socket.send("2probe")
        await closed(socket)

    assert (await client.post(session, "4a")).text == "ok"


async def test_a_probe_that_is_not_followed_up_ends_in_time_and_polling_goes_on():
    engine = Engine(Settings(handshake_timeout=0.3))
    async with engine_client(engine) as client:
        session = await client.open()
        async with client.probed(session) as socket:
            await closed(socket)

        assert (await client.post(session, "4a")).text == "ok"
        assert (await client.poll(session)).text == "4a"


async def test_two_websockets_at_a_time_for_one_session_are_too_many(client):
    session = await client.open()
    async with client.probed(session) as first:
        async with client.websocket(session) as second:
            await closed(second)
        await first.send("5")
        await first.send("4a")
        assert await received(first) == "4a"


async def test_a_websocket_for_the_session_of_a_websocket_is_closed(client):
    async with client.websocket() as first:
        session = json.loads((await received(first))[1:])["sid"]
        async with client.websocket(session) as second:
            await closed(second)
        await first.send("4a")
        assert await received(first) == "4a"


async def test_a_poll_that_is_pending_ends_at_once_with_a_noop_and_the_next_a_little_later(client):
    session = await client.open()
    request = await client.start("GET", client.query(session))
    await until(lambda: client.engine.opened[0].socket.poll is not None)
    async with client.probed(session):
        assert (await request.answer()).text == "6"
        before = asyncio.get_running_loop().time()
        assert (await client.poll(session)).text == "6"
        assert asyncio.get_running_loop().time() - before > 0.09


async def test_the_first_poll_after_the_probe_ends_at_once_too(client, monkeypatch):
    monkeypatch.setattr("hubbub.transports.engineio.socket.NOOP_EVERY", 3600.0)
    session = await client.open()
    async with client.probed(session):
        assert (await client.poll(session)).text == "6"


async def test_messages_during_the_probe_still_come_with_a_poll(client):
    session = await client.open()
    async with client.probed(session) as socket:
        client.engine.opened[0].socket.send("polled")
        assert (await client.poll(session)).text == "4polled"
        client.engine.opened[0].socket.send("later")
        await socket.send("5")
        assert await received(socket) == "4later"


async def test_who_changes_over_with_a_post_under_way_may_not(client):
    session = await client.open()
    request = await client.start("POST", client.query(session), b"4a", declared=4)
    await until(lambda: client.engine.opened[0].socket.post is not None)
    async with client.probed(session) as socket:
        await socket.send("5")
        await closed(socket)
    assert client.engine.opened[0].ends == []
    await request.leave()
    await until(lambda: client.engine.opened[0].ends)
    assert client.engine.opened[0].ends == ["transport error"]


async def test_a_session_that_ends_takes_its_probe_with_it(client):
    session = await client.open()
    async with client.probed(session) as socket:
        await client.post(session, "1")
        await closed(socket)
    assert client.engine.opened[0].ends == ["transport close"]


# The end


async def test_close_brings_first_what_waits(client):
    session = await client.open()
    echo = client.engine.opened[0]
    echo.socket.send(*map(str, range(16)), "last")
    echo.socket.close()
    echo.socket.send("too late")

    assert (await client.post(session, "4ignored")).text == "ok"
    assert (await client.poll(session)).text == "\x1e".join(f"4{number}" for number in range(16))
    assert (await client.poll(session)).text == "4last\x1e1"
    assert echo.ends == ["forced close"]
    assert echo.messages == []
    assert (await client.poll(session)).status == 400


async def test_close_ends_a_pending_poll(client):
    session = await client.open()
    echo = client.engine.opened[0]
    request = await client.start("GET", client.query(session))
    await until(lambda: echo.socket.poll is not None)

    echo.socket.send("bye")
    echo.socket.close()

    assert (await request.answer()).text == "4bye\x1e1"
    assert echo.ends == ["forced close"]


async def test_close_is_not_waited_for_without_end():
    engine = Engine(Settings(close_timeout=0.2))
    async with engine_client(engine) as client:
        await client.open()
        engine.opened[0].socket.close()
        assert engine.opened[0].ends == []
        await until(lambda: engine.opened[0].ends)
    assert engine.opened[0].ends == ["forced close"]


async def test_close_closes_the_websocket_after_what_waits(client):
    async with client.websocket() as socket:
        await received(socket)
        echo = client.engine.opened[0]
        echo.socket.send("bye")
        echo.socket.close()
        assert await received(socket) == "4bye"
        assert await closed(socket) == 1000
    await until(lambda: echo.ends)
    assert echo.ends == ["forced close"]


async def test_close_while_changing_over_closes_the_websocket(client):
    session = await client.open()
    async with client.probed(session) as socket:
        echo = client.engine.opened[0]
        echo.socket.send("bye")
        echo.socket.close()
        await socket.send("5")
        assert await received(socket) == "4bye"
        await closed(socket)
    await until(lambda: echo.ends)
    assert echo.ends == ["forced close"]


async def test_abort_ends_a_session_at_once(client):
    session = await client.open()
    echo = client.engine.opened[0]
    request = await client.start("GET", client.query(session))
    await until(lambda: echo.socket.poll is not None)

    echo.socket.abort()

    assert echo.ends == ["forced close"]
    assert (await request.answer()).text == "1"
    async with client.websocket() as socket:
        await received(socket)
        client.engine.opened[1].socket.abort()
        await closed(socket)


async def test_a_server_that_stops_ends_its_sessions():
    engine = Engine()
    async with engine_client(engine) as client:
        await client.open()
        request = await client.start("GET", client.query(engine.opened[0].socket.id))
        await until(lambda: engine.opened[0].socket.poll is not None)
        socket = await connect(f"{client.served.url}/engine.io/?EIO=4&transport=websocket", proxy=None)
        await received(socket)
        await engine.engine.stop()

        assert (await request.answer()).text == "1"
        await closed(socket)
        refused = await client.ask("GET", "EIO=4&transport=polling")
        assert (refused.status, refused.json["code"]) == (503, 4)
    assert [echo.ends for echo in engine.opened] == [["forced close"]] * 2
    assert engine.engine.sessions == {}


async def test_no_timer_is_left_when_all_sessions_have_ended(client):
    session = await client.open()
    async with client.websocket() as socket:
        await received(socket)
    await client.post(session, "1")
    await until(lambda: all(echo.ends for echo in client.engine.opened))
    schedule = client.engine.engine.schedule

    await until(lambda: len(schedule) == 0)
    assert schedule._timer is None


# Inside a host


async def test_middleware_that_wraps_requests_does_not_matter(engine):
    async def pass_on(request, call_next):
        return await call_next(request)

    host = Starlette(
        routes=[Mount("/", engine.engine)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)],
    )
    async with serving(host, settings=engine.settings) as served:
        client = Client(served, engine)
        session = await client.open()
        request = await client.start("GET", client.query(session))
        await until(lambda: engine.opened[0].socket.poll is not None)
        assert (await client.post(session, "4hello")).text == "ok"
        assert (await request.answer()).text == "4hello"
        async with client.probed(session) as socket:
            await socket.send("5")
            await socket.send("4more")
            assert await received(socket) == "4more"


# What serves a session


async def test_work_of_a_session_is_done_in_the_task_of_its_websocket():
    engine = Engine()
    done = []

    def opening(socket):
        echo = Engine.open(engine, socket)
        socket.run(work(len(engine.opened)))
        return echo

    async def work(number):
        done.append((number, asyncio.current_task().get_name()))

    engine.engine._on_open = opening
    async with engine_client(engine) as client:
        await client.open()
        async with client.websocket() as socket:
            await received(socket)
            await until(lambda: len(done) == 2)
            engine.opened[1].socket.run(work(3))
            await until(lambda: len(done) == 3)
    own = "hubbub: engine.io session"
    assert [number for number, name in done if name == own] == [1]


async def test_work_that_fails_is_logged(caplog):
    engine = Engine()

    async def fail():
        raise LookupError("oh no")

    async with engine_client(engine) as client:
        await client.open()
        engine.opened[0].socket.run(fail())
        await until(lambda: "oh no" in caplog.text)
