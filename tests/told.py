"""What the server's thread tells the test's, and the other way round."""

import asyncio
import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hubbub import Connection, CorrelationFilter

ARRIVES_WITHIN = 10.0


class Told:
    """Call it on the server's side with whatever happened; the test reads that in the same order."""

    def __init__(self) -> None:
        self._things: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, *things: Any) -> None:
        self._things.put(things[0] if len(things) == 1 else things)

    async def next(self) -> Any:
        """Return the next thing told."""
        return await asyncio.to_thread(self._things.get, timeout=ARRIVES_WITHIN)

    @property
    def silent(self) -> bool:
        """Whether nothing more was told so far."""
        return self._things.empty()


class Gate:
    """Holds up the server's side until the test opens it."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    async def passed(self) -> None:
        """Wait, on an event loop, until it is open."""
        assert await asyncio.to_thread(self._opened.wait, ARRIVES_WITHIN), "the gate was not opened"


async def have_arrived(connection: Connection, count: int) -> None:
    """Wait, on the server's side, until so many messages of a connection came in, handled or not."""
    while connection.messages_in < count:  # noqa: ASYNC110  # a count has no event
        await asyncio.sleep(0)


class Logs(logging.Handler):
    """Collects what is logged, and waits for what will be."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._changed = threading.Condition()
        self.addFilter(CorrelationFilter())

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def of(self, event: str, **fields: object) -> list[logging.LogRecord]:
        """Return the records of an event that have these fields."""
        with self._changed:
            return [record for record in self.records if _is(record, event, fields)]

    async def wait(self, event: str, **fields: object) -> logging.LogRecord:
        """Return the first record of an event that has these fields, as soon as there is one."""
        return await asyncio.to_thread(self._wait, event, fields)

    def _wait(self, event: str, fields: dict[str, object]) -> logging.LogRecord:
        with self._changed:
            found = self._changed.wait_for(
                lambda: [record for record in self.records if _is(record, event, fields)], ARRIVES_WITHIN
            )
        assert found, f"no {event} {fields} in {[shown(record) for record in self.records]}"
        return found[0]


def _is(record: logging.LogRecord, event: str, wanted: dict[str, object]) -> bool:
    found = fields_of(record)
    return record.getMessage() == event and all(found.get(name) == value for name, value in wanted.items())


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record's own fields."""
    return getattr(record, "fields", {})


def shown(record: logging.LogRecord) -> str:
    return f"{record.getMessage()} {fields_of(record)}"


@contextmanager
def collected_logs() -> Iterator[Logs]:
    """Collect everything from INFO on while the body runs."""
    root, logs = logging.getLogger(), Logs()
    level = root.level
    root.addHandler(logs)
    root.setLevel(logging.INFO)
    try:
        yield logs
    finally:
        root.removeHandler(logs)
        root.setLevel(level)
