"""One process's part in the channel layer: its connection to the broker, and what stands on it."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Protocol

import msgspec

from ...brokers.base import Broker, Entry, Retention
from ...engine.control import (
    Answer,
    Ask,
    Controls,
    Disconnect,
    Kick,
    Moved,
    Question,
    Relayed,
    Returned,
    send,
)
from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.codecs import UNREADABLE, pack
from ...protocol.envelope import Position
from .groups import Groups
from .log import Log
from .mailboxes import Mailboxes
from .options import Options
from .queues import Queues
from .records import Done, Flushed, Join, Leave, Named, Sent, read_said, read_shared

COMMON = "$channels/common"
"""The room of what all processes keep in common."""

COMMON_KEPT = 10_000
"""Entries of it that a process which comes later is told."""

KEPT_FOR_PROCESS = 1_000
"""Messages to a process that the broker keeps for as long as messages live: its connection may blink."""

ANSWERED_WITHIN = 2.0
"""Seconds for which another process is waited for that has to let a channel into a group."""

MOST_TASKS = 1_000
"""Things that are being done for other processes at a time; what is too much is left out."""


class Feed(Protocol):
    """Who takes what comes from one room of the broker."""

    def deliver(self, entry: Entry, epoch: str) -> None:
        """Take an entry."""

    def lost(self, position: Position) -> None:
        """Take that entries up to a position don't come."""


def process_room(process: str) -> str:
    """Return the room in which a process is told things."""
    return f"$channels/process/{process}"


