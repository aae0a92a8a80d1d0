"""Rooms: what a pattern declares, and the handle through which the application sends to one room."""

from typing import TYPE_CHECKING, TypeVar, get_args

from ..brokers.base import Retention
from ..errors import CollisionError, ConfigurationError
from ..protocol.codes import ErrorCode
from ..protocol.envelope import Envelope, Failure, Member, Position
from ..protocol.messages import Sendable
from ..protocol.publications import check_key
from .bans import LONGEST_BAN
from .callback import CONNECTION, ROOM, Callback, Function
from .connection import Connection
from .held import Slow
from .pattern import Pattern
from .router import Router

if TYPE_CHECKING:
    from .hub import Hub

AnyFunction = TypeVar("AnyFunction", bound=Function)


MAX_REASON = 1000
"""Characters that the reason for a kick or a ban may have."""


def _failure(code: ErrorCode, reason: str) -> Failure:
    if len(reason) > MAX_REASON:
        raise ValueError(f"A reason has up to {MAX_REASON} characters, not {len(reason)}.")
    return Failure(code, reason, retry=False)


class Room:
    """One room.

    >>> await chat(name="lobby").send(Say(text="hi"))
    """

    __slots__ = ("_hub", "_sender", "name", "rooms")

    def __init__(self, hub: "Hub", rooms: "Rooms", name: str, sender: Connection | None = None) -> None:
        self._hub = hub
        self._sender = sender
        self.rooms = rooms
        """The pattern it is of."""
        self.name = name

    def __repr__(self) -> str:
        return f"<Room {self.name!r}>"

    async def send(
        self,
        message: Sendable,
        *,
        exclude: Connection | None = None,
        ephemeral: bool = False,
        key: str | None = None,
    ) -> Position:
        """Publish to all members, on every instance; return the message's position.

        `exclude` is a connection whose session doesn't get it, now or in a replay. With `ephemeral` it
        reaches who is there now and leaves no trace: for cursors and typing. In a room that conflates, a
        member that reads too slowly is sent only the newest of the messages with the same `key`. In a
        handler, members see the handler's connection as the sender.

        Raises :exc:`TypeError` for what is no message, :exc:`ConfigurationError` for a `key` in rooms that
        were not declared with ``slow="conflate"``, :exc:`ValueError` for one that is not 1 to 128
        characters long, :exc:`hubbub.Unavailable` if the broker can't be reached.
        """
        if key is not None:
            self.rooms.check_key(key)
        return await self._hub.publish(
            self.name,
            message,
            sender=self._sender,
            exclude=exclude,
            keep=None if ephemeral else self.rooms.retention,
            conflation_key=key,
        )

    async def members(self) -> list[Member]:
        """Return who is in the room, on any instance: each user once.

        Raises :exc:`ConfigurationError` if its pattern was not declared with ``presence=True``.
        """
        if not self.rooms.presence:
            raise ConfigurationError(
                f"Who is in {self.name!r} is not kept: declare "
                f"hub.room({self.rooms.pattern.text!r}, presence=True)."
            )
        return await self._hub.running.presence.members(self.name)

    async def kick(self, user: str, *, reason: str = "You were taken out of the room.") -> int | None:
        """Take a user out of the room, on all their connections and every instance.

        `user` is a user's id or a guest's name, as others are shown it. Their clients are told `reason`, up
        to 1000 characters; the leave hook runs. They can join again, if the join hook lets them.

        Returns on how many connections they were in the room or about to join it; None if that is not known,
        as an instance did not answer within 2 s, and perhaps was not reached. Raises
        :exc:`hubbub.Unavailable` if the broker can't be reached; on this instance they are out then.
        """
        return await self._hub.running.users.kick(self._common(), user, _failure(ErrorCode.KICKED, reason))

    async def ban(
        self, user: str, *, seconds: float, reason: str = "You are banned from the room."
    ) -> int | None:
        """Kick a user, and let them join no more for some seconds, a year at most.

        A guest is banned for as long as their session goes on; who begins another is another guest. The ban
        outlives a restart where the broker keeps history. Another ban takes its place.

        Returns and raises as :meth:`kick` does, and :exc:`ConfigurationError` in rooms that were not declared
        with ``bans=True``.
        """
        failure = _failure(ErrorCode.BANNED, reason)
        if not 0 < seconds <= LONGEST_BAN:
            raise ValueError(f"A ban lasts more than 0 s and up to {LONGEST_BAN:g} s, not {seconds:g} s.")
        self._check_bans()
        running = self._hub.running
        # In this order: whoever joins meanwhile finds the ban, or is found and kicked.
        await running.bans.set(self._common(), user, seconds, reason)
        return await running.users.kick(self._common(), user, failure)

    async def unban(self, user: str) -> None:
        """End a user's ban; nothing if there is none. Raises as :meth:`ban` does."""
        self._check_bans()
        await self._hub.running.bans.lift(self._common(), user)

    def _check_bans(self) -> None:
        if not self.rooms.bans:
            raise ConfigurationError(
                f"Nobody can be banned from {self.name!r}: declare "
                f"hub.room({self.rooms.pattern.text!r}, bans=True)."
            )

    def _common(self) -> str:
        """Return the name; :exc:`ConfigurationError` if it is an inbox, which is one user's own."""
        if self.name.startswith("$"):
            raise ConfigurationError("Nobody can be taken out of an inbox.")
        return self.name

    async def history(self, since: Position | None = None, limit: int = 100) -> list[Envelope]:
        """Return up to `limit` kept messages: those after `since`, or the newest ones, in order."""
        page = await self._hub.history(self.name, since, limit)
        return page.messages


