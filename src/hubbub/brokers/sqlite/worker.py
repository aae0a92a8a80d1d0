"""A thread that works for an event loop: it takes all that waits, and hands the answers back together."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from ...errors import Unavailable
from ...observe.log import fields, logger

MOST_WAITING = 10_000
"""Requests that may wait for a thread; past it they are refused at once."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes that those may hold; a single one may be larger."""

IDLE = 1.0
"""Seconds without a request after which a thread may do something of its own."""


class Sized(Protocol):
    """A request, with the bytes that it holds."""

    @property
    def size(self) -> int:
        """Bytes."""


Asked = TypeVar("Asked", bound=Sized)
Answer = TypeVar("Answer")
Taken = TypeVar("Taken", bound=Sized, contravariant=True)
Given = TypeVar("Given", covariant=True)
_Request = tuple[Asked, "asyncio.Future[Answer] | None"]


class Desk(Protocol[Taken, Given]):
    """Where the thread sits. It is used in the thread only."""

    def open(self) -> None:
        """Get ready; what this raises, :meth:`Worker.start` raises."""

    def answer(self, asked: Sequence[Taken]) -> Sequence[Given]:
        """Return the answers, in the same order."""

    def rest(self) -> None:
        """Use a while in which nothing is asked."""

    def close(self) -> None:
        """Give everything back."""


class Worker(Generic[Asked, Answer]):
    """The loop's side of a thread.

    `answered` is called on the loop with each request and its answer, in order, and whether somebody still
    waits for it; an answer that is an exception is raised where it is waited for. The thread takes up to
    `at_once` requests together, and may rest when nothing was asked for `idle` seconds.
    """

    def __init__(
        self,
        name: str,
        desk: Desk[Asked, Answer],
        answered: Callable[[Asked, Answer | Exception, bool], None] | None = None,
        *,
        at_once: int,
        idle: float = IDLE,
    ) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._desk = desk
        self._answered = answered
        self._at_once = at_once
        self._idle = idle
        self._turn: list[_Request[Asked, Answer]] = []
        """What is asked in this turn of the loop: it is handed over together."""
        self._waiting = self._bytes = 0
        self._stopping = False
        self._queue: queue.SimpleQueue[list[_Request[Asked, Answer]] | None] = queue.SimpleQueue()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"hubbub: {name}", daemon=True)

    async def start(self) -> None:
        """Start the thread; return when its desk is open."""
        self._thread.start()
        try:
            await asyncio.shield(self._started)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take no more requests; return when those that wait are answered and the desk is closed."""
        if not self._stopping:
            self._stopping = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._ended)

    async def ask(self, asked: Asked) -> Answer:
        """Have a request answered; :exc:`Unavailable` at once if too many wait already.

        Who is cancelled while waiting has asked all the same.
        """
        if self._stopping:
            raise Unavailable("The broker is stopped.")
        if self._waiting >= MOST_WAITING or (self._waiting and self._bytes + asked.size > MOST_BYTES):
            raise Unavailable(
                f"{self._waiting} requests wait for the broker's disk, which is as many as may; try again."
            )
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._append((asked, answer))
        return await answer

    def tell(self, asked: Asked) -> None:
        """Pass on what gives something back: it needs no answer, and is never refused."""
        if not self._stopping:
            self._append((asked, None))

    def _append(self, request: "_Request[Asked, Answer]") -> None:
        self._waiting += 1
        self._bytes += request[0].size
        if not self._turn:
            self._loop.call_soon(self._hand_over)
        self._turn.append(request)

    def _hand_over(self) -> None:
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    def _settle(
        self, requests: "list[_Request[Asked, Answer]]", answers: Sequence[Answer | Exception]
    ) -> None:
        for (asked, waiter), answer in zip(requests, answers, strict=True):
            self._waiting -= 1
            self._bytes -= asked.size
            waits = waiter is not None and not waiter.done()
            if self._answered is not None:
                self._answered(asked, answer, waits)
            if waiter is not None and waits:
                if isinstance(answer, BaseException):
                    waiter.set_exception(_own(answer))
                else:
                    waiter.set_result(answer)

    # In the thread

    def _run(self) -> None:
        try:
            self._desk.open()
        except BaseException as problem:
            self._tell(_fail, self._started, problem)
        else:
            try:
                if self._tell(_done, self._started):
                    self._work()
            finally:
                self._desk.close()
        self._tell(_done, self._ended)

    def _work(self) -> None:
        waiting: deque[_Request[Asked, Answer]] = deque()
        ending = False
        while waiting or not ending:
            if not ending:
                ending = self._gather(waiting)
            requests = [waiting.popleft() for _ in range(min(len(waiting), self._at_once))]
            if requests:
                if not self._tell(self._settle, requests, self._answer([asked for asked, _ in requests])):
                    return
            elif not ending:
                if self._loop.is_closed():
                    return
                try:
                    self._desk.rest()
                except Exception:
                    logger.exception("error", extra=fields(during=self._name))

    def _answer(self, asked: Sequence[Asked]) -> Sequence[Answer | Exception]:
        try:
            return self._desk.answer(asked)
        except Exception as problem:
            # Those who asked are told; without the thread all others would wait for ever.
            return [problem] * len(asked)

    def _gather(self, waiting: "deque[_Request[Asked, Answer]]") -> bool:
        """Take what waits, and wait for it if nothing does; tell whether nothing more will come."""
        try:
            while len(waiting) < self._at_once:
                turn = self._queue.get_nowait() if waiting else self._queue.get(timeout=self._idle)
                if turn is None:
                    return True
                waiting.extend(turn)
        except queue.Empty:
            pass
        return False

    def _tell(self, callback: Callable[..., None], *args: object) -> bool:
        """Call back on the loop; tell whether it is still there."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # It was closed without a stop: nobody waits any more.
            return False
        return True


def _own(problem: BaseException) -> BaseException:
    """Return an exception for one of those who wait: raised in many places, its traceback would be of all."""
    if isinstance(problem, Unavailable):
        return Unavailable(str(problem))
    return problem


def _done(future: "asyncio.Future[None]") -> None:
    future.set_result(None)


def _fail(future: "asyncio.Future[None]", problem: BaseException) -> None:
    future.set_exception(problem)
