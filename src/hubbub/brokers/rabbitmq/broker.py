"""One instance's part in a log on RabbitMQ."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ...errors import Unavailable
from ...protocol.envelope import Position
from ..base import Departure, Entry, Guarantees, History, Receiver, Renewal, Retention
from ..clock import wall_clock
from ..guarded import Guarded
from .address import Address
from .asking import Asking, NobodyAnswers
from .log import Log
from .records import Beat, Bye, Enter, Gone, Hold, Leave, LetGo, Publish, Record, Secret
from .state import Result

MOST_KEPT = 2**31
"""Messages of a room; more could not be told in a record, nor be in memory."""


@dataclass(slots=True)
class _Feed:
    """A room that this instance is subscribed to, and how far its deliveries are."""

    epoch: str
    offset: int


class RabbitBroker:
    """One instance's part in a log that many share: each applies all of it, in the same order.

    `window` is the deduplication window, `lease` the time after which an instance that did not renew is gone,
    and `timeout` for how long an answer is waited for, all in seconds. `clock` returns seconds since 1970 and
    never goes back.
    """

    guarantees = Guarantees(shared=True, durable=True)

    def __init__(
        self,
        address: Address,
        *,
        instance: str,
        window: float = 300.0,
        lease: float = 10.0,
        timeout: float = 5.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.instance = instance
        self._window = window
        self._lease = lease
        self._timeout = timeout
        self._clock = clock or wall_clock()
        self._log = Log(address, self, instance, timeout=timeout, clock=self._clock)
        self._receiver: Guarded | None = None
        self._feeds: dict[str, _Feed] = {}
        self._departed: list[Departure] = []
        self._forgotten = False
        """Whether this instance was taken for gone, and the hub was not told yet."""
        self._greeted = asyncio.Event()
        self._secret = b""
        self._asking = Asking(address, timeout=timeout)
        self._beginning = asyncio.Lock()
        self._reads = False

    @property
    def available(self) -> bool:
        """Whether the server answers and the log can be used, as far as is known."""
        return self._log.available or self._asking.available

    @property
    def answers(self) -> bool:
        """Whether this is an instance, which others may send to and ask."""
        return self._receiver is not None

    async def start(self, receiver: Receiver | None) -> None:
        """Connect, read what the log comes to, and deliver to `receiver` from now on.

        Without one nothing is read: an instance that runs is asked to publish, and tells the position. Only
        if none runs, the log is read, as else nobody could tell it.
        Raises :exc:`hubbub.errors.ConfigurationError` as the contract says.
        """
        self._receiver = None if receiver is None else Guarded(receiver, self.instance)
        if receiver is None:
            await self._asking.start()
            return
        self._reads = True
        await self._log.start()
        if self.available:
            with suppress(TimeoutError):
                # If that takes longer, it is done later.
                async with asyncio.timeout(self._timeout):
                    await self._greeted.wait()

    async def stop(self) -> None:
        """Take this instance out of every room, and close the connection."""
        self._feeds.clear()
        try:
            if self._receiver is not None and self.available:
                with suppress(Unavailable):
                    # The others will notice.
                    await self._log.ask(Bye(self.instance))
        finally:
            self._reads = False
            self._greeted.clear()
            await self._log.stop()
            await self._asking.stop()

    async def abandon(self) -> None:
        """End as a crash does: nobody is told. For tests."""
        await self._log.stop(abruptly=True)
        await self._asking.stop(abruptly=True)

    async def secret(self) -> bytes:
        """Return the 32 random bytes that are kept in the log."""
        if not self._secret:
            found = await self._carry_out(Secret(secrets.token_bytes(32)))
            assert isinstance(found, bytes)
            self._secret = found
        return self._secret

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position (see :meth:`hubbub.brokers.base.Broker.publish`)."""
        count, age = (None, 0.0) if keep is None else (min(keep.count, MOST_KEPT), keep.age)
        window = 0.0 if key is None else self._window
        position = await self._carry_out(Publish(room, payload, sender, key, count, age, window))
        assert isinstance(position, Position)
        return position

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        feed = self._feeds.get(room)
        if feed is not None and self.available:
            return Position(feed.epoch, feed.offset)

        def hold(result: Result, waits: bool) -> None:
            # Now, in the order of the log: the very next message is to be delivered.
            if waits and isinstance(result, Position):
                self._feeds.setdefault(room, _Feed(result.epoch, result.offset))
            elif room not in self._feeds:
                self._let_go(room)

        position = await self._log.ask(Hold(room, self.instance), hold)
        assert isinstance(position, Position)
        return position

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        if self._feeds.pop(room, None) is not None:
            self._let_go(room)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return kept messages (see :meth:`hubbub.brokers.base.Broker.history`).

        All is read first that was published before, on any instance: who has published there and asks here
        has to find it, and a position that was given out there is not to be taken for one of the future.
        """
        state = await self._log.look()
        return state.history(room, since, min(limit, MOST_KEPT), self._clock())

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        return bool(await self._log.ask(Enter(room, member, connection, self.instance, details)))

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        return bool(await self._log.ask(Leave(room, member, connection)))

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room, each with the details of their first connection."""
        return (await self._log.look()).members(room)

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        return list((await self._log.look()).instances)

    async def renew(self) -> Renewal:
        """Keep this instance for another lease; remove the members of those that were silent for one."""
        now = self._clock()
        silent = [
            Gone(name, instance.beats)
            for name, instance in self._log.state.instances.items()
            if name != self.instance and now - instance.heard > self._lease
        ]
        await asyncio.gather(
            self._log.ask(Beat(self.instance), self._beat),
            *(self._log.ask(gone, self._depart) for gone in silent),
        )
        departures, self._departed = self._departed, []
        forgotten, self._forgotten = self._forgotten, False
        return Renewal(departures, forgotten)

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all."""
        await (self._log if self.answers else self._asking).send(instance, payload)

    async def _carry_out(self, record: Record) -> Result:
        if self.answers:
            return await self._log.ask(record)
        try:
            return await self._asking.ask(record)
        except NobodyAnswers:
            async with self._beginning:
                if not self._reads:
                    await self._log.start()
                    self._reads = True
            return await self._log.ask(record)

    # What the log calls

    def spread(self, room: str, entry: Entry, epoch: str) -> None:
        """Deliver a message, if the room is subscribed to."""
        feed = self._feeds.get(room)
        if feed is None:
            return
        if feed.epoch != epoch:
            feed.epoch = epoch
            feed.offset = self._log.position(room).offset - (entry.offset is not None)
            self._lose(room, feed)
        if entry.offset is not None:
            feed.offset = entry.offset
        assert self._receiver is not None
        self._receiver.deliver(room, entry, epoch)

    def control(self, payload: bytes) -> None:
        """Hand a control message over."""
        if self._receiver is not None:
            self._receiver.control(payload)

    def began(self, *, anew: bool) -> None:
        """Make good what subscribed rooms have missed; be an instance."""
        if self._receiver is None:
            return
        if not self._greeted.is_set():
            self._log.tell(Beat(self.instance), lambda *_: self._greeted.set())
        for room in self._log.held(self.instance):
            # It was given back while the server was away.
            if room not in self._feeds:
                self._let_go(room)
        if not anew:
            return
        for room, feed in list(self._feeds.items()):
            newest = self._log.position(room)
            if newest.epoch != feed.epoch or newest.offset < feed.offset:
                feed.epoch, feed.offset = newest.epoch, newest.offset
                self._lose(room, feed)
                continue
            missed = self._log.missed(room, Position(feed.epoch, feed.offset))
            if not missed.complete:
                feed.offset = newest.offset - len(missed.entries)
                self._lose(room, feed)
            for entry in missed.entries:
                self.spread(room, entry, feed.epoch)
        self._hold_all()

    def _lose(self, room: str, feed: _Feed) -> None:
        assert self._receiver is not None
        self._receiver.lost(room, Position(feed.epoch, feed.offset))

    def _hold_all(self) -> None:
        for room in self._feeds:
            self._log.tell(Hold(room, self.instance))

    def _let_go(self, room: str) -> None:
        def look_again(_: Result, __: bool) -> None:
            # Somebody may have come meanwhile.
            if room in self._feeds:
                self._log.tell(Hold(room, self.instance))

        self._log.tell(LetGo(room, self.instance), look_again)

    def _beat(self, result: Result, _: bool) -> None:
        # The log tells it once, perhaps when nobody waits for this renewal any more; where what it told is
        # not known, to enter members again does no harm.
        if result is not False:
            self._forgotten = True
            self._hold_all()

    def _depart(self, result: Result, _: bool) -> None:
        # Kept for the next renewal if nobody waits for this one any more.
        if isinstance(result, list):
            self._departed += result
