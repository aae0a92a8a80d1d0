"""Rooms on NATS JetStream: one instance's part in them."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress

from nats.aio.msg import Msg

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Guarantees, History, Receiver, Renewal, Retention
from ..guarded import Guarded
from .line import Line
from .log import RoomLog
from .options import Options
from .presence import Presence
from .reading import Reader
from .records import token
from .rooms import Room
from .streams import Gone, Streams, WrongSequence

LOOKS = 1.0
"""Seconds between two looks whether the streams are still what they were."""
FADES = 60
"""So many looks between two whether rooms have been quiet for too long."""


class NatsBroker:
    """One instance's connection to NATS.

    `timeout` is within how many seconds NATS has to answer, `window` the deduplication window and `lease` the
    time after which an instance that did not renew is gone, in seconds. `clock` returns seconds; without
    one it is the server's.
    """

    guarantees = Guarantees(shared=True, durable=True)

    def __init__(
        self,
        options: Options,
        *,
        timeout: float = 5.0,
        window: float = 300.0,
        lease: float = 10.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.instance = secrets.token_hex(6)
        self._options = options
        self._timeout = timeout
        self._window = window
        self._lease = lease
        self._clock = clock
        self._receiver: Guarded | None = None
        self._watch: asyncio.Task[None] | None = None
        self._started = False

    @property
    def available(self) -> bool:
        """Whether NATS answers, as far as is known."""
        return self._started and self._line.up

    # From start to stop

    async def start(self, receiver: Receiver | None) -> None:
        """Connect and deliver to `receiver` (see :meth:`hubbub.brokers.base.Broker.start`)."""
        self._receiver = None if receiver is None else Guarded(receiver, self.instance)
        self._line = Line(self._options, f"hubbub {self.instance}", self._timeout, ready=self._ready)
        self._streams = Streams(self._line, self._options, self._window, self._clock)
        self._reader = Reader(self._streams)
        self._log = RoomLog(
            self._line,
            self._streams,
            self._reader,
            self._receiver,
            window=self._window,
            timeout=self._timeout,
        )
        self._presence = Presence(self._streams, self.instance, self._lease)
        if receiver is not None:
            prefix = self._options.prefix
            for subject in (f"{prefix}.control.{token(self.instance)}", f"{prefix}.controls"):
                self._line.subscribe(subject, self._control)
        self._started = True
        try:
            await self._line.open()
        except BaseException:
            self._started = False
            raise
        if receiver is not None:
            self._watch = asyncio.create_task(self._keep_watch(), name="hubbub: watching the streams of NATS")

    async def stop(self) -> None:
        """Give everything back; within the time in which NATS has to answer if it is away."""
        if not self._started:
            return
        self._started = False
        try:
            if self._watch is not None:
                self._watch.cancel()
                with suppress(asyncio.CancelledError):
                    await self._watch
                self._watch = None
            if self._line.up:
                try:
                    async with asyncio.timeout(self._timeout):
                        await self._presence.stop()
                except (Unavailable, TimeoutError):
                    # Others will find that the lease ran out.
                    logger.warning("broker", extra=fields(broker="nats", during="stop"))
        finally:
            try:
                await self._log.stop()
            finally:
                await self._line.close()

    async def _ready(self) -> None:
        """Prepare a new connection: the streams, the clock, the lease."""
        anew = await self._streams.ensure()
        if anew:
            self._reader.forget()
        await self._streams.read_clock()
        if self._receiver is not None:
            await self._presence.line_is_back()
        asyncio.get_running_loop().call_soon(self._is_back)

    def _is_back(self) -> None:
        if self._line.up:
            self._log.line_is_back()

    async def _keep_watch(self) -> None:
        """Look regularly whether a stream was emptied, deleted or put back."""
        seen: dict[str, tuple[int, int]] = {}
        looks = 0
        missed = False
        while True:
            await asyncio.sleep(LOOKS)
            if not self._line.up:
                continue
            looks += 1
            try:
                await self._look(seen)
                if missed:
                    # Servers of a cluster that lost each other pass nothing on, and clients don't notice.
                    missed = False
                    self._log.line_is_back()
                self._log.look_twice()
                if looks % FADES == 1:
                    self._log.keep_from_fading()
            except Gone as problem:
                # A new connection begins with what there is.
                seen.clear()
                self._line.drop(str(problem))
            except Unavailable as problem:
                missed = True
                logger.debug("broker", extra=fields(broker="nats", during="look", because=str(problem)))

    async def _look(self, seen: dict[str, tuple[int, int]]) -> None:
        """Compare streams with what they were; :exc:`.streams.Gone` if one is another one."""
        streams = self._streams
        for name in (*streams.rooms, streams.members):
            answer = await streams.look(name)
            if answer.created != streams.life.get(name) or answer.state is None:
                raise Gone(f"The stream {name} on NATS is another one.")
            newest, first = answer.state.last_seq, answer.state.first_seq
            before = seen.get(name, (0, 0))
            if newest < before[0]:
                raise Gone(f"The stream {name} on NATS has gone back.")
            seen[name] = newest, first
            if first != before[1] and name != streams.members:
                self._log.look_for_lost_ones(streams.rooms.index(name), first)

    def _check(self) -> None:
        if not self._started:
            raise Unavailable("The broker is not started.")
        if not self._line.up:
            raise Unavailable("NATS can't be reached now.")

    # What is shared

    async def secret(self) -> bytes:
        """Return 32 random bytes that all instances share."""
        self._check()
        subject = f"{self._options.prefix}.secret"
        for _ in range(3):
            stored = await self._streams.last(self._streams.members, subject)
            if stored is not None and len(stored.data) == 32:
                return stored.data
            made = secrets.token_bytes(32)
            with suppress(WrongSequence):
                await self._streams.append(subject, made, 0 if stored is None else stored.sequence)
                return made
        raise Unavailable("NATS does not keep the instances' common secret.")

    # Rooms

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position (see :meth:`hubbub.brokers.base.Broker.publish`)."""
        self._check()
        if keep is None and key is None and len(payload) + 2**14 <= self._line.max_payload:
            return await self._log.spread(room, payload, sender, self._unused(room))
        return await self._log.publish(room, payload, sender, key, keep)

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        self._check()
        return await self._log.subscribe(room)

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        if self._started:
            self._log.unsubscribe(room)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return kept messages (see :meth:`hubbub.brokers.base.Broker.history`)."""
        self._check()
        known = Room(room, self._streams.shard(room), token(room))
        return await self._reader.history(known, since, limit, self._unused(room))

    def _unused(self, room: str) -> str:
        """Return the epoch of a room in which there is nothing, not even a beginning."""
        life = self._streams.life.get(self._streams.rooms[self._streams.shard(room)], "")
        return hashlib.blake2b(f"{life} {room}".encode(errors="surrogatepass"), digest_size=6).hexdigest()

    # Presence and other instances

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        self._check()
        return await self._presence.enter(room, member, connection, details)

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        self._check()
        return await self._presence.leave(room, member, connection)

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room on any instance, each with the details of their first connection."""
        self._check()
        return await self._presence.members(room)

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        self._check()
        return await self._presence.instances()

    async def renew(self) -> Renewal:
        """Keep this instance's members for another lease; return those removed whose instance is gone."""
        self._check()
        return await self._presence.renew()

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all."""
        self._check()
        prefix = self._options.prefix
        self._line.send(
            f"{prefix}.controls" if instance is None else f"{prefix}.control.{token(instance)}", payload
        )

    def _control(self, message: Msg) -> None:
        assert self._receiver is not None
        self._receiver.control(message.data)
