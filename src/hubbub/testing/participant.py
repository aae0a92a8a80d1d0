"""A client in the hands of a test: it waits for what should arrive, and says what did arrive instead."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar, cast

import msgspec
from msgspec import UNSET

from ..client import Backoff, Client, Event, Gap, Joined, Left, Received, Refused, Room, State
from ..client.backoff import Waits
from ..client.returning import Token
from ..errors import ClientError, RequestFailed
from ..protocol.codecs import MESSAGEPACK, pack
from ..protocol.messages import schema_of, wire_type_of
from .clock import within
from .tap import Tap

MOST_KEPT = 10_000
"""Events that may have arrived before the one that a test waits for."""

SHOWN = 20
"""Events that a failure lists, the last ones."""

EVENTS = (Received, Gap, Joined, Left, Refused)

Kind = TypeVar("Kind")


class Participant(Client):
    """A real client, with what a test asks beside: to wait for messages, and to lose the line.

    What arrives is kept until the test receives it: one that waits for a message passes over others that came
    before it, and they can still be received after it. Time-outs are seconds of real time, whatever a test
    clock says.
    """

    def __init__(
        self,
        tap: Tap,
        *,
        token: Token = None,
        messages: Sequence[type] = (),
        backoff: Waits = Backoff(),  # noqa: B008  # it can't be changed
        outbox: int = 1000,
        inbox: int = 1000,
    ) -> None:
        super().__init__(
            tap.dial, token=token, messages=messages, backoff=backoff, outbox=outbox, inbox=inbox
        )
        self._tap = tap
        self._kept: deque[Event] = deque()

    # What arrives

    async def receive(
        self, kind: type[Kind], room: str | Room | None = None, *, timeout: float = 1.0
    ) -> Kind:
        """Return the first message of a class that arrived and was not received yet, or wait for it.

        `kind` may be an event's class too: `Joined`, `Left`, `Gap`, `Refused`, or `Received` for a message of
        any class; from a server that is no hubbub it is `str` or `bytes`. `room` is where it has to come
        from; None is anywhere.

        Raises :exc:`AssertionError` after `timeout` seconds, with what did arrive, the client's state and the
        last lines on the wire.
        """
        event = await self._receive(kind, room, timeout)
        if isinstance(event, kind):
            return event
        assert isinstance(event, Received)
        if isinstance(event.message, kind):
            return event.message
        # The client was not given the class among its `messages`.
        return cast(Kind, schema_of(kind).decode(msgspec.Raw(pack(event.message)), MESSAGEPACK))

    async def receive_event(
        self, kind: type[object], room: str | Room | None = None, *, timeout: float = 1.0
    ) -> Received:
        """As :meth:`receive` of a message, but return the event, which has its room, offset and sender."""
        event = await self._receive(kind, room, timeout)
        if not isinstance(event, Received):
            raise TypeError(f"{kind.__name__} is no message's class; `receive` returns the event itself.")
        return event

    async def _receive(self, kind: type[object], room: str | Room | None, timeout: float) -> Event:
        name = room.name if isinstance(room, Room) else room
        for event in self._kept:
            if _is(event, kind, name):
                self._kept.remove(event)
                return event
        wanted = kind.__name__ if name is None else f"{kind.__name__} from {name}"
        try:
            async with within(timeout):
                while not _is(event := await self._next(), kind, name):
                    self._kept.append(event)
                return event
        except TimeoutError:
            raise AssertionError(self.told(f"No {wanted} arrived within {timeout:g} s.")) from None
        except ClientError as problem:
            raise AssertionError(self.told(f"No {wanted} arrived: {problem}")) from problem

    async def arrived(self, *, timeout: float = 1.0) -> list[Event]:
        """Return all that has arrived and was not received yet, in order, after a word with the server.

        What the server had sent to this client when it was asked is in it, however long it takes. So it can
        tell that something did not arrive: ``assert await ada.arrived() == []``.
        """
        try:
            async with within(timeout):
                # Any answer will do, a refusal too: it comes behind all that was sent before.
                with suppress(RequestFailed):
                    await self._session.control("$session", None, UNSET, lambda _: None)
        except TimeoutError:
            raise AssertionError(self.told(f"The server did not answer within {timeout:g} s.")) from None
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                while True:
                    self._kept.append(await self._next())
        events = list(self._kept)
        self._kept.clear()
        return events

    async def _next(self) -> Event:
        if len(self._kept) >= MOST_KEPT:
            raise ClientError(f"{MOST_KEPT} other events arrived, and the test received none of them.")
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise ClientError("the client is closed.") from None

    # What becomes of the line

    async def until(self, *states: State, timeout: float = 5.0) -> None:
        """Wait until the client is in one of these states; :exc:`AssertionError` after `timeout` seconds."""
        wanted = " or ".join(state.value for state in states)
        with suppress(TimeoutError):
            async with within(timeout):
                async for change in self.states():
                    if change.state in states:
                        return
        raise AssertionError(self.told(f"The client was not {wanted} within {timeout:g} s."))

    def cut(self) -> None:
        """Lose the line now, with all that is on its way in both directions; the client comes back by itself.

        Raises :exc:`RuntimeError` if the line is no in-process one: there, a fault proxy does it.
        """
        self._tap.line.cut()

    def stall(self) -> None:
        """Let nothing more through on this line, either way, and tell neither side: it is dead, or half open.

        Raises as :meth:`cut` does.
        """
        self._tap.line.stall()

    @asynccontextmanager
    async def away(self, *, timeout: float = 5.0) -> AsyncIterator[None]:
        """Have no network while the body runs; then wait until the client is back, `timeout` at the most."""
        self._tap.reachable.clear()
        self.cut()
        try:
            await self.until(State.CONNECTING, State.WAITING, State.CLOSED, timeout=timeout)
            yield
        finally:
            self._tap.reachable.set()
        await self.until(State.OPEN, timeout=timeout)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Have every attempt to connect fail while the body runs; the line is cut first."""
        self._tap.refusing = True
        self.cut()
        try:
            yield
        finally:
            self._tap.refusing = False

    @property
    def wire(self) -> list[str]:
        """The last lines on the wire: ``→`` from the client, ``←`` from the server."""
        return list(self._tap.lines)

    def told(self, problem: str) -> str:
        """Return a problem with all that helps to understand it."""
        others = [f"  {event!r}" for event in self._kept][-SHOWN:] or ["  nothing"]
        state = self.state
        why = f" ({state.code or ''} {state.reason})" if state.reason or state.code else ""
        lines = [f"  {line}" for line in self.wire] or ["  nothing"]
        return "\n".join(
            [
                problem,
                "What arrived and was not received:",
                *others,
                f"The client is {state.state.value}{why}, {_named(self.user)}.",
                "Last on the wire:",
                *lines,
            ]
        )


def _named(user: str | None) -> str:
    return "a guest" if user is None else f"logged in as {user}"


def _is(event: Event, kind: type[object], room: str | None) -> bool:
    if room is not None and (isinstance(event, str | bytes) or event.room != room):
        return False
    if isinstance(event, kind):
        return True
    if not isinstance(event, Received) or kind in EVENTS or kind in (str, bytes):
        return False
    return event.type == wire_type_of(kind)
