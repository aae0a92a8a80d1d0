import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from brokers.redis_engine import RedisConformance, RedisEngine
from hubbub.brokers.base import Retention
from hubbub.testing.brokers.model import RoomMachine
from hubbub.testing.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server():
    """A Redis that all tests of this module share; each has a prefix of its own."""
    server = RedisServer(synced="off")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.close())


class TestRedisBroker(RedisConformance):
    @pytest.fixture(autouse=True)
    def server_of_the_module(self, server):
        self.url = server.url


@pytest.fixture(scope="module")
def url_of_the_machine(server):
    """The address that each of the machines takes, with a prefix of its own."""
    RedisRoomMachine.url = server.url


class RedisRoomMachine(RoomMachine):
    """Time really passes here: seldom, and so much of it that nothing hangs on how fast the machine is."""

    url = ""
    pauses = 0

    def make_engine(self) -> RedisEngine:
        self.pauses = 0
        return RedisEngine(self.url, second=0.2)

    @initialize(count=st.integers(0, 5), age=st.sampled_from([10, 3600]))
    def settle(self, count: int, age: int) -> None:
        self.retention = Retention(count, age + 0.5)

    @rule(seconds=st.just(11))
    def pass_time(self, seconds: int) -> None:
        if self.pauses < 2:
            self.pauses += 1
            super().pass_time(seconds)


@pytest.mark.usefixtures("url_of_the_machine")
class TestRedisRoom(RedisRoomMachine.TestCase):
    settings = settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        stateful_step_count=30,
        max_examples=8,
    )
