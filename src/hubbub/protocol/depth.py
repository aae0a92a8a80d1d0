"""How deep a message is nested: told from its bytes, and nearly always by counting those that open a level.

Nothing is decoded for it: a value can take fifty times the room of its bytes, and the time to make it.
Both functions are for messages that were found to be valid.
"""

import re
from itertools import accumulate

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

# A bracket as the step that it is, up or down, in a signed byte.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))

# MessagePack: what the first byte of a value says of it (specification, section Formats).
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
_CONTAINERS = {*range(0x90, 0xA0), 0xDC, 0xDD, *_MAPS}
_NO_CONTAINERS = bytes(set(range(256)) - _CONTAINERS)
_LONG = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Bytes of the count of a container's items, where that is not in the first byte."""
_VARIABLE = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length of a string, binary or extension."""
_TYPED = {0xC7, 0xC8, 0xC9}
"""Extensions, whose length does not count their type."""
_FIXED = {
    **{0xA0 + length: length for length in range(32)},
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_LENGTH = [
    None if first in _CONTAINERS or first in _VARIABLE else _FIXED.get(first, 0) for first in range(256)
]
"""By first byte, how many bytes follow; None where it takes more to tell."""


AT_ONCE = {str: 65_536, bytes: 4_096}
"""Characters of JSON, or values of MessagePack, that are looked through in less than a millisecond."""


def json_is_deeper(text: str, limit: int, *, at_once: bool = False) -> bool | None:
    """Tell whether a JSON text has more than `limit` levels of arrays and objects.

    None where that takes longer than it may if it is to be told `at_once`.
    """
    if text.count("[") + text.count("{") <= limit:
        return False
    if at_once and len(text) > AT_ONCE[str]:
        return None
    brackets = _STRING.sub("", text).encode().translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0) > limit


def msgpack_is_deeper(data: bytes, limit: int, *, at_once: bool = False) -> bool | None:
    """Tell whether a MessagePack value has more than `limit` levels of arrays and maps.

    None where that takes longer than it may if it is to be told `at_once`.
    """
    if len(data.translate(None, _NO_CONTAINERS)) <= limit:
        return False
    above: list[int] = []
    left, at, end = 1, 0, len(data)
    values = AT_ONCE[bytes] if at_once else end
    while at < end:
        if not values:
            return None
        values -= 1
        while not left:
            left = above.pop()
        left -= 1
        first = data[at]
        at += 1
        length = _LENGTH[first]
        if length is not None:
            at += length
        elif first in _VARIABLE:
            size = _VARIABLE[first]
            at += size + int.from_bytes(data[at : at + size], "big") + (first in _TYPED)
        else:
            size = _LONG.get(first, 0)
            items = int.from_bytes(data[at : at + size], "big") if size else first & 0x0F
            at += size
            if len(above) >= limit:
                return True
            if items:
                above.append(left)
                left = items * 2 if first in _MAPS else items
    return False