class Rooms:
    """All rooms whose name is of one pattern. Made by :meth:`hubbub.Hubbub.room`."""

    def __init__(
        self,
        hub: "Hub",
        pattern: str,
        *,
        history: int,
        history_age: float,
        presence: bool,
        place: str,
        slow: Slow = "disconnect",
        bans: bool = False,
    ) -> None:
        if history < 0 or history_age <= 0:
            raise ConfigurationError(
                f"The rooms {pattern!r}: history is a number of messages, at least 0; history_age is "
                "seconds, more than 0."
            )
        if slow not in get_args(Slow):
            raise ConfigurationError(
                f"The rooms {pattern!r}: slow is one of {', '.join(map(repr, get_args(Slow)))}, not {slow!r}."
            )
        self._hub = hub
        self.pattern = Pattern(pattern)
        self.retention = Retention(history, history_age)
        self.presence = presence
        self.bans = bans
        self.slow: Slow = slow
        self.place = place
        self.router = Router(
            f"the rooms {pattern!r}", {Connection: CONNECTION, Room: ROOM}, self.pattern.names
        )
        self.join_hook: Callback | None = None
        self.leave_hook: Callback | None = None

    def __repr__(self) -> str:
        return f"<Rooms {self.pattern.text!r}>"

    def __call__(self, **names: str | int) -> Room:
        """Return the room with these named parts; :exc:`ValueError` if they don't fit the pattern."""
        return Room(self._hub, self, self.pattern.fill({name: str(value) for name, value in names.items()}))

    def check_key(self, key: str) -> None:
        """Raise what :meth:`Room.send` raises for a key that can't be."""
        if self.slow != "conflate":
            raise ConfigurationError(
                f"A key conflates messages for slow readers, which {self.pattern.text!r} does not: declare "
                f'hub.room({self.pattern.text!r}, slow="conflate").'
            )
        check_key(key)

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return the values of the pattern's named parts, or None if `name` is no such room.

        A part that a handler or hook wants as a number, say, has to be one.
        """
        values = self.pattern.match(name)
        callbacks = [handler.callback for handler in self.router.handlers.values()]
        callbacks += [hook for hook in (self.join_hook, self.leave_hook) if hook is not None]
        if values is None or not all(callback.fits(values) for callback in callbacks):
            return None
        return values

    def on_message(self, handler: AnyFunction) -> AnyFunction:
        """Handle messages to these rooms, of the class that one parameter is annotated with.

        The handler may also take a :class:`Connection`, a :class:`Room` and the parts of the room's name
        by their names. What it returns is the reply. A plain `def` runs in a thread.
        """
        self.router.add(handler)
        return handler

    def on_join(self, hook: AnyFunction) -> AnyFunction:
        """Call it before a client joins; raise :exc:`hubbub.Denied` in it to refuse."""
        self.join_hook = self._hook(hook, self.join_hook, "on_join")
        return hook

    def on_leave(self, hook: AnyFunction) -> AnyFunction:
        """Call it after a client left, whether it asked to or its connection ended."""
        self.leave_hook = self._hook(hook, self.leave_hook, "on_leave")
        return hook

    def _hook(self, hook: Function, present: Callback | None, kind: str) -> Callback:
        callback = Callback(hook, {Connection: CONNECTION, Room: ROOM}, self.pattern.names)
        if present is not None:
            raise CollisionError(
                f"The rooms {self.pattern.text!r} have two {kind} hooks: {present.place} and "
                f"{callback.place}. Make it one."
            )
        return callback
