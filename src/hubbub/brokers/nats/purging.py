"""Removing from the stream what no history and no window needs any more."""

from ...errors import Unavailable
from ...observe.log import fields, logger
from .reading import Reader
from .records import Batch
from .rooms import MARKS, Room
from .streams import Streams


class Purger:
    """Remembers places in the past of rooms, and purges them up to there when their time has come."""

    def __init__(self, streams: Streams, reader: Reader, *, window: float, timeout: float) -> None:
        self._streams = streams
        self._reader = reader
        # Parts of a batch are stored before it, within the time in which NATS has to answer.
        self._spacing = max(window / MARKS, 2 * timeout)

    def mark(self, room: Room, batch: Batch, oldest: float) -> int:
        """Take note of a batch; return the sequence before which nothing is needed any more, 0 if none is."""
        marks = room.marks
        if not marks or batch.time >= marks[-1][0] + self._spacing:
            marks.append((batch.time, room.sequence, batch.before))
        until = 0
        while len(marks) > 1:
            moment, sequence, offset = marks[1]
            in_history = offset > room.offset - room.count and moment >= batch.time - room.age
            if moment >= oldest or in_history:
                break
            del marks[0]
            until = sequence
        if len(marks) > 4 * MARKS:
            # Fewer places, as far back.
            room.marks = marks[::2]
        return until

    async def purge(self, room: Room, until: int) -> None:
        """Remove what lies before a sequence."""
        stream, parts = self._streams.rooms[room.shard], room.purged
        room.purged = until
        try:
            await self._streams.purge(stream, self._reader.subject(room), until)
            if parts:
                # One step behind, for the parts of the batches that are left.
                await self._streams.purge(stream, self._reader.part_subject(room), parts)
        except Unavailable as problem:
            # The next one takes what this one left.
            logger.debug("broker", extra=fields(broker="nats", during="purge", because=str(problem)))
