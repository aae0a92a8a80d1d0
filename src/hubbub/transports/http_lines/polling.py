"""Long polling: what a server says waits for a GET that asks for it, and stays until the next one has it.

A poll is answered with all that its client has not acknowledged yet; where there is nothing, it waits. So a
message whose answer got lost on the way comes again, and one that was acknowledged does not.
"""

import asyncio
from collections.abc import Coroutine

from starlette.types import Scope

from ...engine.lines import TAKEN, UNKNOWN, LineAnswer, Lines, failed
from ...engine.outbox import Chunk
from ...engine.transport import Ending, Listener
from ...observe.log import fields, logger
from ...protocol.codecs import JSON
from ...protocol.codes import CloseCode
from ...protocol.envelope import Envelope
from ..admission import OpenLine, Refusal
from .posts import Posts

ENOUGH = 65536
"""Bytes that may wait for the client's next poll; what comes then waits in the way that its room says."""

LARGEST_ANSWER = 1_048_576
"""Bytes of messages in an answer; the rest comes with the next poll."""

REPLACED = TAKEN
"""The answer to a poll whose client has sent another one since: none."""

AHEAD = failed(400, "invalid", "Hubbub-Received is beyond what was sent on this line.")


def message(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001  # it is the shape of a framing
    """Return an envelope as it is; the answer to a poll is a list of them."""
    return payload


class PollingTransport:
    """A client's line in polls: what waits for the next one, and the one that waits for something.

    It holds no task and no timer: a poll is a future, and it is the engine's heartbeat that ends one which
    waits for long. A client that does not poll is silent as one is that does not answer pings.
    """

    framing = staticmethod(message)
    pings = True
    driven = None
    served_by = None

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._listener: Listener | None = None
        self._posts = Posts(self._deliver)
        self._token = ""
        self._unacknowledged: list[bytes] = []
        self._size = 0
        self._acknowledged = 0
        """Messages that the client has told it has."""
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._parked: asyncio.Future[LineAnswer] | None = None
        self._telling = False
        """Whether the poll that waits is about to be answered."""

    # What the engine calls

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:  # noqa: ARG002
        """Give the line its token, which is the first that its client is told."""
        self._listener = listener
        self._token = self._lines.open(self)
        self._add(JSON.encode(Envelope("$line", data={"line": self._token})))
        self._posts.resume()

    def write(self, chunks: list[Chunk]) -> None:
        """Keep whole messages for the client's next poll, or answer the one that waits."""
        if self._close is not None or self._listener is None:
            return
        for chunk in chunks:
            assert isinstance(chunk, bytes)
            self._add(chunk)
        self._tell()
        if self._size > ENOUGH and not self._paused:
            self._paused = True
            self._listener.pause_writing()

    def close(self, code: int, reason: str) -> None:
        """Say so behind all that was written: the line ends with the poll that is answered with it."""
        if self._close is None and self._listener is not None:
            self._close = (code, reason)
            self._posts.end()
            self._add(JSON.encode(Envelope("$close", data={"code": code, "reason": reason})))
            self._tell()

    def abort(self) -> None:
        """End the line at once; what its client has not fetched is dropped."""
        self._end(Ending(sent=self._close))

    def ping(self) -> None:
        """Do nothing: the heartbeat that the client is sent ends its poll, and its next one is the answer."""

    def pause_reading(self) -> None:
        """Take no POSTs for now."""
        self._posts.pause()

    def resume_reading(self) -> None:
        """Take POSTs again."""
        self._posts.resume()

    # What the client's requests ask for

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest body of a POST to let in."""
        return 0 if self._listener is None else self._listener.max_message

    async def post(self, messages: list[str], sequence: int | None) -> LineAnswer:
        """Take a client's messages, in order; wait, for a bounded time, while its session is behind."""
        return await self._posts.take(messages, sequence)

    def poll(self, received: int) -> "asyncio.Future[LineAnswer]":
        """Return what answers a poll: at once, or when there is something to tell.

        The client has the first `received` messages of the line. The poll that waited before is answered with
        nothing. So is one that comes too late: it has been followed by one with a higher `received`.
        """
        listener = self._listener
        if listener is None:
            return _answered(UNKNOWN)
        acknowledges = received - self._acknowledged
        if acknowledges > len(self._unacknowledged):
            return _answered(AHEAD)
        # A client is to poll when it was told something. Whoever does so all the time sends too much.
        listener.heard_from(0 if acknowledges > 0 else 1)
        if acknowledges < 0:
            return _answered(REPLACED)
        self._release(REPLACED)
        self._acknowledge(acknowledges)
        return self.wait() if not self._unacknowledged else _answered(self._answer())

    def wait(self) -> "asyncio.Future[LineAnswer]":
        """Return what is answered when there is something more to tell."""
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    async def leave(self) -> LineAnswer:
        """End the line: its client is done."""
        self._end(Ending(received=(CloseCode.NORMAL, ""), sent=(CloseCode.NORMAL, ""), received_first=True))
        return TAKEN

    # What is done with it

    def _deliver(self, text: str) -> None:
        if self._listener is not None and self._close is None:
            self._listener.received(text)

    def _add(self, payload: bytes) -> None:
        self._unacknowledged.append(payload)
        self._size += len(payload)

    def _acknowledge(self, count: int) -> None:
        if count:
            self._acknowledged += count
            self._size -= sum(map(len, self._unacknowledged[:count]))
            del self._unacknowledged[:count]
        if self._paused and self._size * 2 <= ENOUGH and self._listener is not None:
            self._paused = False
            self._listener.resume_writing()

    def _tell(self) -> None:
        if self._parked is not None and not self._telling:
            # Not before the end of this turn: a close often follows right behind the last words.
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._telling = False
        if self._parked is not None and not self._parked.done() and self._unacknowledged:
            self._release(self._answer())

    def _release(self, answer: LineAnswer) -> None:
        parked, self._parked = self._parked, None
        # Who waited for it may have left.
        if parked is not None and not parked.done():
            parked.set_result(answer)

    def _answer(self) -> LineAnswer:
        messages, size = self._unacknowledged, self._size
        count = len(messages)
        while size > LARGEST_ANSWER and count > 1:
            count -= 1
            size -= len(messages[count])
        if self._close is not None and count == len(messages):
            # In the next turn: who polls is to be given this answer first.
            ending = Ending(sent=self._close, received=self._close)
            asyncio.get_running_loop().call_soon(self._end, ending)
        told = b'{"received":%d,"messages":[%b]}' % (self._acknowledged + count, b",".join(messages[:count]))
        return LineAnswer(200, told)

    def _end(self, ending: Ending) -> None:
        self._release(UNKNOWN)
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._lines.close(self._token)
        self._posts.end()
        self._unacknowledged.clear()
        listener.ended(ending)


class Polling:
    """Opens lines in polls. It has the tasks that serve them, since a line outlives each of its requests."""

    def __init__(self, lines: Lines, open_line: OpenLine) -> None:
        self._lines = lines
        self._open_line = open_line
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self, scope: Scope) -> LineAnswer | Refusal:
        """Open a line; return what its client is told first: its token, and what it is greeted with."""
        transport = PollingTransport(self._lines)
        admitted = await self._open_line(scope, transport, JSON)
        if isinstance(admitted, Refusal):
            return admitted
        greeted = transport.wait()
        serving = asyncio.create_task(_serve(admitted, transport), name="hubbub: polling line")
        self._serving.add(serving)
        serving.add_done_callback(self._done)
        try:
            return await greeted
        except asyncio.CancelledError:
            # Nobody was told its token.
            transport.abort()
            raise

    def _done(self, serving: asyncio.Task[None]) -> None:
        self._serving.discard(serving)
        problem = None if serving.cancelled() else serving.exception()
        if problem is not None:
            logger.error("error", exc_info=problem, extra=fields(during="serving a polling line"))


async def _serve(admitted: Coroutine[object, object, None], transport: PollingTransport) -> None:
    try:
        await admitted
    finally:
        transport.abort()


def _answered(answer: LineAnswer) -> "asyncio.Future[LineAnswer]":
    future: asyncio.Future[LineAnswer] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future
