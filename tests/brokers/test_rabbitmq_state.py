"""What the log comes to, without a server: readers that begin at different places have to agree."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub.brokers.base import Departure, Entry
from hubbub.brokers.rabbitmq.records import (
    Anew,
    Batch,
    Beat,
    Bye,
    Enter,
    Gone,
    Hold,
    Leave,
    LetGo,
    Look,
    Part,
    Publish,
    Record,
    Relive,
    Secret,
    encode,
    encode_batch,
)
from hubbub.brokers.rabbitmq.replica import Replica, Resolve
from hubbub.brokers.rabbitmq.snapshot import capture, pieces
from hubbub.brokers.rabbitmq.state import Result, State
from hubbub.protocol.envelope import Position

BEGINS = 1_800_000_000.0


@dataclass
class Reader:
    """A replica, and what it told."""

    spread: list[tuple[str, Entry, str]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    refused: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replica = Replica(lambda *told: self.spread.append(told), self, lambda: 0.0)

    def begins(self, batch: Batch, turn: bool) -> Resolve | None:
        if not turn:
            self.refused.append(batch)
        return lambda index, result: self.results.append(result)

    def ends(self, batch: Batch, state: State) -> None:
        pass

    @property
    def state(self) -> State:
        assert self.replica.state is not None
        return self.replica.state


class Log:
    """A log in memory, its writers' numbers, and a reader of all of it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.numbers: dict[str, int] = {}
        self.reader = Reader()
        self.now = BEGINS

    def append(self, body: bytes) -> None:
        self.reader.replica.take(len(self.bodies), body)
        self.bodies.append(body)

    def write(self, *records: Record, writer: str = "w", number: int | None = None) -> list[Result]:
        if number is None:
            number = self.numbers[writer] = self.numbers.get(writer, 0) + 1
        before = len(self.reader.results)
        self.append(encode_batch(writer, number, self.now, [encode(record) for record in records]))
        return self.reader.results[before:]

    def read(self, first: int) -> Reader:
        reader = Reader()
        for offset in range(first, len(self.bodies)):
            reader.replica.take(offset, self.bodies[offset])
        return reader


def said(
    room: str = "room", payload: bytes = b"x", key: str | None = None, count: int | None = 10
) -> Publish:
    return Publish(room, payload, None, key, count, 100.0, 30.0 if key else 0.0)


def whole(state: State) -> bytes:
    # How large snapshots were is known to who has read them.
    state.image = 0
    return b"".join(piece for piece, _ in pieces(capture(state)))


rooms = st.sampled_from(["", "a", "b", "c"])
names = st.sampled_from(["x", "y"])
records = st.one_of(
    st.builds(
        Publish,
        rooms,
        st.binary(max_size=3),
        st.none() | names,
        st.none() | names,
        st.none() | st.integers(0, 4),
        st.floats(0, 50),
        st.floats(0, 50),
    ),
    st.builds(Hold, rooms, names),
    st.builds(LetGo, rooms, names),
    st.builds(Enter, rooms, names, names, names, st.binary(max_size=2)),
    st.builds(Leave, rooms, names, names),
    st.builds(Beat, names),
    st.builds(Gone, names, st.integers(0, 3)),
    st.builds(Bye, names),
    st.builds(Secret, st.just(bytes(32))),
    st.builds(Relive),
    st.builds(Look),
)
steps = st.one_of(
    st.tuples(st.sampled_from(["w", "v"]), st.lists(records, max_size=4), st.integers(-5, 40)),
    st.tuples(st.sampled_from(["w", "v"]), st.lists(records, max_size=2), st.just("again")),
    st.just("snapshot"),
    st.just("part"),
    st.just("unreadable"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40), st.integers(0, 40))
def test_readers_that_begin_anywhere_come_to_the_same_state_or_to_none(script, first):
    log, parts, made = Log(), [], []
    for number, step in enumerate(script):
        match step:
            case "snapshot" if log.reader.replica.state is not None:
                # In small pieces, to be read among other things.
                image, at = whole(log.reader.state), log.reader.replica.offset
                half = len(image) // 2
                parts = [
                    Part(str(number), at, 0, False, image[:half]),
                    Part(str(number), at, 1, True, image[half:]),
                ]
            case "part" if parts:
                part = parts.pop(0)
                log.append(encode(part))
                if part.last:
                    made.append(part.offset)
            case "unreadable":
                log.append(b"\xc1 nonsense")
            case (writer, batch, "again"):
                # Repeated, and one that leaves a hole.
                log.write(*batch, writer=writer, number=log.numbers.get(writer, 0))
                log.write(*batch, writer=writer, number=log.numbers.get(writer, 0) + 2)
            case (writer, batch, seconds):
                log.now += seconds
                log.write(*batch, writer=writer)
    first = min(first, len(log.bodies))
    late = log.read(first)
    if late.replica.state is not None:
        assert whole(late.state) == whole(log.reader.state)
        assert late.spread == log.reader.spread[len(log.reader.spread) - len(late.spread) :]
    else:
        assert first > 0 or not log.bodies
        assert not [at for at in made if at >= first - 1 and log_has_whole_snapshot(log, first, at)]


def log_has_whole_snapshot(log: Log, first: int, at: int) -> bool:
    numbers = {
        (part.snapshot, part.number)
        for body in log.bodies[first:]
        if body != b"\xc1 nonsense" and isinstance(part := decoded(body), Part) and part.offset == at
    }
    return any({(name, 0), (name, 1)} <= numbers for name, _ in numbers)


