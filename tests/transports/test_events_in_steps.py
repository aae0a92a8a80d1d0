"""An application's events step by step, without a socket: what waits for it, what it can send no more."""

import asyncio
from collections.abc import Sequence

import pytest

from fake_transport import FakeTransport
from hubbub import Settings
from hubbub.engine.transport import Ending
from hubbub.transports.events import MAX_WAITING, Events

pytestmark = pytest.mark.anyio

ARRIVES_WITHIN = 10.0


class Opening(FakeTransport):
    """A fake line whose handshake is still open."""

    def open(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.asked.append("open")

    def refuse(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        self.asked.append(status)


class Line:
    """A connection's events."""

    def __init__(self, settings: Settings) -> None:
        self.transport = Opening()
        self.events = Events(self.transport, settings.max_message, settings, None)
        self.transport.listener = self.events

    async def accept(self) -> None:
        assert await self.events.receive() == {"type": "websocket.connect"}
        await self.events.send({"type": "websocket.accept"})
        self.transport.asked.clear()


@pytest.fixture
async def line():
    line = Line(Settings(max_inbox_bytes=1000))
    yield line
    line.events.ended(Ending())


async def test_so_many_messages_wait_and_no_more(line):
    await line.accept()
    taken = [line.events.received("") for _ in range(MAX_WAITING)]
    assert taken == [True] * (MAX_WAITING - 1) + [False]
    assert line.transport.asked == ["pause_reading"]


@pytest.mark.parametrize("content", ["x" * 400, b"x" * 400], ids=["text", "bytes"])
async def test_so_many_bytes_wait_and_no_more(line, content):
    await line.accept()
    assert [line.events.received(content) for _ in range(3)] == [True, True, False]
    assert line.transport.asked == ["pause_reading"]


async def test_silence_is_the_client_s_where_it_takes_nothing_or_is_read_from(line):
    await line.accept()
    assert line.events.listens()
    while line.events.received(b"x" * 400):
        pass
    assert not line.events.listens(), "the application is behind"
    signs = line.events.signs
    line.events.pause_writing()
    assert line.events.listens(), "the client takes nothing, so that the application waits for it"
    line.events.resume_writing()
    assert line.events.signs > signs, "it took something"
    assert not line.events.listens()


async def test_what_was_received_counts_no_more(line):
    await line.accept()
    for _ in range(2):
        assert [line.events.received(b"x" * 400) for _ in range(3)] == [True, True, False]
        for _ in range(3):
            await line.events.receive()
        assert line.transport.asked == ["pause_reading", "resume_reading"]
        line.transport.asked.clear()
    # Never empty, never full: what has been received in between is no reason to wait.
    assert line.events.received(b"x" * 400)
    for _ in range(10):
        assert line.events.received(b"x" * 400)
        await line.events.receive()


@pytest.mark.parametrize("closes", [Events.silent, Events.shut_down])
async def test_a_send_after_the_server_has_closed_is_to_a_client_that_is_gone(line, closes):
    await line.accept()
    closes(line.events)
    for message in ({"type": "websocket.send", "text": "late"}, {"type": "websocket.close"}):
        with pytest.raises(OSError, match="gone"):
            await line.events.send(message)


async def test_an_accept_after_the_server_has_refused_is_of_a_client_that_is_gone(line):
    line.events.shut_down()
    assert line.transport.asked == [503]
    with pytest.raises(OSError, match="gone"):
        await line.events.send({"type": "websocket.accept"})


@pytest.mark.parametrize("ends", [Events.silent, Events.shut_down, Events.failing])
async def test_a_send_that_waits_for_a_slow_client_ends_with_the_server_s_close(line, ends):
    await line.accept()
    line.events.pause_writing()
    sending = asyncio.create_task(line.events.send({"type": "websocket.send", "text": "late"}))
    await asyncio.sleep(0)  # its first step: now it waits
    ends(line.events)
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(sending, ARRIVES_WITHIN)
    assert line.transport.written == []