class Station:
    """Started on an event loop, on which everything here happens. It is the broker's receiver.

    `process` is what this process is called in the names of its channels.
    """

    def __init__(self, broker: Broker, options: Options, mailboxes: Mailboxes, process: str) -> None:
        self.broker = broker
        self.options = options
        self.mailboxes = mailboxes
        self.process = process
        self.loop = asyncio.get_running_loop()
        self.groups = Groups(self)
        self.queues = Queues(self)
        self.named: dict[str, dict[str, float]] = {}
        """By group, its channels that are no process's own, and since when they are in it: Unix time."""
        self.flushed_at = 0.0
        """When all was forgotten for the last time: Unix time."""
        self._feeds: dict[str, Feed] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._common = _Common(self, COMMON, Retention(COMMON_KEPT, options.group_expiry))
        self._crowded = False
        self._controls = Controls(
            {
                Ask: self._answer,
                Disconnect: self._answer,
                Kick: self._answer,
                Moved: _ignore,
                Answer: _ignore,
                Relayed: _ignore,
                Returned: _ignore,
            }
        )

    async def start(self) -> None:
        """Connect; :exc:`hubbub.Unavailable` if the broker can't be reached."""
        await self.broker.start(self)
        try:
            await self.follow(process_room(self.process), _Process(self))
            await self._common.open()
        except BaseException:
            await self.broker.stop()
            raise
        self._tending = asyncio.create_task(self._tend(), name="hubbub: channel layer")

    async def stop(self) -> None:
        """Give the connection back."""
        tasks = [*self._tasks] + ([] if self._tending is None else [self._tending])
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.broker.stop()

    # What the broker tells

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        """Take a message of a room."""
        feed = self._feeds.get(room)
        if feed is not None:
            feed.deliver(entry, epoch)

    def lost(self, room: str, position: Position) -> None:
        """Take note of messages that will not come."""
        feed = self._feeds.get(room)
        if feed is not None:
            logger.warning("channel layer", extra=fields(room=room, lost="messages of an outage"))
            feed.lost(position)

    def control(self, payload: bytes) -> None:
        """Take what an instance says to all others."""
        self._controls.take(payload)

    def _answer(self, question: Question) -> None:
        """Answer a hub, which asks every instance and waits for all: there are no connections of it here."""
        answer = Answer(question.question, self.broker.instance, 0)
        self.begin(send(self.broker, question.instance, answer))

    async def follow(self, room: str, feed: Feed) -> Position:
        """Have a feed take what comes from a room; return the position from which on all of it does."""
        self._feeds[room] = feed
        try:
            return await self.broker.subscribe(room)
        except BaseException:
            if self._feeds.get(room) is feed:
                del self._feeds[room]
            raise

    async def leave(self, room: str) -> None:
        """Follow a room no more; :exc:`hubbub.Unavailable` if the broker can't be told: then it goes on."""
        await self.broker.unsubscribe(room)
        self._feeds.pop(room, None)

    # What other processes are told, and tell

    async def tell(self, process: str, record: msgspec.Struct) -> None:
        """Say something to a process."""
        keep = Retention(KEPT_FOR_PROCESS, self.options.expiry)
        await self.broker.publish(process_room(process), pack(record), sender=None, key=None, keep=keep)

    async def ask(self, process: str, question: Join | Leave) -> None:
        """Say something to a process, and wait until it has done it, or for :data:`ANSWERED_WITHIN`."""
        self._asked[question.question] = answered = asyncio.Event()
        try:
            await self.tell(process, question)
            async with asyncio.timeout(ANSWERED_WITHIN):
                await answered.wait()
        except TimeoutError:
            # Most likely it is gone, and its channels with it.
            logger.info("channel layer", extra=fields(unanswered=process))
        finally:
            del self._asked[question.question]

    def told(self, record: Sent | Join | Leave | Done) -> None:
        """Do what another process says."""
        if isinstance(record, Sent):
            self.receive(record.channel, record.message)
        elif isinstance(record, Done):
            answered = self._asked.get(record.question)
            if answered is not None:
                answered.set()
        else:
            self.begin(self._do(record))

    async def _do(self, asked: Join | Leave) -> None:
        if isinstance(asked, Join):
            await self.groups.add(asked.group, asked.channel)
        else:
            await self.groups.discard(asked.group, asked.channel)
        await self.tell(asked.process, Done(asked.question))

    def receive(self, channel: str, message: bytes) -> bool:
        """Put a message into the mailbox of a channel of this process; false, and logged, if that is full."""
        name = channel[: channel.find("!") + 1]
        capacity = self.options.capacity(channel)
        taken = self.mailboxes.put(name, channel, message, self.options.expiry, capacity)
        if not taken and not self._crowded:
            self._crowded = True  # until the next tidying-up: a line for each message would be too many
            logger.warning("channel layer", extra=fields(channel=channel, full=capacity, more="are dropped"))
        return taken

    async def say_to_all(self, record: Named | Flushed) -> None:
        """Change what all processes keep in common; return when it is so here."""
        await self._common.reached(await self._common.publish(pack(record)))

    def forget_all(self) -> None:
        """Forget all messages, and the groups of this process's channels."""
        self.mailboxes.clear()
        self.queues.forget_all()
        self.groups.forget_all()

    # Tasks

    def begin(self, work: Coroutine[object, object, None]) -> bool:
        """Do something in a task of its own; false, and logged, if too much is being done."""
        if len(self._tasks) >= MOST_TASKS:
            work.close()
            logger.warning("channel layer", extra=fields(being_done=MOST_TASKS, more="are left out"))
            return False
        task = asyncio.create_task(work, name="hubbub: channel layer")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if isinstance(problem, Unavailable):
            logger.warning("channel layer", extra=fields(problem=str(problem)))
        elif problem is not None:
            logger.error("error", exc_info=problem, extra=fields(during="channel layer"))

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.options.expiry / 4))
            self._crowded = False
            try:
                # Whose messages nobody receives is gone, most likely without a word.
                await self.groups.tidy(self.mailboxes.expire())
                await self.queues.tidy()
                self._forget_old_names()
            except Unavailable:
                pass  # the broker has logged it; the next turn tries again
            except Exception:
                logger.exception("error", extra=fields(during="tidying up the channel layer"))

    def _forget_old_names(self) -> None:
        oldest = time.time() - self.options.group_expiry
        for group, channels in list(self.named.items()):
            for channel, since in list(channels.items()):
                if since < oldest:
                    del channels[channel]
            if not channels:
                del self.named[group]


def _ignore(message: object) -> None:
    pass


class _Process:
    """The feed of what this process is told."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def deliver(self, entry: Entry, epoch: str) -> None:  # noqa: ARG002
        try:
            record = read_said(entry.payload)
        except UNREADABLE:
            logger.warning("error", extra=fields(during="channel layer", size=len(entry.payload)))
            return
        self._station.told(record)

    def lost(self, position: Position) -> None:
        pass  # at most once; it is logged


class _Common(Log):
    """What all processes keep in common."""

    def take(self, entry: Entry, *, live: bool) -> None:
        station = self._station
        try:
            record = read_shared(entry.payload)
        except UNREADABLE:
            logger.warning("error", extra=fields(during="channel layer", size=len(entry.payload)))
            return
        if isinstance(record, Named):
            if record.present:
                station.named.setdefault(record.group, {})[record.channel] = record.since
            else:
                station.named.get(record.group, {}).pop(record.channel, None)
        else:
            station.flushed_at = max(station.flushed_at, record.at)
            station.named.clear()
            if live:
                station.forget_all()
