"""One work against any server: find out how to talk to it, load it, keep the figures."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .connection import BROKEN_OFF, MOST_OTHERS, Connection
from .echo import EchoLoad
from .fanout import FanOutLoad
from .frames import Closed
from .idle import IdleConnections
from .latencies import Latencies
from .line import Line, Target
from .load import Load, Lost, close_all, open_all, part, settle
from .numbered import frames
from .paced import PacedLoad
from .speech import TEXT, Speech, find_out, joined, publication, request
from .streams import Messages

AT_ONCE = 32
"""Connections that are opened at the same time."""
WARM_UP = 0.25
"""The share of the time that a load goes on for before it is measured; the server has got going then."""
LONGEST_WARM_UP = 1.0
RATE = 100.0
IN_FLIGHT = 1
HOLDS = 0.25
"""Seconds for which connections are held between two looks at how far it is."""


class Work(StrEnum):
    """What the server is given to do."""

    ECHO = "echo"
    FAN_OUT = "fan-out"
    CONNECTIONS = "connections"
    LATENCY = "latency"


class Unclear(ValueError):
    """Something is missing that the work needs, or of no use to it; the text says what."""


@dataclass(frozen=True)
class Order:
    """A load."""

    target: Target
    path: str
    work: Work
    connections: int
    seconds: float
    room: str | None = None
    message: str | None = None
    rate: float = RATE
    """Messages a second, for latency."""
    in_flight: int = IN_FLIGHT
    """Broadcasts that are under way at any time, for fan-out."""


@dataclass
class Figures:
    """What came of it, so far."""

    hubbub: bool
    """Whether the server speaks hubbub's protocol."""
    unit: str
    connections: int = 0
    """How many there are at the end, without the one that publishes."""
    count: int = 0
    """How many were measured. Without any there are no figures."""
    seconds: float = 0.0
    """How long that took."""
    lasted: float = 0.0
    """Seconds of what was asked for: the same, but for connections how long they were held."""
    whole: bool = False
    """Whether it went on until the end, with at least one connection."""
    busy: float = 0.0
    """The share of the time that this process worked. Near 1 the server can do more than was asked of it."""
    latencies: Latencies = field(default_factory=Latencies)
    errors: Counter[str] = field(default_factory=Counter)
    """How often what went wrong, in words."""
    interrupted: bool = False

    @property
    def rate(self) -> float:
        """How many a second."""
        return self.count / self.seconds if self.seconds else 0.0


class Watcher(Protocol):
    """Is shown how far it is."""

    def __call__(self, what: str, done: float, total: float, figures: Figures) -> None:
        """See that `done` of `total` is through of what there is to do."""


UNITS = {
    Work.ECHO: "answers/s",
    Work.FAN_OUT: "deliveries/s",
    Work.CONNECTIONS: "connections/s",
    Work.LATENCY: "answers/s",
}


def run(order: Order, explain: Callable[[Exception], str], watch: Watcher) -> Figures:
    """Load the server as ordered; Ctrl-C ends it with the figures so far, and so does what goes wrong.

    `explain` puts into words what that was. Raises :exc:`Unclear`, or another :exc:`ValueError` or
    :exc:`OSError` if not even the first connection could be opened.
    """
    figures = Figures(hubbub=False, unit=UNITS[order.work])

    def lost(error: Exception) -> None:
        if isinstance(error, BROKEN_OFF):
            error = Closed()
        figures.errors[explain(error)] += 1

    try:
        speech = find_out(order.target, order.path)
        if order.room is not None and not speech.hubbub:
            raise Unclear(
                "The server does not speak hubbub's protocol, so it has no rooms: leave --room out."
            )
        figures.hubbub = speech.hubbub
        if order.work is Work.LATENCY and _in_room(order, speech):
            figures.unit = UNITS[Work.FAN_OUT]
        try:
            if order.work is Work.CONNECTIONS:
                _hold(order, speech, figures, lost, watch)
            else:
                _go_on(order, speech, figures, lost, watch)
        except Unclear:
            raise
        except (OSError, ValueError) as error:
            lost(error)
    except KeyboardInterrupt:
        figures.interrupted = True
    return figures


