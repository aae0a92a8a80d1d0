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
    session.
    """

    __slots__ = ("accept", "kept", "number", "outcome", "payload", "repeatable", "sent", "sent_at")

    def __init__(
        self,
        number: int,
        payload: str | bytes,
        accept: Callable[[Arrived], object] | None,
        *,
        kept: bool = True,
        repeatable: bool = False,
    ) -> None:
        self.number = number
        self.payload = payload
        self.accept = accept
        self.kept = kept
        self.repeatable = repeatable
        self.outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.sent: float | None = None
        """When it was sent first, by the loop's clock."""
        self.sent_at = 0.0
        """The same by the wall's clock, which goes on while the machine sleeps."""

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


class Outbox:
    """Requests in the order in which they were made; `limit` of the application's at the most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = count(1)
        self._open: dict[int, Request] = {}
        self._unsent: deque[Request] = deque()
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
                if request.number not in self._open:
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

    def lost(self) -> None:
        """Drop what is not kept for the next line."""
        self._unsent.clear()
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
        now, wall = asyncio.get_running_loop().time(), time.time()
        self._unsent.clear()
        for request in list(self._open.values()):
            again = request.sent is None or request.repeatable
            if not again and window is not None and request.sent is not None:
                again = max(now - request.sent, wall - request.sent_at) <= window
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


def _too_large(largest: int) -> RequestFailed:
    told = f"The message is larger than the {largest} bytes that the server takes."
    return RequestFailed(ErrorCode.INVALID, told, problems=[("$", "Too large")])


def _unacknowledged() -> Unacknowledged:
    return Unacknowledged("The line was lost before the answer came; it may have been carried out or not.")
