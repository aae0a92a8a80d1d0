"""Who an Engine.IO session tells what happens on it, and why it ended."""

from enum import StrEnum
from typing import Protocol


class Reason(StrEnum):
    """Why a session ended, in the words of the reference server."""

    CLIENT_CLOSED = "transport close"
    """The client said so, or its line is gone."""
    TRANSPORT_ERROR = "transport error"
    """The client broke the rules of the transport."""
    PARSE_ERROR = "parse error"
    """The client sent what is no packet."""
    PING_TIMEOUT = "ping timeout"
    """The client gave no sign of life in time."""
    CLOSED = "forced close"
    """The application closed it."""
    CONNECT_TIMEOUT = "connect timeout"
    """Nobody had use of it in time: :meth:`EngineSocket.keep`."""


class EngineListener(Protocol):
    """Who an Engine.IO session tells what happens; always in the event loop, never after :meth:`ended`."""

    def received(self, message: str | bytes) -> bool:
        """Take a message; false if it paused reading or closed: no more may come now."""

    def heard_from(self, control_packets: int) -> None:
        """Note a sign of life that is no message."""

    def pause_writing(self) -> None:
        """Write nothing for now: enough waits for the client."""

    def resume_writing(self) -> None:
        """Write again."""

    def ended(self, reason: Reason) -> None:
        """Take that the session is gone. Called once, possibly before `close` or `abort` returns."""

    def shut_down(self) -> None:
        """Leave: the server stops."""


class Nobody:
    """Who listens on a session while it is being opened."""

    def received(self, message: str | bytes) -> bool:  # noqa: ARG002
        """Take nothing."""
        return False

    def heard_from(self, control_packets: int) -> None:
        """Do nothing."""

    def pause_writing(self) -> None:
        """Do nothing."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def ended(self, reason: Reason) -> None:
        """Do nothing."""

    def shut_down(self) -> None:
        """Do nothing."""


NOBODY = Nobody()
