"""What was published, acknowledged and received by whom, kept so cheaply that it can go on for hours.

Messages are numbered by the ledger. What a room holds is kept once, and what a member was shown of it only
where it is not simply the next message: a receipt is a comparison of two integers, most of the time.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum, StrEnum

from ..protocol.envelope import Position

UNKNOWN = -1
"""Stands in a log for an offset that nobody was shown."""
MOST_TOLD = 50
"""Breaches that are told with all their particulars; the others are counted."""


class Fate(IntEnum):
    """What became of a message, as its publisher knows."""

    SENT = 0
    ACKNOWLEDGED = 1
    UNACKNOWLEDGED = 2
    """The client said that it can't know."""
    REFUSED = 3
    """The server answered with an error."""


class Breach(StrEnum):
    """A way in which the promise can be broken."""

    LOST = "lost"
    """A member was not shown a message, and was not told of a gap; or history does not have it."""
    DOUBLED = "doubled"
    """A message stands in its room twice, or a member was shown it twice."""
    REORDERED = "out of order"
    """Two members were shown another order, or a publisher's messages not in the order it sent them."""
    STRAY = "stray"
    """A message stands in a room that it was not sent to, or nobody has sent it."""
    RETURNED = "returned"
    """A publisher was shown a message that it was excluded from."""
    HUNG = "hung"
    """A client did not come back, a request was never answered, or a server ended by itself."""
    FORGOTTEN = "forgotten"
    """A member was told of a gap, although the broker should have kept what was in it."""
    DROPPED = "dropped"
    """A client lost its line although nothing but the broker was troubled."""


class Breaches:
    """What was found, counted, the first ones with their particulars."""

    def __init__(self) -> None:
        self.counts: Counter[Breach] = Counter()
        self.told: list[str] = []

    def add(self, breach: Breach, told: str, times: int = 1) -> None:
        """Note a breach; `told` says in a sentence where."""
        self.counts[breach] += times
        if len(self.told) < MOST_TOLD:
            self.told.append(told)


class Log:
    """One epoch of a room: the number of the message at each offset, as whoever heard of it first says."""

    __slots__ = ("epoch", "numbers", "place")

    def __init__(self, epoch: str, place: int) -> None:
        self.epoch = epoch
        self.place = place
        """Its number among the epochs of the room, from 0 on."""
        self.numbers = array("q", [UNKNOWN])
        """By offset; offsets begin with 1."""

    @property
    def end(self) -> int:
        """The newest offset that anybody has heard of."""
        return len(self.numbers) - 1

    def agrees(self, offset: int, number: int) -> bool:
        """Note the message at an offset; tell whether it is the one that others were shown there."""
        numbers = self.numbers
        if offset == len(numbers):
            numbers.append(number)
            return True
        if offset > len(numbers):
            numbers.extend([UNKNOWN] * (offset - len(numbers)))
            numbers.append(number)
            return True
        if numbers[offset] == UNKNOWN:
            numbers[offset] = number
        return numbers[offset] == number


class Stay:
    """What a member was shown of one epoch of a room: all after `since` up to `last`, but for the holes."""

    __slots__ = ("holes", "last", "log", "since", "told")

    def __init__(self, log: Log, since: int) -> None:
        self.log = log
        self.since = self.last = since
        self.holes: list[tuple[int, int]] = []
        """First and last offset of what it was not shown."""
        self.told: list[tuple[int, int]] = []
        """First and last offset of what it was told it would not be shown."""


class View:
    """What one client was shown of one room. Positions must be given as they come."""

    __slots__ = ("_log", "client", "last", "record", "stays")

    def __init__(self, record: "RoomRecord", client: int, since: Position) -> None:
        self.record = record
        self.client = client
        self.stays: list[Stay] = []
        self.last = since.offset
        self._enter(since)

    def received(self, offset: int, number: int) -> None:
        """Note that the client was shown a message."""
        if offset != self.last + 1 and not self._jumped(offset, number):
            return
        self.last = offset
        if not self._log.agrees(offset, number):
            self._disagree(offset, number)

    def gap(self, position: Position) -> None:
        """Note that the client was told of a gap, after which messages follow from `position` on."""
        stay = self._close()
        if position.epoch != stay.log.epoch:
            self._enter(position)
        elif position.offset > self.last:
            stay.told.append((self.last + 1, position.offset))
            self.last = stay.last = position.offset

    def finished(self) -> list[Stay]:
        """Return the stays, as far as they have come."""
        self._close()
        return self.stays

    def at_end(self) -> bool:
        """Tell whether it was shown all that is there, in the newest epoch: all but what is its own."""
        log = self.record.newest
        return log is self._log and self.reached(log, log.end)

    def reached(self, log: Log, offset: int) -> bool:
        """Tell whether it was shown a log up to an offset, or was told that it would not be."""
        if log is not self._log:
            return log.place < self._log.place
        while offset > self.last and self.record.keeps_from(self.client, log.numbers[offset]):
            offset -= 1
        return offset <= self.last

    def _enter(self, position: Position) -> None:
        self._log = self.record.log(position.epoch)
        self.stays.append(Stay(self._log, position.offset))
        self.last = position.offset

    def _close(self) -> Stay:
        stay = self.stays[-1]
        stay.last = self.last
        return stay

    def _jumped(self, offset: int, number: int) -> bool:
        """Note a hole, if messages were left out; tell whether this message goes on after it."""
        stay = self.stays[-1]
        if offset > self.last:
            stay.holes.append((self.last + 1, offset - 1))
            return True
        where = f"{self.record.name}: client {self.client} was shown message {number} at offset {offset}"
        for place, (first, last) in enumerate(stay.holes):
            if first <= offset <= last:
                stay.holes[place : place + 1] = [
                    part for part in ((first, offset - 1), (offset + 1, last)) if part[0] <= part[1]
                ]
                self.record.breaches.add(Breach.REORDERED, f"{where} after offset {self.last}.")
                break
        else:
            self.record.breaches.add(Breach.DOUBLED, f"{where} again, after offset {self.last}.")
        if not self._log.agrees(offset, number):
            self._disagree(offset, number)
        return False

    def _disagree(self, offset: int, number: int) -> None:
        self.record.breaches.add(
            Breach.REORDERED,
            f"{self.record.name}: client {self.client} was shown message {number} at offset {offset}, others "
            f"{self._log.numbers[offset]}.",
        )


