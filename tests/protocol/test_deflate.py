"""permessage-deflate: what is agreed to, and that any other implementation reads what was compressed."""

import os
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidHandshake, NegotiationError
from websockets.headers import parse_extension

from hubbub.protocol.deflate import MAX_ENDINGS, Deflate, Inflater, TooLarge, compress, inflate

patiently = settings(deadline=None)

TAIL = b"\x00\x00\xff\xff"
BOTH = "server_no_context_takeover; client_no_context_takeover"
EMPTY_FINAL_BLOCK = b"\x03\x00"


def judge(offer: str) -> tuple[str, int]:
    """Return the answer to one offer's parameters, as text, and the window for messages to the client."""
    ((_, params),) = parse_extension(f"permessage-deflate{offer}")
    answer, agreement = Deflate().process_request_params(params, [])
    return "; ".join(name if value is None else f"{name}={value}" for name, value in answer), (
        agreement.window_bits
    )


@pytest.mark.parametrize(
    ("offer", "answer", "bits"),
    [
        ("", BOTH, 15),
        ("; client_max_window_bits", BOTH, 15),
        ("; client_max_window_bits=8", BOTH, 15),
        ("; client_max_window_bits=15", BOTH, 15),
        ("; server_no_context_takeover", BOTH, 15),
        ("; client_no_context_takeover", BOTH, 15),
        ("; client_no_context_takeover; server_no_context_takeover", BOTH, 15),
        *((f"; server_max_window_bits={n}", f"{BOTH}; server_max_window_bits={n}", n) for n in range(8, 16)),
        ('; server_max_window_bits="10"', f"{BOTH}; server_max_window_bits=10", 10),
        ("; server_max_window_bits=9; client_max_window_bits", f"{BOTH}; server_max_window_bits=9", 9),
    ],
)
def test_what_rfc_7692_allows_is_agreed_to_without_context_takeover(offer, answer, bits):
    assert judge(offer) == (answer, bits)


@pytest.mark.parametrize(
    "offer",
    [
        "; server_max_window_bits",
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=08",
        "; server_max_window_bits=+9",
        "; server_max_window_bits=9.0",
        "; server_max_window_bits=ten",
        "; client_max_window_bits=7",
        "; client_max_window_bits=16",
        "; client_max_window_bits=010",
        "; server_no_context_takeover=1",
        "; client_no_context_takeover=true",
        "; server_no_context_takeover; server_no_context_takeover",
        "; client_no_context_takeover; client_no_context_takeover",
        "; server_max_window_bits=10; server_max_window_bits=10",
        "; client_max_window_bits; client_max_window_bits=10",
        "; Server_No_Context_Takeover",
        "; unknown",
        "; unknown=1",
    ],
)
def test_an_offer_with_anything_else_is_declined(offer):
    with pytest.raises(NegotiationError):
        judge(offer)


def test_a_second_extension_that_compresses_is_declined():
    with pytest.raises(InvalidHandshake):
        Deflate().process_request_params([], [Deflate().process_request_params([], [])[1]])


# Out


def through_window(data: bytes, bits: int) -> bytes:
    """Inflate in a window of exactly this size: byte for byte, so that zlib can't look further back."""
    inflater = zlib.decompressobj(-bits)
    message, rest = b"", data + TAIL
    while rest or inflater.unconsumed_tail:
        step = inflater.decompress(inflater.unconsumed_tail or rest[:1], 1)
        if not inflater.unconsumed_tail:
            rest = rest[1:]
        message += step
    while step := inflater.decompress(b"", 1):
        message += step
    return message


REPEATING = os.urandom(200) + b"a" * 600
# What is far back is worth referring to, and must not be where the window is small.
PAYLOADS = [b"", b"x", b"x" * 5000, os.urandom(3000), (REPEATING + os.urandom(4000)) * 2 + REPEATING]


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("payload", PAYLOADS, ids=["empty", "x", "run", "random", "far back"])
def test_a_message_is_inflated_in_the_window_that_was_agreed(payload, bits):
    assert through_window(compress(payload, bits), bits) == payload


@patiently
@given(st.lists(st.binary(max_size=500), min_size=1, max_size=5), st.integers(8, 15))
def test_each_message_stands_by_itself(payloads, bits):
    for payload in payloads:
        data = compress(payload, bits)
        assert data == compress(payload, bits)
        assert zlib.decompressobj(-bits).decompress(data + TAIL) == payload


def test_the_tail_is_left_out():
    assert not compress(b"x" * 1000, 15).endswith(TAIL)
    assert compress(b"", 15) == b"\x00"


# In

RFC_7692 = {
    "one block": bytes.fromhex("f2 48 cd c9 c9 07 00"),
    "no compression": bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00"),
    "a final block": bytes.fromhex("f3 48 cd c9 c9 07 00 00"),
    "two blocks": bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00"),
}
each_example = pytest.mark.parametrize("wire", RFC_7692.values(), ids=RFC_7692)


