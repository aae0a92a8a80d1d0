"""Families 9 and 10: large messages, in many fragments and in many pieces."""

import os

import pytest

from conformance.ways import closes_cleanly
from transports.raw import BINARY, CONTINUATION, FIN, TEXT, Line, masked

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("size", [1 << 16, 1 << 18, MEBIBYTE])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_large_message_is_echoed(line, opcode, size):
    payload = b"*" * size if opcode == TEXT else os.urandom(size)
    line.send(masked(FIN | opcode, payload))
    assert line.frame() == (FIN | opcode, payload)
    closes_cleanly(line)


@pytest.mark.parametrize("size", [256, 1024, 1300, 4096, 1 << 16, 1 << 18])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_large_message_may_come_in_many_fragments(line, opcode, size):
    payload = b"*" * MEBIBYTE if opcode == TEXT else os.urandom(MEBIBYTE)
    starts = range(0, MEBIBYTE, size)
    line.send(
        b"".join(
            masked(
                (CONTINUATION if start else opcode) | (FIN if start == starts[-1] else 0),
                payload[start : start + size],
            )
            for start in starts
        )
    )
    assert line.frame() == (FIN | opcode, payload)
    closes_cleanly(line)


@pytest.mark.parametrize("chop", [64, 256, 1024])
def test_a_large_message_may_come_in_many_pieces(line, chop):
    payload = os.urandom(1 << 17)
    frame = masked(FIN | BINARY, payload)
    for start in range(0, len(frame), chop):
        line.send(frame[start : start + chop])
    assert line.frame() == (FIN | BINARY, payload)
    closes_cleanly(line)


@pytest.mark.parametrize("size", [0, 16, 64, 256])
def test_many_messages_one_after_the_other(line: Line, size):
    for _ in range(200):
        line.send(masked(FIN | TEXT, b"*" * size))
        assert line.frame() == (FIN | TEXT, b"*" * size)
    closes_cleanly(line)
