"""What a client reads of a response that goes on, in pieces that the input chooses.

The first byte says whether it is lines or an event stream, and whether messages have a limit; eight are the
lengths of the pieces, in turns; the rest is the response.
"""

import re
from collections.abc import Iterable

from hubbub.client.http_lines.parsing import FIELD, EventStream, Lines, TooLarge

from ..line import pieces

EVENTS, LIMITED = 1, 2
"""Bits of the first byte."""

LIMIT = 40
"""Bytes of a message, where they are limited."""


def check(data: bytes) -> list[str]:
    if len(data) < 9:
        return []
    events, limit = bool(data[0] & EVENTS), LIMIT if data[0] & LIMITED else None
    lengths, response = data[1:9], data[9:]
    messages, problem = _parsed(list(pieces(response, lengths)), events, limit)
    expected, wrong = (_events if events else _lines)(response, limit)
    assert bool(problem) is wrong, f"it ended with {problem or 'nothing'}, where something is wrong: {wrong}"
    if problem:
        assert messages == expected[: len(messages)], "other messages before the end"
    else:
        assert messages == expected, f"{messages!r} where it is {expected!r}"
    return [problem, f"{min(len(messages), 3)} messages"]


def _parsed(chunks: list[bytes], events: bool, limit: int | None) -> tuple[list[str], str]:
    parser = EventStream(limit) if events else Lines(limit)
    messages: list[str] = []
    try:
        for chunk in chunks:
            messages += parser.feed(chunk)
            # Nothing may come of a piece with nothing in it, as some libraries hand on.
            assert parser.feed(b"") == []
    except (TooLarge, UnicodeDecodeError) as problem:
        return messages, type(problem).__name__
    return messages, ""


def _lines(response: bytes, limit: int | None) -> tuple[list[str], bool]:
    """Return the messages of lines, and whether one is too large or no UTF-8."""
    *whole, _ = lines = response.split(b"\n")
    messages, wrong = _decoded(line for line in whole if line.strip())
    return messages, wrong or (limit is not None and any(len(line) > limit for line in lines))


def _events(response: bytes, limit: int | None) -> tuple[list[str], bool]:
    """Return the messages of an event stream, read as WHATWG HTML section 9.2.6 says, and the same."""
    lines = re.split(rb"\r\n|\r|\n", response)
    wrong = limit is not None and any(len(line) > limit + FIELD for line in lines)
    if len(lines) > 1:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    found: list[bytes] = []
    buffer = b""
    for line in lines[:-1]:
        if not line:
            found += [buffer[:-1]] if buffer else []
            buffer = b""
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            buffer += value.removeprefix(b" ") + b"\n"
            wrong = wrong or (limit is not None and len(buffer) - 1 > limit)
    messages, undecodable = _decoded(found)
    return messages, wrong or undecodable


def _decoded(found: Iterable[bytes]) -> tuple[list[str], bool]:
    messages: list[str] = []
    for message in found:
        try:
            messages.append(message.decode())
        except UnicodeDecodeError:
            return messages, True
    return messages, False
