"""An attempt at a request: what a handler publishes in it has keys that are the same in the next attempt."""

import hashlib
from contextvars import ContextVar

import msgspec

from ..protocol.envelope import MessageId

COUNTED = 256
"""Rooms in which one run's publishes are counted each by itself; those in all further rooms are together."""


UNSURE = 256
"""Publishes whose outcome is unknown that one run remembers; what fails after them has the next key."""


class Attempt(msgspec.Struct, gc=False):
    """One run of a handler for a request: the session, the request's id, and how much it has published.

    A client that saw no answer sends the request again, and the handler runs again. Its publishes then carry
    the keys that they had the first time, and the broker drops them. They are counted in each room by
    itself: what the first run has changed may let the second one leave out what it has to say elsewhere. One
    is made for each request: msgspec makes it in half the time.
    """

    session: str
    request: MessageId
    published: dict[str, int] | None = None
    unsure: list[tuple[bytes, str]] | None = None
    """Publishes of which it is not known whether they were carried out: what they said where, and the key."""

    def key(self, room: str, payload: bytes) -> str:
        """Return the key of the handler's next publish in a room.

        That of one whose outcome is unknown, if it said the same there: the handler tries again.
        """
        if self.unsure and (before := self._again(room, payload)) is not None:
            return before
        if self.published is None:
            self.published = {}
        if room not in self.published and len(self.published) >= COUNTED:
            room = ""
        count = self.published[room] = self.published.get(room, 0) + 1
        return f"{self.session}/{self.request!r}/{count}"

    def unsure_of(self, room: str, payload: bytes, key: str) -> None:
        """Note that a publish failed or was cancelled, and may have been carried out all the same."""
        if self.unsure is None:
            self.unsure = []
        if len(self.unsure) < UNSURE:
            self.unsure.append((_digest(room, payload), key))

    def _again(self, room: str, payload: bytes) -> str | None:
        assert self.unsure is not None
        said = _digest(room, payload)
        for place, (before, key) in enumerate(self.unsure):
            if before == said:
                del self.unsure[place]
                return key
        return None


def _digest(room: str, payload: bytes) -> bytes:
    # A payload may be a megabyte, and its publishing fails for hundreds of rooms.
    where = hashlib.blake2b(room.encode(errors="surrogatepass")).digest()
    return hashlib.blake2b(payload, key=where, digest_size=16).digest()


ATTEMPT: ContextVar[Attempt | None] = ContextVar("hubbub attempt", default=None)
"""At which request the current task is; tasks that a handler starts are at the same.

It stays set until the session's next message, or its end.
"""
