"""`python -m benchmarks`: run the works against the peers, print the tables, keep the figures."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import peers as all_peers
from benchmarks.peers import Peer
from benchmarks.report import RESULTS, failures, number, table, write
from benchmarks.rounds import Results, measure
from benchmarks.servers import raise_file_limit
from benchmarks.works import Reading, Work
from benchmarks.works.accepts import Accepts
from benchmarks.works.across import Across, AcrossLatency
from benchmarks.works.echo import Echo
from benchmarks.works.fanout import FanOut
from benchmarks.works.held import Held
from benchmarks.works.latency import Latency
from benchmarks.works.memory import Memory
from benchmarks.works.rooms import Rooms
from benchmarks.works.stalled import Stalled


@dataclass(frozen=True)
class Sizes:
    """How large the works are."""

    connections: int
    subscribers: int
    idle: int
    rooms: int
    held: int


WORKS: dict[str, Callable[[Sizes], Work]] = {
    "echo": lambda sizes: Echo(sizes.connections),
    "fanout-1": lambda sizes: FanOut(sizes.subscribers, in_flight=1),
    "fanout-8": lambda sizes: FanOut(sizes.subscribers, in_flight=8),
    "fanout-1-1k": lambda sizes: FanOut(sizes.subscribers, in_flight=1, size=1024),
    "fanout-8-1k": lambda sizes: FanOut(sizes.subscribers, in_flight=8, size=1024),
    "fanout-1-1k-deflate": lambda sizes: FanOut(sizes.subscribers, in_flight=1, size=1024, compressed=True),
    "rooms": lambda sizes: Rooms(sizes.rooms, members=10, in_flight=32),
    "memory": lambda sizes: Memory(sizes.idle),
    "accepts": lambda _: Accepts(at_once=32),
    "latency": lambda _: Latency(),
    "stalled": lambda _: Stalled(),
    "across-1": lambda sizes: Across(sizes.subscribers, in_flight=1),
    "across-8": lambda sizes: Across(sizes.subscribers, in_flight=8),
    "across-latency": lambda _: AcrossLatency(),
    "held": lambda sizes: Held(sizes.held, shared=False),
    "held-redis": lambda sizes: Held(sizes.held, shared=True),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Peer to measure; may be repeated. The first is compared with the others."),
    ] = None,
    work: Annotated[
        list[str] | None, typer.Option(help=f"Work to do; may be repeated: {', '.join(WORKS)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each peer has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measured window.")] = 2.0,
    connections: Annotated[int, typer.Option(min=1, help="Clients that have messages echoed.")] = 50,
    subscribers: Annotated[int, typer.Option(min=1, help="Clients that broadcasts go to.")] = 1000,
    idle: Annotated[int, typer.Option(min=2, help="Clients that are held idle for their memory.")] = 5000,
    rooms: Annotated[int, typer.Option(min=1, help="Rooms, of 10 clients each.")] = 1000,
    held: Annotated[
        int, typer.Option(min=100, help="Rooms of one client each; a client joins 100.")
    ] = 20_000,
    name: Annotated[str, typer.Option(help="Name of the file of figures, after the date.")] = "bench",
    results: Annotated[Path, typer.Option(help="Folder for it.")] = RESULTS,
) -> None:
    """Measure hubbub beside its peers, in turns: the server on one core, the load generator on another."""
    console = Console()
    chosen = _choose_peers(peer, console)
    if unknown := set(work or ()) - set(WORKS):
        raise typer.BadParameter(f"There is no {', '.join(sorted(unknown))}. There is {', '.join(WORKS)}.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise typer.BadParameter("Server and load generator need a core each, but there is only one.")
    os.sched_setaffinity(0, {cores[1]})
    raise_file_limit()

    def tell(work: Work, turn: int, peer: Peer, reading: Reading) -> None:
        console.print(
            f"{work.name}, round {turn}: {peer.name} {number(reading.value)} {work.unit}; "
            f"server {reading.server.busy:.0%} busy, generator {reading.generator.busy:.0%}",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )

    sizes = Sizes(connections, subscribers, idle, rooms, held)
    works: list[Work] = []
    for key in dict.fromkeys(work or WORKS):
        asked = WORKS[key](sizes)
        if reason := asked.missing():
            console.print(f"Without {key}: {reason}", highlight=False, soft_wrap=True)
        else:
            works.append(asked)
    if not works:
        raise typer.Exit(1)
    options = {"rounds": rounds, "seconds": seconds, **asdict(sizes)}
    options |= {"server_core": cores[0], "generator_core": cores[1]}
    done: list[Results] = []
    for each in works:
        done.append(measure(each, chosen, rounds, seconds, cores[0], tell))
        path = write(results, name, chosen, options, done)  # each time: what comes later may fail
    for figures in done:
        console.print(table(figures))
    console.print(f"All rounds are in {path}.", highlight=False, soft_wrap=True)
    failed = [sentence for figures in done for sentence in failures(figures)]
    for sentence in failed:
        console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def _choose_peers(names: list[str] | None, console: Console) -> list[Peer]:
    """The peers asked for, or all that are installed: hubbub first, floor last."""
    found, missing = all_peers.find()
    if not names:
        for absent, reason in missing.items():
            console.print(f"Without {absent}: {reason}.", highlight=False, soft_wrap=True)
        return sorted(found.values(), key=lambda peer: (peer.name != "hubbub", peer.name == "floor"))
    for name in names:
        if name not in found:
            reason = missing.get(name, f"the peers are {', '.join(found)}")
            raise typer.BadParameter(f"There is no {name} here: {reason}.")
    return [found[name] for name in dict.fromkeys(names)]


if __name__ == "__main__":
    app()
