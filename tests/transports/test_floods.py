"""Floods of tiny frames: each connection's turn of the event loop is bounded, and so is what waits."""

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from websockets.frames import Frame

from hubbub import Connection, Hubbub, Settings
from hubbub.protocol.frames import Assembler
from hubbub.transports import native
from hubbub.transports.native import FRAMES_PER_TURN
from hubbub.transports.uvicorn import LimitedProtocol
from transports.raw import BINARY, CONTINUATION, FIN, PING, PONG, TEXT, closing, dial, masked, text

ARRIVES_WITHIN = 20.0

UNLIMITED = Settings(max_message_rate=1e9, max_message_burst=10**9)
"""What is tested here has to hold before any rate is exceeded."""


class Turns:
    """Counts what happens in each turn of the event loop."""

    def __init__(self) -> None:
        self.now = 0
        self.counts: Counter[int] = Counter()

    async def run(self) -> None:
        while True:
            self.now += 1
            await asyncio.sleep(0)

    def count(self, times: int = 1) -> None:
        self.counts[self.now] += times

    @property
    def most(self) -> int:
        return max(self.counts.values())


@pytest.fixture
def turns():
    return Turns()


def counting(turns: Turns) -> Hubbub:
    """A hub whose endpoint counts messages by the turn in which they are received, and answers the last."""
    hub = Hubbub(UNLIMITED)

    @hub.endpoint("/count")
    async def count(connection: Connection) -> None:
        ticking = asyncio.create_task(turns.run())
        try:
            async for message in connection:
                turns.count()
                if message == "last":
                    await connection.send("all there")
        finally:
            ticking.cancel()

    return hub


def test_a_flood_of_messages_gives_others_a_turn(start, turns):
    with dial(start(counting(turns)), "/count") as line:
        line.send(text("x") * 50_000 + text("last"))
        assert line.message() == "all there"
    assert turns.counts.total() == 50_001
    # The inbox holds 64, and is filled again when it is half empty.
    assert turns.most <= 4 * UNLIMITED.max_inbox


@pytest.mark.parametrize(
    "flood",
    [
        masked(FIN | PING, b"x") * 20_000,
        masked(FIN | PONG) * 20_000,
        (masked(TEXT) + masked(FIN | PING) * 4000 + masked(FIN | CONTINUATION)) * 5,
    ],
    ids=["pings", "pongs", "pings within messages"],
)
def test_a_flood_of_control_frames_gives_others_a_turn(start, turns, monkeypatch, flood):
    heard_from = Connection.heard_from

    def counted(self: Connection, control_frames: int = 0) -> None:
        turns.count(control_frames)
        heard_from(self, control_frames)

    monkeypatch.setattr(Connection, "heard_from", counted)
    with dial(start(counting(turns)), "/count") as line:
        line.send(flood + text("last"))
        while line.frame()[0] != FIN | TEXT:
            pass
    assert turns.counts.total() >= 20_000
    assert turns.most <= 4 * FRAMES_PER_TURN


FRAGMENTED = masked(TEXT) + masked(CONTINUATION) * 4094 + masked(FIN | CONTINUATION)


@pytest.fixture
def at_fragments(monkeypatch) -> list[Callable[[], None]]:
    """What is called with each fragment that the server reads, over either transport."""
    called: list[Callable[[], None]] = []
    begin, go_on = Assembler._begin, LimitedProtocol.handle_cont

    def begun(self: Assembler, first: int, length: int, limit: int) -> None:
        called[0]()
        begin(self, first, length, limit)

    def gone_on(self: LimitedProtocol, event: Frame) -> None:
        called[0]()
        go_on(self, event)

    monkeypatch.setattr(Assembler, "_begin", begun)
    monkeypatch.setattr(LimitedProtocol, "handle_cont", gone_on)
    return called


def test_a_flood_of_fragments_gives_others_a_turn(start, turns, at_fragments):
    at_fragments.append(turns.count)
    with dial(start(counting(turns)), "/count") as line:
        line.send(FRAGMENTED * 4 + text("last"))
        assert line.message() == "all there"
    assert turns.counts.total() >= 4 * 4095
    assert turns.most <= 4 * FRAMES_PER_TURN


