"""An attempt at a request: what a handler publishes in it has keys that are the same in the next attempt."""

from contextvars import ContextVar

import msgspec

from ..protocol.envelope import MessageId

COUNTED = 256
"""Rooms in which one run's publishes are counted each by itself; those in all further rooms are together."""


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

    def key(self, room: str) -> str:
        """Return the key of the handler's next publish in a room."""
        if self.published is None:
            self.published = {}
        if room not in self.published and len(self.published) >= COUNTED:
            room = ""
        count = self.published[room] = self.published.get(room, 0) + 1
        return f"{self.session}/{self.request!r}/{count}"


ATTEMPT: ContextVar[Attempt | None] = ContextVar("hubbub attempt", default=None)
"""At which request the current task is; tasks that a handler starts are at the same.

It stays set until the session's next message, or its end.
"""
