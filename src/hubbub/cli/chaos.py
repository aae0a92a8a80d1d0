"""``hubbub chaos``: a proxy that does to connections what networks do."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.uri import parse_uri

from ..errors import ConfigurationError
from ..server import raise_descriptors
from ..testing.faults import FOREVER, RANDOM_KINDS, FaultProxy, Happened, RandomFaults, Step, parse_script
from ..testing.faults.fault import parse_seconds
from .connect import address
from .conversation import ExitCode

TOLD = 8
"""Connections whose numbers are told with a fault; of more, only how many there are."""
REFRESH = 0.25
"""Seconds between two looks at the figures, where somebody watches them."""
STYLES = {"stall": "yellow", "delay": "yellow", "throttle": "yellow", "split": "yellow", "clear": "green"}
STYLE = "red"
"""Of faults that end a connection, or let none begin."""


def chaos(
    to: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The server; a URL will do.")
    ] = "127.0.0.1:8000",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where clients connect instead; port 0 is a free one.")
    ] = "127.0.0.1:9000",
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="The same faults as with this seed before; by default others every time.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default=False,
            help="Time between two faults, on average; by default 0.5s.",
        ),
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            metavar="FAULT,...",
            show_default=False,
            help=f"What to choose from, as cut,stall:1s:up. By default {', '.join(RANDOM_KINDS)}.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            show_default=False,
            help="How many of the open connections a fault hits, at least one; by default 10.",
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Faults at set times, one a line, as '1.5s stall:1s all', or as this command prints them; "
            "- is the standard input.",
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", show_default=False, help="For how long; by default until Ctrl-C."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object on each line.")] = False,
) -> None:
    """Try an application on a bad network.

    Carries every connection on to a server, with faults at random, or as a
    script says. Any TCP server will do. Each fault is printed as it happens,
    in the form that a script has: when, what, for whom.

    \b
    cut                       end the connection, with a FIN
    reset                     break it off, with a RST
    half-open                 it stays open, but nothing crosses any more
    half-open:closed          the same, but the server's side is closed
    stall:TIME                nothing crosses for a time
    delay:TIME±TIME           everything comes later, in order
    throttle:BYTES/s          so many bytes a second
    split:BYTES               in pieces of so many bytes
    close-after:BYTES[:reset] end it after so many bytes
    refuse:TIME[:reset]       take no new connections for a time
    black-hole:TIME           accept new ones, and never answer
    clear                     end all that lasts

    With :up or :down a fault is for one direction only; up is from the client
    to the server. With :for=TIME a delay, throttle or split ends after a time.

    Exit status:

    * 0: the time that --for gives is over
    * 1: it can't listen
    * 2: the command or its script can't be used like this
    * 130: interrupted with Ctrl-C
    """  # typer takes the escape for a paragraph that is to be left as it is
    if script is not None and any(option is not None for option in (seed, every, faults, share)):
        raise typer.BadParameter("--script says all of --seed, --every, --faults and --share.")
    seconds = FOREVER if duration is None else _seconds(duration, "--for")
    target = parse_uri(address(to))
    host, port = _listen_address(listen)
    plan: Iterable[Step]
    if script is not None:
        plan = _steps(script)
        about: dict[str, object] = {"script": str(script)}
    else:
        seed = random.randrange(1_000_000) if seed is None else seed  # noqa: S311  # no secret
        plan = _random_faults(seed, every, faults, share)
        about = {
            "seed": seed,
            "every": plan.every,
            "share": plan.share,
            "faults": [str(fault) for fault in plan.faults],
        }
    raise_descriptors()
    reporter: Reporter = JSONLines()
    if not as_json:
        reporter = Screen(Output(highlight=False), Console(stderr=True, highlight=False))
    proxy = FaultProxy(target.host, target.port, host=host, port=port, on_fault=reporter.fault)
    try:
        interrupted = asyncio.run(_run(proxy, plan, seconds, reporter, f"{target.host}:{target.port}", about))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on, which is no error
        interrupted = False
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.NORMAL)


async def _run(
    proxy: FaultProxy,
    plan: Iterable[Step],
    seconds: float,
    reporter: "Reporter",
    to: str,
    about: dict[str, object],
) -> bool:
    """Run until the time is over; return whether it was interrupted before."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    try:
        await proxy.start()
    except OSError as problem:
        said = problem.strerror or str(problem)
        raise ConfigurationError(f"Can't listen on {proxy.host} port {proxy.port}: {said}.") from None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(proxy.stop)
        began = loop.time()
        reporter.begin(proxy, to, about)
        work = [
            asyncio.create_task(proxy.run(plan), name="hubbub: faults"),
            asyncio.create_task(reporter.watch(proxy), name="hubbub: figures"),
        ]
        waiting = asyncio.create_task(interrupted.wait(), name="hubbub: Ctrl-C")
        running: set[asyncio.Task[object]] = {*work, waiting}
        try:
            async with asyncio.timeout(None if seconds == FOREVER else seconds):
                while not interrupted.is_set():
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # what has failed is raised; a script that is over is not the end
        except TimeoutError:
            pass
        finally:
            for task in (*work, waiting):
                task.cancel()
            await asyncio.gather(*work, waiting, return_exceptions=True)
            reporter.end(proxy, loop.time() - began, interrupted.is_set())
    return interrupted.is_set()


