"""Applications that break the promise, each in its own way, for soaks that have to find them out."""

import asyncio
import os
from itertools import count
from pathlib import Path

import pytest

from hubbub import Connection, Denied, Hubbub, Position, Room, Unavailable
from hubbub.soak.note import Note

EVERY = 20
"""One of so many messages is treated badly."""


def let_them_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes that a test starts find this module."""
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))


def application(handler) -> Hubbub:
    hub = Hubbub()
    hub.room("soak/{name}", history=10_000).on_message(handler)
    return hub


numbers = count(1)


async def lose(connection: Connection, room: Room, message: Note) -> Position:
    """Hide some messages from their sender, which is not excluded from them."""
    return await room.send(message, exclude=None if next(numbers) % EVERY else connection)


async def double(connection: Connection, room: Room, message: Note) -> Position:
    position = await room.send(message)
    if next(numbers) % EVERY == 0:
        await room.send(message)
    return position


async def reorder(connection: Connection, room: Room, message: Note) -> Position:
    """Tell where another message stands."""
    position = await room.send(message)
    return Position(position.epoch, max(1, position.offset - 1))


elsewhere: list[Room] = []


async def stray(connection: Connection, room: Room, message: Note) -> Position:
    """Send some messages to a room in which something was said before."""
    elsewhere.append(room)
    return await elsewhere[0 if next(numbers) % EVERY == 0 else -1].send(message)


async def include(connection: Connection, room: Room, message: Note) -> Position:
    return await room.send(message)


async def hang(connection: Connection, room: Room, message: Note) -> Position:
    if next(numbers) % EVERY == 0:
        await asyncio.Event().wait()
    return await room.send(message)


async def die(connection: Connection, room: Room, message: Note) -> Position:
    if next(numbers) == EVERY:
        os._exit(3)
    return await room.send(message)


async def flee(connection: Connection, room: Room, message: Note) -> Position:
    """Let the client go when the broker is away."""
    try:
        return await room.send(message)
    except Unavailable:
        await connection.close(1012)
        raise


def closing_down() -> Hubbub:
    """Let clients in the first time that this is started, and never again."""
    hub = application(include)
    mark = Path(os.environ.get("LIARS_MARK", os.devnull))
    if mark.exists():

        @hub.on_connect
        async def refuse() -> None:
            raise Denied("It is over.")
    else:
        mark.touch()
    return hub


losing, doubling, reordering = application(lose), application(double), application(reorder)
straying, including, hanging = application(stray), application(include), application(hang)
dying, nervous, closed = application(die), application(flee), closing_down()
