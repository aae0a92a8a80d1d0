"""Openings: what is said on a line before the session is carried by it."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from ..protocol.codes import CloseCode
from ..protocol.envelope import Envelope
from .line import Line, LineLost
from .outbox import Request
from .rooms import Membership
from .wire import Arrived, Greeting, Tongue, logger, size_of

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Opening:
    """How a line begins: whether the session goes on, and which rooms have to be joined again."""

    greeting: Greeting | None = None
    resumed: bool = False
    returning: tuple[tuple[Membership, Request | None], ...] = ()


async def greeting_of(line: Line, tongue: Tongue) -> Greeting:
    """Wait until the server says who it is and who the client is; :exc:`LineLost` says why it did not."""
    reason = ""
    while True:
        try:
            arrived = tongue.read(await line.recv())
        except LineLost as lost:
            if lost.reason:
                raise  # as it is: there may be a better line
            raise LineLost(lost.code, reason) from lost
        if arrived.type == "$welcome":
            return tongue.data(arrived, Greeting)
        if arrived.type == "$error":
            reason = tongue.failure(arrived).message


async def resumed(
    line: Line,
    tongue: Tongue,
    resume: Envelope,
    asked: Container[str],
    max_message: int,
    take_in: Callable[[Arrived], Awaitable[None]],
) -> Greeting | None:
    """Ask for the session to go on; return the second greeting, or None if it is a new session from here on.

    `take_in` is handed what arrives meanwhile and is not for a room, and which others than those `asked` for
    the server puts the client in.
    """
    request = tongue.write(resume)
    if size_of(request) > max_message:
        return None  # joining the rooms one by one does it too
    await line.send(request)
    while True:
        arrived = tongue.read(await line.recv())
        if arrived.id == resume.id and arrived.type == "$welcome":
            return tongue.data(arrived, Greeting)
        if arrived.id == resume.id and arrived.type == "$error":
            logger.info("the session was not taken up: %s", tongue.failure(arrived))
            return None
        # What is for a room comes again, after the answer. What it is in beside those is told here only.
        if arrived.room is None or (arrived.type in ("$join", "$leave") and arrived.room not in asked):
            await take_in(arrived)


async def in_time(seconds: float, work: Coroutine[object, object, Kind], what: str) -> Kind:
    """Return what some work does; :exc:`LineLost` if it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise LineLost(CloseCode.ABNORMAL, f"no {what} came within {seconds:g} s") from None


async def misspoken(line: Line, what: str) -> LineLost:
    """Close the line to a server that says `what` can't be understood; return how it was lost."""
    await line.close(CloseCode.PROTOCOL_ERROR)
    return LineLost(CloseCode.PROTOCOL_ERROR, f"the server can't be understood: {what}")
