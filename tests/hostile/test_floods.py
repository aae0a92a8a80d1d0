"""Floods: more messages, control frames and handshakes than anybody needs."""

import asyncio

import pytest

from conftest import Serve
from echo import Say, echo_hub
from hostile.compressing import COMPRESSED, OFFER, deflated
from hubbub import Connection, Hubbub, Settings
from told import Gate, Told
from transports.raw import CLOSE, FIN, PING, PONG, TEXT, UPGRADE, dial, masked, request, text
from wire import talk

SLOW = {"max_message_rate": 0.001, "max_message_burst": 20}
"""So slow that nothing is earned while a test runs."""


async def test_messages_past_the_rate_end_the_connection_and_no_other(start: Serve) -> None:
    """A client that keeps the server at work, with messages that are refused as well as with others."""
    url = start(echo_hub(Settings(**SLOW))).url
    async with talk(url) as other, talk(url) as client:
        for _ in range(21):
            await client.websocket.send("nonsense")
        assert (await client.closed())[0] == 4529
        assert (await other.ask(type="say", data={"text": "x"}))["type"] == "$ack"


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["pings", "pongs"])
def test_control_frames_past_the_rate_end_the_connection(start: Serve, opcode: int) -> None:
    """Frames that no handler sees cost work too. Another ASGI server sees to them, or does not."""
    with dial(start(echo_hub(Settings(**SLOW))), "/") as line:
        assert b"$welcome" in line.message().encode()
        line.send(masked(FIN | opcode, b"x") * 21)
        while (frame := line.frame())[0] == FIN | PONG:
            assert frame == (FIN | PONG, b"x")
        assert frame[1].startswith(b"\x11\xb1"), frame  # 4529


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["pings", "pongs"])
async def test_what_came_before_control_frames_past_the_rate_is_handled(start: Serve, opcode: int) -> None:
    hub, told = Hubbub(Settings(**SLOW)), Told()

    @hub.on_message
    def say(message: Say) -> None:
        told(message.text)

    with dial(start(hub), "/") as line:
        assert b"$welcome" in line.message().encode()
        line.send(text('{"type": "say", "data": {"text": "first"}}') + masked(FIN | opcode) * 21)
        assert await told.next() == "first"
        while (frame := line.frame())[0] != FIN | CLOSE:
            pass
        assert frame[1].startswith(b"\x11\xb1"), frame  # 4529


def test_pings_within_the_rate_end_no_connection(start: Serve) -> None:
    with dial(start(echo_hub(Settings(**SLOW))), "/") as line:
        assert b"$welcome" in line.message().encode()
        for number in range(19):
            line.send(masked(FIN | PING, b"%d" % number))
            assert line.frame() == (FIN | PONG, b"%d" % number)
        line.send(text('{"type": "say", "id": 1, "data": {"text": "x"}}'))
        assert b"$ack" in line.message().encode()


async def test_small_frames_that_become_large_messages_wait_in_the_socket(serve: Serve) -> None:
    """aiohttp's PYSEC-2026-4400: the reader is told to pause, and goes on with all it has read already."""
    hub, told, gate = Hubbub(), Told(), Gate()

    @hub.endpoint("/echo")
    async def keep_waiting(connection: Connection) -> None:
        while connection.reading:  # noqa: ASYNC110  # what is read has no event
            await asyncio.sleep(0)
        told(connection.messages_in)
        await gate.passed()
        for _ in range(30):
            told(len(await connection.recv()))

    bomb = masked(FIN | COMPRESSED | TEXT, deflated(bytes(1_000_000)))
    with dial(serve(hub)) as line:
        line.open("/echo", [OFFER])
        line.send(bomb * 30)
        try:
            assert await told.next() <= 3  # the first, and as many behind it as may wait
        finally:
            gate.open()
        assert [await told.next() for _ in range(30)] == [1_000_000] * 30


def test_handshakes_in_one_go_are_one_handshake(start: Serve) -> None:
    """Whoever asks for many WebSockets on one line gets one, or none."""
    with dial(start(echo_hub())) as line:
        line.send(request("/", *UPGRADE) * 20)
        answer = line.rest()
        assert answer.count(b"HTTP/1.1 101 ") <= 1
