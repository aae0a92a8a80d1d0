"""hubbub's public names, wherever they are defined; they are imported from `hubbub` itself."""

from msgspec import Meta

from . import sync
from .app import Hubbub
from .client import (
    Backoff,
    Client,
    Gap,
    Joined,
    Left,
    Received,
    Refused,
    State,
    StateChange,
    connect,
)
from .engine.connection import Connection
from .engine.control import ConnectionInfo
from .engine.room import Room, Rooms
from .errors import (
    ClientError,
    CollisionError,
    ConfigurationError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Denied,
    HubbubError,
    InvalidMessage,
    OutboxFull,
    ReconnectFailed,
    RequestFailed,
    Unacknowledged,
    Unavailable,
)
from .observe.log import CorrelationFilter, correlation_id
from .protocol.codes import CloseCode
from .protocol.envelope import Envelope, Member, Position
from .protocol.messages import Message, wire_type
from .publisher import Publisher
from .settings import Settings

__all__ = [
    "Backoff",
    "Client",
    "ClientError",
    "CloseCode",
    "CollisionError",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionInfo",
    "CorrelationFilter",
    "Denied",
    "Envelope",
    "Gap",
    "Hubbub",
    "HubbubError",
    "InvalidMessage",
    "Joined",
    "Left",
    "Member",
    "Message",
    "Meta",
    "OutboxFull",
    "Position",
    "Publisher",
    "Received",
    "ReconnectFailed",
    "Refused",
    "RequestFailed",
    "Room",
    "Rooms",
    "Settings",
    "State",
    "StateChange",
    "Unacknowledged",
    "Unavailable",
    "connect",
    "correlation_id",
    "sync",
    "wire_type",
]
