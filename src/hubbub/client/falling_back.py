"""Falling back: of several ways in the best that works, and the way back up to a better one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, cast

import msgspec

from ..protocol.codecs import CODECS, UNREADABLE
from ..protocol.codes import CloseCode
from .backoff import HELD, Backoff, Waits
from .choice import Choice
from .line import Dial, Line, LineLost, LineMoved, NotConnected
from .wire import logger

CLIMB = Backoff((30.0, 60.0, 120.0, 240.0, 480.0, 900.0), endless=True)
"""Waits before a better line is looked for, if nothing else is said: ever longer, up to a quarter of an hour.

Each is multiplied by a random number between 0 and 1: clients that fell together don't climb together.
"""

WELCOME = "$welcome"
FIRST = frozenset({WELCOME, "$error"})
"""What a hubbub says first of all."""


class _Kind(msgspec.Struct):
    type: str


class _Open(NamedTuple):
    """A line that works: something of the server's has come, or it is no hubbub and may say nothing."""

    number: int
    line: Line
    token: str | None
    first: str | bytes | None = None
    """The first message, if it was received."""
    welcome: bool = False


class FallingBack:
    """Opens one line of several, each given by its name and what dials it, the best first.

    A line counts as open once the server has said something: there are proxies that let a WebSocket's
    handshake through and nothing after it, or keep an event stream back. For that it has `within` seconds.

    `climb` begins a series of waits, after each of which a better line than the one in use is looked for. The
    series begins anew when a line has held and the client falls to a lower one; else it goes on. So what
    opens and dies over and over is tried ever more rarely.
    """

    def __init__(self, ways: Sequence[tuple[str, Dial]], within: float, climb: Waits) -> None:
        self._ways = ways
        self._within = within
        self._climb = climb
        self._choice = Choice(len(ways))
        self._waits: Iterator[float] | None = None
        """None until the client has fallen for the first time."""
        self._held = True
        """Whether the line before had held."""

    async def dial(self, token: str | None) -> Line:
        """Open the best line that works.

        Raises :exc:`NotConnected` if none does, or at once where no other kind of line can do better. A 403
        is no such case: it may be a proxy's that lets no WebSocket through, as well as the server's.
        """
        told: list[str] = []
        comes_back = False
        for number in self._choice.order():
            try:
                return self._used(await self._open(number, token))
            except NotConnected as problem:
                if problem.for_all:
                    raise
                name = self._ways[number][0]
                logger.info("no %s line: %s", name, problem.reason)
                told.append(f"{name}: {problem.reason}")
                comes_back = comes_back or problem.comes_back
        raise NotConnected("; ".join(told), comes_back=comes_back)

    def _used(self, opened: _Open) -> Line:
        number = opened.number
        if number > self._choice.current and (self._held or self._waits is None):
            self._waits = self._climb()
        self._choice.opened(number)
        since = asyncio.get_running_loop().time()

        def ended(lost: LineLost | None) -> None:
            after = asyncio.get_running_loop().time() - since
            self._held = after >= HELD
            if lost is not None and lost.code == CloseCode.ABNORMAL:
                self._choice.lost(number, after)

        if number == 0 or self._waits is None:
            return ChosenLine(opened, ended)
        return LowerLine(opened, ended, self._waits, self._better, self._used)

    async def _better(self, token: str | None) -> _Open | None:
        """Return a better line than the one in use that welcomes the client; None if none does."""
        for number in self._choice.better():
            try:
                opened = await self._open(number, token)
            except NotConnected as problem:
                logger.info("still no %s line: %s", self._ways[number][0], problem.reason)
                if problem.for_all:
                    break
            else:
                if opened.welcome:
                    return opened
                await opened.line.close(CloseCode.NORMAL)
        return None

    async def _open(self, number: int, token: str | None) -> _Open:
        line = await self._ways[number][1](token)
        try:
            codec = CODECS.get(line.subprotocol or "")
            if codec is None:
                return _Open(number, line, token)
            async with asyncio.timeout(self._within):
                first = await line.recv()
            kind = cast("Callable[[str | bytes], _Kind]", codec.decoder(_Kind))(first).type
            if kind not in FIRST:
                raise NotConnected(f"the server began with {kind}", comes_back=False)
            return _Open(number, line, token, first, welcome=kind == WELCOME)
        except BaseException as problem:
            if isinstance(problem, LineLost) and problem.code >= CloseCode.NOT_LOGGED_IN:
                return _Open(number, line, token)  # a hubbub's own word, which receiving will raise again
            await line.close(CloseCode.ABNORMAL)
            if isinstance(problem, LineLost):
                raise NotConnected(f"it ended before a word was said: {problem}") from None
            if isinstance(problem, TimeoutError):
                raise NotConnected(f"the server said nothing within {self._within:g} s") from None
            if isinstance(problem, UNREADABLE):
                raise NotConnected("the server can't be understood", comes_back=False) from None
            raise


class ChosenLine:
    """A line whose first message was received already; `ended` is told how it was lost, if it was."""

    def __init__(self, opened: _Open, ended: Callable[[LineLost | None], None]) -> None:
        self._line = opened.line
        self._first = opened.first
        self._ended: Callable[[LineLost | None], None] | None = ended
        self._lost: LineLost | None = None
        self.subprotocol = opened.line.subprotocol
        self.name = opened.line.name

    @property
    def heard_at(self) -> float:
        """When the server gave its last sign of life that is no message."""
        return self._line.heard_at

    async def send(self, message: str | bytes) -> None:
        """Send a message."""
        await self._line.send(message)

    async def recv(self) -> str | bytes:
        """Return the next message."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return await self._line.recv()
        except LineLost as lost:
            self._lost = lost
            raise

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the line."""
        if self._ended is not None:
            self._ended(self._lost)
            self._ended = None
        await self._line.close(code, reason)


class LowerLine(ChosenLine):
    """A line that gives way to a better one.

    After each of `waits` it has `look` open one, and once that is there, receiving raises :exc:`LineMoved`.
    """

    def __init__(
        self,
        opened: _Open,
        ended: Callable[[LineLost | None], None],
        waits: Iterator[float],
        look: Callable[[str | None], Awaitable[_Open | None]],
        use: Callable[[_Open], Line],
    ) -> None:
        super().__init__(opened, ended)
        self._token = opened.token
        self._waits = waits
        self._look = look
        self._use = use
        self._better: _Open | None = None
        self._receiving: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._next()

    def _next(self) -> asyncio.TimerHandle | None:
        wait = next(self._waits, None)
        return None if wait is None else self._loop.call_later(wait, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._climb(), name="hubbub: climbing to a better line")

    async def _climb(self) -> None:
        self._better = await self._look(self._token)
        if self._better is None:
            self._timer = self._next()
        elif self._receiving is not None:
            self._receiving.reschedule(self._loop.time())

    async def recv(self) -> str | bytes:
        """Return the next message, or raise :exc:`LineMoved`, whatever comes first."""
        if self._better is None:
            try:
                async with asyncio.timeout(None) as self._receiving:
                    return await super().recv()
            except TimeoutError:
                pass
            finally:
                self._receiving = None
        raise LineMoved(self._token, self._take)

    def _take(self) -> Line:
        better = self._better
        assert better is not None
        self._better = None
        return self._use(better)

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the line, and the better one if nobody has taken it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.result()
        finally:
            better, self._better = self._better, None
            try:
                if better is not None:
                    await better.line.close(CloseCode.NORMAL)
            finally:
                await super().close(code, reason)
