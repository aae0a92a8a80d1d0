"""Family 6: text is UTF-8, and what isn't is refused where it begins (RFC 6455 section 8.1)."""

import pytest

from conformance.ways import byte_by_byte, closes_cleanly, is_failed
from transports.raw import CONTINUATION, FIN, PING, PONG, TEXT, masked

VALID = [
    "",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\0",
    "\x7f\x80",
    "\u07ff\u0800",
    "\ud7ff\ue000\ufffd\ufffe\uffff",
    "\U00010000",
    "\U0010ffff",
    "한글 🎈 \u200d \ufeff",
]
INVALID = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    *(b"\x80", b"\xbf", b"\x80\xbf\x80\xbf\x80\xbf\x80"),
    *(bytes((lead, 0x20)) for lead in (0xC2, 0xDF, 0xE0, 0xEF, 0xF0, 0xF4)),
    *(b"\xc2", b"\xe0\xa0", b"\xef\xbf", b"\xf0\x90\x80", b"\xf4\x8f\xbf"),
    *(b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"),
    *(
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xf8\x80\x80\x80\xaf",
        b"\xfc\x80\x80\x80\x80\xaf",
    ),
    *(b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf"),
    *(b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80"),
    *(b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xf5\x80\x80\x80"),
]


@pytest.mark.parametrize("content", VALID)
def test_utf_8_is_echoed_whole_and_in_fragments_of_a_byte(line, content):
    payload = content.encode()
    line.send(masked(FIN | TEXT, payload))
    assert line.frame() == (FIN | TEXT, payload)
    line.send(masked(TEXT))
    for byte in payload:
        line.send(masked(CONTINUATION, bytes((byte,))) + masked(FIN | PING))
        assert line.frame() == (FIN | PONG, b"")
    line.send(masked(FIN | CONTINUATION))
    assert line.frame() == (FIN | TEXT, payload)
    closes_cleanly(line)


@pytest.mark.parametrize("payload", INVALID, ids=bytes.hex)
def test_what_is_no_utf_8_fails(line, payload):
    line.send(masked(FIN | TEXT, payload))
    is_failed(line, 1007)


@pytest.mark.parametrize("payload", INVALID, ids=bytes.hex)
def test_what_is_no_utf_8_fails_in_fragments_of_a_byte(line, payload):
    frames = [masked(TEXT)] + [masked(CONTINUATION, bytes((byte,))) for byte in payload]
    line.send(b"".join(frames) + masked(FIN | CONTINUATION))
    is_failed(line, 1007)


GOOD, BAD = "κόσμε".encode(), b"\xf4\x90"


def test_a_bad_fragment_fails_before_the_next_one_comes(line):
    line.send(masked(TEXT, GOOD) + masked(CONTINUATION, BAD))
    is_failed(line, 1007)


def test_a_bad_byte_fails_before_the_rest_of_its_frame_comes(line):
    frame = masked(FIN | TEXT, GOOD + BAD + b"edited")
    byte_by_byte(line, [frame[: -len(b"edited")]])
    is_failed(line, 1007)
