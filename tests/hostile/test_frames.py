"""Hostile frames: lengths that lie, messages without end, floods of what is no message.

What RFC 6455 itself forbids is in tests/transports/test_violations.py. On the plain ASGI path frames are the
affair of the server's WebSocket library; the tests that name its answer run over both.
"""

import tracemalloc
from collections.abc import Iterator

import pytest

from conftest import Serve, Served, serving
from hubbub import Connection, Hubbub, Settings
from hubbub.protocol.frames import Assembler
from transports.raw import BINARY, CONTINUATION, FIN, PING, PONG, TEXT, Line, closing, dial, masked, text

LIMIT = 65_536


def echoing(settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings)

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    return hub


@pytest.fixture(scope="module", params=["native", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving() as serve:
        yield serve(echoing(Settings(max_message=LIMIT)), native=request.param == "native")


def others_are_served(served: Served) -> None:
    with dial(served, "/echo") as line:
        line.send(text("others"))
        assert line.message() == "others"
        line.send(closing(1000))
        assert line.close_frame()[0] == 1000


@pytest.mark.parametrize("declared", [2**63 - 1, 2**63 - 2, 2**62, 2**32, LIMIT], ids=hex)
@pytest.mark.parametrize("before", [1, LIMIT // 2])
def test_a_length_behind_a_fragment_does_not_overflow_the_sum(
    served: Served, before: int, declared: int
) -> None:
    """aiohttp's PYSEC-2026-4395: a fragment, then a length near 2**63; the sum is negative, below any limit.

    Also daphne's CVE-2026-44545, ws's CVE-2016-10542: no limit, or one of a hundred megabytes.
    """
    with dial(served, "/echo") as line:
        line.send(masked(BINARY, b"x" * before))
        line.send(masked(FIN | CONTINUATION, declared=declared))
        assert line.close_frame()[0] == 1009
    others_are_served(served)


@pytest.mark.parametrize("declared", [2**63, 2**64 - 1], ids=hex)
def test_a_length_of_64_bits_is_refused(served: Served, declared: int) -> None:
    """RFC 6455 section 5.2: the most significant bit has to be 0."""
    with dial(served, "/echo") as line:
        line.send(masked(FIN | BINARY, declared=declared))
        assert line.close_frame()[0] in (1002, 1009)
    others_are_served(served)


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["ping", "pong"])
def test_a_control_frame_that_declares_much_is_refused_before_it_brings_it(
    served: Served, opcode: int
) -> None:
    """aiohttp's PYSEC-2026-2108: large frames that never become whole, past the limits."""
    with dial(served, "/echo") as line:
        line.send(masked(FIN | opcode, declared=2**40))
        assert line.close_frame()[0] in (1002, 1009)


def test_a_frame_that_never_becomes_whole_costs_no_more_than_it_brought(served: Served) -> None:
    """aiohttp's PYSEC-2026-2108: what is announced is judged; nothing is set aside for it."""
    waiting = []
    try:
        for _ in range(20):
            line = dial(served, "/echo")
            waiting.append(line)
            line.send(masked(FIN | BINARY, b"x", declared=LIMIT))
        others_are_served(served)
    finally:
        for line in waiting:
            line.socket.close()


HALF = masked(BINARY, b"x" * (LIMIT // 2))
NEVER_WHOLE = {
    "a first fragment": masked(BINARY, b"x", declared=LIMIT + 1),
    "another fragment": HALF + masked(CONTINUATION, b"x", declared=LIMIT // 2 + 1),
    "a fragment behind many": HALF + masked(CONTINUATION, b"x" * 100) * 1000,
    "fragments of nothing": masked(BINARY) + masked(CONTINUATION) * Settings().max_fragments,
}


@pytest.mark.parametrize("frames", NEVER_WHOLE.values(), ids=NEVER_WHOLE)
def test_a_message_that_never_becomes_whole_is_refused_once_it_is_over_a_limit(
    served: Served, frames: bytes
) -> None:
    """aiohttp's PYSEC-2026-2108: none of these has a last frame, and most not even the whole of one."""
    with dial(served, "/echo") as line:
        line.send(frames)
        assert line.close_frame()[0] == 1009


def test_nothing_is_set_aside_for_what_a_frame_announces() -> None:
    """aiohttp's PYSEC-2026-2108."""
    announced = 2**30
    assembler = Assembler(4096, compression=False)
    tracemalloc.start()
    try:
        assembler.receive(masked(FIN | BINARY, b"x", declared=announced), 0, announced, _refuse)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < announced // 1000


def test_a_frame_that_comes_byte_by_byte_takes_no_more_memory_than_its_bytes() -> None:
    """aiohttp's PYSEC-2026-4389: an object for each read, many times what it holds."""
    size = 200_000
    frame = masked(BINARY, b"x" * size)
    assembler = Assembler(4096, compression=False)
    tracemalloc.start()
    try:
        for position in range(len(frame)):
            assembler.receive(frame[position : position + 1], 0, size, _refuse)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * size


def test_fragments_of_one_byte_take_no_more_memory_than_their_bytes() -> None:
    """ws's CVE-2026-48779 and CVE-2026-62389: an object for each fragment, in a message that never ends."""
    fragments = 100_000
    assembler = Assembler(fragments, compression=False)
    assembler.receive(masked(BINARY, b"x"), 0, fragments, _refuse)
    tracemalloc.start()
    try:
        for _ in range(fragments - 1):
            assembler.receive(masked(CONTINUATION, b"x"), 0, fragments, _refuse)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * fragments


def _refuse(message: str | bytes) -> bool:
    raise AssertionError("no message is whole here")


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "of one byte"])
def test_a_message_in_more_fragments_than_allowed_is_closed_with_1009(serve: Serve, content: bytes) -> None:
    """ws's CVE-2026-62389: fragments whose number has no limit, or one that only the last one meets."""
    served = serve(echoing(Settings(max_fragments=100)))
    allowed = masked(TEXT, content) + masked(CONTINUATION, content) * 98 + masked(FIN | CONTINUATION, content)
    with dial(served, "/echo") as line:
        line.send(allowed)
        assert line.message() == content.decode() * 100
        line.send(masked(TEXT, content) + masked(CONTINUATION, content) * 99)
        line.send(masked(CONTINUATION, content))
        assert line.close_frame()[0] == 1009
        assert line.rest() == b""
    others_are_served(served)


def test_pings_are_no_fragments(serve: Serve) -> None:
    """Control frames within a message make it no longer, and no larger."""
    with dial(serve(echoing(Settings(max_fragments=3, max_message=125))), "/echo") as line:
        for part in (masked(TEXT, b"a"), masked(CONTINUATION, b"b"), masked(FIN | CONTINUATION, b"c")):
            line.send(masked(FIN | PING, b"p" * 125) * 5 + part)
        assert [line.frame() for _ in range(15)] == [(FIN | PONG, b"p" * 125)] * 15
        assert line.message() == "abc"


def test_a_pong_echoes_its_ping_and_nothing_else(served: Served) -> None:
    """ws's CVE-2016-10518: a ping that is answered with memory of the server."""
    with dial(served, "/echo") as line:
        for payload in (b"", b"\x00", b"100", b"\xff" * 125, b"1e9"):
            line.send(masked(FIN | PING, payload))
            assert line.frame() == (FIN | PONG, payload)


CRASHES = {
    "a reserved bit 2": masked(FIN | 0x20 | TEXT, b"x"),
    "a reserved bit 3": masked(FIN | 0x10 | TEXT, b"x"),
    "an empty close code": masked(FIN | 0x8, b"\x00"),
    "nothing but noise": b"\x00\xff" * 1000,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "another handshake": b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("data", CRASHES.values(), ids=CRASHES)
def test_a_frame_that_is_none_ends_its_own_connection_only(served: Served, data: bytes) -> None:
    """engine.io's CVE-2022-21676 and CVE-2022-41940, ws's CVE-2024-37890: one bad frame or request, and the
    whole process ends by an exception that nobody catches."""
    with dial(served, "/echo") as other, dial(served, "/echo") as line:
        line.send(data)
        assert line.close_frame()[0] in (1002, 1009)
        other.send(text("still here"))
        assert other.message() == "still here"


def test_a_connection_that_is_only_cut_off_leaves_nothing(served: Served) -> None:
    """engine.io's CVE-2022-41940: a line that is reset in the middle of anything."""
    parts = [
        b"",
        text("x")[:3],
        masked(TEXT, b"x"),
        masked(FIN | BINARY, b"x" * 1000, declared=LIMIT),
        closing(1000)[:4],
    ]
    for part in parts:
        line: Line = dial(served, "/echo")
        line.send(part)
        line.vanish()
    others_are_served(served)
