"""What waits to be sent, or to be answered: it outlives the line that it was sent on."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count

from ..errors import ClientError, OutboxFull, RequestFailed, Unacknowledged
from ..protocol.codes import ErrorCode
from .line import Line
from .wire import Arrived, size_of


class Request:
    """Something to be sent.

    `accept` makes the result of an ``$ack``; it is None where no answer is awaited. What is `kept` is sent
    on the next line if this one is lost. What is `repeatable` may be sent any number of times, in any
    session. What is to a `room` waits until the client is in it.
    """

    __slots__ = (
        "accept", "failure", "kept", "number", "outcome", "payload", "repeatable", "room", "sent", "sent_at",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        payload: str | bytes,
        accept: Callable[[Arrived], object] | None,
        *,
        kept: bool = True,
        repeatable: bool = False,
        room: str | None = None,
    ) -> None:
        self.number = number
        self.payload = payload
        self.accept = accept
        self.kept = kept
        self.repeatable = repeatable
        self.room = room
        self.outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.sent: float | None = None
        """When it was sent first, by the loop's clock."""
        self.sent_at = 0.0
        """The same by the wall's clock, which goes on while the machine sleeps."""
        self.failure: RequestFailed | None = None
        """What it was answered last, if it is to be sent again all the same."""

    @property
    def once(self) -> bool:
        """Whether it is the application's, and has to be carried out once, however often it is sent."""
        return self.kept and not self.repeatable and self.accept is not None

    def sent_within(self, seconds: float) -> bool:
        """Tell whether it was sent so many seconds ago at the most, or not at all."""
        if self.sent is None:
            return True
        now, wall = asyncio.get_running_loop().time(), time.time()
        return max(now - self.sent, wall - self.sent_at) <= seconds

    def acknowledged(self, answer: Arrived) -> None:
        """Take an ``$ack`` in, at once: what follows it on the line may depend on it."""
        assert self.accept is not None
        try:
            result = self.accept(answer)
        except Exception as problem:
            # Also what a class of the application's raises: it is the one's who asked, not the line's.
            self.fail(problem)
        else:
            self.succeed(result)

    def succeed(self, result: object) -> None:
        """Hand its result to whoever waits for it, if anybody still does."""
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, problem: Exception) -> None:
        """Raise a problem where the result is waited for."""
        if not self.outcome.done():
            self.outcome.set_exception(problem)


AT_ONCE = 64
"""Requests of the application that are sent again at once, until one of them succeeds."""