def _go_on(order: Order, speech: Speech, figures: Figures, lost: Lost, watch: Watcher) -> None:
    """Run a load."""
    watch("connecting", 0, order.connections, figures)
    with _load(order, speech, lost) as load:
        warm_up, began = min(order.seconds * WARM_UP, LONGEST_WARM_UP), time.perf_counter()
        watch("warming up", 0, warm_up, figures)
        load.run(warm_up, lambda _: watch("warming up", time.perf_counter() - began, warm_up, figures))
        load.latencies.clear()
        figures.latencies = load.latencies
        figures.connections = len(load)
        measured_since, worked, spun = time.perf_counter(), time.process_time(), load.spun

        def tell(count: int) -> None:
            figures.count = count
            figures.seconds = figures.lasted = time.perf_counter() - measured_since
            busy = time.process_time() - worked - (load.spun - spun)
            figures.busy = max(0.0, busy / figures.seconds)
            figures.connections = len(load)
            watch(order.work, figures.seconds, order.seconds, figures)

        try:
            load.run(order.seconds, tell)
            figures.whole = len(load) > 0
        finally:
            part(load.everyone())


def _in_room(order: Order, speech: Speech) -> bool:
    return speech.hubbub and order.room is not None


def _load(order: Order, speech: Speech, lost: Lost) -> Load:
    target = order.target
    if order.work is Work.ECHO or (order.work is Work.LATENCY and not _in_room(order, speech)):
        asked, answer = request(speech, order.message)
        if order.work is Work.ECHO:
            return EchoLoad(
                target,
                speech.line,
                asked,
                answer,
                order.connections,
                measured=True,
                lost=lost,
                at_once=AT_ONCE,
            )
        connections = _open(order, speech.line, lost)
        try:
            connections[0].socket.sendall(next(frames(asked)))
            connections[0].expect(answer, others=MOST_OTHERS)
            return PacedLoad(connections, connections, asked, order.rate, echo=True, lost=lost)
        except BaseException:
            close_all(connections)
            raise
    line, message = _published(order, speech)
    if order.work is Work.FAN_OUT:
        return FanOutLoad(
            target, line, line, message, order.connections, order.in_flight, lost=lost, at_once=AT_ONCE
        )
    subscribers = _open(order, line, lost)
    everyone = subscribers
    try:
        publisher = Connection(target, line)
        everyone = [*subscribers, publisher]
        settle((connection, Messages(connection)) for connection in everyone)
        return PacedLoad([publisher], subscribers, message, order.rate, lost=lost)
    except BaseException:
        close_all(everyone)
        raise


def _published(order: Order, speech: Speech) -> tuple[Line, bytes]:
    """Return the line of everyone in the room, and what is published there."""
    if not speech.hubbub:
        return speech.line, (TEXT if order.message is None else order.message).encode()
    if order.room is None:
        raise Unclear("Say in which room: --room NAME.")
    if order.message is None:
        raise Unclear(
            "Say what to send to the room, a message that its handler sends on: "
            """--message '{"type": "say", "data": {"text": "hi"}}'."""
        )
    return joined(speech, order.room), publication(speech, order.room, order.message)


def _open(order: Order, line: Line, lost: Lost) -> list[Connection]:
    made = open_all(lambda _: Connection(order.target, line), order.connections, lost, at_once=AT_ONCE)
    if not made:
        raise ValueError("No connection could be opened.")
    return made


def _hold(order: Order, speech: Speech, figures: Figures, lost: Lost, watch: Watcher) -> None:
    """Open connections and hold them for the time."""
    line = joined(speech, order.room) if speech.hubbub and order.room is not None else speech.line
    idle = IdleConnections(order.target, line, lost=lost, at_once=AT_ONCE)
    figures.latencies = idle.latencies
    began, worked = time.perf_counter(), time.process_time()

    def tell(count: int) -> None:
        figures.count = figures.connections = count
        figures.seconds = time.perf_counter() - began
        figures.busy = (time.process_time() - worked) / figures.seconds
        watch("opening", count, order.connections, figures)

    try:
        idle.open(order.connections, tell)
        held_since = time.perf_counter()
        while figures.lasted < order.seconds and len(idle):
            idle.hold(min(HOLDS, order.seconds - figures.lasted))
            figures.lasted = time.perf_counter() - held_since
            figures.connections = len(idle)
            watch("holding", figures.lasted, order.seconds, figures)
        figures.whole = len(idle) > 0
    finally:
        part(idle.everyone())
        idle.close()
