"""Clients that poll through a proxy that sends each request to another instance."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import engineio
import pytest

from hubbub import Settings
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.lines import LineRequest
from transports.balancer import balancer
from transports.engine_client import engine_client, received, until
from transports.engine_echo import Engine


@asynccontextmanager
async def two_instances(**settings):
    """Serve two, and return a client of each."""
    store = MemoryStore()
    applied = Settings(**settings)
    engines = [Engine(applied, broker=MemoryBroker(store, instance=name)) for name in ("one", "o.t/h er")]
    async with engine_client(engines[0]) as here, engine_client(engines[1]) as there:
        yield here, there


async def test_the_id_of_a_session_names_its_instance():
    async with two_instances() as (here, there):
        assert (await here.open()).startswith("one.")
        assert (await there.open()).startswith("o.t/h er.")


async def test_requests_to_another_instance_are_answered():
    async with two_instances() as (here, there):
        session = await here.open()

        sent = await there.post(session, "4hello\x1ebAQID")
        answer = await there.poll(session)

        assert (sent.status, sent.text, sent.headers["content-type"]) == (200, "ok", "text/html")
        assert (answer.status, answer.text) == (200, "4hello\x1ebAQID")
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert here.engine.opened[0].messages == ["hello", b"\x01\x02\x03"]


async def test_a_poll_waits_at_another_instance_for_all_of_one_turn():
    async with two_instances() as (here, there):
        session = await here.open()
        socket = here.engine.opened[0].socket
        request = await there.start("GET", there.query(session))
        await until(lambda: socket.poll is not None)

        socket.send("one")
        socket.send("two")

        assert (await request.answer()).text == "4one\x1e4two"


async def test_the_heartbeat_goes_there_too():
    async with two_instances(ping_interval=0.2, ping_timeout=0.2) as (here, there):
        session = await here.open()
        for _ in range(3):
            assert (await there.poll(session)).text == "2"
            assert (await there.post(session, "3")).text == "ok"
        await until(lambda: here.engine.opened[0].ends)
        assert (await there.poll(session)).json == {"code": 1, "message": "Session ID unknown"}
    assert here.engine.opened[0].ends == ["ping timeout"]


async def test_two_polls_at_two_instances_end_the_session():
    async with two_instances() as (here, there):
        session = await here.open()
        first = await there.start("GET", there.query(session))
        await until(lambda: here.engine.opened[0].socket.poll is not None)

        second = await here.poll(session)

        assert (await first.answer()).text == "1"
        assert second.status == 400
        assert here.engine.opened[0].ends == ["transport error"]


@pytest.mark.parametrize(("body", "status"), [("x", 400), ("4" + "x" * 3000, 413), ("1", 200)])
async def test_bodies_are_judged_as_if_they_came_to_the_right_one(body, status):
    async with two_instances(max_message=2000) as (here, there):
        session = await here.open()

        assert (await there.post(session, body)).status == status


async def test_who_has_changed_over_polls_no_more_there_either():
    async with two_instances() as (here, there):
        session = await here.open()
        async with here.probed(session) as socket:
            await socket.send("5")
            await socket.send("4a")
            assert await received(socket) == "4a"

            for answer in (await there.poll(session), await there.post(session, "4b")):
                assert (answer.status, answer.json) == (400, {"code": 3, "message": "Bad request"})


@pytest.mark.parametrize("session", ["nobody.0.0", "one.0.0", "one.", "...", "one"])
async def test_ids_that_are_nobodys_are_unknown(session):
    async with two_instances() as (_, there):
        assert (await there.poll(session)).json == {"code": 1, "message": "Session ID unknown"}
        assert (await there.post(session, "4a")).json == {"code": 1, "message": "Session ID unknown"}


async def test_a_wrong_secret_is_unknown():
    async with two_instances() as (here, there):
        session = await here.open()

        assert (await there.poll(session[:-1] + ("a" if session[-1] != "a" else "b"))).status == 400
        assert here.engine.opened[0].ends == []


async def test_python_engineio_polls_through_both_in_turn():
    async with two_instances() as (here, there), balancer(here.served.port, there.served.port) as port:
        received: list[str] = []
        http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        peer = engineio.AsyncClient(handle_sigint=False, http_session=http)
        peer.on("message", received.append)
        await peer.connect(f"http://127.0.0.1:{port}/", transports=["polling"])
        sent = [f"{number}" for number in range(200)]
        for message in sent:
            await peer.send(message)
            await asyncio.sleep(0)
        await until(lambda: len(received) == len(sent))
        await peer.disconnect()
        await http.close()

        assert received == sent


async def test_a_poll_that_an_instance_lets_go_of_as_it_stops_loses_nothing():
    async with two_instances() as (here, there):
        session = await here.open()
        socket = here.engine.opened[0].socket
        request = await there.start("GET", there.query(session))
        await until(lambda: socket.poll is not None)

        there.engine.hub.running.relay.leave()
        assert (await request.answer()).text == "6"
        # The client asks again, at an instance that goes on.
        socket.send("one")
        assert (await here.poll(session)).text == "4one"
        assert here.engine.opened[0].ends == []


async def test_nor_does_one_whose_answer_was_on_its_way_to_that_instance():
    async with two_instances() as (here, there):
        session = await here.open()
        socket = here.engine.opened[0].socket
        request = await there.start("GET", there.query(session))
        await until(lambda: socket.poll is not None)

        there.engine.hub.running.relay.leave()
        socket.send("one")
        got = (await request.answer()).text
        if got == "6":
            got = (await here.poll(session)).text
        assert got == "4one"
        assert here.engine.opened[0].ends == []


async def test_a_client_that_leaves_its_poll_at_another_instance_is_gone_at_once():
    async with two_instances() as (here, there):
        session = await here.open()
        socket = here.engine.opened[0].socket
        request = await there.start("GET", there.query(session))
        await until(lambda: socket.poll is not None)

        await request.leave()
        await until(lambda: here.engine.opened[0].ends)
        assert here.engine.opened[0].ends == ["transport close"]


async def test_a_poll_that_is_given_up_before_it_comes_is_answered_and_takes_nothing():
    async with two_instances() as (here, there):
        session = await here.open()
        socket = here.engine.opened[0].socket
        socket.send("one")
        assert (await there.poll(session)).text == "4one"
        socket.send("two")
        lines = there.engine.hub.lines
        for kind in ("give_up", "poll"):
            assert (await lines.ask(LineRequest(kind, session, 7))).body == b"6"
        assert (await there.poll(session)).text == "4two"


@pytest.mark.parametrize(
    ("headers", "body"), [((), b"4\xff"), (("Content-Type: application/octet-stream",), b"4a")]
)
async def test_what_is_no_text_ends_the_session_there_too(headers, body):
    async with two_instances() as (here, there):
        session = await here.open()

        answer = await there.post(session, body, *headers)

        assert (answer.status, answer.json) == (400, {"code": 3, "message": "Bad request"})
        await until(lambda: here.engine.opened[0].ends)


async def test_a_body_that_breaks_off_ends_the_session_there_too():
    async with two_instances() as (here, there):
        session = await here.open()
        request = await there.start("POST", there.query(session), b"4a", declared=10)
        await request.leave()
        await until(lambda: here.engine.opened[0].ends)