@each_example
def test_the_examples_of_rfc_7692_say_hello(wire):
    assert Inflater().inflate(wire, True, 5) == b"Hello"
    assert inflate(wire, 5) in (b"Hello", None)


@each_example
def test_they_do_wherever_they_are_cut(wire):
    for cut in range(len(wire) + 1):
        inflater = Inflater()
        assert inflater.inflate(wire[:cut], False, 5) + inflater.inflate(wire[cut:], True, 5) == b"Hello"
    inflater = Inflater()
    said = b"".join(inflater.inflate(wire[at : at + 1], False, 5) for at in range(len(wire)))
    assert said + inflater.inflate(b"", True, 5) == b"Hello"


@pytest.mark.parametrize(
    "wire",
    [b"", b"\x00", b"\x02\x00", b"\x00\x00\x00\xff\xff\x00", EMPTY_FINAL_BLOCK, EMPTY_FINAL_BLOCK + b"\x00"],
    ids=["nothing", "an empty block", "an empty fixed block", "only flushes", "final", "final and flushed"],
)
def test_an_empty_message_may_be_written_in_any_way(wire):
    assert Inflater().inflate(wire, True, 0) == b""
    assert inflate(wire, 0) in (b"", None)


def test_what_follows_a_final_block_belongs_to_the_message():
    """RFC 7692 section 7.2.1: blocks with and without BFINAL may be mixed."""
    final = bytes.fromhex("f3 48 cd c9 c9 07 00")
    wire = final + bytes.fromhex("f2 48 cd c9 c9 07 00")
    assert Inflater().inflate(wire, True, 10) == b"HelloHello"
    assert inflate(wire, 10) is None, "left to the inflater"
    assert Inflater().inflate(final * 3 + b"\x00", True, 15) == b"Hello" * 3
    with pytest.raises(TooLarge):
        Inflater().inflate(final * 3 + b"\x00", True, 14)


def test_final_blocks_without_end_are_refused():
    Inflater().inflate(EMPTY_FINAL_BLOCK * MAX_ENDINGS + b"\x00", True, 100)
    with pytest.raises(zlib.error):
        Inflater().inflate(EMPTY_FINAL_BLOCK * (MAX_ENDINGS + 1) + b"\x00", True, 100)
    inflater = Inflater()
    for _ in range(MAX_ENDINGS + 1):
        inflater.inflate(EMPTY_FINAL_BLOCK, False, 100)
    with pytest.raises(zlib.error):
        inflater.inflate(EMPTY_FINAL_BLOCK, False, 100)


BROKEN = {
    "a reserved kind of block": b"\x07",
    "a stored block with a wrong length": b"\x00\x05\x00\x05\x00Hello",
    "a message cut off": compress(b"one, two, three, four", 15)[:-3],
    "a stored block cut off": bytes.fromhex("00 05 00 fa ff 48 65"),
    "a reference to before the message": bytes.fromhex("02 13 00 00"),
    "no deflate": b"\xff" * 20,
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN)
def test_what_can_t_be_inflated_is_refused(wire):
    assert inflate(wire, 1000) is None
    with pytest.raises(zlib.error):
        Inflater().inflate(wire, True, 1000)


@patiently
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_are_inflated_or_refused_the_same_however_they_are_cut(noise, cuts):
    def outcome(parts: list[bytes]) -> bytes | str:
        inflater, message = Inflater(), b""
        try:
            for number, part in enumerate(parts):
                message += inflater.inflate(part, number == len(parts) - 1, 500 - len(message))
        except (zlib.error, TooLarge):
            return "refused"
        return message

    places = [0, *sorted(min(cut, len(noise)) for cut in cuts), len(noise)]
    whole = outcome([noise])
    assert outcome([noise[start:end] for start, end in pairwise(places)]) == whole
    assert inflate(noise, 500) in (whole, None)


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_message_of_exactly_the_limit_is_inflated_and_not_one_byte_more(size):
    payload = os.urandom(size)
    wire = compress(payload, 15)
    assert inflate(wire, size) == Inflater().inflate(wire, True, size) == payload
    assert inflate(wire, size - 1) is None
    with pytest.raises(TooLarge):
        Inflater().inflate(wire, True, size - 1)


def test_a_bomb_takes_no_more_memory_than_the_limit():
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()
    limit = 1 << 16
    tracemalloc.start()
    try:
        assert inflate(bomb, limit) is None
        with pytest.raises(TooLarge):
            Inflater().inflate(bomb, True, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The bomb itself is held a few times; what it would become is 256 MiB.
    assert peak < 4 * len(bomb) + 4 * limit
