"""Faults as values, each with a text form that parses back: ``stall:0.5s:up``."""

import math
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, TypeAlias, get_args

FOREVER = math.inf
"""Seconds that don't end; written ``forever``."""


class Direction(StrEnum):
    """Which of a connection's two streams a fault is for; BOTH is not written."""

    UP = "up"
    """From the client to the server."""
    DOWN = "down"
    """From the server to the client."""
    BOTH = "both"


class _Fault:
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # all that derive from it are dataclasses
            value: object = getattr(self, field.name)
            if field.name == "size" and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{self.kind} needs a number of bytes from 1 on, not {value}.")
            if field.name == "rate" and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"{self.kind} needs more than no bytes a second; stall lets nothing pass.")
            if isinstance(value, float) and not value >= 0:
                raise ValueError(f"{self.kind} can't take {value} seconds.")

    def __str__(self) -> str:
        return ":".join([self.kind, *_written(self)])


@dataclass(frozen=True)
class Cut(_Fault):
    """End the connection as a close does (FIN), on both sides."""

    kind = "cut"


@dataclass(frozen=True)
class Reset(_Fault):
    """Break the connection off (RST), on both sides; what is on its way is lost."""

    kind = "reset"


@dataclass(frozen=True)
class HalfOpen(_Fault):
    """Forward nothing any more, not even an end, while the connection stays open: a dead line.

    With `closed` the server's side is ended (FIN); only the client still takes the line for open.
    """

    kind = "half-open"
    direction: Direction = Direction.BOTH
    closed: bool = False


@dataclass(frozen=True)
class Stall(_Fault):
    """Forward nothing for some `seconds`, then go on; what comes meanwhile waits, its sender is held up."""

    kind = "stall"
    seconds: float = 0.5
    direction: Direction = Direction.BOTH


@dataclass(frozen=True)
class Delay(_Fault):
    """Forward what comes `seconds` later, give or take up to `jitter` seconds; the order is kept.

    It lasts for `lasting` seconds.
    """

    kind = "delay"
    seconds: float = 0.05
    jitter: float = 0.0
    direction: Direction = Direction.BOTH
    lasting: float = FOREVER


@dataclass(frozen=True)
class Throttle(_Fault):
    """Forward `rate` bytes a second at most, in each direction, for `lasting` seconds."""

    kind = "throttle"
    rate: float = 10_000.0
    direction: Direction = Direction.BOTH
    lasting: float = FOREVER


@dataclass(frozen=True)
class Split(_Fault):
    """Forward pieces of `size` bytes, each written by itself, with a `pause` of some seconds between two.

    A receiver that is behind may still find several pieces together. A pause makes that unlikely.
    It lasts for `lasting` seconds.
    """

    kind = "split"
    size: int = 1
    pause: float = 0.0
    direction: Direction = Direction.BOTH
    lasting: float = FOREVER


@dataclass(frozen=True)
class CloseAfter(_Fault):
    """Forward `size` more bytes, then end the connection: as :class:`Cut`, or with `reset` as :class:`Reset`.

    Of BOTH directions, the first that comes so far ends it.
    """

    kind = "close-after"
    size: int = 1000
    direction: Direction = Direction.BOTH
    reset: bool = False


@dataclass(frozen=True)
class Refuse(_Fault):
    """Take no new connections for some `seconds`: nobody listens. With `reset`, accept and send a RST."""

    kind = "refuse"
    seconds: float = 1.0
    reset: bool = False


@dataclass(frozen=True)
class BlackHole(_Fault):
    """Accept new connections for some `seconds`, and never answer them, nor connect to the server."""

    kind = "black-hole"
    seconds: float = 1.0


@dataclass(frozen=True)
class Clear(_Fault):
    """End what lasts: all flows again that was not cut or half open, and new connections are served."""

    kind = "clear"


Fault: TypeAlias = (
    Cut | Reset | HalfOpen | Stall | Delay | Throttle | Split | CloseAfter | Refuse | BlackHole | Clear
)

KINDS: dict[str, type[Fault]] = {fault.kind: fault for fault in get_args(Fault)}
"""All faults by their names."""

_NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
_SECONDS = re.compile(_NUMBER + r"(ms|s|min)?")
_BYTES = re.compile(_NUMBER + r"(B|kB|MB)?")
_SCALE = {"ms": 1e-3, "s": 1.0, "min": 60.0, "B": 1.0, "kB": 1e3, "MB": 1e6, None: 1.0}


