"""Responses that go on, cut into messages however they arrive."""

import pytest

from hubbub.client.http_lines.parsing import EventStream, Lines, TooLarge


def in_pieces(parser: EventStream | Lines, response: bytes) -> list[str]:
    return [message for byte in response for message in parser.feed(bytes((byte,)))]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_events_with_each_end_of_line_are_read_byte_by_byte(end):
    response = b"data: a" + end + b"data:b" + end * 2 + b": comment" + end + b"data: c" + end * 2
    assert in_pieces(EventStream(None), response) == ["a\nb", "c"]


def test_a_line_feed_by_itself_between_a_return_and_another_is_the_end_of_one_line():
    parser = EventStream(None)
    assert [parser.feed(piece) for piece in (b"data: a\r", b"\n", b"\n")] == [[], [], ["a"]]


def test_a_piece_with_nothing_in_it_changes_nothing():
    parser = EventStream(None)
    assert [parser.feed(piece) for piece in (b"data: a\r", b"", b"\n", b"", b"\r")] == [[], [], [], [], ["a"]]


@pytest.mark.parametrize("limited", [EventStream(3), Lines(3)])
def test_what_is_too_large_is_refused_before_its_end_has_come(limited):
    with pytest.raises(TooLarge):
        in_pieces(limited, b"data: abcdefg")
