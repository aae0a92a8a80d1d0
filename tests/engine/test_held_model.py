"""A reader that stalls now and then, in a room of each kind: what it is sent of all that is published."""

import asyncio
import itertools
from dataclasses import dataclass, field

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fake_transport import fake_connection
from hubbub import CloseCode, Connection, Settings
from hubbub.brokers.base import Entry
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.held import OVERHEAD
from hubbub.engine.outbox import Flusher
from hubbub.engine.subscriptions import Subscription, Subscriptions
from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Publication

LIMIT = 4096
ROOMS = ("disconnect", "drop", "conflate", "drop too")

PUBLISH = st.tuples(
    st.just("publish"),
    st.sampled_from([*ROOMS, *ROOMS[1:], *ROOMS[1:]]),
    st.booleans(),
    st.sampled_from(["a", "b", None]),
    st.integers(0, 400),
)
REJOIN = st.tuples(st.just("rejoin"), st.sampled_from(ROOMS[1:]))
SPELL = st.tuples(
    st.lists(PUBLISH, max_size=3),
    st.just([("pause",)]),
    st.lists(PUBLISH, min_size=4, max_size=20),
    st.lists(REJOIN, max_size=1),
    st.lists(PUBLISH, max_size=20),
    st.just([("resume",)]),
).map(lambda parts: [move for part in parts for move in part])
"""A reader that reads, stalls, and reads again."""


@dataclass
class Published:
    offset: int | None
    key: str | None
    number: int
    cost: int


@dataclass
class View:
    """A room, as its one member could have seen it since it last got everything."""

    subscription: Subscription
    offset: int = 0
    waiting: list[Published] = field(default_factory=list)


class Reader:
    """A member of every room, and what it reads checked against what was published."""

    def __init__(self) -> None:
        flusher = Flusher()
        self.connection, self.line = fake_connection(Settings(max_outbox=LIMIT), flusher=flusher)
        self.subscriptions = Subscriptions(MemoryBroker(), {}, flusher)
        self.views: dict[str, View] = {}
        self.number = 0
        self.crowded = False
        """Whether so much waited that something may have been left out."""

    async def join(self) -> None:
        broker = self.subscriptions._broker
        await broker.start(self.subscriptions)
        for name in ROOMS:
            subscription = await self.subscriptions.subscribe(name, name.split()[0])  # type: ignore[arg-type]
            subscription.add(self.connection)
            self.views[name] = View(subscription)

    def publish(self, room: str, kept: bool, key: str | None, size: int) -> None:
        view = self.views[room]
        self.number += 1
        view.offset += kept
        offset = view.offset if kept else None
        key = key if room == "conflate" else None
        data = {"number": self.number, "padding": "x" * size}
        payload = pack(Publication("tick", msgspec.Raw(pack(data)), None, None, key))
        before = self.connection.outbox.size
        self.subscriptions.deliver(room, Entry(offset, payload, None), view.subscription.epoch)
        view.waiting.append(Published(offset, key, self.number, size + OVERHEAD + 100))
        self.crowded |= (
            sum(message.cost for other in self.views.values() for message in other.waiting) > LIMIT
        )
        if not self.connection.outbox.paused:
            assert before == 0
            self.read(whole=True)

    def read(self, *, whole: bool) -> None:
        """Flush, and check what arrived of each room since the last time."""
        self.connection.outbox.flush()
        arrived, self.line.written = self.line.envelopes, []
        for name, view in self.views.items():
            of_room = [envelope for envelope in arrived if envelope["room"] == name]
            check(name, view, of_room, whole or not self.crowded)
            view.waiting.clear()
        self.crowded = False


def check(name: str, view: View, arrived: list[dict], nothing_dropped: bool) -> None:
    messages = [envelope for envelope in arrived if envelope["type"] == "tick"]
    gaps = [envelope for envelope in arrived if envelope["type"] == "$gap"]
    numbers = [envelope["data"]["number"] for envelope in messages]
    assert numbers == sorted(numbers)
    seen = [message for message in view.waiting if message.number in numbers]
    left_out = [message for message in view.waiting if message.number not in numbers]
    assert len(seen) == len(numbers)
    if name == "disconnect" or (name.startswith("drop") and nothing_dropped):
        assert not left_out
    if name == "conflate":
        for message in left_out:
            event("a message was conflated")
            assert any(later.key == message.key and later.number > message.number for later in seen)
            assert message.key is not None
        keyed = [message.key for message in seen if message.key is not None]
        assert not gaps
        assert nothing_dropped or len(keyed) == len(set(keyed))
    elif left_out:
        event("a message was dropped")
        # The oldest, and none else.
        assert view.waiting[: len(left_out)] == left_out
        lost = [message.offset for message in left_out if message.offset is not None]
        assert [gap["data"]["offset"] for gap in gaps] == lost[-1:]
        assert not gaps or arrived[0] is gaps[0]
    else:
        assert not gaps


async def play(spells: list[list[tuple]]) -> None:
    reader = Reader()
    await reader.join()
    connection: Connection = reader.connection
    outbox = connection.outbox
    for kind, *rest in itertools.chain(*spells):
        if kind == "publish":
            reader.publish(*rest)
        elif kind == "pause":
            outbox.pause()
        elif kind == "resume":
            outbox.resume()
            reader.read(whole=False)
        else:
            # What waited of a room that it left is nothing to it any more; what is published from now on is.
            (name,) = rest
            view = reader.views[name]
            view.subscription.remove(connection)
            view.subscription.add(connection)
            view.waiting.clear()
        assert outbox.size <= LIMIT
        assert outbox.flusher.paused == ({outbox} if outbox.paused else set())
        if connection.closing:
            event("the reader was disconnected")
            assert reader.line.closed_with == (CloseCode.TOO_SLOW, "reads too slowly")
            held = [view.waiting for name, view in reader.views.items() if name[:4] != "drop"]
            assert sum(message.cost for waiting in held for message in waiting) > LIMIT
            return
    assert outbox.size == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(SPELL, min_size=1, max_size=4))
def test_a_slow_reader_gets_of_each_room_what_the_room_promises_within_the_limit(spells):
    asyncio.run(play(spells))