def parse_fault(text: str) -> Fault:
    """Return the fault that a text such as ``delay:50ms±20ms:down:for=2s`` stands for.

    The name, then in this order what is wanted of: the quantity, ``up`` or ``down``, ``closed`` or ``reset``,
    ``pause=`` and ``for=`` with a time. Bytes have the units B, kB (1000 bytes) and MB, times ms, s and min.
    Raises `ValueError` with a sentence.
    """
    name, *parts = text.strip().split(":")
    if name not in KINDS:
        raise ValueError(f"{name!r} is no fault; there are {', '.join(KINDS)}.")
    kind = KINDS[name]
    known = {field.name for field in fields(kind)}
    values: dict[str, object] = {}
    for part in parts:
        word, equals, value = part.partition("=")
        if not equals and "direction" in known and word in ("up", "down"):
            found: dict[str, object] = {"direction": Direction(word)}
        elif not equals and word in ("closed", "reset") and word in known:
            found = {word: True}
        elif equals and (field := {"for": "lasting", "pause": "pause"}.get(word)) in known:
            found = {str(field): parse_seconds(value)}
        elif not values and not equals:
            found = _quantity(part, known, text)
        else:
            raise ValueError(f"{part!r} in {text!r} is not understood.")
        if found.keys() & values.keys():
            raise ValueError(f"{text!r} says something twice.")
        values |= found
    fault: Fault = kind(**values)  # type: ignore[arg-type]
    return fault


def _quantity(part: str, known: set[str], text: str) -> dict[str, object]:
    if "jitter" in known:
        seconds, given, jitter = part.replace("+-", "±").partition("±")
        return {"seconds": parse_seconds(seconds), "jitter": parse_seconds(jitter) if given else 0.0}
    if "seconds" in known:
        return {"seconds": parse_seconds(part)}
    if "rate" in known:
        return {"rate": parse_bytes(part.removesuffix("/s"))}
    if "size" in known:
        size = parse_bytes(part)
        return {"size": int(size) if size.is_integer() else size}
    raise ValueError(f"{part!r} in {text!r} is not understood.")


def parse_seconds(text: str) -> float:
    """Return the seconds of ``50ms``, ``0.5s``, ``2min`` or ``forever``; `ValueError` for anything else."""
    if text == "forever":
        return FOREVER
    return _parsed(_SECONDS, text, "no time, such as 50ms, 0.5s or 2min")


def parse_bytes(text: str) -> float:
    """Return the bytes of ``100``, ``100B``, ``10kB`` or ``1MB``; `ValueError` if it is none of these."""
    return _parsed(_BYTES, text, "no number of bytes, such as 100, 10kB or 1MB")


def _parsed(pattern: re.Pattern[str], text: str, problem: str) -> float:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is {problem}.")
    return float(found[1]) * _SCALE[found[2]]


def write_seconds(seconds: float) -> str:
    """Return the text of a time, which :func:`parse_seconds` turns back into the same."""
    if seconds == FOREVER:
        return "forever"
    short = f"{seconds * 1e3:g}ms"
    return short if 0 < seconds < 0.1 and parse_seconds(short) == seconds else f"{_plain(seconds)}s"


def write_bytes(count: float) -> str:
    """Return the text of a number of bytes, which :func:`parse_bytes` turns back into the same."""
    for unit in ("MB", "kB"):
        short = f"{count / _SCALE[unit]:g}{unit}"
        if count >= _SCALE[unit] * 10 and parse_bytes(short) == count:
            return short
    return _plain(count)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


def _written(fault: object) -> list[str]:
    parts: list[str] = []
    values: dict[str, object] = {field.name: getattr(fault, field.name) for field in fields(fault)}  # type: ignore[arg-type]
    for name, value in values.items():
        match name, value:
            case "seconds", float() | int():
                jitter = values.get("jitter")
                add = f"±{write_seconds(jitter)}" if isinstance(jitter, float | int) and jitter else ""
                parts.append(write_seconds(value) + add)
            case "size", int():
                parts.append(write_bytes(value))
            case "rate", float() | int():
                parts.append(f"{write_bytes(value)}/s")
            case "direction", Direction.UP | Direction.DOWN:
                parts.append(str(value))
            case "closed" | "reset", True:
                parts.append(name)
            case "pause", float() | int() if value:
                parts.append(f"pause={write_seconds(value)}")
            case "lasting", float() | int() if value != FOREVER:
                parts.append(f"for={write_seconds(value)}")
    return parts
