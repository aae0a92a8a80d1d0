"""The writer: commits what is published, all that waits in one transaction. It lives in a thread."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from .batch import Batch
from .file import File, meta
from .requests import Hold, LetGo, Publish, Published
from .rooms import Head, encoded, epoch_of, every, find, forgetting, new_life
from .sweep import Sweep
from .trouble import Damage, Trouble, is_damage, refusal

MOST_HEADS = 50_000
"""Rooms of which the writer knows by heart how far they have come; then it asks the file for each anew."""

Asked = Publish | Hold | LetGo
Answer = Published | Position | BaseException | None


class Writer:
    """Everything that changes the file. `clock` returns seconds since the epoch and never goes back."""

    def __init__(self, file: File, window: float, clock: Callable[[], float]) -> None:
        self._file = file
        self._window = window
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._heads: dict[str, Head] = {}
        self._held: dict[str, tuple[str, int]] = {}
        """Epoch and number of holds of each room that is held."""
        self._life = b""
        self._next_room = 0
        self._sweep = Sweep(window, self._is_held)
        self._trouble = Trouble(file.path, "writing")
        self._damage: sqlite3.Error | None = None
        self.secret = b""

    # What the thread calls

    def open(self) -> None:
        """Take the file and judge it; :exc:`hubbub.ConfigurationError` if it can't be used."""
        self._file.take()
        try:
            self._file.prepare()
            self._begin()
        except (sqlite3.Error, OSError) as problem:
            self.close()
            raise refusal(self._file.path, problem) from problem
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and give it back."""
        self._disconnect()
        self._file.release()

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Do what was asked: first those that hold or let go, then all publishes in one transaction.

        What is held is where its room was when that was asked for: behind the publishes before it.
        """
        if len(self._heads) > MOST_HEADS:
            self._heads.clear()
        answers: dict[Asked, Answer] = {}
        publishes = []
        for each in asked:
            if isinstance(each, Publish):
                publishes.append(each)
            elif isinstance(each, Hold):
                answers[each] = self._hold(each)
            else:
                self._let_go(each)
                answers[each] = None
        if publishes:
            try:
                answers.update(zip(publishes, self._publish(publishes), strict=True))
            except Exception as problem:
                answers.update((publish, problem) for publish in publishes)
            self._put_behind(asked, answers)
        return [answers[each] for each in asked]

    def _put_behind(self, asked: Sequence[Asked], answers: dict[Asked, Answer]) -> None:
        newest: dict[str, Position] = {}
        for each in asked:
            answer = answers[each]
            if isinstance(answer, Published) and answer.entry is not None and isinstance(each, Publish):
                # One that is not kept is where the newest kept one is.
                newest[each.room] = answer.position
            elif isinstance(each, Hold) and isinstance(answer, Position):
                answers[each] = newest.get(each.room, answer)

    def rest(self) -> None:
        """Use a time in which nobody asks for anything."""
        # Whoever publishes is told of trouble, and the log has it; there is nobody else to tell.
        with suppress(Unavailable):
            now = self._clock()
            with self._transaction() as connection:
                forgot = self._swept(connection, now)
            if forgot:
                self._mark(now)

    # Connecting

    def _begin(self) -> None:
        connection, now = self._connected(), self._clock()
        self.secret = meta(connection, "secret", bytes)
        recorded = meta(connection, "at", float)
        rooms = 0
        for head in every(connection):
            recorded = max(recorded, head.at)
            rooms += 1
        mark = self._file.mark
        connection.execute("BEGIN IMMEDIATE")
        if mark is None or mark > recorded:
            # Positions may mean other messages to those who hold them.
            if rooms or mark is not None:
                logger.warning("history began anew", extra=fields(file=str(self._file.path), rooms=rooms))
            self._change_life(connection, new_life())
            for head in every(connection):
                head.epoch = epoch_of(head.name, self._life)
                head.save(connection)
        if recorded > now:
            # The clock was set back. What lies in the future would never be old.
            for table in ("rooms", "entries", "keys"):
                connection.execute(f"UPDATE {table} SET at=? WHERE at>?", (now, now))  # noqa: S608
            recorded = now
        # Also to see whether the file can be written.
        connection.execute("UPDATE meta SET value=? WHERE name='at'", (recorded,))
        connection.execute("COMMIT")
        self._file.write_mark(recorded)

    def _change_life(self, connection: sqlite3.Connection, life: bytes) -> None:
        self._life = life
        connection.execute("UPDATE meta SET value=? WHERE name='life'", (self._life,))

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.check_in_place()
            connection = self._connection = self._file.connect_durably()
            self._heads.clear()
            self._life = meta(connection, "life", bytes)
            (self._next_room,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM rooms").fetchone()
        return self._connection

    def _disconnect(self) -> None:
        """Roll back what was begun; what is known by heart is read anew."""
        self._heads.clear()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._damage is not None:
                raise self._damage
            self._file.check_in_place()
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as problem:
            told = self._failed(problem)
            if told is problem:
                raise
            raise told from problem

    def _failed(self, problem: BaseException) -> BaseException:
        """Note that something failed; return what those who asked are told."""
        self._disconnect()
        if not isinstance(problem, sqlite3.Error | OSError):
            return problem
        if isinstance(problem, sqlite3.Error) and is_damage(problem):
            # What is damaged is not written to: it could only get worse.
            self._damage = problem
        return self._trouble.began(problem)

    # Rooms

    def _head(self, room: str) -> Head:
        head = self._heads.get(room)
        if head is None:
            connection, name = self._connected(), encoded(room)
            head = find(connection, name)
            if head is None:
                held = self._held.get(room)
                head = Head(self._next_room, name, held[0] if held else epoch_of(name, self._life))
                self._next_room += 1
            else:
                self._prove(connection, head)
            self._heads[room] = head
        return head

    def _prove(self, connection: sqlite3.Connection, head: Head) -> None:
        """See that the newest message is where it should be, before the next is put behind it."""
        newest = connection.execute("SELECT max(offset) FROM entries WHERE room=?", (head.id,)).fetchone()[0]
        if newest != (head.offset if head.first <= head.offset else None):
            raise Damage(f"messages of room {head.id}")

    def _is_held(self, name: bytes) -> bool:
        return name.decode(errors="surrogatepass") in self._held

    def _hold(self, asked: Hold) -> Answer:
        try:
            head = self._head(asked.room)
        except Exception as problem:
            return self._failed(problem)
        _, holds = self._held.get(asked.room, ("", 0))
        self._held[asked.room] = (head.epoch, holds + 1)
        return Position(head.epoch, head.offset)

    def _let_go(self, asked: LetGo) -> None:
        epoch, holds = self._held[asked.room]
        if holds > asked.holds:
            self._held[asked.room] = (epoch, holds - asked.holds)
        else:
            del self._held[asked.room]

    # Publishing

    def _publish(self, publishes: Sequence[Publish]) -> list[Published]:
        now = self._clock()
        with self._transaction() as connection:
            batch = Batch(connection, now, self._window)
            answers = [batch.add(publish, self._head(publish.room)) for publish in publishes]
            rooms, keys = batch.write()
            self._sweep.expect(rooms=rooms, keys=keys)
            forgot = self._sweep.is_due(now) and self._swept(connection, now)
        if forgot or not batch.is_empty:
            self._trouble.is_over()
            self._mark(now)
        return answers

    def _swept(self, connection: sqlite3.Connection, now: float) -> bool:
        """Sweep; tell whether a room was forgotten."""
        changed, forgotten = self._sweep.run(connection, now)
        for head in changed:
            self._heads.pop(head.name.decode(errors="surrogatepass"), None)
        if forgotten:
            # So that no position is given twice.
            self._change_life(connection, forgetting(self._life, [head.name for head in forgotten]))
            self._heads.clear()
            connection.execute("UPDATE meta SET value=? WHERE name='at'", (now,))
        return bool(forgotten)

    def _mark(self, at: float) -> None:
        try:
            self._file.write_mark(at)
        except OSError:
            # It is published all the same; only should the file lose it, that is not noticed.
            logger.exception("error", extra=fields(during="marking a commit", file=str(self._file.path)))
