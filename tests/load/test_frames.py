import pytest

from hubbub.load.frames import (
    LARGEST,
    Answered,
    Closed,
    accept,
    client_frame,
    extent,
    masked,
    raise_errors,
    unmasked,
)

SIZES = [0, 1, 125, 126, 65535, 65536]


def test_the_accept_value_is_that_of_the_rfc():
    assert accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", SIZES)
def test_what_a_client_sends_is_what_a_server_reads(size):
    payload = bytes(number % 251 for number in range(size))
    frame = masked(payload)
    assert client_frame(frame + b"more") == (len(frame), payload)
    assert client_frame(frame[:-1]) is None


@pytest.mark.parametrize("size", SIZES)
def test_the_extent_of_a_frame_is_known_from_its_header(size):
    frame = unmasked(b"x" * size)
    start, end = extent(b"before" + frame, 6)
    assert (end - start, end) == (size, 6 + len(frame))
    header = len(frame) - size
    assert extent(frame[:header]) == (header, len(frame))
    assert extent(frame[: header - 1]) is None


def test_a_masked_frame_is_none_that_a_server_may_send():
    with pytest.raises(ValueError, match="no frame"):
        extent(masked(b"hi"))


def test_a_frame_that_is_too_large_is_refused_by_its_header():
    with pytest.raises(ValueError, match="at most"):
        extent(b"\x82\x7f" + (LARGEST + 1).to_bytes(8, "big"))


def test_a_close_frame_says_code_and_reason():
    closed = Closed.by((4529).to_bytes(2, "big") + b"too many")
    assert (closed.code, closed.reason) == (4529, "too many")
    assert "4529" in str(closed)
    assert Closed.by(b"").code == 1005
    assert Closed().code == 1006


def test_an_error_of_hubbubs_is_no_answer():
    with pytest.raises(Answered, match=r"^The server answered with an error: denied\. Who are you\?$"):
        raise_errors(b'{"type":"$error","data":{"code":"denied","message":"Who are you?","retry":false}}')
    for other in (
        b'"data":{"code":"denied"}}',
        b'"data":7}',
        b'"data":',
        b'"x":' + b"[" * 100_000,
        b'"x":"\xff"}',
    ):
        with pytest.raises(Answered, match="not as hubbub does"):
            raise_errors(b'{"type":"$error",' + other)
    raise_errors(b'{"type":"say","data":{"text":"$error"}}')
