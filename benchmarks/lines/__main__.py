"""`python -m benchmarks.lines`: deliveries a second and memory for each client, over every kind of line."""

import os
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from statistics import median
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.activity import settled_memory
from benchmarks.lines.peers import PEERS, TEXT, Peer
from benchmarks.lines.subscribers import Subscriber
from benchmarks.peers import Peer as Command
from benchmarks.report import RESULTS, number, save
from benchmarks.servers import serving
from hubbub.load.connection import BUFFER, PATIENCE
from hubbub.load.load import without_collection

FIRST = 100
"""Clients that the server has before its memory is looked at: what it allocates once doesn't count."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class FanOut:
    """The next broadcast is published when every subscriber has the oldest one in flight."""

    def __init__(
        self, subscribers: Sequence[Subscriber], publish: Callable[[], None], in_flight: int
    ) -> None:
        self._publish = publish
        self._in_flight = in_flight
        self._counts = dict.fromkeys((one.socket.fileno() for one in subscribers), 0)
        self._by_number = {one.socket.fileno(): one for one in subscribers}
        self._at: Counter[int] = Counter({0: len(subscribers)})
        """How many subscribers have received how many broadcasts."""
        self._published = self._complete = 0
        self._epoll = select.epoll()
        for one in subscribers:
            one.begin()
            self._epoll.register(one.socket.fileno(), select.EPOLLIN)

    def run(self, seconds: float) -> int:
        """Go on for so many seconds; return how many deliveries there were."""
        before, end = sum(self._counts.values()), time.perf_counter() + seconds
        while time.perf_counter() < end:
            while self._published < self._complete + self._in_flight:
                self._publish()
                self._published += 1
            self._receive()
        return sum(self._counts.values()) - before

    def finish(self) -> None:
        """Receive what is under way; `ValueError` unless everybody had all of it once."""
        while self._complete < self._published:
            self._receive()
        if set(self._counts.values()) != {self._published}:
            raise ValueError(f"Not every subscriber had all {self._published} broadcasts once.")
        self._epoll.close()

    def _receive(self) -> None:
        events = self._epoll.poll(PATIENCE, len(self._counts))
        if not events:
            raise TimeoutError(f"No broadcast came for {PATIENCE:.0f} seconds.")
        for descriptor, _ in events:
            one = self._by_number[descriptor]
            if not (data := one.socket.recv(BUFFER)):
                raise ValueError("The server ended a line.")
            found = one.count(data)
            if found:
                had = self._counts[descriptor]
                self._counts[descriptor] = had + found
                self._at[had] -= 1
                self._at[had + found] += 1
        while not self._at[self._complete] and self._complete < self._published:
            del self._at[self._complete]
            self._complete += 1


@contextmanager
def subscribed(peer: Peer, port: int, count: int) -> Iterator[deque[Subscriber]]:
    """Have so many subscribers connected, and more if they are added; all are gone with the context."""
    subscribers: deque[Subscriber] = deque()
    try:
        for _ in range(count):
            subscribers.append(peer.subscribe(port, TEXT))
        yield subscribers
    finally:
        for one in subscribers:
            one.socket.close()


def measure(
    peer: Peer, core: int, seconds: float, subscribers: int, idle: int, first: int = FIRST
) -> dict[str, float]:
    """Return what a peer does: by work, in deliveries a second or kB for each client after the `first`."""
    found: dict[str, float] = {}
    command = Command(name=peer.name, command=peer.command)
    for in_flight in (1, 8):
        with (
            serving(command, core) as server,
            subscribed(peer, server.port, subscribers) as members,
            peer.publisher(server.port) as publish,
        ):
            load = FanOut(members, publish, in_flight)
            with without_collection():
                load.run(seconds / 4)
                began = time.perf_counter()
                count = load.run(seconds)
                found[f"w={in_flight}"] = count / (time.perf_counter() - began)
            load.finish()
    with serving(command, core) as server, subscribed(peer, server.port, first) as members:
        before = settled_memory(server.pid, time.sleep)
        for _ in range(idle):
            members.append(peer.subscribe(server.port, TEXT))
        found["kB"] = (settled_memory(server.pid, time.sleep) - before) / idle
    return found


@app.command()
def main(
    kind: Annotated[list[str] | None, typer.Option(help="Kinds of line; all if none is named.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measured window.")] = 2.0,
    subscribers: Annotated[int, typer.Option(min=1, help="Clients that a broadcast goes to.")] = 200,
    idle: Annotated[int, typer.Option(min=1, help="Clients that memory is measured with.")] = 1000,
    name: Annotated[
        str | None, typer.Option(help="Write the figures to results/lines/<date>-<name>.json.")
    ] = None,
) -> None:
    """Measure every kind of line in turns, the server on one core and its clients on another."""
    peers = [peer for peer in PEERS if not kind or peer.kind in kind]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
    readings: dict[tuple[str, str], list[dict[str, float]]] = {(p.kind, p.name): [] for p in peers}
    for turn in range(rounds):
        for peer in peers:
            found = measure(peer, cores[0], seconds, subscribers, idle)
            readings[peer.kind, peer.name].append(found)
            shown = ", ".join(f"{work} {number(value)}" for work, value in found.items())
            Console(stderr=True).print(
                f"{peer.kind}, {peer.name}, round {turn + 1}: {shown}", highlight=False, soft_wrap=True
            )
    Console().print(table(readings, subscribers))
    if name is not None:
        packages = sorted({package for peer in peers for package in peer.packages})
        figures = {
            "subscribers": subscribers,
            "idle": idle,
            "seconds": seconds,
            "versions": {package: version(package) for package in packages},
            "readings": [
                {"kind": kind, "peer": peer, "rounds": found} for (kind, peer), found in readings.items()
            ],
        }
        save(RESULTS / "lines", name, figures)


def table(readings: dict[tuple[str, str], list[dict[str, float]]], subscribers: int) -> Table:
    """One line for each peer; the ratios are of hubbub to the peer before it, round by round."""
    shown = Table(
        title=f"Deliveries a second to {subscribers} clients, and kB for each idle one",
        title_justify="left", box=SIMPLE, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    for place, heading in enumerate(("line", "", "w=1", "ratio", "w=8", "ratio", "kB", "ratio")):
        shown.add_column(heading, justify="right" if place > 1 else "left", no_wrap=True)
    for (kind, name), rounds in readings.items():
        own = readings.get((kind, "hubbub"))
        cells = []
        for work in ("w=1", "w=8", "kB"):
            cells.append(number(median(found[work] for found in rounds)))
            compared = zip(own, rounds, strict=True) if own is not None and name != "hubbub" else ()
            ratios = [mine[work] / found[work] for mine, found in compared]
            cells.append(f"{median(ratios):.2f}" if ratios else "")
        shown.add_row(kind, name, *cells)
    return shown


if __name__ == "__main__":
    app()
