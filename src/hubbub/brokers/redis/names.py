"""What keys and channels are called: all of a room's have its name as their hash tag."""

from functools import lru_cache

from redis.crc import key_slot

KNOWN = 65_536
"""Rooms whose keys are remembered."""


def encoded(text: str) -> bytes:
    """Return any text as bytes, also such that UTF-8 has none for."""
    return text.encode(errors="surrogatepass")


def decoded(data: bytes) -> str:
    """Return what was encoded; `UnicodeDecodeError` if it was not."""
    return data.decode(errors="surrogatepass")


class RoomNames:
    """The keys of a room, the first of which is its channel too."""

    __slots__ = ("head", "log", "members", "slot")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.log = head + b":log"
        self.members = head + b":members"
        self.slot: int = key_slot(head)

    def seen(self, key: str) -> bytes:
        """Return the key that remembers a deduplication key."""
        return self.head + b":key:" + encoded(key)

    def departed(self, owner: bytes) -> bytes:
        """Return the key of those who left because their owner is gone."""
        return self.head + b":departed:" + owner


class Names:
    """Everything that begins with one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = encoded(prefix)
        self.room = lru_cache(KNOWN)(self._room)
        self.leases = self._prefix + b":{instances}:leases"
        self.gone = self._prefix + b":{instances}:gone"
        self.secret = self._prefix + b":{secret}"
        self.everybody = self._prefix + b":{instances}"
        """The channel on which all instances listen."""

    def slot(self, key: bytes) -> int:
        """Return the slot of a cluster in which a key or a channel lies."""
        return int(key_slot(key))

    def instance(self, name: str) -> bytes:
        """Return the channel on which one instance listens."""
        return self._prefix + b":{instance:" + _tag(name) + b"}"

    def owner(self, owner: bytes) -> bytes:
        """Return the key of the rooms in which an owner has members."""
        return self._prefix + b":{owner:" + owner + b"}"

    def _room(self, room: str) -> RoomNames:
        # A tag must not be empty, and ends with the first brace.
        return RoomNames(self._prefix + b":{:" + _tag(room) + b"}")


def _tag(name: str) -> bytes:
    return encoded(name).replace(b"%", b"%25").replace(b"}", b"%7D")
