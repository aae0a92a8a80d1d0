"""What a soak is to do."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..testing.faults import RANDOM_KINDS, parse_fault
from ..testing.faults.fault import parse_seconds
from .engine import PRIVATE
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

LineKind = Literal["websocket", "sse", "stream", "poll", "grpc"]
"""By what kind of line the clients come."""

_SCHEMES: dict[LineKind, str] = {
    "websocket": "ws",
    "sse": "sse+http",
    "stream": "stream+http",
    "poll": "poll+http",
    "grpc": "grpc",
}

How = Literal["stop", "kill", "pause"]
"""How a broker goes: in an orderly way, as kill -9 does it, or silently, with its connections open."""


@dataclass(frozen=True)
class Outage:
    """A time without the broker."""

    seconds: float
    how: How = "stop"

    @classmethod
    def parse(cls, text: str) -> "Outage":
        """Return the outage that a text such as ``30``, ``5s:kill`` or ``500ms:pause`` stands for.

        Raises `ValueError` with a sentence.
        """
        seconds, _, how = text.partition(":")
        for known in get_args(How):
            if known == (how or "stop"):
                return cls(parse_seconds(seconds), known)
        raise ValueError(f"A broker can go by stop, kill or pause, not by {how!r}.")


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
    """Its URL, or ``redis``, ``rabbitmq`` or ``nats`` for one that is started for the soak alone."""
    line: LineKind = "websocket"
    """By what kind of line the clients come."""
    native: bool = True
    history: int = 10_000
    """How many messages a room keeps."""
    instances: int = 1
    """Servers on that broker; more than one are behind HAProxy."""
    fault_every: float = 0.1
    """Between two faults on clients' connections, on average; 0 is without any."""
    faults: tuple[str, ...] = FAULTS
    seed: int = 0
    """Which faults hit which connections, and who publishes where."""
    kills: int = 0
    """How often a server is killed (SIGKILL) while messages are published, and started again."""
    kill_every: float = 0.0
    """The same, once in so many seconds; 0 is never."""
    rolling: bool = False
    """Whether all servers are restarted in mid-stream, in an orderly way, one after the other."""
    broker_down: tuple[Outage, ...] = ()
    """Times in mid-stream without the broker, which is started for the soak alone."""
    broker_cut_every: float = 0.0
    """Between two cuts of all connections between servers and broker; 0 is without any."""
    partition: tuple[float, ...] = ()
    """Times in mid-stream in which one server can't reach the broker, and the others can."""
    lose_acknowledgements: int = 0
    """How often a line is cut after a message was published and before its acknowledgement arrives."""
    patience: float = 60.0
    """How long clients have, after the last message, to come back and catch up."""

    def __post_init__(self) -> None:
        if self.clients < 1 or self.rooms < 1 or self.in_flight < 1 or self.instances < 1:
            raise ValueError("A soak needs a client, a room, a message in flight and an instance at least.")
        for fault in self.faults:
            parse_fault(fault)
        if not 1 <= self.rooms_per_client <= self.rooms:
            raise ValueError(f"A client can be in 1 to {self.rooms} of {self.rooms} rooms.")
        if self.broker_down and not self.private:
            raise ValueError(
                f"Only a broker that the soak has started can be taken away: {', '.join(PRIVATE)}."
            )
        if self.severs and not self.private and self.broker.startswith(("memory:", "sqlite:")):
            raise ValueError("An instance can be cut from a server, not from its own memory or a file.")

    def url(self, port: int) -> str:
        """Return what clients connect to at a port of this machine."""
        return f"{_SCHEMES[self.line]}://127.0.0.1:{port}"

    @property
    def private(self) -> bool:
        """Whether the broker is started for the soak alone."""
        return self.broker in PRIVATE

    @property
    def severs(self) -> bool:
        """Whether connections between servers and broker are cut."""
        return bool(self.broker_cut_every or self.partition)

    @property
    def troubles_broker(self) -> bool:
        """Whether the broker is away for servers at times."""
        return bool(self.broker_down) or self.severs

    @property
    def troubles_lines(self) -> bool:
        """Whether clients lose their lines by what is done to the network and the servers."""
        return bool(
            self.fault_every or self.kills or self.kill_every or self.rolling or self.lose_acknowledgements
        )
