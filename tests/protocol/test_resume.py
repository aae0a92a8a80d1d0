import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.protocol.resume import LONGEST, Claims, Refused, sign, verify

SECRET = bytes(range(32))
CLAIMS = Claims("session", "ada", 3, "instance", 1000.0)

claims = st.builds(
    Claims,
    session=st.text(max_size=40),
    user=st.none() | st.text(max_size=40),
    turn=st.integers(0, 2**40),
    instance=st.text(max_size=40),
    expires=st.floats(0, 1e12),
)


@given(claims)
def test_a_token_says_what_was_signed(said):
    assert verify(sign(said, SECRET), SECRET, 0.0) == said


def test_a_token_is_of_use_until_it_expires():
    token = sign(CLAIMS, SECRET)
    assert verify(token, SECRET, 1000.0) == CLAIMS
    with pytest.raises(Refused, match="expired"):
        verify(token, SECRET, 1000.1)


def test_a_token_of_another_secret_is_refused():
    with pytest.raises(Refused, match="forged"):
        verify(sign(CLAIMS, bytes(32)), SECRET, 0.0)


@given(st.data())
def test_a_token_with_any_bit_changed_is_refused(data):
    token = sign(CLAIMS, SECRET)
    opened = bytearray.fromhex(token)
    opened[data.draw(st.integers(0, len(opened) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Refused):
        verify(opened.hex(), SECRET, 0.0)


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text):
    with pytest.raises(Refused):
        verify(text, SECRET, 0.0)


def test_a_long_text_is_refused_unread():
    with pytest.raises(Refused, match="too long"):
        verify("a" * (LONGEST + 1), SECRET, 0.0)
