"""A soak from its beginning to its end: server, clients, faults, and the judgement."""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

from ..client import Client
from ..errors import ClientError, RequestFailed
from ..testing.faults import Clear, Direction, FaultProxy, HalfOpen, RandomFaults, Reset
from .background import background, first_of_many
from .crowd import LOOKS_EVERY, crowd, in_time
from .deployment import Deployment, deployed
from .judgement import Past, Verdict, judge
from .ledger import Breach, Fate, Ledger
from .order import Order
from .participant import Participant, Witness, connected, past_of
from .progress import Progress, Watcher, unwatched
from .recovery import Recoveries
from .report import Report
from .server import CONNECTIONS_PER_LINE, allow_files
from .troubles import Troubles

ONE = 1e-9
"""The share of connections that a fault hits: the least there is, which is one of them."""
MOST_LOG = 4000
"""Characters of the server's log that are shown where something was found."""
VICTIMS = 8
"""Clients whose acknowledgements are lost, at the same time."""


async def run(order: Order, watch: Watcher = unwatched, stop: asyncio.Event | None = None) -> Report:
    """Soak as ordered, and report. When `stop` is set, nothing more is published, and what was is judged.

    Raises :exc:`hubbub.ConfigurationError` if this machine does not allow so many connections, or
    :exc:`hubbub.testing.processes.NotStarted` if the server does not start.
    """
    victims = min(VICTIMS, order.lose_acknowledgements)
    allow_files(2 * CONNECTIONS_PER_LINE * (order.clients + victims))
    with first_of_many():
        async with AsyncExitStack() as stack:
            deployment = await stack.enter_async_context(deployed(order, order.clients + victims + 2))
            proxies = [
                await stack.enter_async_context(FaultProxy("127.0.0.1", deployment.port))
                for _ in range(victims + 1)
            ]
            return await _Soak(order, deployment, proxies, watch, stop or asyncio.Event()).run()


