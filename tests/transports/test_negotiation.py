"""Which media type an Accept header likes best."""

import pytest

from hubbub.transports.http_lines.negotiation import preferred

OFFERED = ("text/event-stream", "application/x-ndjson")


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("text/event-stream", "text/event-stream"),
        ("TEXT/Event-Stream ; q=0.3", "text/event-stream"),
        ("application/x-ndjson, text/event-stream", "application/x-ndjson"),
        ("application/x-ndjson;q=0.4, text/event-stream;q=0.5", "text/event-stream"),
        ("application/x-ndjson;version=2;q=1", "application/x-ndjson"),
        ("text/event-stream;q=0", None),
        ("text/event-stream;q=2", None),
        ("text/event-stream;q=-1", None),
        ("text/event-stream;q=nan", None),
        ("text/event-stream;q=", None),
        ("*/*", None),
        ("text/*", None),
        ("", None),
        (",;,;q=1,", None),
    ],
)
def test_it_is_the_one_that_is_named_and_weighs_most(accept, media):
    assert preferred(accept, OFFERED) == media


def test_ranges_count_where_they_are_to():
    assert preferred("*/*;q=0.1", ("text/plain",), wildcards=True) == "text/plain"
    assert preferred("text/*", ("text/plain",), wildcards=True) == "text/plain"
    assert preferred("image/*", ("text/plain",), wildcards=True) is None
