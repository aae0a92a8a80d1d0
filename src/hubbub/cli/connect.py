"""``hubbub connect``: talk to any WebSocket server or hubbub, from a terminal or in a pipe."""

import asyncio
import os
import re
import select
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, TextIO, TypeVar
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.text import Text
from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from ..client.line import Dial
from ..client.lines import OTHERS, SECURE, dialling, scheme_of
from ..errors import ConfigurationError
from .conversation import LONGEST_MESSAGE, Action, ExitCode, Interface, Unusable, converse
from .target import Target
from .terminal import Binary, LineHistory, Terminal, escape, history_path, is_json, pretty, to_send

CHUNK = 64 * 2**10
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss", "": "ws"}
OF_THE_HANDSHAKE = {"host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
OPTION_FOR = {"origin": "--origin", "sec-websocket-protocol": "--subprotocol"}

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

Result = TypeVar("Result")


def connect(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Where to connect: ws://, wss://, http://, https:// or HOST:PORT for a WebSocket; "
            "sse+https://, stream+https://, poll+https://, grpcs:// or socketio+https://, or the same "
            "without TLS, for a hubbub's other lines.",
        ),
    ],
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="Send a header. May be repeated."),
    ] = None,
    subprotocol: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Offer a subprotocol. May be repeated, the preferred first."),
    ] = None,
    origin: Annotated[str | None, typer.Option(metavar="URL", help="Send an Origin, as browsers do.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any TLS certificate.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Trust the certificates in this PEM file."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="How long connecting may take.")
    ] = 10.0,
    binary: Annotated[
        Binary | None,
        typer.Option(
            help="Send lines as binary messages: 'hex' reads each line as hexadecimal digits (de ad be ef), "
            "'text' takes it as it is and, in a pipe, also prints binary messages as text."
        ),
    ] = None,
    ping: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time between keepalive pings; 0 turns them off.")
    ] = 20.0,
    lay_out: Annotated[
        bool | None,
        typer.Option(
            "--json/--raw",
            help="Lay out JSON over several lines, or leave it as it came. "
            "By default it is laid out on a terminal and left in a pipe.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Leave after this many messages.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            show_default=False,
            help="In a pipe: wait this long for answers after the end of the input; 'inf' waits "
            "until the server closes. By default 1, with --count 10.",
        ),
    ] = None,
    max_size: Annotated[int, typer.Option(min=1, metavar="BYTES", help="The largest message to accept.")] = 16
    * 2**20,
) -> None:
    """Talk to any WebSocket server, and to a hubbub over any of its lines.

    On a terminal, the lines you type are sent and messages appear above the
    prompt. /help lists the commands there; Ctrl-D leaves.

    In a pipe, each line of the input is sent and each message is printed as a
    line; nothing else goes to the standard output. Binary messages are printed
    as hexadecimal digits. Control characters are printed as JSON writes them
    (\\n, \\u001b); line breaks between the tokens of JSON become spaces.

    Over a line that is no WebSocket, messages are the protocol's envelopes, as
    {"type": "say", "room": "chat/lobby", "data": {"text": "hi"}}, and pings are
    the protocol's.

    Exit status:

    * 0: closed normally: with 1000, 1001 or no code, or as you asked
    * 1: the connection could not be established
    * 2: the command, its input or its output can't be used
    * 3: lost, closed with an error code, or ended before --count messages came
    * 130: interrupted with Ctrl-C
    """
    if ca and insecure:
        raise typer.BadParameter("Choose one of --ca and --insecure.")
    url = address(url)
    target = Target(
        url=url,
        headers=tuple(header_of(line) for line in header or ()),
        subprotocols=tuple(_subprotocol(name) for name in subprotocol or ()),
        origin=None if origin is None else _value(origin, "--origin"),
        tls=tls_context(ca, insecure) if scheme_of(url) in SECURE else None,
        timeout=timeout,
        ping=ping or None,
        max_size=max_size,
    )
    if scheme_of(url) in OTHERS:
        if target.subprotocols or binary:
            option = "--subprotocol" if target.subprotocols else "--binary"
            raise typer.BadParameter("Only WebSockets have that.", param_hint=option)
        target = replace(target, dial=_dial(target))
    interface: Interface
    if os.isatty(0) and os.isatty(1):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        history = LineHistory(history_path())
        interface = Terminal(
            Console(highlight=False), history, binary=binary, json_laid_out=lay_out is not False
        )
        wait = 0.0
    else:
        interface = Pipe(0, 1, sys.stderr, binary=binary, json_laid_out=lay_out is True)
        wait = wait if wait is not None else 1.0 if count is None else 10.0
    try:
        code = asyncio.run(converse(target, interface, count=count, wait=wait))
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    raise typer.Exit(code)


