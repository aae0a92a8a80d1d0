"""Which server has what: one for everything, or a cluster's nodes, each with its slots."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace

from redis.exceptions import ResponseError

from ...errors import ConfigurationError, Unavailable
from ..outage import Outage
from .address import Address, Place
from .channels import Listener
from .line import BROKEN, asked_once
from .lineage import refusal
from .node import Node
from .replies import Reply
from .scripts import Script

SLOTS = 16_384
AGAIN = 0.05
"""Seconds before a command is sent again that a cluster could not carry out just now."""
REFRESH = 5.0
"""Seconds between two looks at who has which slots, if nothing says that it has changed."""

Ready = Callable[[Node], Coroutine[None, None, None]]


class Servers:
    """All servers of an address. `ready` is called for each that is there (again).

    `window` is the deduplication window in milliseconds. `timeout` is for how long a step is tried, in
    seconds.
    """

    def __init__(
        self, address: Address, *, timeout: float, window: int, listener: Listener | None, ready: Ready
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.is_cluster = address.kind == "cluster"
        self._window = b"%d" % window
        self._listener = listener
        self._ready = ready
        self._nodes: dict[Place | None, Node] = {}
        self._tasks: dict[Place | None, asyncio.Task[None]] = {}
        self._slots: list[Node | None] = [None] * (SLOTS if self.is_cluster else 1)
        self.changes = 0
        """How often it has changed who has which slots."""
        self._stale = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._outage = Outage()

    @property
    def available(self) -> bool:
        """Whether every server answers, as far as is known."""
        return bool(self._nodes) and all(node.available for node in self._nodes.values())

    def of(self, slot: int) -> Node:
        """Return the server that has a slot; :exc:`Unavailable` if none is known."""
        node = self._slots[slot if self.is_cluster else 0]
        if node is None:
            raise Unavailable("Redis can't be reached.")
        return node

    async def start(self) -> None:
        """Connect; :exc:`ConfigurationError` if that can't work. Who is not there is tried again."""
        if self.is_cluster:
            try:
                await self._refresh()
            except ConfigurationError:
                await self.stop()
                raise
            self._refreshing = asyncio.create_task(self._keep_fresh(), name="hubbub: who has which slots")
        else:
            self._slots[0] = self._add(None)
        waiting = [asyncio.create_task(node.tried.wait()) for node in self._nodes.values()]
        if waiting:
            try:
                await asyncio.wait(waiting, timeout=self.timeout * 2)
            finally:
                for task in waiting:
                    task.cancel()
        refused = next((node.refused for node in self._nodes.values() if node.refused is not None), None)
        if refused is not None:
            await self.stop()
            raise refused

    async def stop(self) -> None:
        """Let go of all connections."""
        tasks = [*self._tasks.values(), *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._nodes.clear()
        self._tasks.clear()
        self._slots = [None] * len(self._slots)

    async def room_step(
        self, slot: int, script: Script, keys: Iterable[bytes], arguments: Iterable[bytes]
    ) -> Reply:
        """Have a step carried out that may begin a room anew (see :meth:`ask`)."""
        keys = tuple(keys)
        tail = (*keys, None, secrets.token_hex(6).encode(), self._window, *arguments)
        return await self.ask(slot, b"EVALSHA", script.digest, b"%d" % len(keys), *tail)

    async def step(self, slot: int, script: Script, keys: Iterable[bytes], *arguments: bytes) -> Reply:
        """Have a step carried out (see :meth:`ask`)."""
        keys = tuple(keys)
        return await self.ask(slot, b"EVALSHA", script.digest, b"%d" % len(keys), *keys, *arguments)

    async def ask(self, slot: int, *words: bytes | None) -> Reply:
        """Send a command to whoever has a slot, and again for a while where a cluster says so.

        None among the words stands for the server's lineage. :exc:`Unavailable` if there is no answer, or it
        is an error.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.timeout
        node, asking = self.of(slot), False
        while True:
            commands = node.commands
            if asking:
                commands.ask(b"ASKING")
            reply = await commands.ask(*(node.lineage if word is None else word for word in words))
            if not isinstance(reply, ResponseError):
                return reply
            told = str(reply)
            kind, _, rest = told.partition(" ")
            asking = False
            if loop.time() > until:
                raise Unavailable(f"Redis could not do it: {told[:100]}")
            if kind == "NOSCRIPT":
                await node.reload()
                continue
            if kind == "MOVED":
                self.moved(rest)
            elif kind == "ASK":
                node, asking = self._named(rest), True
                if node.available:
                    continue
                asking = False
            elif kind not in ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "BUSY"):
                if kind in ("READONLY", "MASTERDOWN", "UNBLOCKED", "STALE"):
                    node.reconnect()
                raise Unavailable(f"Redis could not do it: {told[:100]}") from reply
            else:
                await asyncio.sleep(AGAIN)
            node = self.of(slot)
            if not node.tried.is_set():
                # It was just learnt of.
                await _until_set(node.tried, until)

    def moved(self, told: str) -> None:
        """Take note of what ``MOVED slot host:port`` says."""
        slot = told.partition(" ")[0]
        if self.is_cluster and slot.isdecimal() and int(slot) < SLOTS:
            self._slots[int(slot)] = self._named(told)
            self.changes += 1
        self.stale()

    def look(self, slot: int) -> None:
        """Have it looked at once whether the server that has a slot is what it was."""
        with suppress(Unavailable):
            # If there is none by now, it is looked at when there is.
            self.of(slot).reconnect()

    def stale(self) -> None:
        """Have it looked up soon who has which slots."""
        self._stale.set()

    def _named(self, told: str) -> Node:
        host, _, port = told.partition(" ")[2].rpartition(":")
        if not self.is_cluster or not port.isdecimal():
            raise Unavailable("Redis sends us elsewhere.")
        place = Place(host or self.address.places[0].host, int(port))
        return self._nodes.get(place) or self._add(place)

    def _add(self, place: Place | None) -> Node:
        async def find() -> Place:
            return place or await self._find()

        node = Node(
            self.address,
            find,
            timeout=self.timeout,
            listener=self._listener,
            ready=self._ready,
            lost=self.stale,
        )
        self._nodes[place] = node
        self._tasks[place] = asyncio.create_task(node.run(), name="hubbub: a Redis server")
        return node

    async def _find(self) -> Place:
        """Return where the one server is: as the address says, or as a Sentinel does."""
        address = self.address
        if address.kind == "server":
            return address.places[0]
        problem: BaseException = ConnectionError("No Sentinel answers.")
        asked = _sentinel(address)
        for place in address.places:
            try:
                async with asyncio.timeout(self.timeout / len(address.places)):
                    reply = await asked_once(
                        asked, place, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", address.name.encode()
                    )
            except BROKEN as raised:
                refused = refusal(raised, place)
                problem = refused or raised
                continue
            if isinstance(reply, list) and len(reply) == 2:
                host, port = (word.decode() for word in reply if isinstance(word, bytes))
                return Place(host, int(port))
            problem = ConnectionError(f"Sentinel at {place} knows no master {address.name[:60]!r}.")
        raise problem

    async def _keep_fresh(self) -> None:
        while True:
            await _until_set(self._stale, asyncio.get_running_loop().time() + REFRESH)
            self._stale.clear()
            try:
                await self._refresh()
            except ConfigurationError as problem:
                self._tell(str(problem))
            # Whoever has news does not ask us to hurry.
            await asyncio.sleep(AGAIN)

    async def _refresh(self) -> None:
        """Learn who has which slots, from the first that answers."""
        because = "No node answers."
        for place in dict.fromkeys([*filter(None, self._nodes), *self.address.places]):
            try:
                async with asyncio.timeout(self.timeout / 2):
                    reply = await asked_once(self.address, place, b"CLUSTER", b"SLOTS")
            except BROKEN as problem:
                refused = refusal(problem, place)
                if "cluster support disabled" in str(problem):
                    refused = ConfigurationError(f"Redis at {place} is not part of a cluster: use redis://.")
                if refused is not None:
                    raise refused from None
                because = str(problem) or type(problem).__name__
                continue
            if isinstance(reply, list) and reply:
                self._learn(reply, place)
                return
            because = "It serves no slots."
        self._tell(because)

    def _learn(self, ranges: list[Reply], asked: Place) -> None:
        slots: list[Node | None] = [None] * SLOTS
        for served_range in ranges:
            match served_range:
                case [int(first), int(last), [bytes(host), int(port), *_], *_]:
                    place = Place(host.decode() or asked.host, port)
                    node = self._nodes.get(place) or self._add(place)
                    slots[first : last + 1] = [node] * (last + 1 - first)
        if slots != self._slots:
            self._slots = slots
            self.changes += 1
        served = set(slots)
        for known in [place for place, node in self._nodes.items() if node not in served]:
            del self._nodes[known]
            self._tasks.pop(known).cancel()
        self._outage.ends(str(self.address))

    def _tell(self, because: str) -> None:
        if not any(node.available for node in self._nodes.values()):
            self._outage.begins(str(self.address), because)


async def _until_set(event: asyncio.Event, until: float) -> None:
    """Wait for an event, but not past a time."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await event.wait()


def _sentinel(address: Address) -> Address:
    """Return how to log in to a Sentinel."""
    return replace(
        address,
        database=0,
        username=address.sentinel_username,
        password=address.sentinel_password,
    )
