"""What the layer was told in ``CONFIG``, checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ...brokers.base import Retention
from ...engine.pattern import Pattern
from ...errors import ConfigurationError
from ...publisher import Declarations

_NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class GetCapacity(Protocol):
    """Tells how many messages may wait in a channel."""

    def __call__(self, channel: str) -> int: ...  # noqa: D102


class Mapped:
    """Groups of a pattern that are rooms of a pattern: ``"chat_{name}"`` is ``"chat/{name}"``.

    In a group's name, the value of a part is as short as can be.
    """

    def __init__(self, groups: str, rooms: str) -> None:
        self.rooms = Pattern(rooms)
        names = _NAMED.findall(groups)
        if sorted(names) != sorted(self.rooms.names) or len(set(names)) != len(names):
            raise ConfigurationError(
                f"The groups {groups!r} can't be the rooms {rooms!r}: both have to have the same named parts."
            )
        parts = _NAMED.split(groups)
        self._expression = re.compile(
            "".join(
                f"(?P<{part}>[a-zA-Z0-9_.-]+?)" if place % 2 else re.escape(part)
                for place, part in enumerate(parts)
            )
        )

    def room(self, group: str) -> str | None:
        """Return the name of the room that a group is, or None if it is none of these."""
        found = self._expression.fullmatch(group)
        return None if found is None else self.rooms.fill(found.groupdict())


@dataclass(frozen=True)
class Options:
    """Times in seconds; `capacity` is that of queues and of what the broker keeps for a process."""

    expiry: float
    group_expiry: float
    capacity: GetCapacity
    mapped: tuple[Mapped, ...]
    declarations: Declarations | None
    timeout: float

    def room_of(self, group: str) -> tuple[str, bool]:
        """Return the name of the broker's room for a group, and whether it is one of the application's."""
        for mapped in self.mapped:
            room = mapped.room(group)
            if room is not None:
                return room, True
        return f"$channels/group/{group}", False

    def retention_of(self, room: str) -> Retention:
        """Return how much history a room of the application keeps."""
        for rooms in () if self.declarations is None else self.declarations.rooms:
            if rooms.match(room) is not None:
                return rooms.retention
        raise ConfigurationError(f"A group is the room {room!r}, which no declared pattern has.")


def mapped_of(rooms: Mapping[str, str]) -> tuple[Mapped, ...]:
    """Return the groups that are rooms; :exc:`ConfigurationError` if two could be one room."""
    mapped = tuple(Mapped(groups, room) for groups, room in rooms.items())
    for place, one in enumerate(mapped):
        for other in mapped[:place]:
            if one.rooms.overlaps(other.rooms):
                raise ConfigurationError(
                    f"Groups of two patterns can be one room, of {one.rooms.text!r} and {other.rooms.text!r}."
                )
    return mapped
