"""Families 1 to 5: frames, pings and pongs, reserved bits, opcodes, fragmentation (RFC 6455 section 5)."""

import os

import pytest

from conformance.ways import at_once, byte_by_byte, closes_cleanly, each_way, frame_by_frame, is_failed
from transports.raw import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, masked, text

# 1: messages of sizes around each form of the length

SIZES = [0, 1, 125, 126, 127, 128, 65_535, 65_536]


@pytest.mark.parametrize("size", SIZES)
def test_text_is_echoed(line, size):
    line.send(masked(FIN | TEXT, b"*" * size))
    assert line.frame() == (FIN | TEXT, b"*" * size)
    closes_cleanly(line)


@pytest.mark.parametrize("size", SIZES)
def test_binary_is_echoed(line, size):
    payload = os.urandom(size)
    line.send(masked(FIN | BINARY, payload))
    assert line.frame() == (FIN | BINARY, payload)
    closes_cleanly(line)


@pytest.mark.parametrize("chop", [997, 4096])
def test_a_message_may_arrive_in_pieces(line, chop):
    frame = masked(FIN | TEXT, b"*" * 65_536)
    for start in range(0, len(frame), chop):
        line.send(frame[start : start + chop])
    assert line.frame() == (FIN | TEXT, b"*" * 65_536)
    closes_cleanly(line)


# 2: pings and pongs


@each_way
@pytest.mark.parametrize("payload", [b"", b"Hello, world!", bytes(range(248, 256)), b"\xfe" * 125])
def test_a_ping_is_answered_with_its_payload(line, send, payload):
    send(line, [masked(FIN | PING, payload)])
    assert line.frame() == (FIN | PONG, payload)
    closes_cleanly(line)


@each_way
def test_a_ping_of_126_bytes_fails(line, send):
    send(line, [masked(FIN | PING, b"\xfe" * 126)])
    is_failed(line)


@each_way
def test_pongs_that_nobody_asked_for_are_no_matter(line, send):
    send(line, [masked(FIN | PONG), masked(FIN | PONG, b"unasked"), masked(FIN | PING, b"asked")])
    assert line.frame() == (FIN | PONG, b"asked")
    closes_cleanly(line)


@each_way
def test_ten_pings_are_answered_in_their_order(line, send):
    send(line, [masked(FIN | PING, b"payload-%d" % number) for number in range(10)])
    assert [line.frame() for _ in range(10)] == [(FIN | PONG, b"payload-%d" % number) for number in range(10)]
    closes_cleanly(line)


# 3: reserved bits


@each_way
@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_reserved_bit_fails_and_what_came_before_it_is_echoed(line, send, opcode, reserved):
    payload = b"\x03\xe8" if opcode == CLOSE else b"reserved"
    first = FIN | reserved << 4 | opcode
    line.send(text("before"))
    assert line.message() == "before"
    send(line, [masked(first, payload), masked(FIN | PING, b"behind")])
    is_failed(line)


# 4: reserved opcodes


@each_way
@pytest.mark.parametrize("payload", [b"", b"reserved opcode"])
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_fails(line, send, opcode, payload):
    line.send(text("before"))
    assert line.message() == "before"
    send(line, [masked(FIN | opcode, payload), masked(FIN | PING)])
    is_failed(line)


# 5: fragmentation


@each_way
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_fragmented_control_frame_fails(line, send, opcode):
    send(line, [masked(opcode, b"fragment1"), masked(FIN | CONTINUATION, b"fragment2")])
    is_failed(line)


@each_way
def test_two_fragments_are_a_message(line, send):
    send(line, [masked(TEXT, b"fragment1"), masked(FIN | CONTINUATION, b"fragment2")])
    assert line.message() == "fragment1fragment2"
    closes_cleanly(line)


@each_way
def test_a_ping_comes_between_fragments(line, send):
    send(line, [masked(TEXT, b"one"), masked(FIN | PING, b"ping"), masked(FIN | CONTINUATION, b"two")])
    assert line.frame() == (FIN | PONG, b"ping")
    assert line.message() == "onetwo"
    closes_cleanly(line)


@each_way
@pytest.mark.parametrize("first", [FIN | CONTINUATION, CONTINUATION])
def test_a_continuation_of_nothing_fails(line, send, first):
    send(line, [masked(first, b"non-continuation payload"), text("Hello, world!")])
    is_failed(line)


@each_way
@pytest.mark.parametrize("first", [FIN | CONTINUATION, CONTINUATION])
def test_a_continuation_behind_a_message_fails(line, send, first):
    line.send(masked(TEXT, b"fragment1") + masked(FIN | CONTINUATION, b"fragment2"))
    assert line.message() == "fragment1fragment2"
    send(line, [masked(first, b"fragment3"), text("unfragmented")])
    is_failed(line)


@each_way
@pytest.mark.parametrize("first", [FIN | TEXT, TEXT, FIN | BINARY])
def test_a_message_within_a_message_fails(line, send, first):
    send(line, [masked(TEXT, b"fragment1"), masked(first, b"fragment2")])
    is_failed(line)


@each_way
def test_five_fragments_with_pings_and_pongs_between_them(line, send):
    frames = [masked(TEXT, b"fragment1"), masked(CONTINUATION, b"fragment2"), masked(FIN | PING, b"pongme 1")]
    frames += [masked(CONTINUATION, b"fragment3"), masked(FIN | PONG), masked(CONTINUATION, b"fragment4")]
    frames += [masked(FIN | PING, b"pongme 2"), masked(FIN | CONTINUATION, b"fragment5")]
    send(line, frames)
    assert line.frame() == (FIN | PONG, b"pongme 1")
    assert line.frame() == (FIN | PONG, b"pongme 2")
    assert line.message() == "fragment1fragment2fragment3fragment4fragment5"
    closes_cleanly(line)


# What the suite leaves out


@pytest.mark.parametrize("send", [at_once, frame_by_frame, byte_by_byte])
@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x05Hello",
        b"\x89\x00",
        b"\x81\xfe\x00\x05\x00\x00\x00\x00Hello",
        b"\x82\xff" + (300).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 300,
        b"\x82\xff" + (1 << 63).to_bytes(8, "big") + b"\0\0\0\0",
        b"\x89\xfe\x00\x05\x00\x00\x00\x00Hello",
    ],
    ids=["unmasked", "unmasked ping", "16 bits for 5", "64 bits for 300", "the top bit", "a ping's 16 bits"],
)
def test_a_frame_that_is_not_masked_or_whose_length_is_badly_written_fails(line, send, frame):
    send(line, [frame])
    is_failed(line)
