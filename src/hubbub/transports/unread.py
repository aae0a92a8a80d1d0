"""Whether a client reads the answer that it asked for."""

import asyncio
import select
import socket
import struct
import sys
from typing import NamedTuple, Protocol

from uvicorn.protocols.http.flow_control import FlowControl


class Answering(Protocol):
    """A connection that answers requests."""

    transport: asyncio.Transport
    flow: FlowControl

    @property
    def secure(self) -> bool:
        """Whether TLS is between it and its socket."""

    @property
    def answering(self) -> bool:
        """Whether a request still waits for the end of its answer."""

    def watch(self) -> None:
        """Have another look later."""

    def abandon(self) -> None:
        """End it with what the client does not read."""


class Answers:
    """The answers on one connection, looked at in turn; who took nothing between two looks is let go."""

    def __init__(self, connection: Answering) -> None:
        self._connection = connection
        self._seen: int | None = None
        """How far the client had come at the last look, if it had to take some until the next one."""

    def read(self) -> None:
        """Note that the client took something."""
        self._seen = None

    def expire(self, crowded: bool) -> None:  # noqa: ARG002  # there is no limit past which one goes
        """Look whether the client took something since the last look; if not, end the connection."""
        connection, transport = self._connection, self._connection.transport
        closing = transport.is_closing()
        left = transport.get_write_buffer_size()
        if connection.secure:
            # What is encrypted waits below: the transport that there is knows of none of it.
            progress = progress_of(transport.get_extra_info("socket"))
            left += progress.waiting
            seen = progress.acknowledged if progress.waiting else None
        else:
            seen = -left if closing or connection.flow.write_paused else None
        if seen is not None and self._seen is not None and seen <= self._seen:
            connection.abandon()
            return
        self._seen = seen
        if left or closing or connection.answering:
            connection.watch()


class Progress(NamedTuple):
    """What the kernel says of a connection, in bytes."""

    waiting: int
    """Taken from the program, but not sent: for a while only, unless the peer does not read."""
    acknowledged: int
    """Received by the peer since the connection began."""


_NOT_KNOWN = Progress(0, 0)
_ACKNOWLEDGED, _WAITING = struct.Struct("@120xQ"), struct.Struct("@144xI")  # in Linux's struct tcp_info


def progress_of(connection: socket.socket | None) -> Progress:
    """Return how far a TCP connection's peer has come; nothing waits where the kernel does not say.

    Linux says it, since 4.6. While something waits in the program, the kernel takes nothing more; where it
    would, what the peer has not read is all in the kernel, and costs the program nothing.
    """
    if sys.platform != "linux" or connection is None or connection.family == socket.AF_UNIX:
        return _NOT_KNOWN
    try:
        said = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return _NOT_KNOWN  # it was lost meanwhile, which its protocol is told
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    if poll.poll(0):
        return _NOT_KNOWN
    if len(said) < _WAITING.size:
        return _NOT_KNOWN
    [acknowledged], [waiting] = _ACKNOWLEDGED.unpack_from(said), _WAITING.unpack_from(said)
    # Over TLS something was acknowledged before there is an answer: 0 says that it is not counted.
    return Progress(waiting, acknowledged) if acknowledged else _NOT_KNOWN
