"""A receiver that a driver can hand things to without looking what becomes of them."""

from ..observe.log import fields, logger
from ..protocol.envelope import Position
from .base import Entry, Receiver


class Guarded:
    """Passes on to a receiver, and logs what it raises.

    What it is given is published: an instance's trouble with it is not the publisher's, nor the other rooms',
    nor that of whoever reads from the server.
    """

    def __init__(self, receiver: Receiver, instance: str) -> None:
        self._receiver = receiver
        self._instance = instance

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        """Pass a message on."""
        try:
            self._receiver.deliver(room, entry, epoch)
        except Exception:
            logger.exception("error", extra=fields(during="delivery", room=room, instance=self._instance))

    def lost(self, room: str, position: Position) -> None:
        """Pass on that messages are lost."""
        try:
            self._receiver.lost(room, position)
        except Exception:
            logger.exception("error", extra=fields(during="delivery", room=room, instance=self._instance))

    def control(self, payload: bytes) -> None:
        """Pass a control message on."""
        try:
            self._receiver.control(payload)
        except Exception:
            logger.exception("error", extra=fields(during="control", instance=self._instance))
