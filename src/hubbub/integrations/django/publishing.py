"""Publishing from a project's own code: views, signals, tasks, commands, in any thread and any process."""

import asyncio
import functools
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from django.db import transaction

from ... import sync
from ...errors import ConfigurationError, Unavailable
from ...protocol.publications import inbox_of
from .application import the_hub

if TYPE_CHECKING:
    from ...engine.connection import Connection
    from ...engine.room import Room
    from ...protocol.envelope import Position
    from ...protocol.messages import Sendable

TIMEOUT = 10.0
"""Seconds that :func:`publish` may take if nothing else is said."""


def publish(
    room: "Room",
    message: "Sendable",
    *,
    exclude: "Connection | None" = None,
    ephemeral: bool = False,
    key: str | None = None,
    timeout: float | None = TIMEOUT,
) -> "Position":
    """Publish to all members of a room, or with ``hub.user(...)`` to a user; return the message's position.

    >>> publish(chat(name="lobby"), Say(text="hi"))

    It may be called from any thread: a view, a signal's receiver, a plain handler. Where the hub runs in
    this process, it publishes; elsewhere, as under WSGI or in a command, a connection to the broker does,
    which has to be one that processes share. The options are those of :meth:`hubbub.Room.send`.

    Raises what :meth:`hubbub.Room.send` and :meth:`hubbub.Publisher.send` raise, and :exc:`TimeoutError`
    after `timeout` seconds: it may have been published all the same. Asynchronous code calls
    :func:`apublish`; :exc:`RuntimeError` if it does not, since it would wait for itself.
    """
    loop = the_hub().loop
    if loop is None:
        _check_exclude(exclude)
        return _publish_elsewhere(room, message, ephemeral=ephemeral, key=key, timeout=timeout)
    if _running_loop() is loop:
        raise RuntimeError("publish() waits, and would hold up the hub: await apublish() here.")

    async def bounded() -> "Position":
        async with asyncio.timeout(timeout):
            return await room.send(message, exclude=exclude, ephemeral=ephemeral, key=key)

    future = asyncio.run_coroutine_threadsafe(bounded(), loop)
    try:
        return future.result()
    except CancelledError:
        raise Unavailable("The hub stopped meanwhile; it may have been published all the same.") from None
    except BaseException:
        future.cancel()  # an interrupt of this thread ends it there, too
        raise


async def apublish(
    room: "Room",
    message: "Sendable",
    *,
    exclude: "Connection | None" = None,
    ephemeral: bool = False,
    key: str | None = None,
) -> "Position":
    """Publish as :func:`publish` does, from asynchronous code on any event loop."""
    loop = the_hub().loop
    if loop is None:
        _check_exclude(exclude)
        return await asyncio.to_thread(
            _publish_elsewhere, room, message, ephemeral=ephemeral, key=key, timeout=TIMEOUT
        )
    sending = room.send(message, exclude=exclude, ephemeral=ephemeral, key=key)
    if asyncio.get_running_loop() is loop:
        return await sending
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sending, loop))


def publish_on_commit(
    room: "Room",
    message: "Sendable",
    *,
    ephemeral: bool = False,
    key: str | None = None,
    using: str | None = None,
    robust: bool = False,
) -> None:
    """Publish once the transaction on the database `using` is committed; at once if there is none.

    Nobody is told of what is rolled back. With `robust`, a failure to publish is logged, and not raised where
    the transaction ends.
    """
    call = functools.partial(publish, room, message, ephemeral=ephemeral, key=key)
    transaction.on_commit(call, using=using, robust=robust)


def _publish_elsewhere(
    room: "Room", message: "Sendable", *, ephemeral: bool, key: str | None, timeout: float | None
) -> "Position":
    publisher = connected_publisher()
    inbox = inbox_of("")
    if room.name.startswith(inbox):
        user = room.name.removeprefix(inbox)
        return publisher.user(user, message, ephemeral=ephemeral, timeout=timeout)
    return publisher.send(room.name, message, ephemeral=ephemeral, key=key, timeout=timeout)


@functools.cache
def connected_publisher() -> sync.Publisher:
    """Return this process's publisher, for where no hub runs; it closes itself as the process ends."""
    hub = the_hub()
    if hub.problems:
        raise ConfigurationError(" ".join(hub.problems))
    return sync.Publisher(rooms=hub)


def _check_exclude(exclude: "Connection | None") -> None:
    if exclude is not None:
        raise ConfigurationError("There are no connections in this process; leave exclude out.")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
