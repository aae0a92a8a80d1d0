"""A storm: very many clients lose their server at once, and all come back."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..client import Backoff, Client
from ..errors import ClientError
from ..load.load import without_collection
from ..testing.processes import Process
from .background import background, first_of_many
from .crowd import crowd, in_time
from .judgement import Past, judge
from .ledger import Breach, Ledger
from .line import dialling
from .note import APPLICATION, Note
from .participant import Participant, past_of
from .progress import Progress, Watcher, unwatched
from .recovery import Recoveries
from .report import Memory
from .server import allow_files, memory, processor_time, served

HEARTBEAT = 20.0
"""Seconds: hubbub's default. The lines are lost in a way that both sides notice."""
OPENS_WITHIN = 10.0
"""Seconds that a connection may take to open: the client's default."""
SAYS_EVERY = 0.5
"""Seconds between two messages in each room, so that everyone has something to catch up with."""
SAMPLES_EVERY = 0.1

Done = TypeVar("Done")


@dataclass(frozen=True)
class StormOrder:
    """A storm. `drain` is whether the server stops in an orderly way, instead of being killed."""

    clients: int = 5_000
    rooms: int = 20
    app: str = APPLICATION
    broker: str = "memory://"
    native: bool = True
    history: int = 10_000
    drain: bool = False
    patience: float = 120.0
    """Seconds that clients have to come back and catch up."""


