"""A load as ``hubbub bench`` runs it: what the server holds up is seen, whatever is shown meanwhile."""

import threading
import time

from hubbub.load.bench import Figures, Order, Work, run
from plain_server import Handler, plain_server

CONNECTIONS = 10
STALL = 0.8
LONG = 0.4
"""Seconds that a message which was under way during the stall has surely waited."""


def stalling(begun: threading.Event, *, to_itself: bool) -> Handler:
    """Answer, or send on; once, after `begun`, stand still in the middle of it."""
    stalled = threading.Event()

    async def handle(connection):
        async for message in connection:
            others = [connection] if to_itself else list(connection.server.connections - {connection})
            for number, other in enumerate(others):
                if begun.is_set() and not stalled.is_set() and number == len(others) // 2:
                    stalled.set()
                    time.sleep(STALL)  # noqa: ASYNC251  # this is the stall
                await other.send(message)

    return handle


def stalled_run(work: Work, **more: object) -> Figures:
    """Load a server that stands still once, when the load has been going on for a while."""
    begun = threading.Event()

    def watch(what: str, done: float, total: float, figures: Figures) -> None:
        if what == work and done:
            begun.set()

    with plain_server(stalling(begun, to_itself=work is not Work.FAN_OUT)) as server:
        order = Order(server.target, "/", work, CONNECTIONS, 2.5, message="hi there", **more)
        figures = run(order, str, watch)
    assert figures.errors == {}
    return figures


def waits(figures: Figures, longer_than: float) -> int:
    return sum(n for duration, n in figures.latencies.counts.items() if duration > longer_than * 1e6)


def test_echo_sees_every_wait_of_a_stall():
    assert waits(stalled_run(Work.ECHO), LONG) == CONNECTIONS


def test_fan_out_sees_the_waits_of_a_stall():
    assert waits(stalled_run(Work.FAN_OUT, in_flight=8), LONG) >= 8


def test_latency_sees_all_messages_that_were_due_in_a_stall():
    rate = 200.0
    assert waits(stalled_run(Work.LATENCY, rate=rate), STALL - LONG) >= LONG * rate
