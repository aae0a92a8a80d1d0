"""An ASGI application's lifespan, run as a server does."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message

from .clock import within

CHANGES_WITHIN = 10.0
"""Real seconds that an application has to start, and to stop."""


class Lifespan:
    """Starts and stops an ASGI application; one that knows no lifespan is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        """What the application wants its connections' scopes to have as ``state``."""
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._told = asyncio.Event()
        self._answer: Message | None = None
        self._problem: Exception | None = None
        self._asked = False

    async def start(self) -> None:
        """Start the application; :exc:`RuntimeError` with what it says if it can't."""
        self._task = asyncio.create_task(self._run(), name="hubbub: lifespan")
        try:
            await self._answered("start")
        except BaseException:
            await self._give_up()
            raise

    async def stop(self) -> None:
        """Stop the application; :exc:`RuntimeError` with what it says if it fails to."""
        if self._answer is None:
            return  # it knows no lifespan
        self._told.clear()
        self._answer = None
        self._stopping.set()
        try:
            if self._task is not None and not self._task.done():
                await self._answered("stop")
        finally:
            await self._give_up()
        if self._problem is not None:
            raise RuntimeError("The application failed in its lifespan.") from self._problem

    async def _answered(self, what: str) -> None:
        try:
            async with within(CHANGES_WITHIN):
                await self._told.wait()
        except TimeoutError:
            raise TimeoutError(f"The application did not {what} within {CHANGES_WITHIN:g} s.") from None
        if self._answer is not None and self._answer["type"].endswith(".failed"):
            message = self._answer.get("message") or "it did not say why"
            raise RuntimeError(f"The application did not {what}: {message}") from self._problem

    async def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as problem:
            # One that does not know the scope raises too: then nothing was answered.
            self._problem = problem
        finally:
            self._told.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            raise ValueError(f"In its lifespan an application sends no {message['type']!r}.")
        self._answer = message
        self._told.set()
