"""`python -m benchmarks.storms`: how clients come back when an instance dies or restarts, simulated.

Every client is simulated, with its own attempts and waits; an instance is a queue that is served first come,
first served, and so is the broker. The same seed gives the same storm.
"""

import heapq
import itertools
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil, inf
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import value
from benchmarks.sizing import Fleet, Rows, amount
from hubbub.client import Backoff
from hubbub.engine.drain import BATCHES, SMALLEST_BATCH
from hubbub.settings import Settings

DEFAULTS = Settings()
OPENS_WITHIN = 10.0
"""Seconds that the Python client gives an attempt."""
ARRIVES, AT_BROKER, FAILS = range(3)


@dataclass(frozen=True)
class Storm:
    """What happens: `dead` of the `instances` are lost, and their clients go to the others in turn.

    Where all are lost, the clients go to as many new ones, once these are there.
    """

    instances: int = 4
    dead: int = 1
    connections: int = 10_000
    """Of each instance."""
    drain: float | None = None
    """Seconds within which the dead let their clients go; None if they are killed."""
    noticed_within: float = 0.1
    """Seconds within which clients notice that their line is lost, each at another moment."""
    away: float = 0.0
    """Seconds until an attempt can succeed at all."""
    jitter: bool = True
    endless: bool = False
    """Whether clients go on for ever with the last wait, instead of giving up."""
    failing: float = inf
    """Failed attempts a second that all clients together can go through, where one core is all of them."""
    opening: float = 0.1
    """Seconds on the network until a connection is open: round trips."""
    accepts: float = value("accepts")
    """Connections that an instance can accept a second, if it does nothing else."""
    busy: float = value("utilisation")
    """The share of an instance's core, and of the broker, that other work takes."""
    handshake: float = 0.0
    """Seconds of the instance's core for TLS."""
    calls: float = value("resume_calls")
    """What taking a session up asks of the broker."""
    call: float = value("busy_call") * 1e-6
    """Seconds of the instance's core for each of these calls."""
    broker: float = value("broker_calls")
    """Calls a second that the broker answers, its shards together."""
    refusal: float = value("refusal") * 1e-6
    """Seconds of the instance's core to refuse somebody."""
    pending: int = DEFAULTS.max_pending
    """Connections that an instance lets in at once, before they are back; the others are refused."""
    seed: int = 1

    @property
    def clients(self) -> int:
        """How many have to come back."""
        return self.dead * self.connections

    @property
    def open_instances(self) -> int:
        """How many they come back to."""
        return self.instances - self.dead or self.instances


@dataclass
class Outcome:
    """What came of a storm. Times are in seconds, from when the instance was lost."""

    storm: Storm
    back: list[float] = field(default_factory=list)
    """When each client was back, ascending."""
    away: list[float] = field(default_factory=list)
    """For how long each of them was without a line, ascending."""
    gave_up: int = 0
    """Clients whose attempts were used up."""
    waiting: int = 0
    """Clients that were not back when the simulation ended."""
    tried: int = 0
    """Attempts that reached an instance."""
    refused: int = 0
    late: int = 0
    """Attempts that the client gave up waiting for."""
    longest: int = 0
    """The most connections that one instance had let in and not brought back yet."""

    def after(self, percent: float) -> float:
        """How long so many percent of those who came back were away at the most."""
        if not self.away:
            return 0.0
        return self.away[min(len(self.away) - 1, ceil(len(self.away) * percent / 100) - 1)]

    @property
    def busiest(self) -> int:
        """How many came back within one second, at the most."""
        return max((bisect_right(self.back, at + 1) - n for n, at in enumerate(self.back)), default=0)


def simulate(storm: Storm, until: float = 600.0) -> Outcome:
    """Have a storm happen, for so many seconds at the most."""
    return _Simulation(storm).run(until)


