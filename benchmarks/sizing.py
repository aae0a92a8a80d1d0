"""`python -m benchmarks.sizing`: a fleet on paper, computed from `benchmarks.inputs`."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import INPUTS, value

SIZES = 10_000, 1_000_000, 20_000_000
FEWEST = 3
"""Instances at the least: one may restart while another is lost."""
RESERVE = 20
"""One instance is held in reserve for so many."""
CONNECTIONS_EACH = 2
"""Connections of an instance to each master: one for calls, one for what is spread."""


@dataclass(frozen=True)
class Fleet:
    """What so many connections take. Rates are a second, memory is in kB, processor time in cores."""

    connections: int

    @property
    def rooms(self) -> float:
        return self.connections * value("rooms_each") / value("members")

    @property
    def publishes(self) -> float:
        return self.connections * value("publishes")

    @property
    def deliveries(self) -> float:
        return self.publishes * value("members")

    @property
    def arrivals(self) -> float:
        """Connections that come, and as many that go."""
        return self.connections / value("stays")

    @property
    def needed(self) -> int:
        """Instances, by their connections and by their work."""
        by_count = ceil(self.connections / value("each"))
        return max(FEWEST, by_count, ceil(self._work(max(FEWEST, by_count)) / value("utilisation")))

    @property
    def instances(self) -> int:
        """The same with the reserve."""
        return self.needed + ceil(self.needed / RESERVE)

    @property
    def copies(self) -> float:
        """Instances that a message of a room goes to: those that a member of it is on."""
        return _copies(self.instances)

    @property
    def spread(self) -> float:
        """Messages that the broker hands to instances."""
        return self.publishes * self.copies

    @property
    def cores(self) -> float:
        """What the instances work, all together."""
        return self._work(self.instances)

    def _work(self, instances: int) -> float:
        return sum(self.shares(instances).values())

    def shares(self, instances: int) -> dict[str, float]:
        """The work of so many instances, by what it is for."""
        call = value("call") * 1e-6
        return {
            "deliveries": self.deliveries / value("small_rooms"),
            "messages from the broker": self.publishes * _copies(instances) * value("receive") * 1e-6,
            "publishes": self.publishes * (value("echo") * 1e-6 + call),
            "connections that come": self.arrivals * (1 / value("accepts") + value("resume_calls") * call),
            "pings": self.connections / value("heartbeat") * value("echo") * 1e-6,
        }

    @property
    def each(self) -> float:
        """Connections of an instance."""
        return self.connections / self.instances

    @property
    def instance_memory(self) -> float:
        further = (value("rooms_each") - 1) * value("room_memory")
        return value("base_memory") + self.each * (value("memory") + further + value("kernel"))

    @property
    def broker_work(self) -> float:
        """Of the masters, in cores."""
        return (
            self.publishes / value("redis_publishes")
            + self.spread / value("redis_spread")
            + self.arrivals * value("resume_calls") / value("broker_calls")
        )

    @property
    def masters(self) -> int:
        return max(1, ceil(self.broker_work / value("utilisation")))

    @property
    def broker_memory(self) -> float:
        """Of the masters together, with every history full."""
        kept = value("history") * (value("payload") + value("redis_entry"))
        keys = self.publishes * value("window") * value("redis_key")
        return (self.rooms * (value("redis_room") + kept) + keys) / 1000

    @property
    def broker_connections(self) -> int:
        """Of one master."""
        return self.instances * CONNECTIONS_EACH

    @property
    def files(self) -> float:
        """File descriptors of an instance."""
        return self.each + self.masters * CONNECTIONS_EACH + 50

    @property
    def _message(self) -> float:
        return value("payload") + value("headers")

    @property
    def to_clients(self) -> float:
        """Bits to clients; pings and their answers are counted once for each way."""
        pings = self.connections / value("heartbeat") * value("headers")
        return 8 * (self.deliveries * self._message + pings)

    @property
    def from_master(self) -> float:
        """Bits that one master sends."""
        return 8 * self.spread * self._message / self.masters

    @property
    def proxies(self) -> int:
        """Load balancers, one of them in reserve."""
        return ceil(self.connections / value("proxy")) + 1

    @property
    def ports(self) -> float:
        """Source ports of one load balancer that one instance's connections take."""
        return self.each / self.proxies

    @property
    def handshakes(self) -> float:
        """Work of TLS in cores, all load balancers together."""
        return self.arrivals * value("tls_handshake") * 1e-6

    @property
    def zone(self) -> float:
        """Seconds that TLS keeps ten cores of each load balancer busy when a third of all clients comes."""
        return self.connections / 3 * value("tls_handshake") * 1e-6 / (10 * self.proxies)

    @property
    def giant(self) -> float:
        """Members of a giant room."""
        return min(value("giant"), self.connections)

    @property
    def giant_time(self) -> float:
        """Seconds until an instance has handed a message to all its members of the giant room."""
        return self.giant / self.instances / value("large_room") + value("receive") * 1e-6

    @property
    def giant_rate(self) -> float:
        """Messages that the giant room can take: by its instances and by the one master it is on."""
        return value("utilisation") * min(1 / self.giant_time, value("redis_spread") / self.instances)


def _copies(instances: int) -> float:
    return float(instances * (1 - (1 - 1 / instances) ** value("members")))


def most_within(beyond: Callable[[Fleet], bool], most: int = 1_000_000_000) -> int | None:
    """Return the most connections with which a limit still holds; None if it does with `most`."""
    if not beyond(Fleet(most)):
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if beyond(Fleet(middle)):
            high = middle
        else:
            low = middle
    return low


