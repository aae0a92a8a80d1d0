"""A broker whose engine can be taken away, slowed, given back and emptied: rooms in memory stand for it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hubbub import Position, Unavailable
from hubbub.brokers.base import Entry, History, Receiver, Renewal, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore

Kind = TypeVar("Kind")


class TroubledBroker(MemoryBroker):
    """One instance's broker. Its engine is reached, or `away`; what is `slow` waits until it is let go."""

    def __init__(self, store: MemoryStore | None = None, *, away: bool = False) -> None:
        super().__init__(store)
        self.available = not away
        self.slow = False
        self.calls: dict[str, int] = {}
        """How often each was made."""
        self.forgetful = False
        """Whether what fails was carried out all the same."""
        self._positions: dict[str, Position] = {}
        self._hub: Receiver | None = None
        self._let_go = asyncio.Event()

    async def start(self, receiver: Receiver | None) -> None:
        self._hub = receiver
        await super().start(self)

    # What the tests do

    def go_away(self) -> None:
        """Reach the engine no more: calls fail, and nothing is delivered."""
        self.available = False
        self.let_go()

    def come_back(self) -> None:
        """Reach the engine again, and bring what was missed."""
        assert self._hub is not None
        self.available = True
        for room, since in list(self._positions.items()):
            stream = self.store.stream(room)
            stream.subscribers[self.instance] = self
            kept = [entry for _, entry in stream.entries]
            begins = stream.offset - len(kept)
            if since.epoch != stream.epoch or since.offset < begins:
                since = Position(stream.epoch, begins)
                self._note(room, since)
                self._hub.lost(room, since)
            for entry in kept:
                if entry.offset is not None and entry.offset > since.offset:
                    self.deliver(room, entry, stream.epoch)

    def empty(self) -> None:
        """Have the engine forget everything."""
        self.store.streams.clear()
        self.store.instances.clear()
        self.store._life = secrets.token_bytes(16)
        if self.available:
            self.come_back()

    def let_go(self) -> None:
        """Let the calls go on that wait, and be slow no more."""
        self.slow = False
        self._let_go.set()
        self._let_go = asyncio.Event()

    # What the store does

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        if self.available and self._hub is not None:
            if entry.offset is not None:
                self._note(room, Position(epoch, entry.offset))
            self._hub.deliver(room, entry, epoch)

    def lost(self, room: str, position: Position) -> None:
        raise AssertionError("a store in memory loses nothing")

    def control(self, payload: bytes) -> None:
        if self.available and self._hub is not None:
            self._hub.control(payload)

    def _note(self, room: str, position: Position) -> None:
        if room in self._positions:
            self._positions[room] = position

    # What the hub does

    async def _call(self, name: str, carry_out: Callable[[], Awaitable[Kind]]) -> Kind:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.slow:
            await self._let_go.wait()
        if not self.available:
            if self.forgetful:
                await carry_out()
            raise Unavailable("The broker can't be reached.")
        return await carry_out()

    async def no_secret(self) -> bytes:
        """Fail where the secret is asked for."""
        self.calls["secret"] += 1
        raise Unavailable("The broker is away.")

    async def secret(self) -> bytes:
        return await self._call("secret", super().secret)

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        parent = super()
        return await self._call(
            "publish", lambda: parent.publish(room, payload, sender=sender, key=key, keep=keep)
        )

    async def subscribe(self, room: str) -> Position:
        parent = super()
        position = await self._call("subscribe", lambda: parent.subscribe(room))
        self.store.stream(room).subscribers[self.instance] = self
        self._positions[room] = position
        return position

    async def unsubscribe(self, room: str) -> None:
        parent = super()
        await self._call("unsubscribe", lambda: parent.unsubscribe(room))
        self._positions.pop(room, None)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        parent = super()
        return await self._call("history", lambda: parent.history(room, since, limit))

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        parent = super()
        return await self._call("enter", lambda: parent.enter(room, member, connection, details))

    async def leave(self, room: str, member: str, connection: str) -> bool:
        parent = super()
        return await self._call("leave", lambda: parent.leave(room, member, connection))

    async def members(self, room: str) -> dict[str, bytes]:
        parent = super()
        return await self._call("members", lambda: parent.members(room))

    async def instances(self) -> list[str]:
        return await self._call("instances", super().instances)

    async def renew(self) -> Renewal:
        return await self._call("renew", super().renew)

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        parent = super()
        await self._call("send_control", lambda: parent.send_control(instance, payload))
