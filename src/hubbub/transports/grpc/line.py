"""A client's line in a call: the transport, over the reader's and writer's interface of `grpc.aio`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from grpc.aio import BaseError

from ...engine.outbox import Chunk, Outbox
from ...engine.transport import Driven, Ending, Listener
from ...observe.log import fields, logger
from ...protocol.codes import CloseCode
from ...protocol.envelope import VERSION
from ...protocol.protobuf import metadata
from ...protocol.protobuf.messages import UNREADABLE_PROTOBUF, envelope_of, messages_of
from . import statuses

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

GONE = BaseError
"""What gRPC raises in a call that has ended."""

BUNDLE = 65_536
"""Bytes up to which messages that wait are written as one, and from which on no more are wanted."""

OPEN = ((metadata.PROTOCOL, str(VERSION)),)

HALF_CLOSED = (int(CloseCode.NORMAL), "")
"""How a client leaves that says it sends no more."""


def framing(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001  # all is JSON here
    """Return an envelope as ``Messages``: one serves all members of a room, and several can be joined."""
    return messages_of(payload)


class GRPCLine:
    """A client's line in one call.

    The call's own task waits in :meth:`until_ended`, so that a call that is cancelled, or has met its
    deadline, ends the line at once, whatever the session does. The session has a task of its own, in which
    it reads by :meth:`pull`: while it is busy nothing is read, and HTTP/2's flow control holds the client up.
    What there is to write is written by a task that is there only as long.

    Neither a read nor a write is cancelled where the call ends: both come to their end with it, and
    a cancelled one would leave memory behind in gRPC's core.
    """

    framing = staticmethod(framing)
    pings = False
    """HTTP/2 has its own, which are gRPC's affair."""
    served_by = None

    def __init__(
        self, context: "ServicerContext", read: Callable[["GRPCLine"], Awaitable[str | bytes | None]]
    ) -> None:
        """`read` waits for the client's next message: an envelope's JSON or a ``Message``; None: no more."""
        self._context = context
        self._read = read
        self._listener: Listener | None = None
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done once the line has ended."""
        self._finished: asyncio.Future[statuses.Status] = loop.create_future()
        self._puller: asyncio.Task[object] | None = None
        self._may_read = True
        self._half_closed = False
        self._waiting: list[bytes] = []
        self._size = 0
        self._writer: asyncio.Task[None] | None = None
        self._paused = False
        self._close: tuple[int, str] | None = None

    # The call's task

    async def until_ended(self) -> statuses.Status:
        """Return how the call is to end, when it is; the line has ended then. Being cancelled ends it too."""
        try:
            return await self._finished
        finally:
            self._end()

    # The engine's

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:  # noqa: ARG002
        """Tell the client that the line is open."""
        self._listener = listener
        if self.ended.done():
            self._tell(listener)
            return
        try:
            await self._context.send_initial_metadata(OPEN)
        except GONE:
            self.abort()

    @property
    def driven(self) -> Driven:
        """Itself: the session's task receives."""
        return self

    @property
    def pulling(self) -> bool:
        """Whether the session waits in :meth:`pull`."""
        return self._puller is not None

    async def pull(self) -> str | bytes | None:
        """Receive a message in the caller's task; None if none may come now, or ever."""
        listener = self._listener
        if listener is None or not self._may_read or self._close is not None:
            return None
        task = self._puller = asyncio.current_task()
        try:
            message = await self._read(self)
            if self._listener is None:
                return None
            if message is None:
                self._half_closed = True
                # What it sent is answered: the session has nothing more to do.
                listener.shut_down()
                return None
        except asyncio.CancelledError:
            if self._listener is not None or task is None or task.uncancel():
                raise
            # The line was ended from here; the caller has yet to leave.
            return None
        except GONE:
            self.abort()
            return None
        except Exception:
            self._failed("receiving over gRPC")
            return None
        finally:
            self._puller = None
        return self._message(listener, message)

    def settle(self, outbox: Outbox) -> None:
        """Have the task for that write what waits in an outbox."""
        outbox.flush()

    def busy(self) -> None:
        """Do nothing: the call's own task sees its end, and what the client says waits there."""

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order."""
        if self._close is not None or self._listener is None:
            return
        for chunk in chunks:
            assert isinstance(chunk, bytes)
            self._size += len(chunk)
            self._waiting.append(chunk)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="hubbub: write to a gRPC line")
        if self._size > BUNDLE and not self._paused:
            self._paused = True
            self._listener.pause_writing()

    def close(self, code: int, reason: str) -> None:
        """End the call after what was written."""
        if self._close is None:
            self._close = HALF_CLOSED if self._half_closed else (int(code), reason)
            if self._writer is None:
                self._finish()

    def abort(self) -> None:
        """End the line at once. The call ends as soon as its client takes what was written before."""
        self._finish()
        self._end()
        if self._puller is not None and self._puller is not asyncio.current_task():
            # It waits for a read, which lasts as long as a call whose client does not take what was written.
            self._puller.cancel()

    def ping(self) -> None:
        """Do nothing: see :attr:`pings`."""

    def pause_reading(self) -> None:
        """Receive nothing more, so that the client's line fills up."""
        self._may_read = False

    def resume_reading(self) -> None:
        """Receive again."""
        self._may_read = True

    # Inside

    def _message(self, listener: Listener, message: str | bytes) -> str | None:
        """Return a message as JSON; None if it ends the line."""
        if isinstance(message, bytes):
            # It is never longer than the same in JSON.
            if len(message) > listener.max_message:
                self._too_big(listener)
                return None
            try:
                message = envelope_of(message)
            except (UNREADABLE_PROTOBUF, UnicodeDecodeError):
                listener.failing()
                self.close(CloseCode.INVALID_DATA, "a message is no protobuf, or has other text than UTF-8")
                return None
        size = len(message)
        if size <= listener.max_message < size * 4:
            size = len(message.encode())
        if size > listener.max_message:
            self._too_big(listener)
            return None
        return message

    def _too_big(self, listener: Listener) -> None:
        listener.failing()
        self.close(CloseCode.MESSAGE_TOO_BIG, f"over the size limit of {listener.max_message} bytes")

    async def _write(self) -> None:
        try:
            while self._waiting and self._listener is not None:
                await self._context.write(self._bundle())
                if self._paused and self._size <= BUNDLE // 2 and self._listener is not None:
                    self._paused = False
                    self._listener.resume_writing()
        except GONE:
            self.abort()
        except Exception:
            self._failed("sending over gRPC")
        finally:
            self._writer = None
        if self._close is not None:
            self._finish()

    def _bundle(self) -> bytes:
        """Return the next messages as one, and at least one."""
        size = number = 0
        for chunk in self._waiting:
            size += len(chunk)
            if number and size > BUNDLE:
                size -= len(chunk)
                break
            number += 1
        bundle = self._waiting[0] if number == 1 else b"".join(self._waiting[:number])
        del self._waiting[:number]
        self._size -= size
        return bundle

    def _failed(self, during: str) -> None:
        logger.exception("error", extra=fields(during=during))
        self.abort()

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(statuses.closed(*(self._close or (CloseCode.ABNORMAL, ""))))

    def _end(self) -> None:
        if self.ended.done():
            return
        self.ended.set_result(None)
        self._waiting.clear()
        listener, self._listener = self._listener, None
        if listener is not None:
            self._tell(listener)

    def _tell(self, listener: Listener) -> None:
        self._listener = None
        close = self._close
        if self._half_closed:
            listener.ended(Ending(received=HALF_CLOSED, sent=close, received_first=True))
        else:
            # gRPC does not tell the client's part of the end.
            listener.ended(Ending(sent=close, received=close))
