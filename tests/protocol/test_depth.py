import json
import random

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from hubbub.protocol.depth import AT_ONCE, json_is_deeper, msgpack_is_deeper

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["[", "{{", '"[', "\\", '\\"[', "]}", "x" * 40, "é[" * 200, "x" * 70_000]),
)
KEYS = st.one_of(st.text(), st.sampled_from(["[[", "}", '"']))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(KEYS, inner, max_size=20)),
    max_leaves=60,
)


def depth_of(value: object) -> int:
    """Count the levels in the plainest way."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def wrapped(value: object, levels: int) -> object:
    for level in range(levels):
        value = [value, "]"] if level % 2 else {"[": value}
    return value


@given(VALUES, st.integers(0, 12))
def test_both_codecs_tell_exactly_how_deep_a_message_is(value, levels):
    value = wrapped(value, levels)
    depth = depth_of(value)
    event(f"{depth} levels")
    text, indented, packed = json.dumps(value), json.dumps(value, indent=2), msgspec.msgpack.encode(value)
    for limit in {max(depth - 1, 1), max(depth, 1), depth + 1}:
        assert json_is_deeper(text, limit) is (depth > limit)
        assert json_is_deeper(indented, limit) is (depth > limit)
        assert msgpack_is_deeper(packed, limit) is (depth > limit)


@given(st.text(max_size=300))
def test_what_is_in_a_text_is_no_level(text):
    assert not json_is_deeper(json.dumps([text, text], ensure_ascii=False), 1)
    assert not msgpack_is_deeper(msgspec.msgpack.encode([text, text]), 1)


def of_every_format() -> list[object]:
    """Return a value of each of MessagePack's formats, full of bytes that would open a level elsewhere."""
    brackets = b"\x91\xdc\xde\x81"
    values: list[object] = [
        None,
        True,
        0,
        -1,
        200,
        -100,
        60_000,
        2**32 - 1,
        2**64 - 1,
        -(2**31),
        -(2**63),
        1.5,
    ]
    for size in (0, 1, 31, 32, 255, 256, 65_535, 65_536):
        data = (brackets * (size // 4 + 1))[:size]
        values += ["x" * size, data, msgspec.msgpack.Ext(5, data)]
    for size in (1, 2, 4, 8, 16):
        values.append(msgspec.msgpack.Ext(5, (brackets * 4)[:size]))
    for size in (0, 15, 16, 65_535, 65_536):
        values += [[0x11] * size, {str(number): 1 for number in range(size)}]
    return values


def test_every_format_of_messagepack_is_passed_over_as_a_whole():
    values = of_every_format()
    random.Random(1).shuffle(values)
    for _ in range(3):
        value: object = [values, [[1]]]
        packed = msgspec.msgpack.encode(value)
        assert not msgpack_is_deeper(packed, 3)
        assert msgpack_is_deeper(packed, 2)
        values = values[::-1]


def test_a_float_of_four_bytes_and_keys_that_are_arrays_are_passed_over_too():
    packed = b"\x93\xca\x91\x91\x91\x91" + b"\x81\x91\x01\x91\x02" + b"\x80"
    assert msgspec.msgpack.decode(packed)[1] == {(1,): [2]}
    assert not msgpack_is_deeper(packed, 3)
    assert msgpack_is_deeper(packed, 2)


@pytest.mark.parametrize("limit", [4, 100, 1000])
def test_the_deepest_that_is_allowed_is_allowed_and_one_more_is_not(limit):
    padding = "x" * 3000
    for levels, deeper in ((limit, False), (limit + 1, True)):
        text = "[" * levels + f'"{padding}"' + "]" * levels
        assert json_is_deeper(text, limit) is deeper
        assert json_is_deeper(text.replace("[", '{"":').replace("]", "}"), limit) is deeper
        assert msgpack_is_deeper(b"\x91" * levels + b"\xc0", limit) is deeper
        assert msgpack_is_deeper(b"\x81\xc0" * levels + b"\xc0", limit) is deeper
        assert msgpack_is_deeper(b"\x91" * (levels - 1) + b"\x90", limit) is deeper


def test_many_levels_one_after_the_other_are_not_deep():
    value = [[{"a": [1]}] * 50] * 50
    assert not json_is_deeper(json.dumps(value), 4)
    assert json_is_deeper(json.dumps(value), 3)
    assert not msgpack_is_deeper(msgspec.msgpack.encode(value), 4)
    assert msgpack_is_deeper(msgspec.msgpack.encode(value), 3)


def test_what_takes_long_is_not_told_at_once():
    wide = "[" + "[]," * (AT_ONCE[str] // 3) + "[]]"
    assert json_is_deeper(wide, 2, at_once=True) is None
    assert json_is_deeper(wide, 2) is False
    assert json_is_deeper(json.dumps("x" * 10 * AT_ONCE[str]), 2, at_once=True) is False
    packed = msgspec.msgpack.encode([[]] * AT_ONCE[bytes])
    assert msgpack_is_deeper(packed, 2, at_once=True) is None
    assert msgpack_is_deeper(packed, 2) is False
    # A blob is passed over in one step, whatever its bytes look like.
    blob = msgspec.msgpack.encode([b"\x91" * 100 * AT_ONCE[bytes]])
    assert msgpack_is_deeper(blob, 2, at_once=True) is False
