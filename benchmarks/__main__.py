"""`python -m benchmarks`: run the works against the peers, print the tables, keep the figures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import peers as all_peers
from benchmarks.peers import Peer
from benchmarks.report import table, write
from benchmarks.rounds import measure
from benchmarks.servers import raise_file_limit
from benchmarks.works import Reading, Work
from benchmarks.works.echo import Echo
from benchmarks.works.fanout import FanOut

WORKS: dict[str, Callable[[int, int], Work]] = {
    "echo": lambda connections, _: Echo(connections),
    "fanout-1": lambda _, subscribers: FanOut(subscribers, in_flight=1),
    "fanout-8": lambda _, subscribers: FanOut(subscribers, in_flight=8),
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
    rounds: Annotated[int, typer.Option(min=1, help="How many times each peer has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measured window.")] = 2.0,
    connections: Annotated[int, typer.Option(min=1, help="Clients that have messages echoed.")] = 50,
    subscribers: Annotated[int, typer.Option(min=1, help="Clients that broadcasts go to.")] = 1000,
    name: Annotated[str, typer.Option(help="Name of the file of figures, after the date.")] = "bench",
    results: Annotated[Path, typer.Option(help="Folder for it.")] = Path(__file__).parent / "results",
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

    def tell(work: Work, number: int, peer: Peer, reading: Reading) -> None:
        console.print(
            f"{work.name}, round {number}: {peer.name} {reading.value:,.0f} {work.unit}; "
            f"server {reading.server.busy:.0%} busy, generator {reading.generator.busy:.0%}",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )

    works = [WORKS[key](connections, subscribers) for key in dict.fromkeys(work or WORKS)]
    done = [measure(each, chosen, rounds, seconds, cores[0], tell) for each in works]
    for figures in done:
        console.print(table(figures))
    options = {
        "rounds": rounds,
        "seconds": seconds,
        "connections": connections,
        "subscribers": subscribers,
        "server_core": cores[0],
        "generator_core": cores[1],
    }
    path = write(results, name, chosen, options, done)
    console.print(f"All rounds are in {path}.", highlight=False, soft_wrap=True)


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
