"""One client of a soak: it is in some rooms, receives all of them, and publishes there."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from ..client import Backoff, Client, Gap, Received, Refused, Room, State, connect
from ..client.speaking import enveloped
from ..errors import ReconnectFailed, RequestFailed, Unacknowledged
from ..protocol.envelope import Position
from .judgement import Past
from .ledger import Breach, Fate, Ledger, RoomRecord, View
from .note import Note
from .recovery import Recoveries

BACKOFF = Backoff((0.0, 0.1, 0.25, 0.5, 1.0), endless=True)
"""Faster than what clients do by default: the soak is there to see them come back."""
OPENS_WITHIN = 3.0
"""Seconds after which a connection that nobody answers is given up."""
PAGE = 1000
"""Messages of history that are asked for at once."""


class Participant:
    """A client, number `number` in the ledger. `witness` sees the number of each message that it is shown."""

    def __init__(self, number: int, client: Client, ledger: Ledger, recoveries: Recoveries) -> None:
        self.number = number
        self.client = client
        self.witness: Witness | None = None
        self._ledger = ledger
        self._recoveries = recoveries
        self._views: dict[str, View] = {}
        self._rooms: list[tuple[RoomRecord, Room]] = []
        self._under_way: set[int] = set()

    async def join(self, names: Sequence[str]) -> None:
        """Join rooms, before anything is published there."""
        for name in names:
            room = await self.client.join(name)
            record = self._ledger.room(name)
            self._views[name] = record.view(self.number, room.position)
            self._rooms.append((record, room))

    async def receive(self) -> None:
        """Note all that comes, until the client is closed."""
        views, breaches = self._views, self._ledger.breaches
        try:
            async for event in self.client:
                if type(event) is Received and event.room is not None and event.offset is not None:
                    assert isinstance(event.message, Note)
                    number = event.message.number
                    views[event.room].received(event.offset, number)
                    if self.witness is not None:
                        self.witness.shown(number)
                elif isinstance(event, Gap) and event.room is not None and event.position is not None:
                    views[event.room].gap(event.position)
                elif isinstance(event, Refused):
                    breaches.add(
                        Breach.HUNG, f"{event.room}: client {self.number} was not let in again: {event.error}"
                    )
        except ReconnectFailed as problem:
            breaches.add(Breach.HUNG, f"Client {self.number} did not come back: {problem}")

    async def watch(self) -> None:
        """Note when the line is lost, and when there is one again."""
        opened = True
        async for change in self.client.states():
            if change.state is State.OPEN:
                opened = True
                self._recoveries.back(self.number, self.views)
            elif opened and change.state is State.WAITING:
                opened = False
                self._recoveries.line_lost(self.number)
                if self._ledger.fails:
                    self._ledger.unordered |= self._under_way

    def begin(self, room_number: int) -> tuple[int, Coroutine[object, object, bool]]:
        """Draw up a message to one of its rooms: return the message's number, and what publishes it.

        That is to be run at once, before the next one is drawn up. It tells whether the client can go on.
        """
        record, room = self._rooms[room_number]
        number = self._ledger.published(record, self.number)
        return number, self._publish(number, room)

    async def _publish(self, number: int, room: Room) -> bool:
        ledger = self._ledger
        self._under_way.add(number)
        try:
            position = await _request(
                room, Note(number, ledger.excluding), put_off=lambda: ledger.put_off.add(number)
            )
        except Unacknowledged:
            self._ledger.failed(number, Fate.UNACKNOWLEDGED)
        except RequestFailed:
            self._ledger.failed(number, Fate.REFUSED)
        except ReconnectFailed:
            self._ledger.failed(number, Fate.UNACKNOWLEDGED)
            return False  # it has stopped; `receive` notes why
        else:
            self._ledger.acknowledged(number, position)
        finally:
            self._under_way.discard(number)
        return True

    @property
    def views(self) -> list[View]:
        """What it was shown, of each of its rooms."""
        return list(self._views.values())

    @property
    def at_end(self) -> bool:
        """Whether it was shown all that anybody was."""
        return all(view.at_end() for view in self._views.values())

    @property
    def open(self) -> bool:
        """Whether it is on the line."""
        return self.client.state.state is State.OPEN


class Witness:
    """Waits until messages are shown to somebody."""

    def __init__(self) -> None:
        self._awaited: dict[int, asyncio.Event] = {}

    def shown(self, number: int) -> None:
        """Note that a message was shown."""
        if self._awaited and (event := self._awaited.get(number)) is not None:
            event.set()

    async def until_shown(self, number: int) -> None:
        """Wait until the message is shown from now on."""
        event = self._awaited[number] = asyncio.Event()
        try:
            await event.wait()
        finally:
            del self._awaited[number]


async def _request(room: Room, note: Note, *, put_off: Callable[[], None]) -> Position:
    """Send a note and return its position, as :meth:`hubbub.client.Room.request` does.

    The client sends it again where the server says that it may. `put_off` is called afterwards if it did.
    """
    session = room._session
    tongue = session.spoken()
    request = session.request(enveloped(note, room.name), lambda answer: tongue.reply(answer, Position))
    try:
        position = await session.ask(request)
    finally:
        if request.failure is not None:
            put_off()
    assert isinstance(position, Position)
    return position


def connected(url: str) -> Client:
    """Return a client as its users have it. It connects as it is entered."""
    return connect(
        url, messages=[Note], backoff=BACKOFF, proxy=None, compression=None, open_timeout=OPENS_WITHIN
    )


async def past_of(client: Client, name: str) -> Past:
    """Return all that the server keeps of a room, and the room's newest position."""
    room = await client.join(name)
    messages: list[tuple[int, int]] = []
    position = Position(room.position.epoch, 0)
    while True:
        page = await room.history(position, PAGE)
        for received in page.messages:
            assert isinstance(received.message, Note)
            assert received.offset is not None
            messages.append((received.offset, received.message.number))
        if not page.messages:
            break
        position = page.position
    await room.leave()
    return Past(position, messages)
