"""``hubbub soak``: publish and receive through faults, and tell whether anything was lost or doubled."""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..errors import HubbubError
from ..soak.note import APPLICATION
from ..soak.order import FAULTS, LineKind, Order, Outage
from ..soak.progress import Progress
from ..soak.report import Report
from ..soak.run import run
from ..soak.storm import StormOrder, storm
from .figures import storm_tables, tables
from .loop import loop_factory

BREACH, CAN_NOT, INTERRUPTED = 1, 2, 130
"""Exit statuses."""
CLIENTS, IN_A_STORM = Order.clients, StormOrder.clients
ON_STDOUT = Path("-")
REFRESHES_EVERY = 5
"""How many times it is told how far it is, for one time that this is shown."""

Result = TypeVar("Result")

HOW_LONG = "How long"
LOAD = "Clients and messages"
SERVER = "Server"
FAULTY = "Faults"
STORM = "Storm"


def soak(
    seconds: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Publish for that long.", rich_help_panel=HOW_LONG),
    ] = Order.seconds,
    messages: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Publish so many messages instead.", rich_help_panel=HOW_LONG),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long clients may take at the end to be back and to have caught up.",
            rich_help_panel=HOW_LONG,
        ),
    ] = Order.patience,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"Clients, {CLIENTS} if nothing is said, or {IN_A_STORM:,} in a storm.",
            show_default=False,
            rich_help_panel=LOAD,
        ),
    ] = None,
    rooms: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rooms.", rich_help_panel=LOAD)
    ] = Order.rooms,
    rooms_per_client: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Rooms that each client is in.", rich_help_panel=LOAD),
    ] = Order.rooms_per_client,
    in_flight: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Messages of each client that wait for an acknowledgement.",
            rich_help_panel=LOAD,
        ),
    ] = Order.in_flight,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="N",
            help="Messages a second of all clients together; else as many as go through.",
            show_default=False,
            rich_help_panel=LOAD,
        ),
    ] = None,
    exclude: Annotated[
        bool,
        typer.Option("--exclude", help="Exclude senders from their own messages.", rich_help_panel=LOAD),
    ] = False,
    line: Annotated[
        LineKind,
        typer.Option(help="By what kind of line the clients come.", rich_help_panel=LOAD),
    ] = Order.line,
    target: Annotated[
        str,
        typer.Option(
            "--app",
            metavar="MODULE:OBJECT",
            help="Serve this application, which has rooms for it, instead of one that has nothing else.",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = APPLICATION,
    broker: Annotated[
        str,
        typer.Option(
            metavar="URL|redis|rabbitmq|nats",
            help="The server's broker; a name starts a private one, which is gone afterwards.",
            rich_help_panel=SERVER,
        ),
    ] = Order.broker,
    instances: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Servers that share the broker, behind HAProxy.",
            rich_help_panel=SERVER,
        ),
    ] = Order.instances,
    native: Annotated[
        bool,
        typer.Option(
            "--native/--no-native", help="Whether it uses hubbub's own transport.", rich_help_panel=SERVER
        ),
    ] = Order.native,
    history: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Messages that a room keeps.", rich_help_panel=SERVER),
    ] = Order.history,
    fault_every: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="A fault about so often, on one connection; 0 for none.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.fault_every,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="FAULT",
            help="A fault to choose from, as stall:500ms:up. May be repeated; else all kinds.",
            show_default=False,
            rich_help_panel=FAULTY,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Have the same faults again; else others each time.",
            show_default=False,
            rich_help_panel=FAULTY,
        ),
    ] = None,
    kills: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Kill the server in mid-stream (kill -9) so many times, and start it again.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.kills,
    kill_every: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Kill a server so often, each in turn, and start it again; 0 for never.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.kill_every,
    rolling: Annotated[
        bool,
        typer.Option(
            "--rolling",
            help="Restart all servers in mid-stream in an orderly way, one after the other.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.rolling,
    broker_down: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECONDS[:stop|kill|pause]",
            help="Take a private broker away in mid-stream for so long. May be repeated.",
            show_default=False,
            rich_help_panel=FAULTY,
        ),
    ] = None,
    broker_cut_every: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Cut all connections between servers and broker so often; 0 for never.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.broker_cut_every,
    partition: Annotated[
        list[float] | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Part one server from the broker in mid-stream for so long. May be repeated.",
            show_default=False,
            rich_help_panel=FAULTY,
        ),
    ] = None,
    lose_acknowledgements: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Cut a line so many times between a publish and its acknowledgement.",
            rich_help_panel=FAULTY,
        ),
    ] = Order.lose_acknowledgements,
    in_storm: Annotated[
        bool,
        typer.Option(
            "--storm", help="Restart the server of very many clients instead.", rich_help_panel=STORM
        ),
    ] = False,
    drain: Annotated[
        bool,
        typer.Option("--drain", help="Stop it in an orderly way; else it is killed.", rich_help_panel=STORM),
    ] = False,
    jitter: Annotated[
        bool | None,
        typer.Option(
            "--jitter/--no-jitter",
            help="Only with, or only without jitter in the clients' back-off; else first with, then without.",
            show_default=False,
            rich_help_panel=STORM,
        ),
    ] = None,
    json_to: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            dir_okay=False,
            allow_dash=True,
            help="Write the figures as JSON to a file; - prints them, and nothing else.",
        ),
    ] = None,
) -> None:
    """Soak hubbub: clients publish and receive through faults, and a ledger is kept of it.

    It starts a server, or several that share a broker, clients that reconnect,
    and a proxy between them that cuts, stalls and tears connections. At the end
    it tells what was lost, doubled or out of order. Ctrl-C ends it early, with a
    judgement of what was.

    With --storm very many clients lose their server at once and come back.

    Exit status:

    * 0: nothing was lost, doubled or out of order, and everyone came back
    * 1: something was, or somebody did not
    * 2: it could not be run
    * 130: interrupted with Ctrl-C, and nothing was found until then
    """
    diagnostics = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = _Bar(diagnostics)
    try:
        if in_storm:
            if instances > 1:
                raise ValueError("A storm is of one server; --instances is for soaks.")
            storm_order = StormOrder(
                clients=clients or IN_A_STORM,
                rooms=rooms,
                app=target,
                broker=broker,
                native=native,
                history=history,
                drain=drain,
                patience=patience,
            )
            kinds = (True, False) if jitter is None else (jitter,)
            storms = [_run(bar, storm(storm_order, jitter=kind, watch=bar.show)) for kind in kinds]
            document: object = [report.document() for report in storms]
            shown, interrupted = storm_tables(storms), False
            sound = all(report.sound for report in storms)
        else:
            order = Order(
                seconds=seconds,
                messages=messages,
                clients=clients or CLIENTS,
                rooms=rooms,
                rooms_per_client=rooms_per_client,
                in_flight=in_flight,
                rate=rate,
                exclude=exclude,
                app=target,
                line=line,
                broker=broker,
                native=native,
                history=history,
                fault_every=fault_every,
                faults=tuple(faults or FAULTS),
                seed=secrets.randbelow(1_000_000) if seed is None else seed,
                instances=instances,
                kills=kills,
                kill_every=kill_every,
                rolling=rolling,
                broker_down=tuple(map(Outage.parse, broker_down or ())),
                broker_cut_every=broker_cut_every,
                partition=tuple(partition or ()),
                lose_acknowledgements=lose_acknowledgements,
                patience=patience,
            )
            report = _run(bar, _until_interrupted(order, bar))
            document, shown = report.document(), tables(report)
            sound, interrupted = report.sound, report.interrupted
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
    except HubbubError as problem:
        diagnostics.print(f"[bold red]hubbub:[/] {escape(str(problem))}")
        raise typer.Exit(CAN_NOT) from None
    if json_to is not None:
        text = json.dumps(document, indent=1) + "\n"
        sys.stdout.write(text) if json_to == ON_STDOUT else json_to.write_text(text)
    if json_to != ON_STDOUT:
        Console(highlight=False, soft_wrap=True).print(*shown, sep="\n")
    raise typer.Exit(BREACH if not sound else INTERRUPTED if interrupted else 0)


def _run(bar: "_Bar", soaking: Coroutine[object, object, Result]) -> Result:
    """Run it on the quicker event loop, where there is one, with the progress bar."""
    with bar, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(soaking)


async def _until_interrupted(order: Order, bar: "_Bar") -> Report:
    """Soak; a first Ctrl-C ends it early, a second one at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        return await run(order, bar.show, stop)
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Bar:
    """A progress bar, where somebody looks at it."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[found]}"),
            console=console,
            transient=True,
            auto_refresh=False,  # no thread that takes turns with the clients
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=1.0, found="")
        self._looks = 0

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        self._looks += 1
        if self._looks % REFRESHES_EVERY == 0:
            found = f"{progress.published:,} messages, {progress.breaches:,} breaches"
            self._bar.update(self._task, description=progress.stage, completed=progress.done, found=found)
            self._bar.refresh()
