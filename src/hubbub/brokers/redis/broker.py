"""The broker on Redis: one instance's part."""

import asyncio
import secrets

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry, Guarantees, History, Receiver, Renewal, Retention
from ..guarded import Guarded
from .address import Address
from .feed import Page
from .messages import Unreadable, entry_of
from .names import Names, encoded
from .node import Node
from .presence import Presence
from .publishing import Publisher
from .rooms import BYTES, Rooms
from .scripts import HISTORY
from .servers import Servers

MOST = 1_000_000
"""Messages of history that are read at once, at most."""


class RedisBroker:
    """One instance's connections to Redis: a server, a master behind Sentinels, or a cluster.

    `timeout` is how long Redis may take to answer, `window` the deduplication window and `lease` the time
    after which an instance that did not renew is gone, all in seconds.
    """

    guarantees = Guarantees(shared=True, durable=True)

    def __init__(
        self,
        address: Address,
        *,
        timeout: float = 5.0,
        window: float = 300.0,
        lease: float = 10.0,
        instance: str | None = None,
    ) -> None:
        self.instance = instance or secrets.token_hex(6)
        self._address = address
        self._timeout = timeout
        self._window = max(1, round(window * 1000))
        self._lease = lease
        self._names = Names(address.prefix)
        self._servers: Servers | None = None
        self._publisher: Publisher | None = None
        self._rooms: Rooms | None = None
        self._presence: Presence | None = None

    @property
    def available(self) -> bool:
        """Whether every server of the address answers, as far as is known."""
        return self._servers is not None and self._servers.available

    async def start(self, receiver: Receiver | None) -> None:
        """Connect and deliver to `receiver` from now on (see :meth:`.base.Broker.start`)."""
        rooms = None if receiver is None else Rooms(self._names, self.instance)
        servers = Servers(
            self._address,
            timeout=self._timeout,
            window=self._window,
            listener=rooms,
            ready=_nothing if rooms is None else rooms.repair.ready,
        )
        if rooms is not None and receiver is not None:
            rooms.start(servers, Guarded(receiver, self.instance))
        try:
            await servers.start()
            self._servers = servers
            self._publisher = Publisher(servers)
            self._rooms = rooms
            if rooms is not None:
                self._presence = Presence(servers, self._names, self.instance, self._lease)
                await rooms.repair.listening()
                await self._presence.take_part()
        except Unavailable:
            # Said in the log; the next renewal does it.
            return
        except BaseException:
            await self.stop()
            if rooms is not None:
                await rooms.stop()
            await servers.stop()
            raise

    async def stop(self) -> None:
        """Give everything back (see :meth:`.base.Broker.stop`); what Redis does not answer, leases see to."""
        servers, publisher, rooms, presence = self._servers, self._publisher, self._rooms, self._presence
        self._servers = self._publisher = self._rooms = self._presence = None
        try:
            if rooms is not None:
                await rooms.stop()
            if publisher is not None:
                await publisher.stop()
            if presence is not None:
                async with asyncio.timeout(self._timeout):
                    await presence.stop()
        except (Unavailable, TimeoutError):
            logger.warning(
                "broker", extra=fields(instance=self.instance, because="Redis did not hear us leave.")
            )
        finally:
            if servers is not None:
                await servers.stop()

    async def secret(self) -> bytes:
        """Return 32 random bytes that all instances share."""
        key = self._names.secret
        made = secrets.token_bytes(32)
        reply = await self._there.ask(self._names.slot(key), b"SET", key, made, b"NX", b"GET")
        found = made if reply is None else reply
        if not isinstance(found, bytes) or len(found) != 32:
            raise Unavailable("What Redis keeps as the secret of sessions is none.")
        return found

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position (see :meth:`.base.Broker.publish`)."""
        if self._publisher is None:
            raise Unavailable("The broker is not started.")
        return await self._publisher.publish(self._names.room(room), payload, sender, key, keep)

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        if self._rooms is None:
            raise Unavailable("The broker is not started.")
        return await self._rooms.subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        if self._rooms is not None:
            self._rooms.unsubscribe(room)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return kept messages (see :meth:`.base.Broker.history`), at most 8 MiB of them."""
        names = self._names.room(room)
        limit = max(0, min(limit, MOST))
        after = (b"", b"0")
        if since is not None:
            after = (encoded(since.epoch) or b"-", b"%d" % since.offset)
        page = Page(
            await self._there.room_step(
                names.slot, HISTORY, (names.head, names.log), (*after, b"%d" % limit, b"%d" % BYTES, b"0")
            )
        )
        entries: list[Entry] = []
        last, complete = page.start, page.complete
        for offset, body in page.bodies:
            try:
                entry = entry_of(offset, body)
            except Unreadable as problem:
                logger.warning("broker unreadable", extra=fields(room=room, because=str(problem)))
                entries, complete = [], False
            else:
                if since is not None and offset != last + 1:
                    complete = False
                entries.append(entry)
            last = offset
        return History(entries, Position(page.epoch, last), complete)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        return await self._here.enter(room, member, connection, details)

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        return await self._here.leave(room, member, connection)

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room on any instance, each with the details of their first connection."""
        return await self._here.members(room)

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        return await self._here.instances()

    async def renew(self) -> Renewal:
        """Keep this instance's members; return those removed whose instance is gone."""
        return await self._here.renew()

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all, this one too."""
        channel = self._names.everybody if instance is None else self._names.instance(instance)
        await self._there.ask(self._names.slot(channel), b"SPUBLISH", channel, payload)

    @property
    def _there(self) -> Servers:
        if self._servers is None:
            raise Unavailable("The broker is not started.")
        return self._servers

    @property
    def _here(self) -> Presence:
        if self._presence is None:
            raise Unavailable("The broker is not started, or only publishes.")
        return self._presence


async def _nothing(node: Node) -> None:
    """Who only publishes has nothing to do when a server is there."""