def address(url: str) -> str:
    """Return the URL that is meant, a WebSocket's if it does not say; :exc:`typer.BadParameter` for none."""
    scheme, _, rest = url.partition("://") if re.match(r"[^/?#]*?://", url) else ("", "", url)
    if scheme.lower() not in (*SCHEMES, *OTHERS):
        raise _wrong_url(
            f"{scheme}:// is not for WebSockets, nor for another line; use ws://, wss://, http:// or https://"
        )
    if re.search(r"\s|[\x00-\x1f\x7f]", url):
        raise _wrong_url("The URL has a space or a control character in it; write %20 for a space.")
    if scheme.lower() in OTHERS:
        return f"{scheme.lower()}://{rest}"  # what opens the line looks at the rest
    url = f"{SCHEMES[scheme.lower()]}://{rest}"
    try:
        uri = parse_uri(url)
        uri.host.encode("idna")
    except InvalidURI as problem:
        raise _wrong_url(f"{problem.uri} can't be used: {problem.msg}.") from None
    except UnicodeError:
        raise _wrong_url(f"{urlsplit(url).hostname} is not a host name.") from None
    except ValueError as problem:
        raise _wrong_url(f"{url} is not a URL: {problem}.") from None
    return url


def _dial(target: Target) -> Dial:
    """Return what opens the line of a target; :exc:`typer.BadParameter` if there can be none."""
    origin = [] if target.origin is None else [("Origin", target.origin)]
    try:
        return dialling(
            target.url,
            headers=[*target.headers, *origin],
            ssl=target.tls,
            max_size=target.max_size,
            open_timeout=target.timeout,
        )
    except ConfigurationError as problem:
        raise _wrong_url(str(problem)) from None


def _wrong_url(sentence: str) -> typer.BadParameter:
    return typer.BadParameter(sentence, param_hint="URL")


def header_of(line: str) -> tuple[str, str]:
    """Return name and value of a header; :exc:`typer.BadParameter` if it can't be sent."""
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise typer.BadParameter(
            f"{line!r} is not a header; write it as 'Name: value'.", param_hint="--header"
        )
    if name.lower() in OPTION_FOR:
        raise typer.BadParameter(f"Use {OPTION_FOR[name.lower()]} for {name}.", param_hint="--header")
    if name.lower() in OF_THE_HANDSHAKE:
        raise typer.BadParameter(f"{name} belongs to the handshake and can't be set.", param_hint="--header")
    return name, _value(value.strip(), "--header")


def _value(text: str, option: str) -> str:
    if _CONTROL.search(text):
        raise typer.BadParameter("A header can't have control characters in it.", param_hint=option)
    try:
        text.encode("iso-8859-1")
    except UnicodeEncodeError:
        raise typer.BadParameter(
            f"A header can't have {text!r} in it; use ASCII.", param_hint=option
        ) from None
    return text


def _subprotocol(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} can't be the name of a subprotocol; offer several with several options.",
            param_hint="--subprotocol",
        )
    return name


