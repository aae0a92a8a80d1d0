"""HAProxy: what shares connections out among instances, without sticky sessions."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..processes import Process, keep_port
from . import program

CONNECTIONS = 2_000
"""Connections at a time, if nothing else is said; each takes two file descriptors."""

FILE = "haproxy.cfg"

CONFIGURATION = """\
global
    maxconn {connections}

defaults
    mode http
    timeout http-request 10s
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    # A WebSocket is silent between two heartbeats.
    timeout tunnel 1h
    # An instance that refuses a connection is no reason to refuse the client: another one is tried at once.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response 503
    # An instance that drains, or has no broker, says so here, and gets no new connections.
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 200ms fall 1 rise 1 observe layer4 error-limit 1 on-error mark-down

frontend clients
    bind 127.0.0.1:"${{HUBBUB_PORT}}"
    # A message from outside that may have been published is not repeated.
    http-request disable-l7-retry if METH_POST
    default_backend instances

{grpc}backend instances
    balance roundrobin
{servers}
"""


# HTTP/2 is passed on as it is, one connection to one instance.
GRPC = """\
frontend grpc
    mode tcp
    bind 127.0.0.1:{port}
    default_backend grpc

backend grpc
    mode tcp
    balance roundrobin
    timeout server 1h
{servers}

"""


class HAProxy(Process):
    """HAProxy in front of instances on these ports of this machine: an async context manager.

    Each connection goes to the next instance in turn. One that does not answer ``/readyz`` with 200 gets
    none; connections that it has stay. It is ready when one instance is. At most `connections` are carried
    at a time. `grpc` are the instances' ports for that, in the same order.

    Raises :exc:`hubbub.ConfigurationError` if it is not installed, and
    :exc:`hubbub.testing.processes.NotStarted` if it does not start.
    """

    def __init__(
        self, backends: Sequence[int], *, connections: int = CONNECTIONS, grpc: Sequence[int] = ()
    ) -> None:
        self.backends = list(backends)
        self._grpc = list(grpc)
        self._place_of_grpc = keep_port() if grpc else None
        self.grpc_port: int = self._place_of_grpc.getsockname()[1] if self._place_of_grpc else 0
        """Where gRPC clients connect, if there are ports of `grpc`; 0 if not."""
        self._connections = connections
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # HAProxy takes its port from the environment, which `env` hands on: it is not known before the start.
        command = ["env", "HUBBUB_PORT={port}", program("haproxy", "haproxy"), "-db", "-f", FILE]
        super().__init__(command, ready="/readyz")

    async def start(self) -> None:
        """Start it, and wait until an instance can be reached through it."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hubbub-haproxy-")
            self._directory = self._folder.name
            (Path(self._folder.name) / FILE).write_text(self.configuration)
        await super().start()

    @property
    def configuration(self) -> str:
        """Its configuration file."""
        servers = [
            f"    server instance{number} 127.0.0.1:{port}" for number, port in enumerate(self.backends, 1)
        ]
        grpc = [
            f"    server instance{number} 127.0.0.1:{port} check port {asked}"
            for number, (port, asked) in enumerate(zip(self._grpc, self.backends, strict=False), 1)
        ]
        return CONFIGURATION.format(
            connections=self._connections,
            servers="\n".join(servers),
            grpc=GRPC.format(port=self.grpc_port, servers="\n".join(grpc)) if grpc else "",
        )

    async def close(self) -> None:
        """Stop it, and let go of its port and its folder."""
        try:
            await super().close()
        finally:
            if self._place_of_grpc is not None:
                self._place_of_grpc.close()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
