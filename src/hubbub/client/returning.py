"""Connecting, and coming back: when to try again, when to log in anew, and when to stop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn, TypeVar

from ..errors import ClientError, ReconnectFailed
from ..protocol.codes import CloseCode, comes_back
from .backoff import HELD, Waits
from .events import State, StateChange
from .line import UNAUTHORIZED, Dial, Line, LineLost, LineMoved, NotConnected
from .session import Session
from .states import States

Token = str | Callable[[], str | Awaitable[str | None] | None] | None
"""A login's token, or what fetches one: a plain function, which runs in a thread, or an asynchronous one."""

Kind = TypeVar("Kind")

MOST_AFTER = 60.0
"""Seconds that a server's ``Retry-After`` can have a client stay away."""

QUIET = frozenset({CloseCode.NORMAL, CloseCode.NO_STATUS})
"""Close codes with which a server ends what is over; iteration then ends without an error."""


def _called(function: Callable[[], Kind]) -> Kind:
    try:
        return function()
    except StopIteration as problem:
        # No future can carry it out of the thread.
        raise RuntimeError("it raised StopIteration") from problem


class _NoToken(Exception):
    """The application's function has failed; later it may not."""


class Returning:
    """Keeps a session carried: opens one line after another until the client or the server is done."""

    def __init__(
        self, session: Session, dial: Dial, token: Token, backoff: Waits, states: States, open_timeout: float
    ) -> None:
        self.opened = asyncio.Event()
        """Set when the server has welcomed the client, or never will."""
        self._session = session
        self._dial = dial
        self._token = token
        self._backoff = backoff
        self._waits: Iterator[float] = iter(())
        self._states = states
        self._open_timeout = open_timeout
        self._shown: str | None = None
        """The token that is shown when dialling."""
        self._fetched = False
        """Whether the token shown was fetched since the last connection."""
        self._since: float | None = None
        """Since when the line is open."""

    def show(self, token: str) -> None:
        """Log in with another token from now on."""
        self._shown = token

    async def run(self) -> None:
        """Connect and come back until it makes no sense any more."""
        self._waits = self._backoff()
        try:
            try:
                await self._fetch()
            except _NoToken as problem:
                raise ReconnectFailed(str(problem)) from problem.__cause__
            while True:
                self._states.change(StateChange(State.CONNECTING))
                wait, code, reason = await self._connection()
                self._states.change(StateChange(State.WAITING, wait=wait, code=code, reason=reason))
                await asyncio.sleep(wait)
        except ReconnectFailed as problem:
            self._end(problem, None if problem.code in QUIET else problem)
        except asyncio.CancelledError:
            self.stop()
            raise
        except Exception as problem:
            failure = ReconnectFailed(f"The client met an error: {problem}")
            failure.__cause__ = problem
            self._end(failure, failure)
            raise

    def stop(self) -> None:
        """End the session, since the application closes the client."""
        if self._session.ended is None:
            self._end(ClientError("The client is closed."), None)

    def _end(self, problem: ClientError, failure: ClientError | None) -> None:
        self._session.end(problem, failure)
        code, reason = (problem.code, problem.reason) if isinstance(problem, ReconnectFailed) else (None, "")
        self._states.change(StateChange(State.CLOSED, code=code, reason=reason))
        self.opened.set()

    async def _connection(self) -> tuple[float, int | None, str]:
        """Carry the session by one more line; return how long to wait, and why it ended."""
        try:
            line = await self._dial(self._shown)
        except NotConnected as problem:
            return await self._after_refusal(problem), None, problem.reason
        while True:
            try:
                await self._carry(line)
            except LineMoved as moved:
                better = await self._move(line, moved)
                if better is None:
                    return 0.0, None, moved.reason
                line = better
            except LineLost as lost:
                await line.close(CloseCode.ABNORMAL)
                return await self._after_loss(lost), lost.code, lost.reason
            except BaseException as problem:
                if isinstance(problem, asyncio.CancelledError):
                    self.stop()  # nobody is to wait for the closing handshake
                await line.close(CloseCode.NORMAL)
                raise

    async def _carry(self, line: Line) -> NoReturn:
        self._since = None

        def welcomed(resumed: bool) -> None:
            self._since = asyncio.get_running_loop().time()
            self._fetched = False
            self._states.change(StateChange(State.OPEN, resumed=resumed, line=line.name))
            self.opened.set()

        await self._session.carry(line, self._open_timeout, welcomed)

    async def _move(self, line: Line, moved: LineMoved) -> Line | None:
        """Leave a line well for the one that is open in its place; None if that is of another login."""
        self._states.change(StateChange(State.CONNECTING, reason=moved.reason))
        better = moved.take() if moved.token is self._shown else None
        try:
            await line.close(CloseCode.NORMAL)
        except BaseException as problem:
            if isinstance(problem, asyncio.CancelledError):
                self.stop()
            if better is not None:
                await better.close(CloseCode.ABNORMAL)
            raise
        return better

    async def _after_refusal(self, problem: NotConnected) -> float:
        try:
            if problem.status == UNAUTHORIZED and await self._log_in_again():
                return 0.0
        except _NoToken as none:
            return self._next_wait(none, None, problem.reason)
        if not problem.comes_back:
            raise ReconnectFailed(f"Could not connect: {problem.reason}.", reason=problem.reason) from problem
        # Jitter comes on top: the server has told the same to all whom it refused.
        return min(problem.after, MOST_AFTER) + self._next_wait(problem, None, problem.reason)

    async def _after_loss(self, lost: LineLost) -> float:
        since, drain = self._since, self._session.drain
        held = since is not None and asyncio.get_running_loop().time() - since >= HELD
        if held:
            self._waits = self._backoff()
        try:
            again = lost.code == CloseCode.NOT_LOGGED_IN and await self._log_in_again()
        except _NoToken as none:
            return self._next_wait(none, lost.code, lost.reason)
        if not (again or comes_back(lost.code)):
            ended = f"The server closed the connection: {lost}."
            raise ReconnectFailed(ended, lost.code, lost.reason) from lost
        if again and (held or since is None):
            return 0.0
        if drain is not None and held:
            return drain
        # A server that lets the client in and at once go again must not have it turn in circles.
        return max(drain or 0.0, self._next_wait(lost, lost.code, lost.reason))

    def _next_wait(self, problem: Exception, code: int | None, reason: str) -> float:
        wait = next(self._waits, None)
        if wait is None:
            raise ReconnectFailed(
                f"All attempts to connect failed, the last one: {problem}.", code, reason
            ) from problem
        return wait

    async def _log_in_again(self) -> bool:
        """Fetch another token, if there is a way and it was not just done; :exc:`_NoToken` if it fails.

        Then the next attempt is refused as this one was, and it is fetched again.
        """
        if self._fetched or not callable(self._token):
            return False
        await self._fetch()
        self._fetched = True
        return True

    async def _fetch(self) -> None:
        token = self._token
        if not callable(token):
            self._shown = token
            return
        try:
            fetched = (
                token() if inspect.iscoroutinefunction(token) else await asyncio.to_thread(_called, token)
            )
            self._shown = await fetched if inspect.isawaitable(fetched) else fetched
        except Exception as problem:
            raise _NoToken(f"No token to log in with could be fetched: {problem}") from problem
