"""What a client shows when it comes back: a bookmark, or the offset of Socket.IO's recovery.

The first byte of an input says which; the rest is its text.
"""

import base64
import random

import msgspec

from hubbub import InvalidMessage
from hubbub.protocol.bookmarks import LONGEST, Bookmark, read_bookmark
from hubbub.protocol.codecs import JSON
from hubbub.protocol.envelope import Envelope, Resume
from hubbub.transports.socketio.recovery import UNKNOWN, offset_of, read_offset

from ..values import changed

RECOVERY = 1
"""Bit of the first byte: it is the offset of a Socket.IO client."""

_resume = JSON.decoder(Resume)


def check(data: bytes) -> list[str]:
    if not data:
        return []
    recovery = bool(data[0] & RECOVERY)
    try:
        # A header's bytes are Latin-1 to a server; what Socket.IO brings is JSON.
        text = data[1:].decode("utf-8" if recovery else "latin-1")
    except UnicodeDecodeError:
        return []
    read = read_offset if recovery else read_bookmark
    try:
        bookmark = read(text)
    except InvalidMessage:
        return ["unreadable"]
    for position in bookmark.rooms.values():
        assert position.offset >= 0
    written = offset_of(bookmark).decode() if recovery else bookmark.text()
    if written is None or written == UNKNOWN.decode():
        # Names that came as they are take more characters when they are quoted.
        assert recovery, "a bookmark that was short enough is longer when it is written again"
    else:
        assert len(written) <= LONGEST
        assert read(written) == bookmark, "it means something else when it comes back"
    return [_resumed(bookmark), f"{min(len(bookmark.rooms), 3)} rooms"]


def _resumed(bookmark: Bookmark) -> str:
    """Say it as the session is told it, which takes it as it is or says what is wrong with it."""
    data = Resume(bookmark.session, dict(bookmark.rooms))
    message = JSON.read(JSON.encode(Envelope("$resume", id="$resume", data=data)).decode())
    try:
        assert _resume(message.data) == data
    except msgspec.ValidationError:
        return "refused"
    return "resumed"


def mutate(data: bytes, chance: random.Random) -> bytes | None:
    """Return a bookmark that can be read further than its Base64, or None if this one is too far from it."""
    if data[0] & RECOVERY:
        return None
    try:
        value = msgspec.msgpack.decode(base64.urlsafe_b64decode(data[1:] + b"=" * (-len(data[1:]) % 4)))
        packed = msgspec.msgpack.encode(changed(value, chance))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
    return data[:1] + base64.urlsafe_b64encode(packed).rstrip(b"=")
