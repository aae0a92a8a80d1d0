"""What goes up: messages, in order, by one POST after the other."""

import asyncio
from collections import deque
from collections.abc import Callable

from ...protocol.codes import CloseCode
from ..line import LineLost, NotConnected
from .channel import PROBLEMS, Channel, said

LINE = "Hubbub-Line"
SEQUENCE = "Hubbub-Sequence"

WAITING = 64 * 2**10
"""Characters that may wait while a POST is on its way; who sends more waits."""

TOGETHER = 100
"""Messages in one POST at the most."""

ANSWERED_WITHIN = 10.0
"""Seconds that the server has to answer a POST, beside those that its body takes at the :data:`SLOWEST`."""

SLOWEST = 16 * 2**10
"""Bytes a second of the slowest network that carries a POST."""

AGAIN_AFTER = 1.0
"""Seconds after which a POST is made again that the server could not take, since its session is behind."""

BEHIND_FOR = 300.0
"""Seconds that the server may be behind with one POST; a WebSocket waits for as long as it likes."""

TOO_LARGE = 413
BEHIND = 503

_CODES = {401: CloseCode.NOT_LOGGED_IN, TOO_LARGE: CloseCode.MESSAGE_TOO_BIG}
"""As what a status ends the line; all others are a line that was lost, also a 403: it is a proxy's."""


class _Refused(LineLost):
    """The server has answered that it does not take something."""


class Posting:
    """The messages of one line that go to the server, `token` being the line's.

    A message that comes while a POST is on its way waits for the next one, together with others. There is a
    task only while something is to be sent. `failed` is told, once, if something could not be sent.
    """

    def __init__(self, channel: Channel, token: str, failed: Callable[[LineLost, bool], None]) -> None:
        self._channel = channel
        self._token = token
        self._failed = failed
        self._number = 0
        """POSTs that were taken."""
        self._largest = WAITING
        """Characters that go together."""
        self._waiting: deque[str] = deque()
        self._size = 0
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    async def send(self, message: str) -> None:
        """Have a message sent; wait while too much waits. Once a POST has failed, nothing is sent."""
        while self._size >= WAITING and not self._over:
            self._room.clear()
            await self._room.wait()
        if self._over:
            return
        self._waiting.append(message)
        self._size += len(message)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="hubbub: posting")

    async def flush(self) -> None:
        """Wait until everything was sent, or can't be."""
        task = self._task
        if task is not None:
            await asyncio.wait({task})

    async def stop(self) -> None:
        """Send nothing more."""
        task = self._task
        self._end()
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    def _end(self) -> None:
        self._over = True
        self._waiting.clear()
        self._room.set()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._post(self._batch())
        except _Refused as lost:
            self._end()
            self._failed(lost, True)
        except LineLost as lost:
            self._end()
            self._failed(lost, False)
        except Exception as problem:
            self._end()
            self._failed(LineLost(CloseCode.ABNORMAL, f"posting failed: {type(problem).__name__}"), False)
            raise
        finally:
            self._task = None

    def _batch(self) -> list[str]:
        """Take what waits, as much as goes together; a message with a line break in it goes alone."""
        batch = [self._waiting.popleft()]
        size = len(batch[0])
        if "\n" not in batch[0]:
            while self._waiting and len(batch) < TOGETHER and "\n" not in self._waiting[0]:
                size += len(self._waiting[0])
                if size > self._largest:
                    break
                batch.append(self._waiting.popleft())
        self._size -= sum(map(len, batch))
        self._room.set()
        return batch

    async def _post(self, batch: list[str]) -> None:
        headers = {
            LINE: self._token,
            SEQUENCE: str(self._number + 1),
            "Content-Type": "application/json" if len(batch) == 1 else "application/x-ndjson",
        }
        body = "\n".join(batch).encode()
        loop = asyncio.get_running_loop()
        until = loop.time() + BEHIND_FOR
        status = await self._answered(headers, body)
        while status == BEHIND and loop.time() < until:
            # By its number the server knows a POST that it has taken, or of which it has taken a part.
            await asyncio.sleep(AGAIN_AFTER)
            status = await self._answered(headers, body)
        if status == TOO_LARGE and len(batch) > 1:
            # Less of it may go together than is usual; that is not known before.
            self._largest = len(body) // 2
            self._waiting.extendleft(reversed(batch))
            self._size += sum(map(len, batch))
        elif 200 <= status < 300:
            self._number += 1
        else:
            raise _Refused(_CODES.get(status, CloseCode.ABNORMAL), f"a POST was answered with HTTP {status}")

    async def _answered(self, headers: dict[str, str], body: bytes) -> int:
        """Return the status with which a POST was answered; :exc:`LineLost` if it was not."""
        within = ANSWERED_WITHIN + len(body) / SLOWEST
        try:
            try:
                return await self._status(headers, body, within)
            except PROBLEMS:
                # The server may have closed a connection that was idle just as it was used again; and one
                # that leads nowhere any more swallows it. By its number the server knows it again.
                return await self._status(headers, body, within)
        except TimeoutError:
            raise LineLost(CloseCode.ABNORMAL, f"a POST was not answered within {within:.0f} s") from None
        except PROBLEMS as problem:
            raise LineLost(CloseCode.ABNORMAL, f"a POST failed: {said(problem)}") from None
        except NotConnected as problem:
            raise LineLost(CloseCode.ABNORMAL, f"a POST failed: {problem}") from None

    async def _status(self, headers: dict[str, str], body: bytes, within: float) -> int:
        async with (
            asyncio.timeout(within),
            await self._channel.request("POST", headers, body) as response,
        ):
            return response.status
