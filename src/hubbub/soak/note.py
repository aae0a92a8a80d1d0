"""What a soak's clients and its server agree on."""

from .. import Message

APPLICATION = "hubbub.soak.application:hub"
"""What is served if nothing else is said."""
HISTORY = "HUBBUB_SOAK_HISTORY"
"""Environment variable: how many messages a room keeps."""


class Note(Message):
    """A message of a soak: its number in the ledger, and whether its sender is not to be shown it."""

    number: int
    exclude: bool = False
