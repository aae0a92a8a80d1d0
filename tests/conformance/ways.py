"""Ways in which the same bytes may arrive."""

from collections.abc import Callable

import pytest

from transports.raw import Line, closing

Send = Callable[[Line, list[bytes]], None]


def at_once(line: Line, frames: list[bytes]) -> None:
    line.send(b"".join(frames))


def frame_by_frame(line: Line, frames: list[bytes]) -> None:
    for frame in frames:
        line.send(frame)


def byte_by_byte(line: Line, frames: list[bytes]) -> None:
    for byte in b"".join(frames):
        line.send(bytes((byte,)))


each_way = pytest.mark.parametrize("send", [at_once, frame_by_frame, byte_by_byte])


def closes_cleanly(line: Line) -> None:
    """Close, and be answered with the same and nothing else."""
    line.send(closing(1000))
    assert line.close_frame() == (1000, "")
    assert line.rest() == b""


def is_failed(line: Line, code: int = 1002) -> None:
    """Be told what was wrong; then the line ends, and is not reset."""
    assert line.close_frame()[0] == code
    assert line.rest() == b""
