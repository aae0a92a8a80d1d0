"""What instances say to each other is read in one place, and can't do harm there."""

import pytest

from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.control import MAX_CONTROL, Answer, Controls, Moved, send
from hubbub.protocol.codecs import pack


def controls(taken: list[object]) -> Controls:
    return Controls({Moved: taken.append, Answer: taken.append})


def test_each_message_goes_to_who_takes_it():
    moved, taken = [], []
    both = Controls({Moved: moved.append, Answer: taken.append})
    both.take(pack(Moved("session", (3, 0, 1))))
    both.take(pack(Answer("question", "instance", 2)))
    assert moved == [Moved("session", (3, 0, 1))]
    assert taken == [Answer("question", "instance", 2, [])]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"hello",
        pack(None),
        pack(["unheard of", 1]),
        pack(["moved", "session"]),
        pack(["moved", 1, "session"]),
        pack({"type": "moved"}),
        pack(["answer", "question", "instance", 1, [["not a connection"]]]),
        b"\x91" * 10_000,
        pack(["moved", "x" * MAX_CONTROL, [1, 1, 1]]),
        pack(["several", [pack(["several", []])]]),
        pack(["several", [b"hello"]]),
        pack(["part", "name", 0, 1, pack(["part", "name", 0, 1, b"x"])]),
        pack(["part", "name", 0, 33, b"x"]),
    ],
    ids=range(15),
)
async def test_what_can_not_be_read_is_logged_and_does_nothing(payload, logs):
    taken: list[object] = []
    controls(taken).take(payload)
    assert taken == []
    [record] = logs.of("error", during="control message")
    assert record.fields["size"] == len(payload)


@pytest.mark.anyio
async def test_it_is_sent_to_one_or_to_all():
    store = MemoryStore()
    taken: dict[str, list[object]] = {"one": [], "other": []}
    brokers = {name: MemoryBroker(store, instance=name) for name in taken}
    for name, broker in brokers.items():
        receiver = type("Receiver", (), {"control": staticmethod(controls(taken[name]).take)})
        await broker.start(receiver())
    await send(brokers["one"], "other", Moved("a", (1, 0, 1)))
    await send(brokers["one"], None, Moved("b", (2, 0, 1)))
    assert taken == {"one": [Moved("b", (2, 0, 1))], "other": [Moved("a", (1, 0, 1)), Moved("b", (2, 0, 1))]}
