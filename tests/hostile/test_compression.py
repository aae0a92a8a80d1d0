"""Hostile compression (RFC 7692) on the native path: bombs, and what only looks like a compressed message."""

import random
import zlib

import pytest

from conftest import Serve, Served
from hostile.compressing import COMPRESSED, OFFER, deflated
from hubbub import Connection, Hubbub, Settings
from transports.raw import CONTINUATION, FIN, TEXT, UPGRADE, Line, Response, dial, masked, request, text

LIMIT = 1_048_576


@pytest.fixture
def served(serve: Serve) -> Served:
    hub = Hubbub(Settings(max_message=LIMIT))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(f"{len(message)}")

    return serve(hub)


def open_line(served: Served, offer: str = OFFER, agreed: bool = True) -> Line:
    line = dial(served)
    response = line.open("/echo", [offer])
    assert ("sec-websocket-extensions" in response.headers) is agreed, response.headers
    return line


BOMB = deflated(bytes(100 * LIMIT))
"""A hundred megabytes in a hundred kilobytes."""


def test_a_bomb_is_stopped_at_the_limit(served: Served) -> None:
    """websockets' CVE-2018-1000518: judged before, not while inflating. Also aiohttp's CVE-2025-69223."""
    with open_line(served) as line:
        line.send(masked(FIN | COMPRESSED | TEXT, BOMB))
        assert line.close_frame()[0] == 1009


def test_a_bomb_in_fragments_is_stopped_at_the_limit(served: Served) -> None:
    with open_line(served) as line:
        line.send(masked(COMPRESSED | TEXT, BOMB[:1000]))
        for start in range(1000, 20_000, 1000):
            line.send(masked(CONTINUATION, BOMB[start : start + 1000]))
        assert line.close_frame()[0] == 1009


def test_a_bomb_that_is_not_finished_is_stopped_too(served: Served) -> None:
    """What has come of a frame is judged, not only what is whole."""
    with open_line(served) as line:
        line.send(masked(FIN | COMPRESSED | TEXT, BOMB[:5000], declared=len(BOMB)))
        assert line.close_frame()[0] == 1009


def test_many_empty_blocks_are_not_inflated_for_ever(served: Served) -> None:
    """A deflate stream of blocks that hold nothing: input without output."""
    empty = b"\x00\x00\x00\xff\xff" * 150_000
    with open_line(served) as line:
        line.send(masked(FIN | COMPRESSED | TEXT, empty + deflated(b"end")))
        assert line.message() == "3"


def test_exactly_the_limit_passes_and_one_byte_more_does_not(served: Served) -> None:
    with open_line(served) as line:
        line.send(masked(FIN | COMPRESSED | TEXT, deflated(bytes(LIMIT))))
        assert line.message() == f"{LIMIT}"
        line.send(masked(FIN | COMPRESSED | TEXT, deflated(bytes(LIMIT + 1))))
        assert line.close_frame()[0] == 1009


@pytest.mark.parametrize("opcode", [FIN | COMPRESSED | TEXT, FIN | COMPRESSED | 0x9, FIN | COMPRESSED | 0x8])
def test_what_was_not_agreed_to_is_not_inflated(serve: Serve, opcode: int) -> None:
    """aiohttp's CVE-2026-59881: a compressed frame where no compression was negotiated."""
    hub = Hubbub(Settings(compression=False))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        await connection.recv()

    with open_line(serve(hub), agreed=False) as line:
        line.send(masked(opcode, deflated(b"x")))
        assert line.close_frame()[0] == 1002


def test_a_continuation_is_not_compressed_by_itself(served: Served) -> None:
    with open_line(served) as line:
        line.send(masked(TEXT, b"a") + masked(FIN | COMPRESSED | CONTINUATION, deflated(b"b")))
        assert line.close_frame()[0] == 1002


GARBAGE = {
    "a reserved block": b"\x07",
    "a distance before the beginning": b"\x4b\x04\x12\x00\x00",
    "stored bytes whose length is a lie": b"\x00\x05\x00\x00\x00hello",
    "half of a stream": deflated(random.Random(1).randbytes(500))[:100],
    "noise": random.Random(2).randbytes(1000),
    "gzip": zlib.compress(b"x" * 100, wbits=31),
    "zlib": zlib.compress(b"x" * 100),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_what_can_not_be_inflated_ends_its_own_connection_only(served: Served, data: bytes) -> None:
    with open_line(served) as line, open_line(served) as other:
        line.send(masked(FIN | COMPRESSED | TEXT, data))
        assert line.close_frame()[0] in (1002, 1007)
        other.send(masked(FIN | COMPRESSED | TEXT, deflated(b"fine")))
        assert other.message() == "4"


@pytest.mark.parametrize(
    "parameters",
    [
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=99999999999999999999",
        "; server_max_window_bits=-9",
        "; server_max_window_bits=08",
        "; server_max_window_bits",
        "; client_max_window_bits=0",
        "; client_max_window_bits=15; client_max_window_bits=15",
        "; server_no_context_takeover=1",
        "; server_no_context_takeover; server_no_context_takeover",
        "; made_up=1",
        '; server_max_window_bits="',
    ],
)
def test_parameters_that_are_none_are_declined_and_break_nothing(served: Served, parameters: str) -> None:
    """undici's CVE-2026-2229: a window that zlib refuses, and an exception that ends the process."""
    with dial(served) as line:
        response = _answer(line, OFFER + parameters)
        if response.status == 101:
            assert "sec-websocket-extensions" not in response.headers
            line.send(text("plain"))
            assert line.message() == "5"
        else:
            assert response.status == 400


def _answer(line: Line, header: str) -> Response:
    line.send(request("/echo", *UPGRADE, header))
    return line.response()


def test_offers_without_end_are_read_once(served: Served) -> None:
    """Tornado's CVE-2025-67726, ws's CVE-2021-32640: parameters, each looked for in all the rest."""
    offers = "permessage-deflate; server_max_window_bits=7, " * 300
    quotes = 'permessage-deflate; a="' + '\\"' * 5_000
    with dial(served) as line:
        assert _answer(line, f"Sec-WebSocket-Extensions: {offers}x").status == 101
    with dial(served) as line:
        assert _answer(line, f"Sec-WebSocket-Extensions: {quotes}").status == 400
