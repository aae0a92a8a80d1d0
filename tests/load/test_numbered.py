import json

import pytest

from hubbub.load.frames import client_frame
from hubbub.load.numbered import GROUP, Numbered, frames


def sent(message: bytes | Numbered, times: int) -> list[bytes]:
    """The payloads of so many frames, as a server reads them."""
    found = [client_frame(next(frames(message))) for _ in range(times)]
    return [payload for _, payload in found]


@pytest.mark.parametrize("length", range(GROUP * 2))
def test_each_message_has_a_new_number_of_the_same_width_wherever_it_stands(length):
    before = b'{"x%s":1,"id":' % (b"x" * length)
    payloads = sent(Numbered(before, b',"type":"say"}'), 25_000)
    ids = {json.loads(payload)["id"] for payload in payloads}
    assert len(ids) == 25_000
    assert len({len(payload) for payload in payloads}) == 1
    assert all(payload.startswith(before) and payload.endswith(b',"type":"say"}') for payload in payloads)


def test_numbers_go_on_where_another_load_stopped():
    message = Numbered(b"", b"")
    assert set(sent(message, 10)).isdisjoint(sent(message, 10))


def test_a_message_without_a_number_stays_as_it_is():
    assert sent(b"hi", 3) == [b"hi"] * 3