class Outbox:
    """Requests in the order in which they were made; `limit` of the application's at the most.

    Those that the server could not carry out, since it could not reach its broker, are sent again, some at a
    time, and those behind them wait; once others succeed, only those that are to the same rooms. So do those
    to a room that the client is not in yet on this line.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = count(1)
        self._open: dict[int, Request] = {}
        self._unsent: deque[Request] = deque()
        self._waiting: dict[int, Request] = {}
        """Those that may not be sent now."""
        self._absent: set[str] = set()
        """Rooms that the client is not in yet on this line."""
        self._allowed: int | None = None
        """How many of the application's may be sent, as long as the server is in trouble."""
        self._troubled: set[str | None] = set()
        """Rooms in which something failed, and is not sent again yet, while the server is well elsewhere."""
        self.window = 0.0
        """For how many seconds after it was sent first a request may be sent again."""
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether anything waits for its answer."""
        return bool(self._open)

    def number(self) -> int:
        """Return the id of the next request: within a session, each has its own."""
        return next(self._numbers)

    def check_room(self) -> None:
        """Raise :exc:`OutboxFull` if nothing more of the application's may wait."""
        if len(self._open) >= self._limit:
            raise OutboxFull(f"{len(self._open)} messages wait to be sent or acknowledged.")

    def add(self, request: Request) -> None:
        """Have a request sent, now or on the next line."""
        self._open[request.number] = request
        self._unsent.append(request)
        self._wake.set()

    def drop(self, request: Request) -> None:
        """Forget a request: nobody waits for it any more."""
        self._open.pop(request.number, None)
        self._waiting.pop(request.number, None)

    def answered(self, number: int | str | None) -> Request | None:
        """Return the request that an answer names, and forget it; None if nobody waits for that."""
        request = self._open.get(number) if isinstance(number, int) else None
        if request is None or request.accept is None:
            return None
        self.drop(request)
        return request

    async def write(self, line: Line, largest: int | None) -> None:
        """Send what waits, in order, until the line is lost; `largest` is the most bytes of a message."""
        loop = asyncio.get_running_loop()
        while True:
            while self._unsent:
                request = self._unsent.popleft()
                if request.number not in self._open or not self._may_be_sent(request):
                    continue
                if largest is not None and size_of(request.payload) > largest:
                    self.drop(request)
                    request.fail(_too_large(largest))
                    continue
                if request.sent is None:
                    request.sent, request.sent_at = loop.time(), time.time()
                await line.send(request.payload)
                if request.accept is None:
                    self.drop(request)
                    request.succeed(None)
            self._wake.clear()
            await self._wake.wait()

    def _may_be_sent(self, request: Request) -> bool:
        if request.failure is not None and not request.sent_within(self.window):
            self.drop(request)
            request.fail(request.failure)
            return False
        held = self._allowed == 0 or request.room in self._troubled
        if request.room in self._absent or (request.once and held):
            self._waiting[request.number] = request
            return False
        if request.once and self._allowed is not None:
            self._allowed -= 1
        return True

    # What waits

    def postpone(self, request: Request, failure: RequestFailed) -> None:
        """Have a request sent again later, with the same id, that failed for a reason that passes.

        It fails after all once the server may no longer know it again.
        """
        request.failure = failure
        self._open[request.number] = request
        self._waiting[request.number] = request

    def hold(self) -> None:
        """Send nothing of the application's for now: the server is in trouble."""
        self._allowed = 0

    def probe(self) -> None:
        """Send some of what waits: the server may be out of trouble."""
        if self._allowed is not None:
            self._allowed = AT_ONCE
        self._troubled.clear()
        self._send_waiting()

    def go_on(self, *, with_failed: bool = True) -> None:
        """Send everything: the server is out of trouble.

        Or it is for some rooms; what failed waits for the next :meth:`probe`, and so does what is behind it.
        """
        if self._allowed is not None:
            self._allowed = None
            failed = () if with_failed else self._waiting.values()
            self._troubled = {request.room for request in failed if request.failure is not None}
            self._send_waiting()

    def absent(self, room: str) -> None:
        """Have what is to a room wait: the client is not in it, and about to join it again."""
        self._absent.add(room)

    def present(self, room: str) -> None:
        """Send what is to a room."""
        if room in self._absent:
            self._absent.remove(room)
            self._send_waiting()

    def _send_waiting(self) -> None:
        # What has waited was made before what has not.
        self._unsent.extendleft(sorted(self._waiting.values(), key=_number_of, reverse=True))
        self._waiting.clear()
        self._wake.set()

    def lost(self) -> None:
        """Drop what is not kept for the next line."""
        self._unsent.clear()
        self._waiting.clear()
        self._absent.clear()
        self._troubled.clear()
        self._allowed = None
        for request in list(self._open.values()):
            if not request.kept:
                self.drop(request)
                request.succeed(None)

    def restart(self, first: Iterable[Request], window: float | None) -> None:
        """Have everything sent again, in order, on a new line, `first` before all.

        What was sent `window` seconds ago at the most is sent once more: the session goes on, and the server
        knows it again. All else that may have been carried out fails; in a new session, with None, that is
        whatever was sent.
        """
        self._unsent.clear()
        for request in sorted(self._open.values(), key=_number_of):
            again = request.sent is None or request.repeatable
            if not again and window is not None:
                again = request.sent_within(window)
            if again:
                self._unsent.append(request)
            else:
                self.drop(request)
                request.fail(_unacknowledged())
        leading = list(first)
        self._open.update((request.number, request) for request in leading)
        self._unsent.extendleft(reversed(leading))
        self._wake.set()

    def fail(self, problem: ClientError) -> None:
        """Fail everything: there will be no line any more."""
        for request in list(self._open.values()):
            self.drop(request)
            if request.sent is None or request.repeatable:
                request.fail(problem)
            else:
                unknown = _unacknowledged()
                unknown.__cause__ = problem
                request.fail(unknown)
        self._unsent.clear()


def _number_of(request: Request) -> int:
    return request.number


def _too_large(largest: int) -> RequestFailed:
    told = f"The message is larger than the {largest} bytes that the server takes."
    return RequestFailed(ErrorCode.INVALID, told, problems=[("$", "Too large")])


def _unacknowledged() -> Unacknowledged:
    return Unacknowledged("The line was lost before the answer came; it may have been carried out or not.")