@dataclass
class StormReport:
    """What came of a storm. Times are in seconds."""

    jitter: bool
    clients: int
    down: float = 0.0
    """How long there was no server."""
    seconds: float = 0.0
    """From the end of the server until the last client had caught up."""
    recovery_p50: float = 0.0
    """From when a client lost its line until it had caught up."""
    recovery_p99: float = 0.0
    back_in_busiest: int = 0
    """How many clients came back in the busiest second."""
    server_busy: float = 0.0
    """The share of a core that the server took in its busiest second."""
    clients_busy: float = 0.0
    """The share of a core that all clients together took in theirs. Near 1 they held the storm up."""
    memory: Memory = field(default_factory=Memory)
    gaps: int = 0
    breaches: dict[Breach, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all clients came back, and nothing was lost or doubled."""
        return not sum(self.breaches.values())

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "sound": self.sound,
            "jitter": self.jitter,
            "clients": self.clients,
            "down_seconds": round(self.down, 3),
            "seconds": round(self.seconds, 3),
            "recovery_seconds": {"p50": round(self.recovery_p50, 4), "p99": round(self.recovery_p99, 4)},
            "back_in_busiest_second": self.back_in_busiest,
            "server_busy_in_busiest_second": round(self.server_busy, 3),
            "clients_busy_in_busiest_second": round(self.clients_busy, 3),
            "server_memory_bytes": {
                "begin": self.memory.begin,
                "peak": self.memory.peak,
                "end": self.memory.end,
            },
            "gaps": self.gaps,
            **{breach.name.lower(): self.breaches.get(breach, 0) for breach in Breach},
            "told": self.told,
        }


async def storm(order: StormOrder, *, jitter: bool, watch: Watcher = unwatched) -> StormReport:
    """Have the clients connect, restart their server, and report how they come back.

    With `jitter` false, each client waits exactly as long as the others before each attempt. Raises what
    :func:`hubbub.soak.run.run` raises.
    """
    allow_files(order.clients)
    # What is alive in 5,000 clients takes long to look through, and they are not here for long.
    with first_of_many(), without_collection():
        async with served(
            order.app,
            broker=order.broker,
            native=order.native,
            history=order.history,
            heartbeat=HEARTBEAT,
            connections=order.clients + 1,
        ) as server:
            return await _Storm(order, server, watch, jitter=jitter).run()


class _Storm:
    def __init__(self, order: StormOrder, server: Process, watch: Watcher, *, jitter: bool) -> None:
        self._order = order
        self._server = server
        self._watch = watch
        self._backoff = Backoff(endless=True, jitter=jitter)
        self._ledger = Ledger()
        self._recoveries = Recoveries(time.monotonic)
        self._report = StormReport(jitter, order.clients)
        self._back, self._server_busy, self._clients_busy = Busiest(), Busiest(), Busiest()

    async def run(self) -> StormReport:
        order, report, server = self._order, self._report, self._server
        names = [f"soak/{secrets.token_hex(4)}-{number}" for number in range(order.rooms)]
        members = [(self._client(), [names[number % order.rooms]]) for number in range(order.clients)]
        members.append((self._client(), names))
        async with crowd(members, self._ledger, self._recoveries, self._show) as participants:
            herald = participants[-1]
            try:
                await self._in_time(self._say(herald))
                await self._until("settling", lambda: _at_end(participants))
                report.memory.begin = memory(server)
                await self._restart(participants)
                pasts = await self._in_time(self._pasts(herald, names))
            except (TimeoutError, ClientError) as problem:
                told = f"The storm could not come to its end: {str(problem) or 'it did not answer in time'}"
                self._ledger.breaches.add(Breach.HUNG, told)
                pasts = {}
            for participant in participants:
                if not participant.open:
                    told = f"Client {participant.number} has not come back."
                    self._ledger.breaches.add(Breach.HUNG, told)
            report.memory.end = memory(server)
            report.memory.peak = memory(server, "VmHWM")
            await server.kill()  # to let everyone go in an orderly way would take its time
        verdict, times = judge(self._ledger, pasts), self._recoveries.times
        report.recovery_p50, report.recovery_p99 = times.percentile(50), times.percentile(99)
        report.back_in_busiest = round(self._back.most)
        report.server_busy, report.clients_busy = self._server_busy.most, self._clients_busy.most
        report.gaps = verdict.gaps
        report.breaches, report.told = verdict.breaches.counts, verdict.breaches.told
        return report

    async def _restart(self, participants: Sequence[Participant]) -> None:
        """Take the server away and give it back; return when everyone has caught up."""
        report, server, herald = self._report, self._server, participants[-1]
        began = time.monotonic()
        async with background(self._go_on_saying(herald), self._sample()):
            await (server.stop() if self._order.drain else server.kill())
            gone = time.monotonic()
            await server.start()
            report.down = time.monotonic() - gone
            await self._until(
                "coming back",
                lambda: self._recoveries.lost >= len(participants) and not self._recoveries.away,
            )
        self._take_sample()
        # The last word is a message that everyone receives.
        await self._in_time(self._say(herald))
        await self._until("catching up", lambda: _at_end(participants))
        report.seconds = time.monotonic() - began

    async def _pasts(self, herald: Participant, names: Sequence[str]) -> dict[str, Past]:
        return {name: await past_of(herald.client, name) for name in names}

    async def _in_time(self, work: Awaitable[Done]) -> Done:
        async with asyncio.timeout(self._order.patience):
            return await work

    def _client(self) -> Client:
        return Client(
            dialling(self._server.port, open_timeout=OPENS_WITHIN),
            messages=[Note],
            backoff=self._backoff,
            open_timeout=OPENS_WITHIN,
        )

    async def _say(self, herald: Participant) -> None:
        """Publish a message in each room."""
        for room in range(self._order.rooms):
            _, published = herald.begin(room)
            await published

    async def _go_on_saying(self, herald: Participant) -> None:
        while True:
            await self._say(herald)
            await asyncio.sleep(SAYS_EVERY)

    async def _sample(self) -> None:
        while True:
            self._take_sample()
            await asyncio.sleep(SAMPLES_EVERY)

    def _take_sample(self) -> None:
        now = time.monotonic()
        self._back.add(now, self._recoveries.returned)
        self._clients_busy.add(now, time.process_time())
        if self._report.down:
            self._server_busy.add(now, processor_time(self._server))

    async def _until(self, stage: str, condition: Callable[[], bool]) -> None:
        await in_time(condition, self._order.patience, lambda done: self._show(stage, done))

    def _show(self, stage: str, done: float) -> None:
        told = f"{stage}, {'with' if self._report.jitter else 'without'} jitter"
        self._watch(Progress(told, done, len(self._ledger), self._ledger.breaches.counts.total()))


class Busiest:
    """The most by which something that only grows has grown within a second."""

    def __init__(self) -> None:
        self.most = 0.0
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        """Note how far it has grown, in seconds of any clock."""
        self._samples.append((now, value))
        while now - self._samples[0][0] > 1:
            self._samples.popleft()
        self.most = max(self.most, value - self._samples[0][1])


def _at_end(participants: Sequence[Participant]) -> bool:
    return all(participant.open and participant.at_end for participant in participants)
