"""Whether a process works, waits for its core or sleeps: so that one sees who holds up whom."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SATURATED = 0.95
QUIET = 0.02
"""The share of the time that a process works which has nothing more to do."""
SETTLES_WITHIN = 10.0


@dataclass(frozen=True)
class Activity:
    """What a process did during a window, in shares of the time from 0 to 1; for the rest it slept."""

    working: float
    """On its core."""
    waiting: float
    """Ready to work, but something else had the core."""

    @property
    def busy(self) -> float:
        """How much of the time it had work to do; `SATURATED` or more means that it holds up the others."""
        return self.working + self.waiting


class Watch:
    """Watches a process from now on, with all that it has started if `children` says so."""

    def __init__(self, pid: int, *, children: bool) -> None:
        self._pid = pid
        self._children = children
        self._began = time.perf_counter(), *self._times()

    def activity(self) -> Activity:
        """What it has done so far."""
        now = time.perf_counter(), *self._times()
        wall, working, waiting = (after - before for before, after in zip(self._began, now, strict=True))
        return Activity(working / wall, waiting / wall)

    def _times(self) -> tuple[float, float]:
        """Seconds for which all threads together have worked, and have waited for a core."""
        lines = [thread.joinpath("schedstat").read_text().split() for thread in self._threads(self._pid)]
        return sum(int(line[0]) for line in lines) / 1e9, sum(int(line[1]) for line in lines) / 1e9

    def _threads(self, pid: int) -> Iterator[Path]:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield thread
            if self._children:
                for child in thread.joinpath("children").read_text().split():
                    yield from self._threads(int(child))


class CoreWatch:
    """Watches a core from now on, whoever works on it."""

    def __init__(self, core: int) -> None:
        self._name = f"cpu{core}"
        self._began = self._times()

    def busy(self) -> float:
        """The share of the time, so far, that the core had something to do."""
        spent = [after - before for before, after in zip(self._began, self._times(), strict=True)]
        idle = spent[3] + spent[4]  # idle, and idle while a disk is awaited
        return 1 - idle / sum(spent) if sum(spent) else 0.0

    def _times(self) -> list[int]:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *times = line.split()
            if name == self._name:
                return [int(time) for time in times[:8]]  # those of guests are among them already
        raise ValueError(f"The system has no account of {self._name}.")


def memory(pid: int) -> int:
    """Memory of a process and all that it has started, in kB: its own, and its part of what is shared."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total = int(line.split()[1])
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += sum(memory(int(child)) for child in thread.joinpath("children").read_text().split())
    return total


def settled_memory(pid: int, wait: Callable[[float], object]) -> int:
    """Memory of a process in kB once it is quiet; `wait` is called to let some seconds pass."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while time.monotonic() < deadline:
        watch = Watch(pid, children=True)
        wait(0.2)
        if watch.activity().busy < QUIET:
            return memory(pid)
    raise TimeoutError(f"The server was not quiet within {SETTLES_WITHIN:.0f} seconds.")
