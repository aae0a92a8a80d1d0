"""The server of a soak: a real process, and what this machine lets processes do."""

import os
import re
import resource
from pathlib import Path

from ..errors import ConfigurationError
from ..testing.processes import Process
from .note import HISTORY

CONNECTIONS_PER_LINE = 3
"""Connections that a client may have at a time: its line, a request beside it, and one that was just lost."""
SPARE_FILES = 128
"""File descriptors beside those of connections."""
STARTS_WITHIN = 120.0
"""Seconds: a server that is started while its broker is away is ready only when that is back."""
STOPS_WITHIN = 30.0
"""Seconds: more than servers take to let their clients go."""


def served(
    app: str,
    *,
    broker: str,
    native: bool,
    history: int,
    heartbeat: float,
    connections: int,
    grpc_port: int | None = None,
) -> Process:
    """Return an application as a process that can be entered, killed and started again.

    It lets in so many clients as `connections`, all from one address, with a `grpc_port` over gRPC too.
    `heartbeat` is in seconds: the shorter, the sooner a dead line is noticed on both sides.
    """
    # With those that ask whether it is ready.
    places = CONNECTIONS_PER_LINE * connections + SPARE_FILES
    return Process.serving(
        app,
        environment={HISTORY: str(history)},
        starts_within=STARTS_WITHIN,
        stops_within=STOPS_WITHIN,
        broker=broker,
        native=native,
        grpc_port=grpc_port,
        ping_interval=heartbeat,
        ping_timeout=heartbeat,
        max_connections=places,
        max_connections_per_address=places,
        max_pending=places,
        max_message_rate=1e6,
        max_message_burst=1_000_000,
        log_level="warning",
    )


def allow_files(connections: int) -> None:
    """Let this process and those that it starts have so many connections.

    Raises :exc:`ConfigurationError` if this machine does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{needed:,} files have to be open, and this machine lets a process open {hard:,}: take fewer "
            "clients, or raise that with ulimit -Hn."
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def memory(server: Process, name: str = "VmRSS") -> int:
    """Return the bytes of memory that a server has, or at most had (``VmHWM``); 0 where nobody knows."""
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
    except (OSError, RuntimeError):
        return 0  # it is being killed or started, or this is no Linux
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def processor_time(server: Process) -> float:
    """Return the seconds of processor time that a server has taken so far; 0 where nobody knows."""
    try:
        stat = Path(f"/proc/{server.pid}/stat").read_text()
    except (OSError, RuntimeError):
        return 0.0
    words = stat.rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
