"""The Python client: rooms, typed messages and delivery that survives, from the other side."""

from .backoff import Backoff
from .client import Client, connect
from .events import Event, Gap, Joined, Left, Received, Refused, RoomEvent, State, StateChange
from .line import Dial, Line, LineLost, LineMoved, NotConnected
from .room import History, Room

__all__ = [
    "Backoff",
    "Client",
    "Dial",
    "Event",
    "Gap",
    "History",
    "Joined",
    "Left",
    "Line",
    "LineLost",
    "LineMoved",
    "NotConnected",
    "Received",
    "Refused",
    "Room",
    "RoomEvent",
    "State",
    "StateChange",
    "connect",
]
