"""Family 7: the closing handshake (RFC 6455 sections 5.5.1 and 7)."""

import pytest

from conformance.ways import each_way, is_failed
from transports.raw import CLOSE, CONTINUATION, FIN, PING, TEXT, closing, masked, text


def test_a_message_before_the_close_is_echoed(line):
    line.send(text("Hello World!"))
    assert line.message() == "Hello World!"
    line.send(closing(1000))
    assert line.close_frame() == (1000, "")
    assert line.rest() == b""


@each_way
@pytest.mark.parametrize(
    "behind",
    [closing(1000), masked(FIN | PING, b"late"), text("late"), masked(FIN | 3), masked(FIN | TEXT, b"\xff")],
    ids=["another close", "a ping", "a message", "a reserved opcode", "bad UTF-8"],
)
def test_what_comes_behind_a_close_is_ignored_and_resets_nothing(line, send, behind):
    send(line, [closing(1000), behind * 10])
    assert line.close_frame() == (1000, "")
    line.send(behind)
    assert line.rest() == b""


@each_way
def test_a_close_may_come_before_the_last_fragment(line, send):
    send(line, [masked(TEXT, b"fragment1"), closing(1000)])
    assert line.close_frame() == (1000, "")
    assert line.rest() == b""


def test_a_close_waits_for_its_turn_behind_a_large_message(line):
    line.send(text("BAsd7&jh23" * 26_214) + closing(1000) + masked(FIN | PING, b"late"))
    frames = []
    while not frames or frames[-1][0] != FIN | CLOSE:
        frames.append(line.frame())
    assert frames[-1] == (FIN | CLOSE, b"\x03\xe8")
    assert line.rest() == b""


@each_way
@pytest.mark.parametrize("reason", ["", "Hello World!", "*" * 123, "é" * 61])
def test_code_and_reason_are_echoed(line, send, reason):
    send(line, [closing(1000, reason)])
    assert line.close_frame() == (1000, reason)
    assert line.rest() == b""


@each_way
def test_a_close_without_a_code_is_answered_by_one(line, send):
    send(line, [masked(FIN | CLOSE)])
    assert line.frame() == (FIN | CLOSE, b"")
    assert line.rest() == b""


@each_way
@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe8" + b"*" * 124], ids=["one byte", "126 bytes"])
def test_a_close_of_a_wrong_size_fails(line, send, payload):
    send(line, [masked(FIN | CLOSE, payload)])
    is_failed(line)


@each_way
def test_a_reason_that_is_no_utf_8_fails(line, send):
    send(
        line, [masked(FIN | CLOSE, b"\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")]
    )
    is_failed(line, 1007)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_code_that_may_be_sent_is_echoed(line, code):
    line.send(closing(code))
    assert line.close_frame() == (code, "")
    assert line.rest() == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65_535])
@pytest.mark.parametrize("reason", ["", "reason"])
def test_a_code_that_may_not_be_sent_fails(line, code, reason):
    line.send(closing(code, reason))
    is_failed(line)


def test_a_client_that_only_ends_its_half_of_the_line_is_let_go(line):
    line.send(masked(TEXT, b"half a message") + masked(CONTINUATION, b"x" * 100)[:-1])
    line.socket.shutdown(1)
    assert line.rest() == b""