def test_a_ping_is_answered_while_a_flood_of_fragments_comes(start, monkeypatch, at_fragments):
    read, told, gate = [], queue.Queue(), threading.Event()

    def held_up() -> None:
        read.append(len(read))
        if len(read) == 2:  # the whole server, until all that matters is in its sockets
            told.put("flooded")
            assert gate.wait(ARRIVES_WITHIN)

    heard_from = Connection.heard_from

    def heard(self: Connection, control_frames: int = 0) -> None:
        if control_frames:
            told.put(len(read))
        heard_from(self, control_frames)

    at_fragments.append(held_up)
    monkeypatch.setattr(Connection, "heard_from", heard)
    served = start(counting(Turns()))
    with dial(served, "/count") as bystander, dial(served, "/count") as line:
        line.send(masked(TEXT) + masked(CONTINUATION) * 2)
        assert told.get(timeout=ARRIVES_WITHIN) == "flooded"
        line.send(masked(CONTINUATION) * 4000 + masked(FIN | CONTINUATION) + FRAGMENTED * 3)
        bystander.send(masked(FIN | PING, b"here"))
        gate.set()
        assert bystander.frame() == (FIN | PONG, b"here")
        assert told.get(timeout=ARRIVES_WITHIN) <= 4 * FRAMES_PER_TURN


def test_a_flood_that_follows_the_server_s_close_gives_others_a_turn(start, turns, monkeypatch):
    ignore, take = native._ignore, LimitedProtocol.handle_text

    def counted(message: str | bytes, more: bool) -> bool:
        turns.count()
        return ignore(message, more)

    def taken(self: LimitedProtocol, event: Frame) -> None:
        turns.count()
        take(self, event)

    monkeypatch.setattr(native, "_ignore", counted)
    monkeypatch.setattr(LimitedProtocol, "handle_text", taken)
    hub, done = Hubbub(UNLIMITED), threading.Event()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        ticking = asyncio.create_task(turns.run())
        await connection.close(4000)
        await asyncio.to_thread(done.wait, ARRIVES_WITHIN)  # ASGI does not tell the client's part of it
        ticking.cancel()

    with dial(start(hub), "/close") as line:
        assert line.close_frame()[0] == 4000
        line.send(text("late") * 20_000 + closing(4000))
        assert line.rest() == b""
    done.set()
    assert turns.counts.total() == 20_000
    assert turns.most <= 8 * FRAMES_PER_TURN


def test_every_ping_of_a_flood_is_answered_in_its_order_as_long_as_the_client_reads(start):
    with dial(start(counting(Turns())), "/count") as line:
        pings = (masked(FIN | PING, b"%d" % number) for number in range(1000))
        line.send(b"".join((*pings, closing(4000))))
        assert [line.frame() for _ in range(1000)] == [(FIN | PONG, b"%d" % number) for number in range(1000)]
        assert line.close_frame()[0] == 4000


def test_pongs_do_not_pile_up_for_a_client_that_does_not_read(start):
    hub, seen = Hubbub(UNLIMITED), queue.Queue()

    @hub.endpoint("/quiet")
    async def quiet(connection: Connection) -> None:
        seen.put(await connection.recv())

    served = start(hub)
    with dial(served, receive_buffer=4096) as line:
        line.open("/quiet")
        # The pongs are more than the kernel's buffers take, by far.
        ping = masked(FIN | PING, b"x" * 125)
        waiting = []
        for _ in range(40):
            line.send(ping * 4000)
            (protocol,) = served.server.server_state.connections
            socket = getattr(protocol, "transport", None) or protocol._socket
            waiting.append(socket.get_write_buffer_size())
        line.send(text("there"))
        assert seen.get(timeout=ARRIVES_WITHIN) == "there"
        assert max(waiting) < 1 << 18


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_message_may_have_so_many_fragments_and_no_more(start, content):
    hub = Hubbub(Settings(max_fragments=100))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with dial(start(hub)) as line:
        line.open()
        message = masked(BINARY, content) + masked(CONTINUATION, content) * 98
        line.send(message + masked(FIN | CONTINUATION, content))
        assert line.message() == content * 100
        line.send(message + masked(CONTINUATION, content) * 2)
        assert line.close_frame() == (1009, "over the limit of 100 fragments")
        assert line.rest() == b""
