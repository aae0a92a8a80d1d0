"""The receiving half of a connection: what came in and waits for its task, and how the line ended."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from websockets.frames import Close

from ..errors import ConnectionClosed, ConnectionClosedOK, connection_closed
from ..protocol.codes import CloseCode
from ..settings import Settings
from .outbox import Outbox
from .transport import Ending, Transport

Waiter = asyncio.Future[str | bytes | None]
"""Brings the next message, or None where the task has to look what there is."""


class Beginning(Protocol):
    """Begins to handle messages on behalf of the task that waits for them."""

    def begin(self, message: str | bytes) -> bool:
        """Handle a message; false if the task that waits has to go on with it."""


class Receiving:
    """Takes messages from a transport, a bounded number and size of them, and hands them out one by one.

    It is a base class and no part of its own so that a message passes no further call.
    """

    __slots__ = (
        "_beginning", "_closed", "_ending", "_inbox_bytes", "_leaving", "_loop", "_max_inbox",
        "_max_inbox_bytes", "_reading", "_waiter", "allowed", "closing", "inbox", "messages_in", "transport",
    )  # fmt: skip

    outbox: Outbox

    def __init__(self, transport: Transport, settings: Settings, max_inbox_bytes: int) -> None:
        self.transport = transport
        self.messages_in = 0
        self.allowed = settings.max_message_burst
        """Up to how many `messages_in` the client may come; the sweep raises it as time passes."""
        self.closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.inbox: list[str | bytes] = []
        """What came in and waits; to be taken by :meth:`take` only."""
        self._inbox_bytes = 0
        """Bytes in the inbox behind its first message, which mostly is the only one."""
        self._max_inbox = settings.max_inbox
        self._max_inbox_bytes = max_inbox_bytes
        self._reading = True
        self._leaving = False
        self._waiter: Waiter | None = None
        self._beginning: Beginning | None = None
        """What begins with a message for the task that waits."""
        self._closed: asyncio.Future[None] | None = None
        self._ending: Ending | None = None

    def start_close(self, code: int, reason: str) -> None:
        """Start to close, without waiting for the client's part."""
        raise NotImplementedError

    # What the application asks

    @property
    def reading(self) -> bool:
        """Whether what the client sends is read; not while its inbox is full."""
        return self._reading

    @property
    def close_code(self) -> int | None:
        """The code with which the connection ended; None while it is open."""
        return None if self._ending is None else self._closed_error().code

    @property
    def close_reason(self) -> str | None:
        """The reason with which the connection ended; None while it is open."""
        return None if self._ending is None else self._closed_error().reason

    @property
    def why_ended(self) -> tuple[int, str]:
        """Code and reason of the side that closed first; 1006 where neither did."""
        ending = self._ending or Ending()
        first = ending.received if ending.received_first else ending.sent or ending.received
        return first or (CloseCode.ABNORMAL, "")

    @property
    def lost(self) -> bool:
        """Whether the line is gone."""
        return self._ending is not None

    # What the application does

    async def recv(self) -> str | bytes:
        """Return the next message, text as `str` and binary as `bytes`.

        Messages that arrived before a close are still returned. Cancelling it, as a time-out does, loses
        nothing. Raises :exc:`ConnectionClosed` when there will be no more, :exc:`RuntimeError` if another
        task is already waiting.
        """
        message = self.take()
        while message is None:
            arrival = self.arrival()
            try:
                message = await arrival
            except asyncio.CancelledError:
                if arrival.done() and not arrival.cancelled():
                    self._put_back(arrival.result())
                raise
        return message

    def take(self) -> str | bytes | None:
        """Return the next message if there is one."""
        inbox = self.inbox
        if not inbox:
            return None
        message = inbox.pop(0)
        if inbox:
            self._inbox_bytes -= _size_of(inbox[0])
        if not self._reading and not self._leaving and self._has_room:
            self._reading = True
            self.transport.resume_reading()
        return message

    def _put_back(self, message: str | bytes | None) -> None:
        inbox, waiter = self.inbox, self._waiter
        if message is None:
            return
        if waiter is not None and not waiter.done():
            # Who cancelled has not waited for the end of it, and receives anew.
            self._waiter = None
            waiter.set_result(message)
            return
        if inbox:
            self._inbox_bytes += _size_of(inbox[0])
        inbox.insert(0, message)

    def arrival(self, beginning: Beginning | None = None) -> Waiter:
        """Return what brings the next message, or None where there may be none; await it at once.

        Only where :meth:`take` has none. Whoever is cancelled meanwhile may have been brought one. With
        `beginning`, that is asked to begin as a message comes in, unless something is to be written in this
        turn of the event loop, and the task wakes once it has to go on.

        Raises as :meth:`recv` does where there will be no more.
        """
        if self._ending is not None:
            raise self._closed_error()
        if self._leaving:
            self.start_close(CloseCode.SERVICE_RESTART, "the server restarts")
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("Two tasks can't receive from one connection at once; use one for it.")
        # Asking for the running loop is as dear as making the future, and happens for each message.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._beginning = beginning
        return self._waiter

    @property
    def _waits(self) -> bool:
        """Whether a task waits for a message."""
        driven = self.transport.driven
        return (driven is not None and driven.pulling) or (
            self._waiter is not None and not self._waiter.done()
        )

    @property
    def _has_room(self) -> bool:
        # Not as soon as one has gone, so that the line isn't stopped and started with each message.
        return len(self.inbox) * 2 <= self._max_inbox and self._inbox_bytes * 2 <= self._max_inbox_bytes

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield messages until the connection is closed without error (RFC 6455: 1000 or 1001)."""
        try:
            while True:
                yield await self.recv()
        except ConnectionClosed as closed:
            if not isinstance(closed, ConnectionClosedOK):
                raise

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        if self._ending is None:
            if self._closed is None:
                self._closed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._closed)

    # What the transport tells

    def received(self, message: str | bytes, more: bool = False) -> bool:
        """Take a message; false if no more may come for now: the inbox is full, or there were too many.

        One of several that came in together is not begun at once: they are handled in one turn of the event
        loop, and what they have sent is one write for each line. What came before one too many is still
        handled; it and what comes after it are dropped.
        """
        self.messages_in += 1
        if self.messages_in > self.allowed:
            self.sent_too_many()
            return False
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                if self._beginning is not None and not more and not self.outbox.queued:
                    self._begin(message, waiter, self._beginning)
                    return self._reading
                waiter.set_result(message)
                return True
        inbox = self.inbox
        if inbox:
            self._inbox_bytes += _size_of(message)
        inbox.append(message)
        if len(inbox) < self._max_inbox and self._inbox_bytes < self._max_inbox_bytes:
            return True
        self._reading = False
        self.transport.pause_reading()
        return False

    def _begin(self, message: str | bytes, waiter: Waiter, beginning: Beginning) -> None:
        """Have a message begun with while its task waits, and wake that only if it has to go on."""
        try:
            if beginning.begin(message) and not self._leaving and self._ending is None:
                self._waiter, self._beginning = waiter, beginning
                return
        except BaseException as problem:
            if not waiter.done():
                waiter.set_exception(problem)
            elif not isinstance(problem, asyncio.CancelledError):
                raise  # the handler has cancelled its task, and then failed
        if not waiter.done():
            waiter.set_result(None)

    def sent_too_many(self) -> None:
        """Close: more messages came in than are allowed."""
        self.start_close(CloseCode.TOO_MANY_MESSAGES, "too many messages")

    async def raise_if_closed(self) -> None:
        """Raise :exc:`ConnectionClosed`, once it is closed, if it is closing."""
        if self.closing:
            await self.wait_closed()
            raise self._closed_error()

    def _closed_error(self) -> ConnectionClosed:
        assert self._ending is not None
        received, sent = self._ending.received, self._ending.sent
        return connection_closed(
            Close(*received) if received else None,
            Close(*sent) if sent else None,
            self._ending.received_first,
        )


def _size_of(message: str | bytes) -> int:
    """Return how many bytes a message may take: of a text with other letters than ASCII, four for each."""
    return len(message) * 4 if isinstance(message, str) and not message.isascii() else len(message)