class RoomRecord:
    """One room: its epochs in the order in which they came, and its members' views."""

    def __init__(
        self, name: str, place: int, publishers: Sequence[int], breaches: Breaches, *, excluding: bool
    ) -> None:
        self.name = name
        self.place = place
        """Its number among all rooms, from 0 on."""
        self._publishers = publishers
        self.excluding = excluding
        self.breaches = breaches
        self.logs: dict[str, Log] = {}
        self.views: list[View] = []

    def log(self, epoch: str) -> Log:
        """Return the log of an epoch, a new one if it was not heard of before."""
        if (log := self.logs.get(epoch)) is None:
            log = self.logs[epoch] = Log(epoch, len(self.logs))
        return log

    @property
    def newest(self) -> Log:
        """The epoch that came last."""
        return self.logs[next(reversed(self.logs))]

    def keeps_from(self, client: int, number: int) -> bool:
        """Tell whether a client is not to be shown a message, since it is its own."""
        return self.excluding and 0 <= number < len(self._publishers) and self._publishers[number] == client

    def view(self, client: int, since: Position) -> View:
        """Begin the view of a client that is a member from `since` on."""
        view = View(self, client, since)
        self.views.append(view)
        return view


class Ledger:
    """All of it. `excluding` is whether publishers are not shown their own messages.

    `fails` is whether the server may say to send messages again, since its broker goes away.
    """

    def __init__(self, *, excluding: bool = False, fails: bool = False) -> None:
        self.excluding = excluding
        self.fails = fails
        self.breaches = Breaches()
        self.rooms: dict[str, RoomRecord] = {}
        self.publishers = array("l")
        """The client that published each message, by number."""
        self.fates = bytearray()
        """What became of each message, by number: a :class:`Fate`."""
        self.put_off: set[int] = set()
        """Messages that the server said to send again, so that they need not come in their order."""
        self.unordered: set[int] = set()
        """Messages of which that may have been said on a line that was lost."""
        self._rooms: list[RoomRecord] = []
        self._places = array("l")
        """The room of each message, by number."""

    def __len__(self) -> int:
        """Return how many messages were published."""
        return len(self.publishers)

    def room(self, name: str) -> RoomRecord:
        """Return the record of a room, a new one if it was not heard of before."""
        if (record := self.rooms.get(name)) is None:
            record = self.rooms[name] = RoomRecord(
                name, len(self._rooms), self.publishers, self.breaches, excluding=self.excluding
            )
            self._rooms.append(record)
        return record

    def published(self, record: RoomRecord, client: int) -> int:
        """Note that a client sends a message to a room; return the message's number."""
        self.publishers.append(client)
        self.fates.append(Fate.SENT)
        self._places.append(record.place)
        return len(self.publishers) - 1

    def acknowledged(self, number: int, position: Position) -> None:
        """Note that a message was acknowledged, as one that stands at a position."""
        self.fates[number] = Fate.ACKNOWLEDGED
        record = self._rooms[self._places[number]]
        log = record.log(position.epoch)
        if not log.agrees(position.offset, number):
            self.breaches.add(
                Breach.REORDERED,
                f"{record.name}: message {number} was acknowledged as offset {position.offset}, members were "
                f"shown {log.numbers[position.offset]} there.",
            )

    def sent_to(self, record: RoomRecord, number: int) -> bool:
        """Tell whether a message was sent to a room."""
        return 0 <= number < len(self) and self._places[number] == record.place

    def failed(self, number: int, fate: Fate) -> None:
        """Note that a message was not acknowledged, and why."""
        self.fates[number] = fate

    def forgotten(self, placed: Sequence[int]) -> "Counter[tuple[RoomRecord, int]]":
        """Count the messages of which neither their publisher nor anybody else knows whether they are there,
        by room and publisher. `placed` is whether each message is known to be there.
        """
        found: Counter[tuple[RoomRecord, int]] = Counter()
        for number, fate in enumerate(self.fates):
            if not placed[number] and fate != Fate.ACKNOWLEDGED:
                found[self._rooms[self._places[number]], self.publishers[number]] += 1
        return found
