"""Instances of one application on one Redis, and a proxy before them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hubbub.testing.processes import Process
from hubbub.testing.servers.redis import RedisServer

TESTS = Path(__file__).parents[1]


def instance(broker: str, **settings: object) -> Process:
    """Return an instance that is not started yet."""
    given = {"broker": broker, "drain": 5.0, "ping_interval": 20.0, **settings}
    return Process.serving("deploy.chat:hub", directory=TESTS, **given)


@pytest.fixture
async def redis() -> AsyncIterator[str]:
    """The URL of a Redis of the test's own."""
    async with RedisServer(synced="off") as server:
        yield server.url
