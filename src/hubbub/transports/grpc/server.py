"""A gRPC server beside hubbub's own: the same settings, the same event loop, a port of its own."""

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from ...errors import ConfigurationError
from ...settings import Settings
from ..admission import OpenLine
from .health import Health
from .service import Calls, Publish, Service

SPARE = 65_536
"""Bytes above `max_message` that gRPC takes in, so that hubbub says itself what is a little too large."""


IDLE = 60
"""Seconds that a connection is kept without a call; a client comes back by itself for its next one."""


def services(
    open_line: OpenLine, settings: Settings, ready: Callable[[], bool], publish: Publish | None
) -> tuple[Service, Health]:
    """Return hubbub's service and the health service, which count their calls together."""
    calls = Calls(settings)
    return Service(open_line, settings, calls, publish), Health(ready, calls)


def add(service: Service, health: Health | None, server: grpc.aio.Server) -> None:
    """Add the services to a server of somebody's, which has not started."""
    handlers = [service.handler(), *([health.handler()] if health else [])]
    server.add_generic_rpc_handlers(tuple(handlers))


class GRPCServer:
    """Serves gRPC at the setting `grpc_port`.

    To be made in a running event loop. Raises :exc:`ConfigurationError` for settings that can't work with it,
    for TLS files that can't be used, and if the address can't be had.
    """

    def __init__(self, service: Service, health: Health, settings: Settings) -> None:
        self._health = health
        self._server = grpc.aio.server(
            options=_options(settings),
            # More than there are places for, as who finds none is told so.
            maximum_concurrent_rpcs=settings.max_connections + settings.max_pending,
        )
        add(service, health, self._server)
        port = _listen(self._server, settings)
        scheme = "grpcs" if settings.ssl_certfile else "grpc"
        self.url = f"{scheme}://{_shown(settings.host)}:{port}"
        """Where it listens."""

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def leave(self, seconds: float) -> None:
        """Listen no more, and wait until the calls that are there have ended; after some seconds, end them.

        The lines among them end when the hub drains.
        """
        self._health.leave()
        await self._server.stop(seconds)


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    host, port = settings.host, settings.grpc_port or 0
    if settings.workers > 1 and not port:
        raise ConfigurationError(
            f"With {settings.workers} workers, grpc_port can't be 0: they share one port; say which."
        )
    address = f"{_shown(host)}:{port}"
    credentials = _credentials(settings)
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError:
        raise ConfigurationError(
            f"Can't listen on {host} port {port} for gRPC. Give another --host or --grpc-port, or stop what "
            "is listening there; with TLS, look whether the certificate and its key fit together."
        ) from None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _options(settings: Settings) -> list[tuple[str, int]]:
    interval, timeout = (round(seconds * 1000) for seconds in (settings.ping_interval, settings.ping_timeout))
    return [
        ("grpc.max_receive_message_length", settings.max_message + SPARE),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes * 2),
        ("grpc.max_allowed_incoming_connections", settings.max_connections + settings.max_pending),
        # A stream outlasts its line where its client does not take what was written: gRPC can't cut it off.
        ("grpc.max_concurrent_streams", settings.max_connections_per_address),
        # A socket that says nothing is let go, and so is one that has had no call for a while.
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout * 1000)),
        ("grpc.max_connection_idle_ms", IDLE * 1000),
        # The second time-out is the one that counts while nothing is being read, which gRPC has at 60 s.
        ("grpc.keepalive_time_ms", max(1000, interval)),
        ("grpc.keepalive_timeout_ms", max(1000, timeout)),
        ("grpc.http2.ping_timeout_ms", max(1000, timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ask as often as the server does.
        ("grpc.http2.min_ping_interval_without_data_ms", max(1000, interval // 2)),
        # Without workers, two servers at one port are a mistake.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.ssl_certfile is None:
        return None
    if settings.ssl_keyfile_password is not None:
        raise ConfigurationError("gRPC can't read a private key with a password; give grpc_port one without.")
    if settings.ssl_ciphers and "GRPC_SSL_CIPHER_SUITES" not in os.environ:
        raise ConfigurationError(
            "gRPC takes its ciphers from the environment alone: set GRPC_SSL_CIPHER_SUITES beside "
            "ssl_ciphers."
        )
    try:
        certificate = Path(settings.ssl_certfile).read_bytes()
        key = Path(settings.ssl_keyfile or settings.ssl_certfile).read_bytes()
        authorities = Path(settings.ssl_ca_certs).read_bytes() if settings.ssl_ca_certs else None
    except OSError as problem:
        raise ConfigurationError(f"The TLS files can't be read for gRPC: {problem}.") from None
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authorities, require_client_auth=authorities is not None
    )
