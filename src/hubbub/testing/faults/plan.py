"""What happens when: a script, or faults at random that a seed brings back."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from .fault import Fault, parse_bytes, parse_fault, parse_seconds, write_bytes, write_seconds

RANDOM_KINDS = (
    "cut",
    "reset",
    "half-open",
    "half-open:up",
    "half-open:down",
    "half-open:closed",
    "stall:500ms",
    "delay:50ms±50ms:for=2s",
    "throttle:20kB/s:for=2s",
    "split:1:for=1s",
    "close-after:1000",
    "close-after:1000:reset",
    "refuse:500ms",
    "refuse:500ms:reset",
    "black-hole:500ms",
)
"""What random faults are taken from if nothing else is said."""


@dataclass(frozen=True)
class Share:
    """A part of the open connections, 1 being all, but at least one; `seed` says which. Text: ``10%#7``."""

    part: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.part <= 1:
            raise ValueError(f"A share is more than 0 and at most 1, not {self.part}.")

    def __str__(self) -> str:
        percent = Decimal(repr(self.part)).scaleb(2).normalize()  # as written, not as a float comes near it
        return f"{percent:f}%#{self.seed}"


Target: TypeAlias = Literal["open", "future", "all"] | Share
"""The connections that a fault is for: those open now, those to come, both, or some of those open."""


@dataclass(frozen=True)
class Step:
    """A fault, `at` so many seconds after the start, or with the `unit` bytes when so many have passed.

    Text: ``1.5s cut``, ``10kB reset all``, ``0s delay:50ms future``.
    """

    at: float
    fault: Fault
    to: Target = "open"
    unit: Literal["seconds", "bytes"] = "seconds"

    def __str__(self) -> str:
        when = (
            write_seconds(self.at) if self.unit == "seconds" else f"{write_bytes(self.at).removesuffix('B')}B"
        )
        return f"{when} {self.fault}" + ("" if self.to == "open" else f" {self.to}")


def parse_target(text: str) -> Target:
    """Return what ``open``, ``future``, ``all`` or a share as ``10%`` stands for; else `ValueError`."""
    if text in ("open", "future", "all"):
        return text  # type: ignore[return-value]
    percent, sign, seed = text.partition("%")
    try:
        if not sign:
            raise ValueError
        return Share(float(Decimal(percent).scaleb(-2)), int(seed.removeprefix("#") or 0))
    except ValueError:
        raise ValueError(
            f"{text!r} is no choice of connections: open, future, all or a share as 10%."
        ) from None


def parse_step(line: str) -> Step:
    """Return the step that a line of a script stands for; `ValueError` with a sentence if it is none."""
    when, *rest = line.split()
    if not 1 <= len(rest) <= 2:
        raise ValueError(f"{line!r} is no step; write when, the fault and for whom, as 1.5s reset all.")
    to = parse_target(rest[1]) if len(rest) == 2 else "open"
    if when.endswith("B"):
        return Step(parse_bytes(when), parse_fault(rest[0]), to, "bytes")
    return Step(parse_seconds(when), parse_fault(rest[0]), to)


def parse_script(text: str) -> list[Step]:
    """Return the steps of a script: one a line; empty lines and what follows a ``# `` are left out.

    Raises `ValueError` with the line's number.
    """
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = f" {line}".partition(" # ")[0].strip()
        if line and line != "#":
            try:
                step = parse_step(line)
                before = [other.at for other in steps if other.unit == step.unit]
                if before and before[-1] > step.at:
                    raise ValueError("it is before the step above, which would hold it up.")
                steps.append(step)
            except ValueError as problem:
                raise ValueError(f"Line {number}: {problem}") from None
    return steps


@dataclass(frozen=True)
class RandomFaults:
    """Faults without end, one about `every` so many seconds; the same `seed` gives the same ones.

    They are taken from `kinds`, as values or as texts, and each hits a `share` of the connections that are
    then open, at least one. Faults of `kinds` that last, such as a delay, stay unless they say for how long.
    """

    seed: int
    every: float = 0.5
    kinds: Sequence[Fault | str] = field(default=RANDOM_KINDS)
    share: float = 0.1

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise ValueError(f"Between two faults there has to be some time, not {self.every} seconds.")
        if not self.faults:
            raise ValueError("There are no faults to choose from.")
        Share(self.share)

    @property
    def faults(self) -> list[Fault]:
        """The kinds as values."""
        return [parse_fault(kind) if isinstance(kind, str) else kind for kind in self.kinds]

    def __iter__(self) -> Iterator[Step]:
        chance = random.Random(self.seed)  # noqa: S311  # it has to be the same again
        faults = self.faults
        at = 0.0
        while True:
            at = round(at + chance.uniform(0.5, 1.5) * self.every, 6)
            yield Step(at, chance.choice(faults), Share(self.share, chance.randrange(1_000_000)))


Plan: TypeAlias = Iterable[Step]
"""Steps in the order of their times."""
