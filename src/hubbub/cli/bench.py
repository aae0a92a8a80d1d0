"""``hubbub bench``: load a WebSocket server, and tell what it did."""

import errno
import json
import resource
import select
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape as markup_escaped
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.http11 import Response
from websockets.uri import parse_uri

from ..load.bench import IN_FLIGHT, RATE, Figures, Order, Unclear, Work, run
from ..load.connection import Refused
from ..load.frames import Closed
from ..load.line import Target
from ..load.speech import SUBPROTOCOL
from ..protocol.codes import CloseCode
from . import target as where
from .connect import address, header_of, tls_context
from .conversation import ExitCode
from .terminal import escape

SATURATED = 0.95
SPARE_FILES = 64
"""Files that the process needs besides its sockets."""
LIMITED = {
    429: "Of hubbub's limits, --max-connections-per-address is the likely one: raise it for the measurement.",
    503: "If it is hubbub, raise --max-connections, --max-connections-per-address or --max-pending.",
    CloseCode.TOO_MANY_MESSAGES: "Raise the server's --max-message-rate and --max-message-burst for the "
    "measurement, or send less, with --work latency and a low --rate.",
    CloseCode.TOO_SLOW: "The load generator could not read as fast as the server sent: its --max-outbox "
    "was full.",
    CloseCode.NOT_LOGGED_IN: "Log in with --token or --header.",
    CloseCode.TRY_AGAIN_LATER: "If it is hubbub, raise --max-connections or --max-pending.",
    CloseCode.MESSAGE_TOO_BIG: "Raise the server's --max-message.",
}
USES = {
    "room": (Work.FAN_OUT, Work.CONNECTIONS, Work.LATENCY),
    "message": (Work.ECHO, Work.FAN_OUT, Work.LATENCY),
    "rate": (Work.LATENCY,),
    "in-flight": (Work.FAN_OUT,),
}
"""What is of use to which works; the other options are to all of them."""
MEANS = {
    Work.ECHO: "until the answer is there",
    Work.FAN_OUT: "until all connections have the message",
    Work.CONNECTIONS: "until a connection is open",
    Work.LATENCY: "from when a message was due until it is there",
}


def bench(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="The server: ws://, wss://, http://, https:// or HOST:PORT."),
    ],
    work: Annotated[
        Work,
        typer.Option(
            help="echo: each connection sends its next message when it has the answer to the last. "
            "fan-out: one more connection publishes to all others, the next message when they all have "
            "it. connections: they are opened and held. latency: messages at a fixed rate."
        ),
    ] = Work.ECHO,
    connections: Annotated[int, typer.Option(min=1, max=50_000, metavar="N", help="How many.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=3600,
            metavar="SECONDS",
            help="For how long. All works but connections warm up before that, unmeasured: for a quarter of "
            "it, and at most 1 s.",
        ),
    ] = 5.0,
    room: Annotated[
        str | None, typer.Option(metavar="NAME", help="The room to join, on a hubbub server.")
    ] = None,
    message: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The message to send. By default a $ping, or 64 bytes of text if the server is not hubbub.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="N",
            help=f"For latency: messages a second. By default {RATE:g}.",
        ),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help=f"For fan-out: messages under way at any time. By default {IN_FLIGHT}.",
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Log in with Authorization: Bearer TOKEN.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="Send a header. May be repeated."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any TLS certificate.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Trust the certificates in this PEM file."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")
    ] = False,
) -> None:
    """Load a WebSocket server, and tell how much it does and how fast it answers.

    A server whose first message is $welcome is spoken to in hubbub's protocol.
    Any other is expected to answer each message with one, or, for fan-out, to
    send it on to all connections.

    It is a real load: don't point it at a server that others need. Ctrl-C ends
    it with the figures so far.

    Exit status:

    * 0: it went well
    * 1: nothing could be measured
    * 2: the command can't be used like this
    * 3: there are figures, but also errors
    * 130: interrupted with Ctrl-C
    """
    if ca and insecure:
        raise typer.BadParameter("Choose one of --ca and --insecure.")
    if not hasattr(select, "epoll"):  # pragma: no cover  # elsewhere than on Linux
        raise typer.BadParameter("hubbub bench needs Linux: its load generator is built on epoll.")
    for name, value in {"room": room, "message": message, "rate": rate, "in-flight": in_flight}.items():
        if value is not None and work not in USES[name]:
            raise typer.BadParameter(
                f"--work {work} has no use for it: it is for {', '.join(USES[name])}.",
                param_hint=f"--{name}",
            )
    url = address(url)
    uri = parse_uri(url)
    headers = [header_of(line) for line in header or ()]
    if token is not None:
        headers.append(header_of(f"Authorization: Bearer {token}"))
    tls = tls_context(ca, insecure) if uri.secure else None
    order = Order(
        Target(uri.host, uri.port, tls, tuple(headers), SUBPROTOCOL),
        uri.resource_name,
        work,
        connections,
        seconds,
        room,
        message,
        rate or RATE,
        in_flight or IN_FLIGHT,
    )
    place = f"{'wss' if uri.secure else 'ws'}://{uri.host}:{uri.port}{uri.path or '/'}"
    diagnostics = Console(stderr=True, highlight=False, soft_wrap=True)
    _allow_files(connections)
    try:
        with _Bar(diagnostics) as bar:
            figures = run(order, lambda error: explain(error, url), bar.show)
    except (OSError, ValueError) as error:
        _complain(diagnostics, explain(error, url))
        raise typer.Exit(
            ExitCode.WRONG_USAGE if isinstance(error, Unclear) else ExitCode.NOT_CONNECTED
        ) from None
    if not figures.count:
        _complain(diagnostics, *_told(figures), _why_nothing(figures))
    elif as_json:
        print(json.dumps(_document(place, order, figures), indent=1))
    else:
        _print(Console(highlight=False), place, order, figures)
    if figures.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not figures.count:
        raise typer.Exit(ExitCode.NOT_CONNECTED)
    raise typer.Exit(ExitCode.ABNORMAL if figures.errors else ExitCode.NORMAL)