class _Simulation:
    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self._chance = random.Random(storm.seed)
        self._outcome = Outcome(storm)
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, int, float]] = []
        """When, a number that keeps equal moments in order, what, which client, and when it arrived."""
        share = 1 - storm.busy
        self._service = (1 / storm.accepts + storm.handshake + storm.calls * storm.call) / share
        self._refusal = storm.refusal / share
        self._broker_service = storm.calls / storm.broker / share
        self._free = [0.0] * storm.open_instances
        """When each instance has done what it has to do."""
        self._let_in: list[deque[float]] = [deque() for _ in self._free]
        """For each instance, when those that it has let in will be back, as far as that is known."""
        self._at_broker = [0] * storm.open_instances
        """How many of those it has let in have not asked the broker yet."""
        self._broker_free = 0.0
        self._clients_free = 0.0
        self._turn = self._chance.randrange(storm.open_instances)
        self._target = [0] * storm.clients
        self._waits: list[Iterator[float]] = []
        self._lost: list[float] = []

    def run(self, until: float) -> Outcome:
        storm, outcome = self._storm, self._outcome
        for client, (lost, first) in enumerate(self._losses()):
            self._waits.append(self._backoff())
            self._lost.append(lost)
            self._attempt(client, lost, first)
        while self._events and self._events[0][0] <= until:
            moment, _, what, client, arrived = heapq.heappop(self._events)
            if what == AT_BROKER:
                self._ask(client, moment, arrived)
            elif what == FAILS:
                self._attempt(client, moment, None)
            else:
                self._arrive(client, moment)
        outcome.waiting = storm.clients - len(outcome.back) - outcome.gave_up
        outcome.back.sort()
        outcome.away.sort()
        return outcome

    def _losses(self) -> Iterator[tuple[float, float | None]]:
        """For each client when it loses its line, and when the server asked it back after that."""
        storm, chance = self._storm, self._chance
        if storm.drain is None:
            for _ in range(storm.clients):
                yield chance.uniform(0, storm.noticed_within), None
            return
        each = storm.connections
        spread = storm.drain * min(1.0, each / (SMALLEST_BATCH * BATCHES))
        size = max(SMALLEST_BATCH, -(-each // BATCHES))
        for number in range(storm.clients):
            yield number % each // size * storm.drain / 2 / BATCHES, chance.uniform(0, spread)

    def _backoff(self) -> Iterator[float]:
        waits = Backoff().waits
        again = itertools.repeat(waits[-1]) if self._storm.endless else ()
        for wait in itertools.chain(waits, again):
            yield wait * self._chance.random() if self._storm.jitter else wait

    def _attempt(self, client: int, now: float, wait: float | None) -> None:
        """Have a client try again, after so long, or as it waits by itself."""
        if wait is None and (wait := next(self._waits[client], None)) is None:
            self._outcome.gave_up += 1
            return
        if now + wait >= self._storm.away:
            self._push(now + wait + self._storm.opening, ARRIVES, client)
            return
        # Nobody listens. That is told at once, but the clients may take their time over it.
        self._clients_free = max(self._clients_free, now + wait) + 1 / self._storm.failing
        self._push(self._clients_free, FAILS, client)

    def _push(self, moment: float, what: int, client: int, arrived: float = 0.0) -> None:
        heapq.heappush(self._events, (moment, next(self._order), what, client, arrived))

    def _arrive(self, client: int, now: float) -> None:
        outcome = self._outcome
        outcome.tried += 1
        here = self._turn
        self._turn = (here + 1) % len(self._free)
        let_in = self._let_in[here]
        while let_in and let_in[0] <= now:
            let_in.popleft()
        inside = len(let_in) + self._at_broker[here]
        begins = max(self._free[here], now)
        if inside >= self._storm.pending:
            outcome.refused += 1
            self._free[here] = begins + self._refusal
            self._attempt(client, self._free[here], None)
            return
        outcome.longest = max(outcome.longest, inside + 1)
        self._free[here] = begins + self._service
        self._at_broker[here] += 1
        self._target[client] = here
        self._push(self._free[here], AT_BROKER, client, now)

    def _ask(self, client: int, now: float, arrived: float) -> None:
        """Have the broker answer what taking the session up asks of it."""
        here = self._target[client]
        self._at_broker[here] -= 1
        done = self._broker_free = max(self._broker_free, now) + self._broker_service
        self._let_in[here].append(done)
        if done - arrived > OPENS_WITHIN:
            self._outcome.late += 1
            self._attempt(client, max(now, arrived + OPENS_WITHIN), None)
            return
        self._outcome.back.append(done)
        self._outcome.away.append(done - self._lost[client])


Balance = Literal["round robin", "fewest connections"]


@dataclass(frozen=True)
class Rolling:
    """One restart of every instance of a fleet, some at a time, the next when they are back."""

    instances: int
    at_once: int = 1
    drain: float = DEFAULTS.drain
    """Seconds within which an instance lets its clients go."""
    starts: float = value("start")
    """Seconds from the end of an instance until its successor takes connections."""
    balance: Balance = "round robin"


@dataclass(frozen=True)
class Rolled:
    """What came of it. Connections are counted in those that each instance had at first."""

    seconds: float
    moves: float
    """How often a client lost its line, on average."""
    fullest: float
    """What the fullest instance held at any time."""
    emptiest: float
    """What the emptiest one holds at the end."""


def roll(rolling: Rolling) -> Rolled:
    """Restart a fleet. Connections are counted, not single clients."""
    count = rolling.instances
    if not 0 < rolling.at_once < count:
        raise ValueError("Some instances, but not all, are restarted at a time.")
    held = [1.0] * count
    fullest, moved, steps = 1.0, 0.0, 0
    for first in range(0, count, rolling.at_once):
        steps += 1
        going = range(first, min(first + rolling.at_once, count))
        lost = sum(held[number] for number in going)
        moved += lost
        for number in going:
            held[number] = 0.0
        staying = [number for number in range(count) if number not in going]
        if rolling.balance == "round robin":
            for number in staying:
                held[number] += lost / len(staying)
        else:
            _level(held, staying, lost)
        fullest = max(fullest, *held)
    return Rolled(steps * (rolling.drain + rolling.starts), moved / count, fullest, min(held))


def _level(held: list[float], staying: list[int], more: float) -> None:
    """Give so many connections to whoever has fewest at each moment."""
    rising = sorted(staying, key=held.__getitem__)
    level = held[rising[0]]
    for count, (_, following) in enumerate(itertools.pairwise([*rising, None]), 1):
        room = inf if following is None else (held[following] - level) * count
        if room >= more:
            level += more / count
            for number in rising[:count]:
                held[number] = level
            return
        more -= room
        assert following is not None
        level = held[following]


def _size(instances: int, connections: int = 10_000) -> Storm:
    """One of these instances is killed; the broker is as large as `benchmarks.sizing` has it."""
    broker = value("broker_calls") * Fleet(instances * connections).masters
    return Storm(instances, connections=connections, broker=broker)


STORMS: dict[str, Storm] = {
    "1 of 4 killed": _size(4),
    "1 of 100 killed": _size(100),
    "1 of 2000 killed": _size(2000),
    "1 of 4 killed, each with 50,000": _size(4, 50_000),
    "10 of 30 killed: a zone": replace(_size(30), dead=10),
    "1 of 4 killed, TLS in the instances": replace(_size(4), handshake=value("tls_handshake") * 1e-6),
    "1 of 4 stopped, drain 10 s": replace(_size(4), drain=10.0),
    "1 of 100 stopped, drain 10 s": replace(_size(100), drain=10.0),
    "1 of 4 stopped, drain 30 s, each with 50,000": replace(_size(4, 50_000), drain=30.0),
}
ROLLINGS = [
    Rolling(4),
    Rolling(4, balance="fewest connections"),
    Rolling(100),
    Rolling(100, at_once=5),
    Rolling(100, at_once=5, balance="fewest connections"),
    Rolling(2000),
    Rolling(2000, at_once=100),
    Rolling(2000, at_once=100, drain=30.0),
    Rolling(2000, at_once=100, balance="fewest connections"),
]
MEASURED = Storm(
    instances=1,
    dead=1,
    connections=5_000,
    noticed_within=0.0,
    away=0.45,
    endless=True,
    failing=2_500,
    opening=0.0,
    busy=0.0,
    call=0.0,
    broker=inf,
    pending=5_001,
)
"""The storm of docs/reliability.md: one server is away for 0.45 s; its 5,000 clients share a core."""


@cache
def outcome(storm: Storm) -> Outcome:
    """What came of a storm; the same for the same storm."""
    return simulate(storm)


def storms() -> Rows:
    """What comes of each storm, with jitter and, where clients wait by themselves, without."""
    return [
        (name, "yes" if jitter else "no", *_shown(outcome(replace(storm, jitter=jitter))))
        for name, storm in STORMS.items()
        for jitter in ((True, False) if storm.drain is None else (True,))
    ]


def _shown(found: Outcome) -> Iterator[str]:
    for percent in (50, 99, 100):
        yield f"{found.after(percent):.1f} s"
    yield from (amount(n) for n in (found.busiest, found.longest, found.refused, found.gave_up))


def rollings() -> Rows:
    """What comes of each restart of a fleet."""
    rows: Rows = []
    for rolling in ROLLINGS:
        found = roll(rolling)
        time = f"{found.seconds / 60:.0f} min" if found.seconds < 7200 else f"{found.seconds / 3600:.1f} h"
        rows.append(
            (
                f"{rolling.instances}",
                f"{rolling.at_once}",
                f"{rolling.drain:g} s",
                rolling.balance,
                time,
                f"{found.moves:.2f}",
                f"{found.fullest:.2f}",
            )
        )
    return rows


def calibration() -> Rows:
    """The storm that was measured, and the same simulated."""
    found = [outcome(replace(MEASURED, jitter=jitter)) for jitter in (True, False)]
    measured = ("3.8 s", "4.2 s"), ("3.0 s", "3.4 s"), ("3.4 s", "3.5 s"), ("4,249", "3,155")
    simulated = (
        [f"{each.back[-1]:.1f} s" for each in found],
        [f"{each.after(50):.1f} s" for each in found],
        [f"{each.after(99):.1f} s" for each in found],
        [amount(each.busiest) for each in found],
    )
    names = "all back after", "recovery p50", "recovery p99", "back in the busiest second"
    return [
        (name, real[0], shown[0], real[1], shown[1])
        for name, real, shown in zip(names, measured, simulated, strict=True)
    ]


CALIBRATION_HEADS = ("", "with jitter: measured", "simulated", "without: measured", "simulated")
STORM_HEADS = (
    "what happens",
    "jitter",
    "back p50",
    "p99",
    "last",
    "busiest second",
    "longest queue",
    "refused",
    "gave up",
)
ROLLING_HEADS = ("instances", "at once", "drain", "balance", "takes", "moves of a client", "fullest instance")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    instances: Annotated[
        int, typer.Option(min=0, help="Instances before the storm; 0 shows the storms of docs/scaling.md.")
    ] = 0,
    dead: Annotated[int, typer.Option(min=1, help="How many of them are lost.")] = 1,
    connections: Annotated[int, typer.Option(min=1, help="Connections of each.")] = 10_000,
    drain: Annotated[float, typer.Option(help="Seconds of drain; 0 is killed.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed is another storm.")] = 1,
) -> None:
    """Print the storms and restarts of docs/scaling.md, or with --instances one storm of your own."""
    console = Console()
    if instances:
        if dead > instances:
            raise typer.BadParameter("No more can be lost than there are.")
        own = replace(_size(instances, connections), dead=dead, drain=drain or None, seed=seed)
        rows = [
            (
                f"{dead} of {instances}",
                "yes" if jitter else "no",
                *_shown(simulate(replace(own, jitter=jitter))),
            )
            for jitter in (True, False)
        ]
        console.print(_table(STORM_HEADS, rows))
        return
    console.print(_table(STORM_HEADS, storms()))
    console.print(_table(ROLLING_HEADS, rollings()))


def _table(heads: tuple[str, ...], rows: Rows) -> Table:
    shown = Table(box=SIMPLE)
    for number, head in enumerate(heads):
        shown.add_column(head, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*row)
    return shown


if __name__ == "__main__":
    app()
