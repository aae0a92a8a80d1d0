"""What came of a soak."""

from collections import Counter
from dataclasses import dataclass, field

from .ledger import Breach


@dataclass
class Memory:
    """The servers' memory together, in bytes, as far as this machine tells it."""

    begin: int = 0
    """When all clients had joined."""
    peak: int = 0
    """The most that each process had, together."""
    end: int = 0

    @property
    def growth(self) -> int:
        """What came to it while messages were published."""
        return self.end - self.begin


@dataclass
class Report:
    """The figures of a soak. Times are in seconds."""

    seed: int
    seconds: float = 0.0
    """How long messages were published."""
    published: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    """Messages of which their publishers were told that they can't know what became of them."""
    uncertain: int = 0
    """How many of these stand in their room."""
    refused: int = 0
    put_off: int = 0
    """Messages that the server said to send again, since the broker was away."""
    landed: int = 0
    """How many of these were acknowledged then."""
    receipts: int = 0
    """How many messages members were shown, all together."""
    breaches: Counter[Breach] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    """The first breaches, in words."""
    gaps: int = 0
    """How often a member was told of a gap."""
    in_gaps: int = 0
    """How many messages members were not shown, but were told of."""
    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault happened."""
    kills: int = 0
    restarts: int = 0
    """How often a server was restarted in an orderly way."""
    broker_away: list[float] = field(default_factory=list)
    """How long the broker was away, each time."""
    broker_cuts: int = 0
    """How many connections between servers and broker were cut."""
    partitions: int = 0
    """How often a server could not reach the broker for a while."""
    lines_lost_with_broker: int = 0
    """How many lines clients lost while the broker was away or a server cut from it."""
    lost_acknowledgements: int = 0
    """How many times a line was cut between a publish and its acknowledgement."""
    lines_lost: int = 0
    recoveries: int = 0
    recovery_p50: float = 0.0
    recovery_p99: float = 0.0
    recovery_max: float = 0.0
    gone_p50: float = 0.0
    """How long clients were without a line, from when they noticed until the next one was open."""
    gone_p99: float = 0.0
    gone_max: float = 0.0
    memory: Memory = field(default_factory=Memory)
    interrupted: bool = False
    log: str = ""
    """The end of the server's log, if something was found."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found that breaks the promise."""
        return not self.breaches.total()

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "sound": self.sound,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "published": self.published,
            "acknowledged": self.acknowledged,
            "unacknowledged": self.unacknowledged,
            "uncertain": self.uncertain,
            "refused": self.refused,
            "put_off": self.put_off,
            "landed": self.landed,
            "receipts": self.receipts,
            **{breach.name.lower(): self.breaches[breach] for breach in Breach},
            "told": self.told,
            "gaps": self.gaps,
            "in_gaps": self.in_gaps,
            "faults": dict(self.faults),
            "kills": self.kills,
            "restarts": self.restarts,
            "broker_away_seconds": [round(seconds, 3) for seconds in self.broker_away],
            "broker_cuts": self.broker_cuts,
            "partitions": self.partitions,
            "lines_lost_with_broker": self.lines_lost_with_broker,
            "lost_acknowledgements": self.lost_acknowledgements,
            "lines_lost": self.lines_lost,
            "recoveries": self.recoveries,
            "recovery_seconds": {
                "p50": round(self.recovery_p50, 4),
                "p99": round(self.recovery_p99, 4),
                "max": round(self.recovery_max, 4),
            },
            "without_line_seconds": {
                "p50": round(self.gone_p50, 4),
                "p99": round(self.gone_p99, 4),
                "max": round(self.gone_max, 4),
            },
            "server_memory_bytes": {
                "begin": self.memory.begin,
                "peak": self.memory.peak,
                "end": self.memory.end,
                "growth": self.memory.growth,
            },
            "interrupted": self.interrupted,
            "log": self.log,
        }
