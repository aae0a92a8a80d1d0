"""hubbub: rooms, typed messages and delivery that survives, over WebSockets.

>>> from hubbub import Connection, Hubbub, Message, Room
"""

from msgspec import Meta

from .app import Hubbub
from .engine.connection import Connection
from .engine.room import Room, Rooms
from .errors import (
    CollisionError,
    ConfigurationError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Denied,
    HubbubError,
    InvalidMessage,
    Unavailable,
)
from .observe.log import CorrelationFilter, correlation_id
from .protocol.codes import CloseCode
from .protocol.envelope import Envelope, Member, Position
from .protocol.messages import Message, wire_type
from .settings import Settings

__version__ = "0.2.0"

__all__ = [
    "CloseCode",
    "CollisionError",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "CorrelationFilter",
    "Denied",
    "Envelope",
    "Hubbub",
    "HubbubError",
    "InvalidMessage",
    "Member",
    "Message",
    "Meta",
    "Position",
    "Room",
    "Rooms",
    "Settings",
    "Unavailable",
    "correlation_id",
    "wire_type",
]
