"""What waits in this process: messages for who will receive them, and receivers for messages to come."""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass(slots=True)
class Item:
    """A message in a mailbox, until a time (:func:`time.monotonic`); `channel` is its full name."""

    channel: str
    message: bytes
    until: float


@dataclass(slots=True)
class _Mailbox:
    """The messages of all channels whose names begin with the same non-local part, in order."""

    items: deque[Item] = field(default_factory=deque)
    waiting: deque[tuple[str | None, "Future[Item]"]] = field(default_factory=deque)
    """Who waits for a message of one channel, or with None of any."""


class Mailboxes:
    """The mailboxes of a process, by the non-local part of the channel's name. Of use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[str, _Mailbox] = {}
        self._expired: set[str] = set()

    def put(
        self, name: str, channel: str, message: bytes, expiry: float, capacity: int | None = None
    ) -> bool:
        """Hand a message to who waits for it, or keep it; false if there are `capacity` already."""
        now = time.monotonic()
        with self._lock:
            box = self._boxes.setdefault(name, _Mailbox())
            while box.items and box.items[0].until <= now:
                self._expired.add(box.items.popleft().channel)
            item = Item(channel, message, now + expiry)
            if self._hand(box, item):
                self._drop_if_empty(name, box)
                return True
            if capacity is not None and len(box.items) >= capacity:
                self._drop_if_empty(name, box)
                return False
            box.items.append(item)
            return True

    def take(self, name: str, channel: str | None) -> "Future[Item]":
        """Return a message of a channel, or with None of any in the mailbox: now or when one comes.

        Cancel it to wait no more.
        """
        future: Future[Item] = Future()
        now = time.monotonic()
        with self._lock:
            box = self._boxes.setdefault(name, _Mailbox())
            found = next(
                (item for item in box.items if item.until > now and channel in (None, item.channel)), None
            )
            if found is None:
                box.waiting.append((channel, future))
            else:
                box.items.remove(found)
                self._drop_if_empty(name, box)
        if found is not None:
            future.set_running_or_notify_cancel()
            future.set_result(found)
        else:
            future.add_done_callback(lambda done: self._forget(name, done) if done.cancelled() else None)
        return future

    def put_back(self, name: str, item: Item) -> None:
        """Keep a message that was taken by somebody who is gone: it is the next one."""
        with self._lock:
            box = self._boxes.setdefault(name, _Mailbox())
            if not self._hand(box, item):
                box.items.appendleft(item)
            self._drop_if_empty(name, box)

    def wanted(self, name: str) -> bool:
        """Tell whether somebody waits for a message that is not there."""
        with self._lock:
            box = self._boxes.get(name)
            return box is not None and bool(box.waiting)

    def count(self, name: str) -> int:
        """Return how many messages are there."""
        now = time.monotonic()
        with self._lock:
            box = self._boxes.get(name)
            return 0 if box is None else sum(item.until > now for item in box.items)

    def expire(self) -> set[str]:
        """Drop messages that nobody received in time; return their channels, since this was called last."""
        now = time.monotonic()
        with self._lock:
            for name, box in list(self._boxes.items()):
                while box.items and box.items[0].until <= now:
                    self._expired.add(box.items.popleft().channel)
                self._drop_if_empty(name, box)
            expired, self._expired = self._expired, set()
        return expired

    def clear(self) -> None:
        """Drop all messages; who waits goes on to."""
        with self._lock:
            for name, box in list(self._boxes.items()):
                box.items.clear()
                self._drop_if_empty(name, box)

    @staticmethod
    def _hand(box: _Mailbox, item: Item) -> bool:
        for entry in list(box.waiting):
            channel, future = entry
            if channel in (None, item.channel):
                box.waiting.remove(entry)
                if future.set_running_or_notify_cancel():
                    future.set_result(item)
                    return True
        return False

    def _forget(self, name: str, future: "Future[Item]") -> None:
        with self._lock:
            box = self._boxes.get(name)
            if box is not None:
                box.waiting = deque(entry for entry in box.waiting if entry[1] is not future)
                self._drop_if_empty(name, box)

    def _drop_if_empty(self, name: str, box: _Mailbox) -> None:
        if not box.items and not box.waiting:
            self._boxes.pop(name, None)
