"""What the fuzzer compares with has to be right itself: examples from RFC 6455 and RFC 7692."""

import zlib

import pytest
from websockets.frames import Opcode

from fuzz.reference import ANY_OF_INFLATING, readings, server_frames
from fuzz.seeds import deflated, frame

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING = Opcode.CLOSE, Opcode.PING

ACCEPTED = "permessage-deflate; client_no_context_takeover"
HELLO = bytes.fromhex("f248cdc9c90700")
HELLO_FINAL = bytes.fromhex("f348cdc9c9070000")
BYE = frame(CLOSE, b"\x03\xe8")


def test_the_examples_of_rfc_6455_are_read():
    wire = bytes.fromhex("818537fa213d7f9f4d5158") + frame(TEXT, b"Hel", fin=False) + frame(PING, b"Hello")
    [found] = readings(wire + frame(CONT, b"lo") + frame(BINARY, bytes(256)) + BYE, 256, "", 20)
    assert found.messages == ["Hello", "Hello", bytes(256)]
    assert found.pings == [b"Hello"]
    assert (found.codes, found.closed) == ({1000}, True)


def test_the_examples_of_rfc_7692_are_read():
    wire = frame(TEXT, HELLO, rsv=4) + frame(TEXT, HELLO_FINAL, rsv=4)
    wire += frame(TEXT, HELLO[:3], rsv=4, fin=False) + frame(CONT, HELLO[3:])
    [found] = readings(wire, 100, ACCEPTED, 20)
    assert found.messages == ["Hello"] * 3
    assert not found.codes


def test_what_follows_a_final_block_belongs_to_the_message():
    compressor = zlib.compressobj(wbits=-15)
    final = compressor.compress(b"one ") + compressor.flush()
    [found] = readings(frame(TEXT, final + deflated(b"two"), rsv=4), 100, ACCEPTED, 20)
    assert found.messages == ["one two"]


@pytest.mark.parametrize(
    ("wire", "codes"),
    [
        (frame(TEXT, b"x" * 11), {1009}),
        (frame(TEXT, b"x" * 6, fin=False) + frame(CONT, b"x" * 5), {1009}),
        (b"\x82\xff\0\0\1" + bytes(9), {1009}),
        (frame(TEXT, b"hi", mask=None), {1002}),
        (frame(TEXT, b"hi", rsv=1), {1002}),
        (frame(3), {1002}),
        (frame(CONT), {1002}),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), {1002, 1009}),
        (frame(PING, fin=False), {1002}),
        (frame(PING, b"x" * 126), {1002, 1009}),
        (frame(CLOSE, b"\x03"), {1002}),
        (frame(CLOSE, b"\x03\xed"), {1002}),
        (frame(CLOSE, b"\x03\xe8\xff"), {1007}),
        (frame(TEXT, b"\xff"), {1007}),
        (frame(TEXT, b"\xe2\x82"), {1007}),
        (frame(TEXT, b"\xe2", fin=False) + frame(CONT, b"\x28", fin=False), {1007}),
        (frame(TEXT, b"x" * 6, fin=False) + frame(PING, b"y" * 9) + frame(CONT, b"x" * 4), set()),
        (frame(TEXT, b"\xe2", fin=False) + frame(CONT, b"\x82", fin=False), set()),
        (b"\x81", set()),
        (b"", set()),
    ],
)
def test_what_rfc_6455_forbids_is_closed_with_its_code(wire, codes):
    [found] = readings(wire, 10, "", 20)
    assert found.codes == codes
    assert not found.closed
    assert not found.undecided


@pytest.mark.parametrize(
    ("wire", "codes"),
    [
        (frame(TEXT, b"hi", rsv=1)[:-1], {1002}),
        (frame(CONT, b"hi")[:-1], {1002}),
        (frame(TEXT, b"hi")[:-1], set()),
        (frame(CLOSE, b"\x03\xe8")[:-1], {1002}),
    ],
)
def test_a_frame_that_is_not_whole_may_be_waited_for(wire, codes):
    [found] = readings(wire, 10, "", 20)
    assert found.undecided
    assert found.codes == codes


@pytest.mark.parametrize(
    ("payload", "codes"),
    [
        (deflated(bytes(11)), {1009}),
        (deflated(b"\xff"), {1007}),
        (b"\xff\xff", ANY_OF_INFLATING),
        (HELLO[:4], ANY_OF_INFLATING),
    ],
)
def test_what_can_not_be_inflated_is_closed_with_a_code(payload, codes):
    [found, *_] = readings(frame(TEXT, payload, rsv=4), 10, ACCEPTED, 20)
    assert not found.messages
    assert found.codes == codes


def test_where_hubbub_may_be_stricter_there_is_a_second_reading():
    longer = b"\x81\xfe\0\1\0\0\0\0a"
    strict, lax = readings(longer, 10, "", 20)
    assert (strict.messages, strict.codes) == ([], {1002})
    assert (lax.messages, lax.codes) == (["a"], set())


def test_a_message_of_very_many_fragments_may_be_refused():
    wire = frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) * 3 + frame(CONT)
    [found] = readings(wire, 10, "", 5)
    assert found.messages == ["abbb"]
    refused, taken = readings(wire, 10, "", 4)
    assert (refused.messages, refused.codes) == ([], {1009})
    assert (taken.messages, taken.codes) == (["abbb"], set())


def test_a_close_within_a_message_is_a_close_or_an_error():
    closed, refused = readings(frame(TEXT, b"a", fin=False) + BYE, 10, "", 20)
    assert (closed.codes, closed.closed) == ({1000}, True)
    assert (refused.codes, refused.closed) == ({1002}, False)


def test_a_servers_frames_are_read():
    assert server_frames(b"\x8a\x01a\x88\x02\x03\xe8") == [(Opcode.PONG, b"a"), (CLOSE, b"\x03\xe8")]
    for wrong in (b"\x8a\x02a", b"\x88\x02\x03\xe8\x8a\x00", b"\x8a\x81\0\0\0\0a", b"\x83\x00"):
        with pytest.raises(AssertionError, match="the server"):
            server_frames(wrong)