class Reporter(Protocol):
    """Tells what happens."""

    def begin(self, proxy: FaultProxy, to: str, about: dict[str, object]) -> None:
        """Tell that clients may connect."""

    def fault(self, happened: Happened) -> None:
        """Tell of a fault."""

    async def watch(self, proxy: FaultProxy) -> None:
        """Show the figures as they change."""

    def end(self, proxy: FaultProxy, seconds: float, interrupted: bool) -> None:
        """Tell the figures at the end."""


class JSONLines:
    """Tells machines."""

    def begin(self, proxy: FaultProxy, to: str, about: dict[str, object]) -> None:
        """Tell that clients may connect."""
        self._print({"event": "listening", "listen": _at(proxy), "to": to, **about})

    def fault(self, happened: Happened) -> None:
        """Tell of a fault."""
        self._print(
            {
                "event": "fault",
                "at": happened.at,
                "fault": str(happened.fault),
                "to": str(happened.to),
                "connections": happened.connections,
            }
        )

    async def watch(self, proxy: FaultProxy) -> None:
        """Nothing: there is no place for what changes."""

    def end(self, proxy: FaultProxy, seconds: float, interrupted: bool) -> None:
        """Tell the figures at the end."""
        figures = proxy.statistics
        self._print(
            {
                "event": "end",
                "seconds": round(seconds, 3),
                "accepted": figures.accepted,
                "refused": figures.refused,
                "unreachable": figures.unreachable,
                "bytes_up": figures.bytes_up,
                "bytes_down": figures.bytes_down,
                "faults": dict(figures.faults),
                "hit": figures.hit,
                "interrupted": interrupted,
            }
        )

    def _print(self, document: dict[str, object]) -> None:
        print(json.dumps(document, ensure_ascii=False), flush=True)


class Output(Console):
    """A console that leaves it to its user that nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Raise :exc:`BrokenPipeError`."""
        raise BrokenPipeError