def tls_context(ca: Path | None, insecure: bool) -> ssl.SSLContext:
    """Return what certificates are checked with; :exc:`typer.BadParameter` if `ca` has none."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as problem:
        raise typer.BadParameter(
            f"{ca} has no certificates in PEM form: {problem}", param_hint="--ca"
        ) from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Pipe:
    """A program that writes lines to `source` and reads lines from `sink`, both file descriptors.

    `json_laid_out` tells whether JSON is laid out, over several lines, or printed on one.
    """

    def __init__(
        self,
        source: int,
        sink: int,
        diagnostics: TextIO,
        *,
        binary: Binary | None = None,
        json_laid_out: bool = False,
    ) -> None:
        self.source = source
        self.sink = sink
        self.diagnostics = Console(file=diagnostics, highlight=False, soft_wrap=True)
        self.binary = binary
        self.json_laid_out = json_laid_out

    async def outgoing(self) -> AsyncGenerator[Action]:
        """Yield a message for each line of the input; :exc:`Unusable` if a line can't be one."""
        number = 0
        async for line in self._lines():
            number += 1
            try:
                yield to_send(line.decode("utf-8", "surrogateescape"), self.binary)
            except ValueError as problem:
                raise Unusable(f"Line {number} of the input can't be sent. {problem}") from None

    async def _lines(self) -> AsyncGenerator[bytes]:
        line = bytearray()
        while chunk := await self._blocking(partial(os.read, self.source, CHUNK), "The input can't be read"):
            first, *others = chunk.split(b"\n")
            line += first
            for other in others:
                yield bytes(line)
                line = bytearray(other)
            if len(line) > LONGEST_MESSAGE:
                raise Unusable(f"A line is longer than a message may be ({LONGEST_MESSAGE:,} bytes).")
        if line:
            yield bytes(line)

    async def received(self, message: str | bytes) -> None:
        """Print a message as a line; :exc:`BrokenPipeError` if nobody reads it."""
        line = self._line(message).encode() + b"\n"
        call = partial(_write, self.sink, line)
        if len(line) <= select.PIPE_BUF and select.select([], [self.sink], [], 0)[1]:
            _reported(call, "The output can't be written")  # at once: it does not block
        else:
            await self._blocking(call, "The output can't be written")

    def _line(self, message: str | bytes) -> str:
        if isinstance(message, bytes):
            if self.binary != "text":
                return message.hex()
            message = message.decode("utf-8", "backslashreplace")
        if self.json_laid_out and (laid_out := pretty(message)):
            return laid_out.plain
        line = escape(message)
        if line != message and is_json(message):
            # Only between the tokens JSON has line breaks, and spaces are as good there.
            line = escape(re.sub(r"[\n\r\t]", " ", message))
        return line

    async def sent(self, message: str | bytes) -> None:
        """Nothing: who wrote it knows it."""

    async def tell(self, sentence: str, *, problem: bool = False) -> None:
        """Tell of a problem."""
        if problem:
            self.diagnostics.print(Text.assemble(("hubbub: ", "bold red"), escape(sentence)))

    async def _blocking(self, call: Callable[[], Result], what: str) -> Result:
        """Make a call that may block for ever, in a thread that does not outlive the program."""
        outcome: Future[Result] = Future()
        outcome.set_running_or_notify_cancel()  # from now on it can't be cancelled, only abandoned

        def run() -> None:
            try:
                outcome.set_result(_reported(call, what))
            except (Unusable, BrokenPipeError) as problem:
                outcome.set_exception(problem)

        threading.Thread(target=run, daemon=True).start()
        return await asyncio.wrap_future(outcome)


def _reported(call: Callable[[], Result], what: str) -> Result:
    """Make a system call; :exc:`Unusable` says `what` failed, :exc:`BrokenPipeError` passes."""
    try:
        return call()
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise Unusable(f"{what}: {problem.strerror}.") from None


def _write(sink: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(sink, remaining) :]
