"""What is said to other instances goes together, is bounded, and a broker that is away is logged."""

import asyncio

import pytest

from hubbub import Unavailable
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine import outgoing
from hubbub.engine.control import MAX_CONTROL, Answer, Controls, Returned
from hubbub.engine.lines import LineAnswer
from hubbub.engine.outgoing import Outgoing

pytestmark = pytest.mark.anyio


class Noted(MemoryBroker):
    """Keeps what is sent, and waits with it as long as its gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str | None, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        await self.gate.wait()
        self.sent.append((instance, payload))


def read(payloads: list[bytes]) -> list[object]:
    found: list[object] = []
    controls = Controls({Answer: found.append, Returned: found.append})
    for payload in payloads:
        controls.take(payload)
    return found


async def test_what_is_said_in_one_turn_is_one_message_to_each_instance():
    broker = Noted()
    saying = Outgoing(broker)
    one, two, three = (Answer(name, "here", 1) for name in "123")
    saying.put("a", one)
    saying.put("b", two)
    saying.put("a", three)
    await saying.stop(5)
    assert [instance for instance, _ in broker.sent] == ["a", "b"]
    assert read([payload for instance, payload in broker.sent if instance == "a"]) == [one, three]
    assert read([payload for instance, payload in broker.sent if instance == "b"]) == [two]


async def test_much_is_several_messages_of_a_size_that_every_broker_carries_in_order():
    broker = Noted()
    saying = Outgoing(broker)
    said = [
        Returned(str(number), "here", LineAnswer(200, b"x" * size))
        for number, size in enumerate([300_000] * 4 + [1_300_000, 3])
    ]
    for message in said:
        saying.put("a", message)
    await saying.stop(5)
    assert all(len(payload) <= MAX_CONTROL for _, payload in broker.sent)
    assert read([payload for _, payload in broker.sent]) == said


async def test_what_is_too_much_is_left_out_and_said_once(monkeypatch, logs):
    monkeypatch.setattr(outgoing, "MAX_WAITING", 1000)
    broker = Noted()
    broker.gate.clear()
    saying = Outgoing(broker)
    for number in range(20):
        saying.put("a", Returned(str(number), "here", LineAnswer(200, b"x" * 100)))
    assert len(logs.of("control", more="is left out")) == 1
    broker.gate.set()
    await saying.stop(5)
    assert 0 < len(read([payload for _, payload in broker.sent])) < 10
    saying.put("a", Answer("later", "here", 1))
    await saying.stop(5)
    assert read([broker.sent[-1][1]]) == [Answer("later", "here", 1)]


async def test_a_broker_that_is_away_is_logged_and_what_comes_later_is_sent(logs):
    class Away(Noted):
        away = True

        async def send_control(self, instance: str | None, payload: bytes) -> None:
            if self.away:
                raise Unavailable("The broker is away.")
            await super().send_control(instance, payload)

    broker = Away()
    saying = Outgoing(broker)
    saying.put("a", Answer("1", "here", 1))
    await saying.stop(5)
    assert logs.of("control", unsaid_to="a")
    broker.away = False
    saying.put("a", Answer("2", "here", 1))
    await saying.stop(5)
    assert read([payload for _, payload in broker.sent]) == [Answer("2", "here", 1)]


async def test_a_driver_that_fails_is_logged_and_the_others_are_told(logs):
    class Broken(Noted):
        async def send_control(self, instance: str | None, payload: bytes) -> None:
            if instance == "a":
                raise ZeroDivisionError
            await super().send_control(instance, payload)

    broker = Broken()
    saying = Outgoing(broker)
    saying.put("a", Answer("1", "here", 1))
    saying.put("b", Answer("2", "here", 1))
    async with asyncio.timeout(5):
        while not broker.sent:  # noqa: ASYNC110  # others' work has no event
            await asyncio.sleep(0)
    assert logs.of("error", during="control message")


async def test_what_a_driver_that_fails_leaves_unsaid_takes_no_room_for_good(monkeypatch, logs):
    class Broken(Noted):
        broken = True

        async def send_control(self, instance: str | None, payload: bytes) -> None:
            if self.broken:
                raise ZeroDivisionError
            await super().send_control(instance, payload)

    monkeypatch.setattr(outgoing, "MAX_WAITING", 2_000_000)
    broker = Broken()
    saying = Outgoing(broker)
    for name in "123":  # each is a message to the broker of its own
        saying.put("a", Returned(name, "here", LineAnswer(200, b"x" * 500_000)))
    await saying.stop(5)
    broker.broken = False
    for name in "456":
        saying.put("a", Returned(name, "here", LineAnswer(200, b"x" * 500_000)))
    await saying.stop(5)
    assert len(broker.sent) == 3
    assert logs.of("control") == []


async def test_what_hangs_when_it_stops_is_cancelled():
    broker = Noted()
    broker.gate.clear()
    saying = Outgoing(broker)
    saying.put("a", Answer("1", "here", 1))
    await asyncio.sleep(0)
    await saying.stop(0.01)
    assert saying._sender is None
