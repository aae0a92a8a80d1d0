import socket
from types import SimpleNamespace

import pytest

from hubbub.load.connection import BUFFER
from hubbub.load.frames import CLOSE, PING, Closed, client_frame, unmasked
from hubbub.load.streams import Messages, SharedStream


@pytest.fixture
def line():
    """A connection's end, and the server's."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield SimpleNamespace(receiver=lambda: near.recv_into, push=near.sendall), far


def feed(messages: Messages, data: bytes, size: int = 1 << 20) -> list[int]:
    return [messages.feed(memoryview(data[start : start + size])) for start in range(0, len(data), size)]


@pytest.mark.parametrize("payload", [b"", b"a", b"x" * 125, b"x" * 126, b"x" * 70000])
def test_one_whole_message_is_one(line, payload):
    assert feed(Messages(line[0]), unmasked(payload)) == [1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_are_counted_however_they_are_cut(line, size):
    data = unmasked(b"short") + unmasked(b"y" * 300) + unmasked(b"") + unmasked(b"z" * 66000)
    assert sum(feed(Messages(line[0]), data, size)) == 4


def test_what_the_buffer_did_not_hold_is_taken_in_with_what_it_held(line):
    near, far = line
    data = unmasked(b"x" * BUFFER) + unmasked(b"short") * 3
    far.sendall(data[BUFFER:])
    assert feed(Messages(near), data[:BUFFER]) == [4]
    with pytest.raises(BlockingIOError):
        near.receiver()(bytearray(1))


def test_an_end_right_after_what_filled_the_buffer_is_seen(line):
    near, far = line
    far.close()
    with pytest.raises(Closed):
        feed(Messages(near), unmasked(b"x" * BUFFER)[:BUFFER])


def test_a_message_in_fragments_is_one(line):
    data = b"\x01\x02ab" + b"\x00\x02cd" + b"\x80\x02ef"
    assert feed(Messages(line[0]), data, 4) == [0, 0, 1]


def test_pings_are_answered_and_not_counted(line):
    near, far = line
    assert feed(Messages(near), unmasked(b"there?", PING) + unmasked(b"hi")) == [1]
    pong = far.recv(100)
    assert pong[0] == 0x8A
    assert client_frame(pong) == (len(pong), b"there?")


def test_a_close_frame_is_the_end(line):
    with pytest.raises(Closed, match="4529"):
        feed(Messages(line[0]), unmasked((4529).to_bytes(2, "big"), CLOSE))


def test_where_messages_must_be_compressed_others_are_an_error(line):
    messages = Messages(line[0], compressed=True)
    assert feed(messages, unmasked(b"not really", compressed=True)) == [1]
    with pytest.raises(ValueError, match="not compressed"):
        feed(messages, unmasked(b"plain"))


def test_what_is_to_be_noticed_is_the_payload(line):
    noticed: list[bytes] = []
    messages = Messages(line[0], notice=noticed.append)
    feed(messages, unmasked(b"one") + unmasked(b"two"), 3)
    assert noticed == [b"one", b"two"]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_shared_stream_knows_where_its_messages_end(size):
    frames = [unmasked(b"a" * length) for length in (0, 5, 130)]
    stream, data = SharedStream(), memoryview(b"".join(frames))
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size])
    assert stream.seen == len(data)
    assert stream.ends == [len(frames[0]), len(frames[0]) + len(frames[1]), len(data)]


@pytest.mark.parametrize(
    ("compressed", "frame"),
    [(False, unmasked(b"x", PING)), (False, unmasked(b"x", compressed=True)), (True, unmasked(b"x"))],
)
def test_a_shared_stream_has_only_whole_messages_of_its_kind(compressed, frame):
    with pytest.raises(ValueError, match="Expected one whole data frame"):
        SharedStream(compressed=compressed).feed(memoryview(frame))
