"""What a soak is to do."""

from dataclasses import dataclass

from ..testing.faults import RANDOM_KINDS, parse_fault
from .note import APPLICATION

FOR_ALL = ("refuse", "black-hole")
"""Kinds that hit whoever connects, and not one connection."""

FAULTS = (
    *(kind for kind in RANDOM_KINDS if not kind.startswith(FOR_ALL)),
    "refuse:50ms",
    "refuse:50ms:reset",
    "black-hole:50ms",
)
"""What faults are taken from if nothing else is said.

Each hits one connection, but for the last three: nobody can connect while they last, so they are short.
"""


@dataclass(frozen=True)
class Order:
    """A soak: how many clients, how long, and what is done to them. Times are in seconds."""

    seconds: float = 60.0
    """How long messages are published, where `messages` does not say how many."""
    messages: int | None = None
    clients: int = 200
    rooms: int = 20
    rooms_per_client: int = 1
    in_flight: int = 4
    """Messages of each client that wait for their acknowledgement, at the most."""
    rate: float | None = None
    """Messages a second of all clients together; None is as many as are acknowledged."""
    exclude: bool = False
    """Whether messages are published with ``exclude=`` their sender."""
    app: str = APPLICATION
    """What is served. Its hub is at ``/``, and its rooms ``soak/{name}`` send :class:`.note.Note` on."""
    broker: str = "memory://"
    native: bool = True
    history: int = 10_000
    """How many messages a room keeps."""
    fault_every: float = 0.1
    """Between two faults, on average; 0 is without any."""
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    """Which faults hit which connections, and who publishes where."""
    kills: int = 0
    """How often the server is killed (SIGKILL) while messages are published, and started again."""
    lose_acknowledgements: int = 0
    """How often a line is cut after a message was published and before its acknowledgement arrives."""
    patience: float = 60.0
    """How long clients have, after the last message, to come back and catch up."""

    def __post_init__(self) -> None:
        if self.clients < 1 or self.rooms < 1 or self.in_flight < 1:
            raise ValueError("A soak needs a client, a room and a message in flight at least.")
        for fault in self.faults:
            parse_fault(fault)
        if not 1 <= self.rooms_per_client <= self.rooms:
            raise ValueError(f"A client can be in 1 to {self.rooms} of {self.rooms} rooms.")