class _Soak:
    def __init__(
        self,
        order: Order,
        deployment: Deployment,
        proxies: list[FaultProxy],
        watch: Watcher,
        stop: asyncio.Event,
    ) -> None:
        self._order = order
        self._deployment = deployment
        self._proxy, *self._own = proxies
        """Between clients and server, and one for each client whose acknowledgements are lost."""
        self._watch = watch
        self._stop = stop
        self._ledger = Ledger(excluding=order.exclude, fails=order.troubles_broker)
        self._recoveries = Recoveries(time.monotonic)
        self._report = Report(order.seed)
        self._troubles = Troubles(order, deployment, self._recoveries, self._report, self._done)
        self._names = [f"soak/{secrets.token_hex(4)}-{number}" for number in range(order.rooms)]
        """New ones: a broker's file may have those of another soak."""
        self._chance = random.Random(f"{order.seed} publishers")  # noqa: S311  # it has to be the same again
        self._participants: list[Participant]
        """The clients, those whose acknowledgements are lost, and one that sees the messages of these."""
        self._witness = Witness()
        self._to_lose = order.lose_acknowledgements
        self._began = self._due = self._moved = 0.0
        self._seen = 0
        """How many messages there were when it was looked last."""

    async def run(self) -> Report:
        clients, straight = self._order.clients, self._order.url(self._deployment.port)
        url = self._order.url(self._proxy.port) if self._order.fault_every else straight
        members = [(connected(url), self._rooms_of(number)) for number in range(clients)]
        if self._own:
            own = [
                (connected(self._order.url(proxy.port)), self._rooms_of(number))
                for number, proxy in enumerate(self._own)
            ]
            seen = sorted({name for _, names in own for name in names})
            members += [*own, (connected(straight), seen)]
        async with crowd(members, self._ledger, self._recoveries, self._show) as self._participants:
            await self._publish_all()
            await self._settle()
            # Nobody is let go in an orderly way: there is nothing more to find, and it would take its time.
            await self._deployment.kill()
            for proxy in (self._proxy, *self._own):
                proxy.apply(Reset(), "all")
        return self._report

    def _rooms_of(self, client: int) -> list[str]:
        order = self._order
        first = client * order.rooms_per_client
        return [self._names[(first + more) % order.rooms] for more in range(order.rooms_per_client)]

    # While messages are published

    async def _publish_all(self) -> None:
        order, report = self._order, self._report
        report.memory.begin = self._deployment.memory()
        self._began = self._due = self._moved = time.monotonic()
        victims = zip(self._participants[order.clients : -1], self._own, strict=True) if self._own else ()
        async with (
            background(self._faults(), self._troubles.run(), self._watch_memory()),
            asyncio.TaskGroup() as group,
        ):
            if self._own:
                self._participants[-1].witness = self._witness
            tasks = [
                group.create_task(self._publish(participant))
                for participant in self._participants[: order.clients]
                for _ in range(order.in_flight)
            ]
            tasks += [group.create_task(self._lose(victim, proxy)) for victim, proxy in victims]
            while (self._goes_on() or self._loses()) and not all(task.done() for task in tasks):
                if self._stands_still():
                    told = f"For {self._order.patience:g} seconds no message could be published."
                    self._ledger.breaches.add(Breach.HUNG, told)
                    break
                self._show("publishing", self._done())
                await asyncio.sleep(LOOKS_EVERY)
            report.seconds = time.monotonic() - self._began
            # What is under way comes to its end under faults as well.
            await self._in_time("waiting for acknowledgements", lambda: all(task.done() for task in tasks))
            for task in tasks:
                task.cancel()
        await self._troubles.end()

    def _goes_on(self) -> bool:
        if self._stop.is_set():
            return False
        # What was ordered for mid-stream is to happen in mid-stream, even if that takes longer.
        return self._done() < 1 or not self._troubles.happened

    def _stands_still(self) -> bool:
        """Tell whether nothing has been published for so long that nothing will be."""
        now, published = time.monotonic(), len(self._ledger)
        if published != self._seen or self._troubles.something_is_away:
            self._seen, self._moved = published, now
        return now - self._moved > self._order.patience

    def _loses(self) -> bool:
        return self._to_lose > 0 and not self._stop.is_set()

    def _done(self) -> float:
        if self._order.messages is not None:
            return min(1.0, len(self._ledger) / max(1, self._order.messages))
        return min(1.0, (time.monotonic() - self._began) / self._order.seconds)

    async def _publish(self, participant: Participant) -> None:
        rate = self._order.rate
        while self._goes_on():
            if rate is not None:
                self._due += 1 / rate
                await asyncio.sleep(self._due - time.monotonic())
            _, published = participant.begin(self._chance.randrange(self._order.rooms_per_client))
            if not await published:
                return

    async def _faults(self) -> None:
        order = self._order
        if order.fault_every:
            await self._proxy.run(RandomFaults(order.seed, order.fault_every, order.faults, share=ONE))

    async def _watch_memory(self) -> None:
        found = self._report.memory
        while True:
            found.peak = max(found.peak, self._deployment.memory("VmHWM"))
            await asyncio.sleep(LOOKS_EVERY)

    async def _lose(self, victim: Participant, proxy: FaultProxy) -> None:
        """Publish over a line that carries nothing back, and cut it when somebody was shown the message."""
        while self._loses():
            if not victim.open:
                await asyncio.sleep(LOOKS_EVERY / 10)
                continue
            # It is this client's own, and a line over HTTP has several connections.
            proxy.apply(HalfOpen(Direction.DOWN))
            self._to_lose -= 1
            number, sending = victim.begin(self._chance.randrange(self._order.rooms_per_client))
            async with asyncio.TaskGroup() as group:
                shown = group.create_task(self._witness.until_shown(number))
                published = group.create_task(sending)
                await asyncio.wait({published, shown}, return_when=asyncio.FIRST_COMPLETED)
                if shown.done():
                    proxy.apply(Reset())
                    self._report.lost_acknowledgements += 1
                else:
                    self._to_lose += 1
                    shown.cancel()
            if not published.result():
                return

    # Afterwards

    async def _settle(self) -> None:
        """Let clients come back and catch up, then judge."""
        breaches = self._ledger.breaches
        for number, fate in enumerate(self._ledger.fates):
            if fate == Fate.SENT:
                client = self._ledger.publishers[number]
                breaches.add(Breach.HUNG, f"Message {number} of client {client} was never answered.")
        self._proxy.apply(Clear(), "all")
        for number, server in enumerate(self._deployment.instances, 1):
            if not server.running:
                breaches.add(Breach.HUNG, f"Instance {number} has ended by itself.")
        pasts = await self._pasts()
        await self._in_time("waiting for clients", self._caught_up)
        for participant in self._participants:
            if not participant.open:
                breaches.add(Breach.HUNG, f"Client {participant.number} has not come back.")
        lost = self._recoveries.lost
        if lost and self._order.troubles_broker and not self._order.troubles_lines:
            breaches.add(Breach.DROPPED, f"{lost} lines were lost, with no trouble but the broker's.", lost)
        self._conclude(judge(self._ledger, pasts, durable=self._keeps_all()))

    def _keeps_all(self) -> bool:
        """Tell whether the broker should have all that was published: history reaches back that far."""
        reaches = all(record.newest.end <= self._order.history for record in self._ledger.rooms.values())
        return self._deployment.durable and reaches

    async def _pasts(self) -> dict[str, Past]:
        """Ask the server, past all faults, what it keeps of each room."""
        pasts: dict[str, Past] = {}
        straight = self._order.url(self._deployment.port)
        try:
            async with asyncio.timeout(self._order.patience), connected(straight) as client:
                for done, name in enumerate(self._names):
                    self._show("reading history", done / len(self._names))
                    past = pasts[name] = await self._past(client, name)
                    log = self._ledger.room(name).log(past.position.epoch)
                    for offset, number in past.messages:
                        log.agrees(offset, number)  # what nobody was shown has to be waited for, too
        except (TimeoutError, ClientError) as problem:
            told = f"The server did not tell what it keeps: {str(problem) or 'it did not answer in time'}"
            self._ledger.breaches.add(Breach.HUNG, told)
        return pasts

    async def _past(self, client: Client, name: str) -> Past:
        while True:
            try:
                return await past_of(client, name)
            except RequestFailed as problem:
                if not problem.retry:
                    raise
            await asyncio.sleep(LOOKS_EVERY)  # its broker has only just come back

    def _caught_up(self) -> bool:
        return not self._recoveries.away and all(
            participant.open and participant.at_end for participant in self._participants
        )

    def _conclude(self, verdict: Verdict) -> None:
        report, fates, times = self._report, self._ledger.fates, self._recoveries.times
        report.published = len(self._ledger)
        report.acknowledged = fates.count(Fate.ACKNOWLEDGED)
        report.unacknowledged = fates.count(Fate.UNACKNOWLEDGED)
        report.refused = fates.count(Fate.REFUSED)
        put_off = self._ledger.put_off
        report.put_off = len(put_off)
        report.landed = sum(fates[number] == Fate.ACKNOWLEDGED for number in put_off)
        report.uncertain, report.receipts = verdict.uncertain, verdict.receipts
        report.gaps, report.in_gaps = verdict.gaps, verdict.told
        report.breaches, report.told = verdict.breaches.counts, verdict.breaches.told
        report.faults = Counter(self._proxy.statistics.faults)
        del report.faults[Clear.kind]
        report.lines_lost, report.recoveries = self._recoveries.lost, len(times)
        report.recovery_p50, report.recovery_p99 = times.percentile(50), times.percentile(99)
        report.recovery_max = times.longest
        gone = self._recoveries.gone
        report.gone_p50, report.gone_p99 = gone.percentile(50), gone.percentile(99)
        report.gone_max = gone.longest
        report.memory.end = self._deployment.memory()
        report.memory.peak = max(report.memory.peak, self._deployment.memory("VmHWM"))
        report.log = "" if report.sound else self._deployment.log(MOST_LOG)
        report.interrupted = self._stop.is_set()

    # All the time

    async def _in_time(self, stage: str, condition: Callable[[], bool]) -> None:
        """Wait until something is so, or clients have had the time that they have for it."""
        await in_time(condition, self._order.patience, lambda done: self._show(stage, done))

    def _show(self, stage: str, done: float) -> None:
        breaches = self._ledger.breaches.counts.total()
        self._watch(Progress(stage, done, len(self._ledger), breaches))
