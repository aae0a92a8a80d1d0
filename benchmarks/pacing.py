"""Broadcasts at a fixed rate, so that what is measured is how long each takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers import FanOut
from hubbub.load import Target
from hubbub.load.connection import Connection
from hubbub.load.load import close_all, open_all, without_collection
from hubbub.load.paced import PacedLoad


@contextmanager
def paced(
    fanout: FanOut,
    text: bytes,
    *,
    to: Target,
    through: Target,
    subscribers: int,
    rate: float,
    warm_up: float,
    narrow: int = 0,
) -> Iterator[tuple[PacedLoad, list[Connection]]]:
    """Connect subscribers and a publisher, broadcast for `warm_up` seconds; yield the load and those.

    The subscribers are connected `to` one server, the publisher to the one that its broadcasts go `through`.
    The first `narrow` subscribers have small buffers.
    """
    members = open_all(lambda number: Connection(to, fanout.subscriber, narrow=number < narrow), subscribers)
    try:
        publisher = Connection(through, fanout.publisher)
    except BaseException:
        close_all(members)
        raise
    load = PacedLoad([publisher], members, fanout.publish(text), rate)
    with load, without_collection():
        load.run(warm_up)
        load.latencies.clear()
        yield load, members
