"""All that the broker contract asks, in one class to inherit from."""

from collections.abc import AsyncIterator

import pytest

from .delivery import Delivery
from .durability import Durability
from .engines import Engine, Instance
from .history import KeptMessages
from .presence import Instances


class BrokerConformance(Delivery, KeptMessages, Instances, Durability):
    """The broker contract (:mod:`hubbub.brokers.base`) as tests; inherit, and say what to test.

    Each test has an engine of its own and opens instances on it, which share their rooms. Tests of what only
    a durable engine gives are skipped for others (:class:`hubbub.brokers.base.Guarantees`).
    """

    pytestmark = pytest.mark.anyio

    def make_engine(self) -> Engine:
        """Return a new engine without any rooms; it is closed after the test.

        Called on a new object of the class for each test, before the event loop runs: connect in
        :meth:`.Engine.open`. A fixture with ``autouse=True`` may hand the object what an engine needs, a
        directory for example.
        """
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Brokers run on asyncio."""
        return "asyncio"

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        """The engine under test."""
        engine = self.make_engine()
        yield engine
        await engine.close()

    @pytest.fixture
    async def one(self, engine: Engine) -> Instance:
        """An instance."""
        return await engine.open()

    @pytest.fixture
    async def other(self, engine: Engine) -> Instance:
        """A second one."""
        return await engine.open()
