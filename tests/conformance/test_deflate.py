"""Families 12 and 13: permessage-deflate with messages of many sizes and offers of every kind (RFC 7692)."""

import json
import os
import zlib

import pytest

from conformance.ways import at_once, byte_by_byte, closes_cleanly, is_failed
from transports.raw import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, Line, masked, text

RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
HEADER = "Sec-WebSocket-Extensions"
COMPRESSED_FROM = 512
"""The default of the setting `compression_threshold`."""

CONTENTS = {
    "JSON": lambda size: (json.dumps([{"id": n, "name": f"user {n}"} for n in range(size // 25 + 1)]))[:size],
    "one letter": lambda size: "*" * size,
    "letters of two bytes": lambda size: "é" * (size // 2) + "x" * (size % 2),
}


def deflated(payload: bytes, bits: int = 15) -> bytes:
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflated(payload: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(wbits=-bits).decompress(payload + TAIL)


def agree(peer, offer: str) -> tuple[Line, str]:
    line = Line(("127.0.0.1", peer.port))
    return line, line.open(headers=(f"{HEADER}: {offer}",)).headers[HEADER.lower()]


@pytest.fixture
def deflating(peer):
    line, _ = agree(peer, "permessage-deflate; client_max_window_bits")
    with line:
        yield line


def echoes(line: Line, message: bytes, opcode: int, bits: int = 15) -> None:
    first, payload = line.frame()
    if len(message) < COMPRESSED_FROM:
        assert (first, payload) == (FIN | opcode, message)
    elif first & RSV1:
        assert len(payload) < len(message)
        assert (first, inflated(payload, bits)) == (FIN | RSV1 | opcode, message)
    else:
        assert opcode == BINARY, "text can be compressed"
        assert (first, payload) == (FIN | opcode, message)


# 12: messages


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_compressed_text_is_echoed(deflating, content, size):
    message = content(size).encode()
    for _ in range(3):
        deflating.send(masked(FIN | RSV1 | TEXT, deflated(message)))
        echoes(deflating, message, TEXT)
    closes_cleanly(deflating)


@pytest.mark.parametrize("size", [0, 100, 10_000, 100_000, 1 << 20])
def test_compressed_binary_is_echoed_though_it_can_t_be_compressed(deflating, size):
    message = os.urandom(size)
    deflating.send(masked(FIN | RSV1 | BINARY, deflated(message)))
    echoes(deflating, message, BINARY)
    closes_cleanly(deflating)


@pytest.mark.parametrize("size", [16, 256, 1300])
def test_a_compressed_message_may_come_in_fragments(deflating, size):
    message = CONTENTS["JSON"](131_072).encode()
    packed = deflated(message)
    starts = range(0, len(packed), size)
    frames = [
        masked(
            (CONTINUATION if start else RSV1 | TEXT) | (FIN if start == starts[-1] else 0),
            packed[start : start + size],
        )
        for start in starts
    ]
    frames.insert(1, masked(FIN | PING, b"between"))
    deflating.send(b"".join(frames))
    assert deflating.frame() == (FIN | PONG, b"between")
    echoes(deflating, message, TEXT)
    closes_cleanly(deflating)


@pytest.mark.parametrize("send", [at_once, byte_by_byte])
def test_plain_and_compressed_messages_may_take_turns(deflating, send):
    send(deflating, [text("plain"), masked(FIN | RSV1 | TEXT, deflated(b"packed")), text("plain again")])
    assert [deflating.message() for _ in range(3)] == ["plain", "packed", "plain again"]
    closes_cleanly(deflating)


EXAMPLES = {
    "one block": "f2 48 cd c9 c9 07 00",
    "no compression": "00 05 00 fa ff 48 65 6c 6c 6f 00",
    "a final block": "f3 48 cd c9 c9 07 00 00",
    "two blocks": "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
}


@pytest.mark.parametrize("send", [at_once, byte_by_byte])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_rfc_7692_are_understood(deflating, send, example):
    send(deflating, [masked(FIN | RSV1 | TEXT, bytes.fromhex(example))])
    assert deflating.message() == "Hello"
    closes_cleanly(deflating)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\x00\x00\x00\xff\xff\x00"], ids=["none", "empty", "flushes"]
)
def test_an_empty_compressed_message_is_empty(deflating, payload):
    deflating.send(masked(FIN | RSV1 | TEXT, payload))
    assert deflating.message() == ""
    closes_cleanly(deflating)


VIOLATIONS = {
    "a compressed ping": (masked(FIN | RSV1 | PING, deflated(b"a")), 1002),
    "a compressed close": (masked(FIN | RSV1 | CLOSE, b"\x03\xe8"), 1002),
    "RSV1 on a continuation": (masked(RSV1 | TEXT, b"\xf2") + masked(FIN | RSV1 | CONTINUATION), 1002),
    "RSV2": (masked(FIN | 0x20 | TEXT, b"a"), 1002),
    "no deflate": (masked(FIN | RSV1 | TEXT, b"\xff\xff"), 1002),
    "half of a block": (masked(FIN | RSV1 | TEXT, deflated(b"one two three")[:-3]), 1002),
    "compressed bad UTF-8": (masked(FIN | RSV1 | TEXT, deflated(b"\xff")), 1007),
    "compressed bad UTF-8 in fragments": (
        masked(RSV1 | TEXT, deflated(b"caf\xe9")) + masked(FIN | CONTINUATION),
        1007,
    ),
    "a bomb": (masked(FIN | RSV1 | BINARY, deflated(bytes(1 << 24))), 1009),
    "a bomb in fragments": (
        masked(RSV1 | BINARY, deflated(bytes(1 << 24))[:-9]) + masked(CONTINUATION),
        1009,
    ),
}


@pytest.mark.parametrize(("frames", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_what_is_not_compressed_as_it_has_to_be_fails(deflating, frames, code):
    deflating.send(frames)
    is_failed(deflating, code)


def test_a_compressed_message_without_an_agreement_fails(line):
    line.send(masked(FIN | RSV1 | TEXT, deflated(b"a")))
    is_failed(line)


# 13: offers

TAKEOVERS = ["", "; server_no_context_takeover", "; client_no_context_takeover"]
TAKEOVERS.append("".join(TAKEOVERS))


@pytest.mark.parametrize("client_bits", [None, "", "=8", "=9", "=15"])
@pytest.mark.parametrize("server_bits", [None, *range(8, 16)])
@pytest.mark.parametrize("takeover", TAKEOVERS)
def test_every_offer_that_rfc_7692_allows_is_agreed_to_and_kept(peer, takeover, server_bits, client_bits):
    offer = "permessage-deflate" + takeover
    if server_bits is not None:
        offer += f"; server_max_window_bits={server_bits}"
    if client_bits is not None:
        offer += f"; client_max_window_bits{client_bits}"
    line, answer = agree(peer, offer)
    parameters = answer.split("; ")
    assert parameters[0] == "permessage-deflate"
    assert {"server_no_context_takeover", "client_no_context_takeover"} <= set(parameters)
    assert (f"server_max_window_bits={server_bits}" in parameters) is (server_bits is not None)
    message = CONTENTS["JSON"](20_000).encode()
    with line:
        line.send(masked(FIN | RSV1 | TEXT, deflated(message, 9 if client_bits in ("=8", "=9") else 15)))
        first, payload = line.frame()
        assert first == FIN | RSV1 | TEXT
        # Byte for byte, so that no more than the window is there to refer to.
        inflater, said = zlib.decompressobj(wbits=-(server_bits or 15)), b""
        for byte in payload + TAIL:
            said += inflater.decompress(bytes((byte,)))
        assert said == message
        closes_cleanly(line)
