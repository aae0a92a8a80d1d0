import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub import ConfigurationError
from hubbub.engine.pattern import Pattern

NAMED = st.sampled_from(["a", "b", "_c", "D1"]).map("{{{}}}".format)
PLAIN = st.text(st.characters(exclude_characters="{}/", exclude_categories=["Cs"]), max_size=3)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.one_of(NAMED, PLAIN), min_size=1, max_size=4))
    # A name may stand once only; the second time the part becomes plain text.
    return "/".join(
        "x" if part.startswith("{") and part in parts[:at] else part for at, part in enumerate(parts)
    )


VALUE = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("pattern", "text", "values"),
    [
        ("lobby", "lobby", ()),
        ("lobby", "lobbies", None),
        ("lobby", "the lobby", None),
        ("chat/{name}", "chat/lobby", ("lobby",)),
        ("chat/{name}", "chat/", None),
        ("chat/{name}", "chat", None),
        ("chat/{name}", "chat/a/b", None),
        ("chat/{name}", "chat/a\nb", ("a\nb",)),
        ("{a}/{b}", "x/y", ("x", "y")),
        ("a.c/{x}", "abc/1", None),
        ("/files/{id}", "/files/7", ("7",)),
    ],
)
def test_a_named_part_matches_exactly_one_part(pattern, text, values):
    assert Pattern(pattern).match(text) == values


@pytest.mark.parametrize("text", ["chat-{name}", "{", "}", "{}", "{a b}", "{1}", "{a}{b}", "chat/{a}x"])
def test_a_part_is_text_or_one_name_in_braces(text):
    with pytest.raises(ConfigurationError, match="neither"):
        Pattern(text)


def test_a_name_stands_once_in_a_pattern():
    with pytest.raises(ConfigurationError, match="two parts with the name 'a'"):
        Pattern("{a}/x/{a}")


@pytest.mark.parametrize("values", [{}, {"nme": "x"}, {"name": "x", "more": "y"}])
def test_filling_needs_exactly_the_names_of_the_pattern(values):
    with pytest.raises(ValueError, match=r"'chat/\{name\}' takes name, not"):
        Pattern("chat/{name}").fill(values)


def test_filling_a_pattern_without_names_takes_nothing():
    assert Pattern("lobby").fill({}) == "lobby"
    with pytest.raises(ValueError, match="takes nothing, not name"):
        Pattern("lobby").fill({"name": "x"})


@pytest.mark.parametrize("value", ["", "a/b"])
def test_a_value_is_one_part(value):
    with pytest.raises(ValueError, match="not empty and has no '/'"):
        Pattern("chat/{name}").fill({"name": value})


@given(patterns(), st.data())
def test_what_is_filled_in_is_what_matches(text, data):
    pattern = Pattern(text)
    values = {name: data.draw(VALUE) for name in pattern.names}
    assert pattern.match(pattern.fill(values)) == tuple(values.values())


@given(patterns(), patterns(), st.data())
def test_patterns_that_share_a_text_overlap(one, other, data):
    one, other = Pattern(one), Pattern(other)
    assert one.overlaps(other) == other.overlaps(one)
    filled = one.fill({name: data.draw(VALUE) for name in one.names})
    if other.match(filled) is not None:
        assert one.overlaps(other)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("chat/{name}", "chat/lobby", True),
        ("chat/{name}", "{kind}/lobby", True),
        ("chat/{name}", "room/{name}", False),
        ("chat/{name}", "chat", False),
        ("a/{x}/c", "a/{y}/d", False),
        ("a", "a", True),
        ("/{name}", "/", False),
        ("/", "/{name}", False),
        ("/{a}", "/{b}", True),
    ],
)
def test_patterns_overlap_if_some_text_is_of_both(one, other, overlap):
    assert Pattern(one).overlaps(Pattern(other)) is overlap
