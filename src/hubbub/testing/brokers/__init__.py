"""The broker contract as tests, for a broker of your own: inherit :class:`BrokerConformance`.

They run on pytest with anyio's plugin, which hubbub brings along::

    class TestMyBroker(BrokerConformance):
        def make_engine(self) -> Engine:
            return MyEngine()

:mod:`.model` has a state machine that compares a room with a model of it; it needs hypothesis, and nothing
here imports it.
"""

from .conformance import BrokerConformance
from .engines import Engine, Inbox, Instance, payloads, publish

__all__ = ["BrokerConformance", "Engine", "Inbox", "Instance", "payloads", "publish"]