def decoded(body: bytes) -> object:
    from hubbub.brokers.rabbitmq.records import decode

    return decode(body)


def test_a_batch_counts_once_and_not_before_its_turn():
    log = Log()
    log.write(said(payload=b"1"))
    log.write(said(payload=b"1"), number=1)
    log.write(said(payload=b"3"), number=3)
    log.write(said(payload=b"2"), number=2)
    log.write(said(payload=b"3"), number=3)
    assert [entry.payload for _, entry, _ in log.reader.spread] == [b"1", b"2", b"3"]
    assert [batch.number for batch in log.reader.refused] == [1, 3]


def test_the_writer_that_was_silent_for_longest_is_forgotten_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr("hubbub.brokers.rabbitmq.state.MAX_WRITERS", 2)
    log = Log()
    for writer in ("w", "v", "w", "u"):
        log.write(said(), writer=writer)
    assert set(log.reader.state.writers) == {"w", "u"}
    log.write(said(), writer="v")
    assert [batch.number for batch in log.reader.refused] == [2]


def test_a_writer_whose_clock_is_years_ahead_has_no_other_one_forgotten():
    log = Log()
    log.write(said(payload=b"1"))
    log.now += 1e9
    log.write(said(payload=b"2"), writer="ahead")
    log.now -= 1e9
    # Sent again over another connection, since the first confirmation was lost.
    log.write(said(payload=b"1"), number=1)
    log.write(said(payload=b"3"))
    assert [entry.payload for _, entry, _ in log.reader.spread] == [b"1", b"2", b"3"]


def test_time_never_goes_back():
    log = Log()
    log.write(said(key="k"))
    log.now -= 1000.0
    log.write(said(payload=b"y"))
    assert log.reader.state.now == BEGINS
    assert [entry.payload for entry in log.reader.state.history("room", None, 10, BEGINS).entries] == [
        b"x",
        b"y",
    ]


def test_an_instance_is_gone_only_if_no_beat_came_between():
    log = Log()
    log.write(Beat("one"), Enter("room", "ada", "1", "one", b"ada"), Beat("one"))
    assert log.write(Gone("one", 1)) == [[]]
    assert log.write(Gone("one", 2)) == [[Departure("room", "ada", b"ada")]]
    assert log.write(Gone("one", 2)) == [[]]
    assert log.write(Beat("one"), Beat("one")) == [True, False]


def test_what_an_instance_does_that_was_taken_for_gone_is_undone_when_it_goes_again():
    log = Log()
    log.write(Beat("one"), Gone("one", 1), Enter("room", "ada", "1", "one", b""), Hold("room", "one"))
    assert log.reader.state.members("room") == {"ada": b""}
    assert log.write(Beat("one"), Gone("one", 1)) == [True, [Departure("room", "ada", b"")]]
    assert log.reader.state.streams == {}


def test_a_room_that_somebody_is_subscribed_to_is_not_forgotten():
    log = Log()
    begins, first = log.write(Hold("room", "one"), said())
    log.now += 1000.0
    for number in range(10):
        log.write(said(f"other {number}"))
    assert log.write(said()) == [Position(first.epoch, 2)]
    log.write(LetGo("room", "one"))
    log.now += 1000.0
    for number in range(10):
        log.write(said(f"another {number}"))
    (anew,) = log.write(said())
    assert anew.offset == 1
    assert anew.epoch != begins.epoch == first.epoch


def test_a_log_that_lost_something_has_new_epochs_and_keeps_its_messages():
    log = Log()
    (first,) = log.write(said(key="k"))
    log.write(Relive())
    again, second = log.write(said(payload=b"y", key="k"), said(payload=b"z"))
    assert again.epoch == second.epoch != first.epoch
    assert [again.offset, second.offset] == [2, 3]
    assert len(log.reader.state.history("room", None, 10, BEGINS).entries) == 3


def test_everything_begins_anew_where_nobody_knew_what_the_log_came_to():
    log = Log()
    (first,) = log.write(said())
    late = log.read(1)
    assert late.replica.state is None
    log.append(encode(Anew("name", 0)))
    late.replica.take(1, log.bodies[1])
    log.numbers.clear()
    (anew,) = log.write(said(), writer="v")
    late.replica.take(2, log.bodies[2])
    assert anew.offset == 1
    assert anew.epoch != first.epoch
    assert whole(late.state) == whole(log.reader.state)


def test_two_that_begin_anew_at_once_lose_nothing_of_what_came_between():
    log = Log()
    log.write(said())
    log.append(encode(Anew("one", 0)))
    log.numbers.clear()
    (first,) = log.write(said(payload=b"acknowledged"), writer="v")
    log.append(encode(Anew("other", 1)))
    assert log.reader.state.position("room") == first
    # Whoever can't see what came before does not take it for a beginning either.
    assert log.read(1).state.position("room") == first
    assert log.read(3).replica.state is None
    log.append(encode(Part("s", 3, 0, True, whole(log.reader.state))))
    assert whole(log.read(3).state) == whole(log.reader.state)


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"\0\0\0\1\xc1", b"\xff" * 100])
def test_a_snapshot_that_cannot_be_read_is_skipped(damage):
    log = Log()
    log.write(said())
    late = Reader()
    late.replica.take(1, encode(Part("bad", 0, 0, True, damage)))
    assert late.replica.state is None
    late.replica.take(2, encode(Part("good", 0, 0, True, whole(log.reader.state))))
    assert whole(late.state) == whole(log.reader.state)