class Screen:
    """Tells people. The faults are printed as a script, all else elsewhere."""

    def __init__(self, script: Console, beside: Console) -> None:
        self._script = script
        self._beside = beside
        self._live = Live(
            console=script, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def begin(self, proxy: FaultProxy, to: str, about: dict[str, object]) -> None:
        """Tell that clients may connect."""
        self._beside.print(
            Text.assemble("Connect to ", (_at(proxy), "bold"), f" instead of {to}. Ctrl-C ends it."),
            soft_wrap=True,
        )
        for name, value in about.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            self._beside.print(Text.assemble((f"{name:>6} ", "dim"), shown), soft_wrap=True)
        if self._script.is_terminal:
            self._live.start()

    def fault(self, happened: Happened) -> None:
        """Tell of a fault."""
        when, fault, *to = str(happened).split()
        count = len(happened.connections)
        hit = f"{count:,} connection{'' if count == 1 else 's'}"
        if 0 < count <= TOLD:
            hit += f": {', '.join(map(str, happened.connections))}"
        self._script.print(
            Text.assemble(
                f"{when:>11} ",
                (f"{fault:<28} ", STYLES.get(happened.fault.kind, STYLE)),
                (f"{''.join(to):<10}  # {hit}", "dim"),
            ),
            soft_wrap=True,
        )
        self._script.file.flush()

    async def watch(self, proxy: FaultProxy) -> None:
        """Show the figures as they change, if somebody may be looking."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._script.is_terminal:
            self._live.update(self._line(proxy, loop.time() - began), refresh=True)
            await asyncio.sleep(REFRESH)

    def end(self, proxy: FaultProxy, seconds: float, interrupted: bool) -> None:
        """Tell the figures at the end."""
        if self._script.is_terminal:
            self._live.stop()
        self._beside.print(self._summary(proxy, seconds))
        if interrupted:
            self._beside.print("Interrupted.")

    def _line(self, proxy: FaultProxy, seconds: float) -> Text:
        figures = proxy.statistics
        parts = [
            f"{seconds:.0f} s",
            f"{len(proxy.connections):,} open",
            f"{_bytes(figures.bytes_up)} up",
            f"{_bytes(figures.bytes_down)} down",
            f"{figures.faults.total():,} faults",
        ]
        if not proxy.listening:
            parts.append("refusing")
        return Text(" · ".join(parts), "reverse", no_wrap=True)

    def _summary(self, proxy: FaultProxy, seconds: float) -> RenderableType:
        figures = proxy.statistics
        table = Table(box=SIMPLE, pad_edge=False)
        row = {
            "seconds": f"{seconds:,.1f}",
            "connections": f"{figures.accepted:,}",
            "refused": f"{figures.refused:,}",
            "up": _bytes(figures.bytes_up),
            "down": _bytes(figures.bytes_down),
            "faults": f"{figures.faults.total():,}",
            "hit": f"{figures.hit:,}",
        }
        for heading in row:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row(*row.values())
        lines = [Text(", ".join(f"{kind} {times:,}" for kind, times in figures.faults.most_common()))]
        if figures.unreachable:
            lines.append(Text(f"The server could not be reached for {figures.unreachable:,} of them.", "red"))
        return Group(table, *lines)


def _bytes(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _at(proxy: FaultProxy) -> str:
    return proxy.url("").partition("://")[2]


def _seconds(text: str, option: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint=option) from None
    if not seconds > 0:
        raise typer.BadParameter("It has to be some time.", param_hint=option)
    return seconds


def _listen_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(
            f"{text!r} is no address; write HOST:PORT, as 127.0.0.1:9000.", param_hint="--listen"
        )
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _steps(script: Path) -> list[Step]:
    try:
        return parse_script(sys.stdin.read() if str(script) == "-" else script.read_text("utf-8"))
    except OSError as problem:
        said = f"{script} can't be read: {problem.strerror}."
        raise typer.BadParameter(said, param_hint="--script") from None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--script") from None


def _random_faults(seed: int, every: str | None, faults: str | None, share: float | None) -> RandomFaults:
    kinds = RANDOM_KINDS if faults is None else tuple(faults.split(","))
    interval = 0.5 if every is None else _seconds(every, "--every")
    try:
        return RandomFaults(seed, interval, kinds, 0.1 if share is None else share / 100)
    except ValueError as problem:
        hint = "--faults" if "share" not in str(problem) else "--share"
        raise typer.BadParameter(str(problem), param_hint=hint) from None