def _complain(console: Console, *sentences: str) -> None:
    for sentence in filter(None, sentences):
        console.print(f"[bold red]hubbub:[/] {markup_escaped(sentence)}")


def _told(figures: Figures) -> list[str]:
    """What went wrong, the most frequent first."""
    return [f"{times:,} times: {said}" if times > 1 else said for said, times in figures.errors.most_common()]


def _why_nothing(figures: Figures) -> str:
    """Say why there are no figures, where that is not said by what went wrong."""
    if figures.interrupted:
        return "Interrupted before anything was measured."
    return "" if figures.errors.total() == 1 else "It ended before anything was measured."


def explain(error: Exception, url: str) -> str:
    """Say in a sentence or two what went wrong, and what to try."""
    uri = parse_uri(url)
    match error:
        case Refused(status=0):
            return where.explain(InvalidMessage(str(error)), where.Target(url))
        case Refused():
            reason = error.head.partition("\r\n")[0].partition(" ")[2].partition(" ")[2]
            response = Response(error.status, reason, Headers(), error.body.encode())
            said = where.explain(InvalidStatus(response), where.Target(url))
            return escape(f"{said} {LIMITED.get(error.status, '')}".rstrip())
        case Closed(code=1006):
            return "The server broke a connection off."
        case Closed():
            reason = f" “{escape(error.reason)}”" if error.reason else ""
            said = f"The server closed a connection: {error.code}{reason}."
            return f"{said} {LIMITED.get(error.code, '')}".rstrip()
        case TimeoutError():
            return f"{uri.host}:{uri.port}: {error}"
        case OSError(errno=errno.EMFILE):
            return "This machine lets a process open no more files; raise that with ulimit -n."
        case OSError(errno=errno.EADDRNOTAVAIL):
            return "This machine has no more ports for connections to the server."
        case OSError():
            return where.explain(error, where.Target(url))
    return escape(str(error))


def _allow_files(connections: int) -> None:
    """Let this process have as many sockets as it needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise typer.BadParameter(
            f"{connections:,} connections are more files than the {hard:,} that this machine lets a process "
            "open; raise that with ulimit -Hn.",
            param_hint="--connections",
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class _Bar:
    """A progress bar, where somebody looks at it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            console=console,
            transient=True,
            auto_refresh=False,  # no thread that takes turns with the load
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("connecting", rate="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, what: str, done: float, total: float, figures: Figures) -> None:
        """Show how far it is."""
        rate = f"{figures.rate:,.0f} {figures.unit}" if figures.count else ""
        self._progress.update(self._task, description=what, completed=done, total=total, rate=rate)
        self._progress.refresh()


def _document(place: str, order: Order, figures: Figures) -> dict[str, object]:
    found = figures.latencies
    return {
        "url": place,
        "protocol": "hubbub" if figures.hubbub else "plain",
        "work": order.work.value,
        "connections": figures.connections,
        "seconds": round(figures.seconds, 6),
        "asked_seconds": order.seconds,
        "ended_after": None if figures.whole else round(figures.lasted, 6),
        "count": figures.count,
        "rate": round(figures.rate, 1),
        "unit": figures.unit,
        "latency_ms": {
            "p50": round(found.percentile(50) * 1e3, 3),
            "p99": round(found.percentile(99) * 1e3, 3),
            "max": round(found.longest * 1e3, 3),
        }
        if found
        else None,
        "generator_busy": round(figures.busy, 3),
        "errors": dict(figures.errors),
        "interrupted": figures.interrupted,
    }


def _print(console: Console, place: str, order: Order, figures: Figures) -> None:
    found = figures.latencies
    console.print(
        f"{order.work} at {place}, {'spoken to as hubbub' if figures.hubbub else 'with plain messages'}",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=SIMPLE, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_row(figures.unit, f"{figures.rate:,.0f}")
    if found:
        table.add_row("p50", duration(found.percentile(50)))
        table.add_row("p99", duration(found.percentile(99)))
        table.add_row("max", duration(found.longest))
    table.add_row("connections", f"{figures.connections:,}")
    table.add_row("errors", f"{figures.errors.total():,}")
    console.print(table)
    if found:
        console.print(f"p50, p99 and max: {MEANS[order.work]}.", soft_wrap=True)
    if not figures.whole:
        ended = "Interrupted" if figures.interrupted else "Ended"
        held = "they were held for " if order.work is Work.CONNECTIONS else ""
        console.print(f"{ended} after {held}{figures.lasted:.1f} s of {order.seconds:g} s.", soft_wrap=True)
    if figures.busy >= SATURATED:
        console.print(
            "The load generator was busy all the time: the server can do more than this.", soft_wrap=True
        )
    for sentence in _told(figures):
        console.print(sentence, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Write a duration with three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:,.2f} s"
