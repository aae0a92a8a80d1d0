import asyncio

import pytest

from echo import Say
from hubbub import ConfigurationError, Hubbub, Position, Settings
from hubbub.brokers.base import Renewal
from hubbub.brokers.memory import MemoryBroker
from hubbub.engine.hub import Hub
from told import Told

pytestmark = pytest.mark.anyio


async def test_only_while_it_runs_there_is_a_broker():
    hub = Hub(Settings())
    with pytest.raises(ConfigurationError, match="The hub is not started"):
        _ = hub.running
    broker = MemoryBroker()
    await hub.start(broker)
    assert hub.running.broker is broker
    await hub.stop()
    with pytest.raises(ConfigurationError, match=r"put `async with hub\.lifespan\(\):` around"):
        _ = hub.running
    # Nothing is left to stop, and that is no error.
    await hub.stop()


async def test_a_hub_that_was_never_started_can_be_stopped():
    await Hub(Settings()).stop()


async def test_what_does_not_know_the_room_it_is_published_to_publishes_all_the_same():
    hub = Hubbub()
    rooms = hub.room("room", history=10)
    async with hub.lifespan():
        first = await rooms().send(Say(text="1"))
        assert isinstance(first, Position)
        assert await rooms().send(Say(text="2"), ephemeral=True) == first
        assert (await rooms().send(Say(text="3"))).offset == 2
        assert [envelope.data for envelope in await rooms().history(limit=1)] == [{"text": "3"}]


async def test_presence_leases_are_renewed_and_trouble_with_it_is_logged_and_passes(logs):
    class Troubled(MemoryBroker):
        def __init__(self) -> None:
            super().__init__()
            self.renewed = Told()
            self.times = 0

        async def renew(self) -> Renewal:
            self.times += 1
            if self.times == 2:
                raise RuntimeError("lost for a moment")
            renewal = await super().renew()
            self.renewed(self.times)
            return renewal

    hub, broker = Hub(Settings(lease=0.03)), Troubled()
    await hub.start(broker)
    assert await broker.renewed.next() == 1
    assert await broker.renewed.next() == 3
    await hub.stop()
    [record] = logs.of("error", during="renewing presence leases")
    assert "lost for a moment" in str(record.exc_info)


async def test_what_has_gone_for_ever_is_stopped_too():
    hub = Hubbub(broker=MemoryBroker())
    async with hub.lifespan():
        pass
    with pytest.raises(ConfigurationError):
        await hub.user("ada").send(Say(text="late"))


async def test_whatever_fails_while_it_stops_the_other_parts_are_stopped(monkeypatch):
    class Cut(MemoryBroker):
        stopped = False

        async def stop(self) -> None:
            self.stopped = True
            await super().stop()

    hub, broker = Hub(Settings()), Cut()
    await hub.start(broker)
    presence = hub.running.presence

    async def cut_short(seconds: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(hub.running.users, "stop", cut_short)
    with pytest.raises(asyncio.CancelledError):
        await hub.stop()
    assert broker.stopped
    assert presence._tasks == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("hubbub: ")]
