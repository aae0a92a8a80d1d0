"""What `benchmarks.sizing` and `benchmarks.storms` compute from: one table, to change for other machines.

After a change, `python tests/docs/generate.py` writes the tables of docs/scaling.md anew.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "assumed", "chosen"]


@dataclass(frozen=True)
class Input:
    """A figure that others are computed from."""

    value: float
    unit: str
    what: str
    kind: Kind
    """Chosen is what describes the application, or how much is held in reserve."""
    where: str
    """How it was measured, or why this was assumed or chosen."""


INPUTS: dict[str, Input] = {
    # The application.
    "rooms_each": Input(3, "", "rooms that a connection is in", "chosen", "a chat with a few groups"),
    "members": Input(20, "", "members of a room", "chosen", "the same"),
    "publishes": Input(0.01, "/s", "what a connection publishes", "chosen", "one message in 100 s"),
    "payload": Input(200, "B", "a message on the wire", "chosen", "its envelope included"),
    "stays": Input(1_800, "s", "how long a connection lasts", "chosen", "phones and closed laptops"),
    "history": Input(100, "", "messages that a room keeps", "chosen", "`history=100`"),
    "giant": Input(1_000_000, "", "members of the one giant room", "chosen", "a stadium"),
    # What is held in reserve.
    "each": Input(
        10_000,
        "",
        "connections of an instance",
        "chosen",
        "its storm is over soon, see below; up to 50,000 fit",
    ),
    "utilisation": Input(0.5, "", "share of a core that may be used", "chosen", "the rest is for storms"),
    "heartbeat": Input(20, "s", "silence after which a line is pinged", "chosen", "the default"),
    # An instance: one process, at most one core.
    "memory": Input(
        7.6, "kB", "memory for a connection in a room", "measured", "`--work memory --idle 15000`"
    ),
    "room_memory": Input(
        1.7, "kB", "memory for each further room held", "measured", "`--work held-redis --held 100000`"
    ),
    "base_memory": Input(
        45_000, "kB", "memory of an instance without connections", "measured", "`--work memory`"
    ),
    "accepts": Input(4_960, "/s", "connections accepted, without TLS", "measured", "`--work accepts`"),
    "echo": Input(8.6, "µs", "to read a message and write one", "measured", "`--work echo`"),
    "small_rooms": Input(63_000, "/s", "deliveries in rooms of 10", "measured", "`--work rooms`"),
    "large_room": Input(
        218_000, "/s", "deliveries in a room of 1000, one in flight", "measured", "`--work fanout-1`"
    ),
    "call": Input(
        48,
        "µs",
        "an instance's core for a call to the broker",
        "measured",
        "one publish at a time, on uvloop",
    ),
    "busy_call": Input(
        20,
        "µs",
        "the same in a storm, with many at once",
        "measured",
        "`-m benchmarks.brokers --broker redis`",
    ),
    "receive": Input(
        49,
        "µs",
        "an instance's core for a message from it",
        "measured",
        "500/s one by one; 17 at 2,000/s in twos",
    ),
    "refusal": Input(100, "µs", "an instance's core to refuse a connection", "assumed", "half an accept"),
    "resume_calls": Input(
        5, "", "calls to the broker to take a session up", "assumed", "two for the session, one for each room"
    ),
    "start": Input(3, "s", "from an instance's end until its successor is ready", "assumed", "imports"),
    # Redis: one master, one core.
    "redis_publishes": Input(
        40_000,
        "/s",
        "publishes with history and a key",
        "measured",
        "8,000/s took 25 µs each; 68,000/s at full load",
    ),
    "redis_spread": Input(
        640_000, "/s", "messages handed to instances", "measured", "`PUBLISH` of 300 bytes to 100 subscribers"
    ),
    "broker_calls": Input(
        40_000, "/s", "other calls: subscribe, history, session", "assumed", "as publishes"
    ),
    "redis_entry": Input(
        50, "B", "memory for a kept message, beside the payload", "measured", "200 rooms of 100 messages"
    ),
    "redis_key": Input(
        250, "B", "memory for a publish's key, kept 300 s", "assumed", "`MEMORY USAGE` has 104 of them"
    ),
    "window": Input(300, "s", "for which keys are kept", "chosen", "`deduplication_window`"),
    "redis_room": Input(
        450,
        "B",
        "memory for a room, beside its messages",
        "measured",
        "the same; 4,800 with one message and a key",
    ),
    # The system and the network.
    "kernel": Input(
        3.9, "kB", "the kernel's memory for an idle socket", "measured", "`Slab` of 16,000 sockets"
    ),
    "tls_handshake": Input(
        166, "µs", "a core for a full TLS 1.3 handshake, P-256", "measured", "Python's `ssl`, OpenSSL 3.0"
    ),
    "tls_memory": Input(
        16, "kB", "OpenSSL's memory for a connection", "measured", "Python's `ssl`, 2000 objects"
    ),
    "headers": Input(70, "B", "Ethernet, IP, TCP and frame around a message", "assumed", "14 + 20 + 32 + 4"),
    "proxy": Input(
        250_000, "", "connections of a load balancer", "assumed", "HAProxy with TLS, about 40 kB for each"
    ),
    "ports": Input(28_232, "", "ports of one address", "measured", "Linux: 32768 to 60999"),
}


def value(name: str) -> float:
    """The input of that name."""
    return INPUTS[name].value
