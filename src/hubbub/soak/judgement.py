"""The end of a soak: whether what every client was shown is what hubbub promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..protocol.envelope import Position
from .ledger import UNKNOWN, Breach, Breaches, Fate, Ledger, Log, RoomRecord, Stay, View


@dataclass(frozen=True)
class Past:
    """A room's history as the server tells it at the end: offset and number of each message, and its newest
    position.
    """

    position: Position
    messages: Sequence[tuple[int, int]]


@dataclass
class Verdict:
    """What the judgement found."""

    breaches: Breaches
    receipts: int = 0
    """How many messages were shown to members, all together."""
    gaps: int = 0
    """How often a member was told of a gap."""
    told: int = 0
    """How many messages members were not shown, and knew it."""
    uncertain: int = 0
    """How many of the messages that ended as unacknowledged stand in their room all the same."""


def judge(ledger: Ledger, pasts: Mapping[str, Past], *, durable: bool = False) -> Verdict:
    """Judge a soak that has become quiet; `pasts` has the history of each room.

    `durable` is whether all of it should have been kept, so that nobody had to be told of a gap. What it
    finds is added to the ledger's breaches.
    """
    verdict = Verdict(ledger.breaches)
    placed = bytearray(len(ledger))
    """Whether each message stands in its room, by number."""
    for record in ledger.rooms.values():
        if record.name in pasts:
            _compare(record, pasts[record.name], verdict.breaches)
        _order(ledger, record, placed, verdict.breaches)
    forgotten = ledger.forgotten(placed)
    for record in ledger.rooms.values():
        for view in record.views:
            gaps = verdict.gaps
            _look(view, forgotten[record, view.client] if ledger.excluding else 0, verdict)
            if durable and verdict.gaps > gaps:
                told = f"{record.name}: client {view.client} was told of a gap in what should have been kept."
                verdict.breaches.add(Breach.FORGOTTEN, told, verdict.gaps - gaps)
    verdict.uncertain = sum(
        fate == Fate.UNACKNOWLEDGED and there for fate, there in zip(ledger.fates, placed, strict=True)
    )
    return verdict


def _compare(record: RoomRecord, past: Past, breaches: Breaches) -> None:
    """Take the history for one more member that has seen everything."""
    log = record.log(past.position.epoch)
    for offset, number in past.messages:
        if not log.agrees(offset, number):
            breaches.add(
                Breach.REORDERED,
                f"{record.name}: history has message {number} at offset {offset}, members were shown "
                f"{log.numbers[offset]}.",
            )
    if (missing := log.end - past.position.offset) > 0:
        breaches.add(
            Breach.LOST,
            f"{record.name}: history ends at offset {past.position.offset}, but there was {log.end}.",
            missing,
        )
    log.numbers.extend([UNKNOWN] * -missing)


def _order(ledger: Ledger, record: RoomRecord, placed: bytearray, breaches: Breaches) -> None:
    """Each message once, and each publisher's in the order it sent them in, but for what was put off."""
    newest: dict[int, int] = {}
    for log in record.logs.values():
        for offset, number in enumerate(log.numbers):
            if number == UNKNOWN:
                continue
            where = f"{record.name}: message {number} at offset {offset}"
            if not ledger.sent_to(record, number):
                breaches.add(Breach.STRAY, f"{where} was not sent to this room.")
                continue
            if placed[number]:
                breaches.add(Breach.DOUBLED, f"{where} stands there for the second time.")
                continue
            placed[number] = True
            if number in ledger.put_off or number in ledger.unordered:
                continue
            publisher = ledger.publishers[number]
            if (before := newest.get(publisher, UNKNOWN)) > number:
                breaches.add(
                    Breach.REORDERED, f"{where} comes after {before}, which client {publisher} sent later."
                )
            newest[publisher] = max(before, number)


def _look(view: View, forgotten: int, verdict: Verdict) -> None:
    """What one member was shown of one room. So many holes of which nobody knows may be messages of its own,
    which it is not to be shown.
    """
    record, client = view.record, view.client
    stays = view.finished()
    for stay in stays:
        seen = stay.last - stay.since
        kept_away = _own(record, client, stay.log)
        for first, last in stay.told:
            seen -= last - first + 1
            verdict.gaps += 1
            verdict.told += last - first + 1 - sum(first <= offset <= last for offset in kept_away)
        holes = {offset for first, last in stay.holes for offset in range(first, last + 1)}
        verdict.receipts += seen - len(holes)
        missing = sorted(holes - kept_away)
        nameless = [offset for offset in missing if stay.log.numbers[offset] == UNKNOWN][:forgotten]
        forgotten -= len(nameless)
        _missing(view, stay, [offset for offset in missing if offset not in nameless], verdict.breaches)
        returned = [
            offset
            for offset in kept_away - holes
            if stay.since < offset <= stay.last and not any(a <= offset <= b for a, b in stay.told)
        ]
        if returned:
            verdict.breaches.add(
                Breach.RETURNED,
                f"{record.name}: client {client} was shown its own message at offset {min(returned)}.",
                len(returned),
            )
    logs = list(record.logs.values())
    for before, after in pairwise(stays):
        verdict.gaps += 1
        skipped = logs[before.log.place + 1 : after.log.place]
        verdict.told += sum(len(_others(record, client, log, 0)) for log in skipped)
        verdict.told += len(_others(record, client, before.log, before.last))
        verdict.told += sum(offset <= after.since for offset in _others(record, client, after.log, 0))
    newest = stays[-1]
    if newest.log is not logs[-1]:
        verdict.breaches.add(
            Breach.LOST,
            f"{record.name}: client {client} was not told that the room began anew.",
            max(1, sum(len(_others(record, client, log, 0)) for log in logs[newest.log.place + 1 :])),
        )
    _missing(view, newest, _others(record, client, newest.log, newest.last), verdict.breaches)


def _missing(view: View, stay: Stay, offsets: Sequence[int], breaches: Breaches) -> None:
    if offsets:
        number = stay.log.numbers[offsets[0]]
        what = "a message that nobody knows" if number == UNKNOWN else f"message {number}"
        more = f" and {len(offsets) - 1} more" if len(offsets) > 1 else ""
        breaches.add(
            Breach.LOST,
            f"{view.record.name}: client {view.client} was not shown {what} at offset {offsets[0]}{more}; "
            f"it was shown up to {stay.last}.",
            len(offsets),
        )


def _own(record: RoomRecord, client: int, log: Log) -> set[int]:
    """Return the offsets of what a client is not to be shown."""
    if not record.excluding:
        return set()
    return {offset for offset, number in enumerate(log.numbers) if record.keeps_from(client, number)}


def _others(record: RoomRecord, client: int, log: Log, after: int) -> list[int]:
    """Return the offsets after one of what a client is to be shown."""
    numbers = log.numbers
    return [o for o in range(after + 1, len(numbers)) if not record.keeps_from(client, numbers[o])]
