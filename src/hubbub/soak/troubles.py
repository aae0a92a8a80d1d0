"""What is done to servers and broker while messages are published."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ..testing.faults import BlackHole, Clear, Cut, Reset, Stall
from .crowd import LOOKS_EVERY
from .deployment import Deployment
from .order import Order, Outage
from .recovery import Recoveries
from .report import Report

AFTERMATH = 2.0
"""Seconds for which a line that is lost after the broker's return counts as lost with the broker."""


class Startable(Protocol):
    """What was taken away and has to be given back."""

    async def start(self) -> None:
        """Give it back."""


class Troubles:
    """Has happen what was ordered: some of it in mid-stream, some of it all the time.

    `done` tells which part of the soak is over, 0 to 1.
    """

    def __init__(
        self,
        order: Order,
        deployment: Deployment,
        recoveries: Recoveries,
        report: Report,
        done: Callable[[], float],
    ) -> None:
        self._order = order
        self._deployment = deployment
        self._recoveries = recoveries
        self._report = report
        self._done = done
        self.happened = False
        """Whether all that has a place in mid-stream has happened."""
        self._turn = 0
        self._one_server = asyncio.Lock()
        """So that one server at a time is ended, whatever for."""
        self._away: list[Startable] = []
        self._without_broker = 0
        """How many reasons there are for servers to be without their broker."""
        self._lost_before = 0

    async def run(self) -> None:
        """Have it happen, until cancelled; some of it has an end."""
        order = self._order
        moments: list[Callable[[], Coroutine[object, object, None]]] = [self._kill] * order.kills
        moments += [self._restart_all] * order.rolling
        moments += [partial(self._take_broker_away, outage) for outage in order.broker_down]
        moments += [partial(self._part, seconds) for seconds in order.partition]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._in_mid_stream(moments))
            if order.kill_every:
                group.create_task(self._each(order.kill_every, self._kill))
            if order.broker_cut_every:
                group.create_task(self._go_on_cutting(order.broker_cut_every))

    @property
    def something_is_away(self) -> bool:
        """Whether a server or the broker is away on purpose."""
        # That connections are cut all the time is no reason for nothing to happen.
        return bool(self._away) or self._without_broker > bool(self._order.broker_cut_every)

    async def end(self) -> None:
        """Give back what was taken away when it was cancelled."""
        while self._away:
            await self._away[-1].start()
            self._away.pop()

    async def _in_mid_stream(self, moments: list[Callable[[], Coroutine[object, object, None]]]) -> None:
        """Have each happen when its part of the soak is over, at even distances."""
        for number, moment in enumerate(moments, 1):
            while self._done() < number / (len(moments) + 1):  # noqa: ASYNC110  # time is no event
                await asyncio.sleep(LOOKS_EVERY)
            await moment()
        self.happened = True

    async def _each(self, seconds: float, work: Callable[[], Coroutine[object, object, None]]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # What takes longer than that is not made up for.
            due = max(due + seconds, loop.time())
            await asyncio.sleep(due - loop.time())
            await work()

    # To servers

    def _next(self) -> int:
        """Return whose turn it is."""
        self._turn += 1
        return (self._turn - 1) % len(self._deployment.instances)

    async def _kill(self) -> None:
        """Kill a server, each in turn, and start it again where it was."""
        async with self._one_server:
            server = self._deployment.instances[self._next()]
            self._away.append(server)
            await server.kill()
            self._report.kills += 1
            await server.start()
            self._away.remove(server)

    async def _restart_all(self) -> None:
        """Restart all servers in an orderly way, each when the one before is ready again."""
        for server in self._deployment.instances:
            async with self._one_server:
                self._away.append(server)
                await server.stop()
                await server.start()
                self._away.remove(server)
                self._report.restarts += 1

    # To the broker

    async def _take_broker_away(self, outage: Outage) -> None:
        engine, loop = self._deployment.engine, asyncio.get_running_loop()
        assert engine is not None
        with self._troubled():
            began = loop.time()
            if outage.how == "pause":
                engine.pause()
                try:
                    await asyncio.sleep(outage.seconds)
                finally:
                    engine.resume()
            else:
                self._away.append(engine)
                await (engine.kill() if outage.how == "kill" else engine.stop())
                await asyncio.sleep(outage.seconds)
                await engine.start()
                self._away.remove(engine)
            self._report.broker_away.append(loop.time() - began)
            await asyncio.sleep(AFTERMATH)

    async def _part(self, seconds: float) -> None:
        """Have nothing pass between one server and the broker for a while: the network is cut in two."""
        link = self._deployment.links[self._next()]
        with self._troubled():
            link.apply(BlackHole(seconds))
            link.apply(Stall(seconds))
            try:
                await asyncio.sleep(seconds)
            finally:
                link.apply(Clear(), "all")
            self._report.partitions += 1
            await asyncio.sleep(AFTERMATH)

    async def _go_on_cutting(self, seconds: float) -> None:
        with self._troubled():
            await self._each(seconds, self._cut)

    async def _cut(self) -> None:
        """Cut all connections between servers and broker: in turn as a close does, and broken off."""
        self._turn += 1
        for link in self._deployment.links:
            self._report.broker_cuts += len(link.connections)
            link.apply(Reset() if self._turn % 2 else Cut())

    @contextmanager
    def _troubled(self) -> Iterator[None]:
        """Count the lines that are lost meanwhile."""
        if not self._without_broker:
            self._lost_before = self._recoveries.lost
        self._without_broker += 1
        try:
            yield
        finally:
            self._without_broker -= 1
            if not self._without_broker:
                self._report.lines_lost_with_broker += self._recoveries.lost - self._lost_before
