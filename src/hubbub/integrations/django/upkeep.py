"""What a hub does from time to time for Django: old database connections, and sessions that are over."""

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING

import anyio.to_thread
from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ...engine.connection import Connection
from ...errors import Unavailable
from ...observe.log import fields, logger
from .login import LOGIN, is_still

if TYPE_CHECKING:
    from .application import DjangoHub

TICK = 5.0
"""Seconds between two looks at the database connection of asynchronous code."""


class Upkeep:
    """One task of a hub, which tidies up as long as the hub runs."""

    def __init__(self, hub: "DjangoHub") -> None:
        self._hub = hub
        self._task: asyncio.Task[None] | None = None
        self._checked: dict[str, float] = {}
        """When each session, by what it is known by, was last seen to be good: the event loop's seconds."""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="hubbub: Django's upkeep")

    async def stop(self) -> None:
        """End; nothing if it has not begun."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        every = self._hub.session_check
        tick = min(TICK, every or TICK)
        while True:
            await asyncio.sleep(tick)
            try:
                # Django's asynchronous queries are all made in this one thread, and no request ends there.
                await sync_to_async(close_old_connections)()
                if every:
                    await self._check_sessions(every)
            except Exception:
                # The next turn tries again; what could not be asked is not taken for over.
                logger.exception("error", extra=fields(during="looking after sessions"))

    async def _check_sessions(self, every: float) -> None:
        now = asyncio.get_running_loop().time()
        of_logins: dict[str, Connection] = {}
        for connection in self._hub.open_connections():
            login = connection.state.get(LOGIN)
            if isinstance(login, str) and not connection.closing:
                of_logins[login] = connection
        self._checked = {login: self._checked.get(login, now) for login in of_logins}
        for login, checked in sorted(self._checked.items(), key=itemgetter(1)):
            if checked > now - every:
                break
            # Noted before: one that can't be asked about is behind the others the next time.
            self._checked[login] = now
            # One after the other: the database is to feel no more of it than one thread asks.
            if not await anyio.to_thread.run_sync(_ask, of_logins[login]):
                await self._let_go(of_logins[login], login)

    async def _let_go(self, connection: Connection, login: str) -> None:
        assert connection.user is not None
        try:
            await self._hub.disconnect(user=connection.user, login=login)
        except Unavailable as problem:
            # Those here are closed; the other instances look for themselves.
            logger.warning("control", extra=fields(user=connection.user, problem=str(problem)))


def _ask(connection: Connection) -> bool:
    close_old_connections()
    try:
        return is_still(connection)
    finally:
        close_old_connections()
