"""Messages that come in parts are put together, and what is missing takes bounded memory."""

import random

import pytest

from hubbub.engine import joining
from hubbub.engine.joining import MAX_PARTS, Joining, Part

pytestmark = pytest.mark.anyio


async def test_parts_make_their_message_in_any_order():
    parts = [Part("one", number, 3, piece) for number, piece in enumerate([b"a" * 10, b"b", b"c"])]
    others = [Part("other", number, 2, piece) for number, piece in enumerate([b"x", b"y"])]
    mixed = [*parts, *others]
    random.Random(7).shuffle(mixed)
    joined = Joining()
    found = [whole for part in mixed if (whole := joined.add(part)) is not None]
    assert sorted(found) == [b"a" * 10 + b"bc", b"xy"]
    assert len(joined) == 0


@pytest.mark.parametrize(
    "part",
    [
        Part("one", -1, 2, b"x"),
        Part("one", 2, 2, b"x"),
        Part("one", 0, 0, b"x"),
        Part("one", 0, MAX_PARTS + 1, b"x"),
        Part("one", 0, 2, b""),
        Part("one", 0, 2, b"x" * (joining.PIECE + 1)),
        Part("here", 0, 2, b"again"),
        Part("here", 1, 3, b"of another count"),
    ],
    ids=range(8),
)
async def test_a_part_that_can_not_be_is_refused(part):
    joined = Joining()
    assert joined.add(Part("here", 0, 2, b"x")) is None
    with pytest.raises(ValueError, match="part"):
        joined.add(part)
    assert joined.add(Part("here", 1, 2, b"y")) == b"xy"


async def test_the_oldest_that_is_not_whole_is_dropped_where_they_are_too_large(monkeypatch):
    monkeypatch.setattr(joining, "MAX_JOINING", 25)
    joined = Joining()
    for name in ("one", "two", "three"):
        assert joined.add(Part(name, 0, 2, b"x" * 10)) is None
    assert len(joined) == 2
    assert joined.add(Part("two", 1, 2, b"y")) == b"x" * 10 + b"y"
    assert joined.add(Part("one", 1, 2, b"y")) is None


async def test_what_does_not_come_whole_in_time_is_dropped(monkeypatch):
    joined = Joining()
    joined.add(Part("one", 0, 2, b"x"))
    joined.expire()
    assert len(joined) == 1
    monkeypatch.setattr(joining, "MAX_WAIT", -1.0)
    joined.expire()
    assert len(joined) == 0
