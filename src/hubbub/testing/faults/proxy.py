"""A TCP proxy that does to connections what networks do."""

import asyncio
import math
import random
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .connection import Dial, ProxiedConnection
from .end import reset_socket
from .fault import BlackHole, Clear, Direction, Fault, Refuse
from .plan import Plan, Share, Step, Target

BACKLOG = 1024
REMEMBERED = 10_000
"""Faults that are remembered, the last ones."""
NO_MORE_FILES = 1.0
"""Seconds without new connections when the process may open no more files."""


@dataclass(frozen=True)
class Happened:
    """A fault as it happened: `at` seconds after the proxy's start, to the connections with these numbers.

    Its text is a step of a script that has it happen again.
    """

    at: float
    fault: Fault
    to: Target | None
    """Whom it was for; None where connections were named."""
    connections: tuple[int, ...]

    def __str__(self) -> str:
        return str(Step(self.at, self.fault, self.to or "open"))


@dataclass
class Statistics:
    """What a proxy has done so far."""

    accepted: int = 0
    """Connections accepted, those into a black hole too, those broken off at once not."""
    refused: int = 0
    """Connections broken off as soon as they were accepted."""
    unreachable: int = 0
    """Connections for which the server could not be reached."""
    bytes_up: int = 0
    """Bytes that have passed from clients to the server."""
    bytes_down: int = 0
    """Bytes that have passed from the server to clients."""
    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault happened."""
    hit: int = 0
    """Connections that were hit; one that was hit twice counts twice."""

    @property
    def bytes(self) -> int:
        """Bytes that have passed, both ways together."""
        return self.bytes_up + self.bytes_down


class FaultProxy:
    """Listens on `host` and `port` (0 is a free one) and carries every connection to the target, with faults.

    An async context manager. All that it does belongs to it, and is over when it is stopped; connections that
    are open then are broken off. `on_fault` is called with every fault as it happens.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        connect_timeout: float = 10.0,
        on_fault: Callable[[Happened], None] | None = None,
    ) -> None:
        self.statistics = Statistics()
        self.happened: deque[Happened] = deque(maxlen=REMEMBERED)
        """The last faults, as they happened."""
        self.host = host
        self.port = port
        """Where it listens; before the start, what was asked for."""
        self._target = target_host, target_port
        self._connect_timeout = connect_timeout
        self._on_fault = on_fault
        self._door: Refuse | BlackHole | None = None
        self._door_timer: asyncio.TimerHandle | None = None
        self._listener: socket.socket | None = None
        self._place: socket.socket | None = None
        """Keeps the port while nobody listens, so that no other socket is given it."""
        self._future: dict[tuple[type[Fault], Direction | None], Fault] = {}
        self._open: dict[int, ProxiedConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.Event] = set()
        self._started = 0.0

    async def start(self) -> None:
        """Begin to listen; :exc:`OSError` if the address can't be had."""
        self._started = asyncio.get_running_loop().time()
        self._listen()

    async def stop(self) -> None:
        """Listen no more, break off what is open, and wait until all of it is over."""
        if self._door_timer is not None:
            self._door_timer.cancel()
            self._door_timer = None
        self._door = None
        self._listen_no_more()
        if self._place is not None:
            self._place.close()
            self._place = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def url(self, path: str = "/", scheme: str = "ws") -> str:
        """Return the URL of a path of the target's, through the proxy."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{path}"

    @property
    def listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listener is not None

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Those that are open, the oldest first."""
        return list(self._open.values())

    def apply(
        self, fault: Fault, to: Target | ProxiedConnection | Iterable[ProxiedConnection] = "open"
    ) -> Happened:
        """Let a fault happen now, to the connections that are open, or `to` others.

        `refuse` and `black-hole` are for those that come while they last, whatever `to` says, and `clear` is
        for all if no connections are named. Returns what happened.
        """
        hit: list[ProxiedConnection] = []
        target: Target | None = None
        if isinstance(fault, Refuse | BlackHole):
            self._set_door(fault)
            target = "future"
        elif isinstance(to, ProxiedConnection):
            hit = [to]
        elif isinstance(to, str | Share):
            target = "all" if isinstance(fault, Clear) else to
            hit = self._hit(target)
            if target in ("future", "all"):
                self._remember(fault)
        else:
            hit = list(to)
        for connection in hit:
            connection.apply(fault)
        happened = Happened(
            round(asyncio.get_running_loop().time() - self._started, 3),
            fault,
            target,
            tuple(connection.number for connection in hit),
        )
        self.happened.append(happened)
        self.statistics.faults[fault.kind] += 1
        self.statistics.hit += len(hit)
        if self._on_fault is not None:
            self._on_fault(happened)
        self._changed()
        return happened

    async def run(self, plan: Plan) -> None:
        """Let a plan's faults happen, each at its time from now on; return when that is over.

        A plan with random faults has no end: run it in a task, and cancel that.
        """
        loop = asyncio.get_running_loop()
        start, passed = loop.time(), self.statistics.bytes
        for step in plan:
            if step.unit == "seconds":
                await asyncio.sleep(start + step.at - loop.time())
            else:
                mark = passed + step.at
                await self.until(lambda proxy, mark=mark: proxy.statistics.bytes >= mark)  # type: ignore[misc]
            self.apply(step.fault, step.to)

    async def until(self, true: Callable[["FaultProxy"], bool]) -> None:
        """Wait until something is true of the proxy, as ``lambda proxy: not proxy.connections``."""
        changed = asyncio.Event()
        self._watches.add(changed)
        try:
            while not true(self):
                changed.clear()
                await changed.wait()
        finally:
            self._watches.discard(changed)

    def _changed(self) -> None:
        for watch in self._watches:
            watch.set()

    def _hit(self, target: Target) -> list[ProxiedConnection]:
        if target == "future":
            return []
        if not isinstance(target, Share):
            return self.connections
        count = max(1, round(len(self._open) * target.part))
        chosen = random.Random(target.seed).sample(self.connections, min(count, len(self._open)))  # noqa: S311
        return sorted(chosen, key=lambda connection: connection.number)

    def _remember(self, fault: Fault) -> None:
        if isinstance(fault, Clear):
            self._future.clear()
            self._set_door(None)
        else:
            self._future[type(fault), getattr(fault, "direction", None)] = fault

    def _set_door(self, door: Refuse | BlackHole | None) -> None:
        if self._door_timer is not None:
            self._door_timer.cancel()
            self._door_timer = None
        self._door = door
        if isinstance(door, Refuse) and not door.reset:
            self._listen_no_more()
        else:
            self._listen()
        if door is not None and door.seconds != math.inf:
            loop = asyncio.get_running_loop()
            self._door_timer = loop.call_later(door.seconds, self._set_door, None)

    def _listen(self) -> None:
        if self._listener is None:
            if self._place is not None:
                self._place.close()
                self._place = None
            self._listener = socket.create_server(
                (self.host, self.port), family=self._family, backlog=BACKLOG
            )
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
            self._changed()

    def _listen_no_more(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            self._place = socket.socket(self._family)
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._place.bind((self.host, self.port))

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as problem:
            self._set_door(Refuse(NO_MORE_FILES))
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a fault proxy can't accept connections", "exception": problem}
            )
            return
        if isinstance(self._door, Refuse):
            self.statistics.refused += 1
            reset_socket(accepted)
            self._changed()
            return
        accepted.setblocking(False)
        self.statistics.accepted += 1
        connection = ProxiedConnection(self.statistics.accepted, self._count)
        self._open[connection.number] = connection
        dial = None if isinstance(self._door, BlackHole) else self._dial
        work = self._carry(connection, accepted, dial)
        task = asyncio.create_task(work, name="hubbub: a connection with faults")
        self._tasks.add(task)
        # A task that is cancelled before its first step never comes to what it would do at its end.
        task.add_done_callback(lambda task: self._carried(connection, accepted, task))
        self._changed()

    async def _carry(self, connection: ProxiedConnection, accepted: socket.socket, dial: Dial | None) -> None:
        try:
            await connection.run(accepted, dial, list(self._future.values()))
        except OSError:
            self.statistics.unreachable += 1

    async def _dial(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        async with asyncio.timeout(self._connect_timeout):
            await asyncio.get_running_loop().create_connection(protocol, *self._target)

    def _carried(
        self, connection: ProxiedConnection, accepted: socket.socket, task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        accepted.close()
        del self._open[connection.number]
        self._changed()
        if not task.cancelled() and (problem := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a connection of a fault proxy failed", "exception": problem, "task": task}
            )

    def _count(self, direction: Direction, size: int) -> None:
        if direction is Direction.UP:
            self.statistics.bytes_up += size
        else:
            self.statistics.bytes_down += size
        self._changed()
