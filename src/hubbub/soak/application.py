"""The application that a soak's clients talk to: whatever they say in a room goes to all of its members.

It is served by ``hubbub serve hubbub.soak.application:hub``, in a process of its own.
"""

import os

from .. import Connection, Hubbub, Position, Room
from .note import HISTORY, Note

hub = Hubbub()
rooms = hub.room("soak/{name}", history=int(os.environ.get(HISTORY, "1000")))


@rooms.on_message
async def note(connection: Connection, room: Room, message: Note) -> Position:
    """Send it on, to its sender too unless that is excluded; answer where it stands."""
    return await room.send(message, exclude=connection if message.exclude else None)
