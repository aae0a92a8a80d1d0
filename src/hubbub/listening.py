"""The socket that a server accepts from: a port or a Unix domain socket, and where people find it."""

import os
import socket
import stat
from contextlib import suppress

from .errors import ConfigurationError
from .settings import Settings


def listen(settings: Settings) -> socket.socket:
    """Return the socket to accept from; :exc:`ConfigurationError` if the address can't be had."""
    try:
        if settings.uds is None:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            listener = socket.create_server(
                (settings.host, settings.port), family=family, backlog=settings.backlog
            )
            # Accepted sockets inherit it. uvloop sets it, asyncio only where a socket names its protocol.
            # Without it, a response whose head and body are written one by one waits for a delayed ACK.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            listener = _listen_on_path(settings.uds)
    except OSError as problem:
        where = settings.uds or f"{settings.host} port {settings.port}"
        raise ConfigurationError(
            f"Can't listen on {where}: {problem.strerror}. Give another --host, --port or --uds, or stop "
            "what is listening there."
        ) from None
    listener.set_inheritable(True)
    return listener


def _listen_on_path(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            # Left behind by a server that was killed; whoever still listens there would answer.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path):
                    os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  # a reverse proxy runs as another user
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, settings: Settings) -> str:
    """Return where a listening socket can be reached, for people."""
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}"