def amount(number: float) -> str:
    """A number to two digits or so, as one reads it on paper."""
    for factor, name in ((1e9, " billion"), (1e6, " million")):
        if number >= factor:
            return f"{number / factor:.3g}{name}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def memory(kilobytes: float) -> str:
    """Memory, from kB."""
    for factor, name in ((1e9, "TB"), (1e6, "GB"), (1e3, "MB")):
        if kilobytes >= factor:
            return f"{kilobytes / factor:.3g} {name}"
    return f"{kilobytes:.3g} kB"


def bits(number: float) -> str:
    """A rate of bits."""
    return f"{number / 1e9:.3g} Gbit/s" if number >= 1e9 else f"{number / 1e6:.3g} Mbit/s"


def seconds(number: float) -> str:
    """A time."""
    return f"{number * 1e3:.2g} ms" if number < 1 else f"{number:.2g} s"


Rows = list[tuple[str, ...]]

LINES: list[tuple[str, Callable[[Fleet], str]]] = [
    ("rooms", lambda fleet: amount(fleet.rooms)),
    ("publishes a second", lambda fleet: amount(fleet.publishes)),
    ("deliveries a second", lambda fleet: amount(fleet.deliveries)),
    ("connections that come a second", lambda fleet: amount(fleet.arrivals)),
    ("**instances**, with one in twenty in reserve", lambda fleet: f"**{amount(fleet.instances)}**"),
    ("connections of each", lambda fleet: amount(fleet.each)),
    ("work of all instances, in cores", lambda fleet: amount(fleet.cores)),
    *[
        (
            f"- of it {name}",
            lambda fleet, name=name: f"{fleet.shares(fleet.instances)[name] / fleet.cores:.0%}",
        )
        for name in Fleet(1).shares(FEWEST)
    ],
    (
        "memory of each instance, the kernel's for sockets included",
        lambda fleet: memory(fleet.instance_memory),
    ),
    ("memory of all", lambda fleet: memory(fleet.instance_memory * fleet.instances)),
    ("file descriptors of each", lambda fleet: amount(fleet.files)),
    ("instances that a message goes to", lambda fleet: amount(fleet.copies)),
    ("messages that the broker spreads a second", lambda fleet: amount(fleet.spread)),
    ("work of the broker, in cores", lambda fleet: amount(fleet.broker_work)),
    ("**Redis masters**, each with a replica beside it", lambda fleet: f"**{amount(fleet.masters)}**"),
    ("memory of each master, histories full", lambda fleet: memory(fleet.broker_memory / fleet.masters)),
    ("connections to each master", lambda fleet: amount(fleet.broker_connections)),
    ("each master sends", lambda fleet: bits(fleet.from_master)),
    ("all instances send to clients", lambda fleet: bits(fleet.to_clients)),
    ("**load balancers**, one in reserve", lambda fleet: f"**{amount(fleet.proxies)}**"),
    ("file descriptors of each", lambda fleet: amount(2 * fleet.connections / fleet.proxies)),
    ("source ports of each to one instance", lambda fleet: amount(fleet.ports)),
    ("TLS handshakes, in cores of all", lambda fleet: amount(fleet.handshakes)),
    ("TLS when a third of all clients comes at once: ten cores of each busy", lambda f: seconds(f.zone)),
    ("one giant room: members", lambda fleet: amount(fleet.giant)),
    ("- members on each instance", lambda fleet: amount(fleet.giant / fleet.instances)),
    ("- a message is with all of them after", lambda fleet: seconds(fleet.giant_time)),
    ("- messages a second at the most", lambda fleet: amount(fleet.giant_rate)),
]

LIMITS: list[tuple[str, str, Callable[[Fleet], bool]]] = [
    ("one instance", "its connections or its core", lambda f: max(_alone(f)) > 1),
    (
        "one port, for all workers behind it",
        "source ports of one proxy",
        lambda f: f.connections > value("ports"),
    ),
    ("one load balancer", "its memory", lambda f: f.connections > value("proxy")),
    ("one Redis master", "its core", lambda f: f.broker_work > value("utilisation")),
    (
        "10,000 connections to a master",
        "`maxclients`, Redis' default",
        lambda f: f.broker_connections > 10_000,
    ),
    (
        "a giant room on all instances",
        "ten messages a second, at its master",
        lambda f: 10 * f.instances > value("redis_spread") * value("utilisation"),
    ),
    ("Redis Cluster", "1000 masters, the most that is recommended", lambda f: f.masters > 1000),
]


def _alone(fleet: Fleet) -> tuple[float, float]:
    """How much of one instance's connections and core a fleet takes, if it is alone."""
    return fleet.connections / value("each"), sum(fleet.shares(1).values()) / value("utilisation")


def inputs() -> Rows:
    """The table of inputs."""
    return [
        (each.what, f"{each.value:,g} {each.unit}".strip(), each.kind, each.where) for each in INPUTS.values()
    ]


def fleets() -> Rows:
    """What each size takes."""
    return [(what, *(show(Fleet(size)) for size in SIZES)) for what, show in LINES]


def limits() -> Rows:
    """What is used up first, in that order."""
    found = [(most_within(beyond), what, which) for what, which, beyond in LIMITS]
    return [
        (what, which, amount(at))
        for at, what, which in sorted((at, what, which) for at, what, which in found if at is not None)
    ]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    connections: Annotated[
        list[int] | None, typer.Argument(help="Sizes to compute instead of those in the documentation.")
    ] = None,
) -> None:
    """Print what so many connections take, by the inputs of `benchmarks.inputs`."""
    sizes = connections or SIZES
    shown = Table(box=SIMPLE)
    shown.add_column("connections")
    for size in sizes:
        shown.add_column(amount(size), justify="right")
    for what, show in LINES:
        shown.add_row(what.replace("**", ""), *(show(Fleet(size)).replace("**", "") for size in sizes))
    Console().print(shown)


if __name__ == "__main__":
    app()
