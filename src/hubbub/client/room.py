"""A room that the client is in."""

from typing import TypeVar, overload

from msgspec import UNSET, Struct

from ..protocol.envelope import Member, Members, Position, Since
from ..protocol.messages import Sendable
from .events import Received, Refused, RoomEvent
from .rooms import Membership
from .session import Session
from .speaking import ask, tell
from .wire import Arrived

Reply = TypeVar("Reply")


class _Page(Struct, frozen=True):
    epoch: str
    offset: int
    complete: bool
    messages: list[Arrived]


class History(Struct, frozen=True):
    """Messages that a room keeps, in order, up to `position`.

    `complete` is false where some between the position that was asked for and the first of these are no
    longer kept.
    """

    messages: list[Received]
    position: Position
    complete: bool


class Room:
    """One room. Iteration yields its events, in order, without gap or repeat, also across reconnects.

    What can't be made up for is yielded as a :class:`Gap`. Iteration ends when the room is left or the
    client is closed. It raises :exc:`RequestFailed` if the server lets the client in no more, and
    :exc:`ReconnectFailed` if the client has stopped trying to come back.
    """

    def __init__(self, session: Session, membership: Membership) -> None:
        self._session = session
        self._membership = membership

    @property
    def name(self) -> str:
        """Its name."""
        return self._membership.name

    @property
    def position(self) -> Position:
        """The position of the last event that iteration yielded: where to join later to go on from there."""
        position = self._membership.position
        assert position is not None
        return position

    async def send(self, message: Sendable, *, acknowledged: bool = True) -> None:
        """Send a message to the room; return when the server has acknowledged it.

        A lost line does not matter: the message is sent again on the next one, and carried out once. While
        the server can't reach its broker, it is sent again and again, for as long as the server would know
        it again: 5 minutes by default. Raises :exc:`RequestFailed` if the server refuses it,
        :exc:`OutboxFull` if too many wait already, and
        :exc:`Unacknowledged` if it can't be known whether it was carried out.

        With `acknowledged` false it is sent once at the most, and dropped while there is no connection: for
        what is soon outdated, such as who is typing.
        """
        if acknowledged:
            await ask(self._session, message, None, room=self.name)
        else:
            await tell(self._session, message, room=self.name)

    @overload
    async def request(self, message: Sendable) -> object: ...
    @overload
    async def request(self, message: Sendable, reply: type[Reply]) -> Reply: ...
    async def request(self, message: Sendable, reply: type[Reply] | None = None) -> Reply | object:
        """Send a message to the room; return what its handler replied, as `reply` or as plain data.

        Raises what :meth:`send` raises, and :exc:`InvalidMessage` if the reply is no `reply`.
        """
        return await ask(self._session, message, reply, room=self.name)

    async def history(self, since: Position | None = None, limit: int = 100) -> History:
        """Return messages that the room keeps: the first ones after `since`, or the newest.

        It is the room's record: it also has what this client was excluded from. `limit` is 1 to 1000.
        """
        tongue = self._session.spoken()

        def accept(answer: Arrived) -> History:
            page = tongue.data(answer, _Page)
            received = [
                Received(self.name, tongue.message(arrived), arrived.type, arrived.sender, arrived.offset)
                for arrived in page.messages
            ]
            return History(received, Position(page.epoch, page.offset), page.complete)

        history = await self._session.control("$history", self.name, Since(since, limit), accept)
        assert isinstance(history, History)
        return history

    async def members(self) -> list[Member]:
        """Return who is in the room; :exc:`RequestFailed` if it does not show that."""
        tongue = self._session.spoken()
        answer = await self._session.control(
            "$presence", self.name, UNSET, lambda answer: tongue.data(answer, Members)
        )
        assert isinstance(answer, Members)
        return answer.members

    async def leave(self) -> None:
        """Leave the room; iteration over it ends at once."""
        await self._session.leave(self._membership)

    def __aiter__(self) -> "Room":
        return self

    async def __anext__(self) -> RoomEvent:
        event = await self._membership.take()
        if isinstance(event, Refused):
            raise event.error
        assert not isinstance(event, str | bytes)
        return event
