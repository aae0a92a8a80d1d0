"""One of the proxy's two sockets of a connection."""

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum
from typing import Protocol, cast

UNSENT = 64 * 2**10
"""Bytes that the system has not taken yet, from which on an end is full."""
LINGER = 1.0
"""Seconds for which an end that was closed cleanly waits for the other side to close, too."""
_RESET = struct.pack("ii", 1, 0)


class Mark(Enum):
    """What can come in a stream besides bytes."""

    END = "a FIN"
    LOST = "a RST"


class Stream(Protocol):
    """What an end puts its bytes into, and gets them from."""

    def feed(self, data: bytes | Mark) -> None:
        """Take what was read."""

    def go_on(self) -> None:
        """Look again whether something can be written."""


class End(asyncio.Protocol):
    """The proxy's socket towards a client or a server. What it reads goes into `outgoing`."""

    def __init__(self) -> None:
        self.outgoing: Stream
        self.incoming: Stream
        self.made = False
        self.lost = asyncio.Event()
        self._transport: asyncio.Transport
        self._reading = True
        self._ended = False
        """Whether the other side has sent its FIN."""
        self._finished = False
        """Whether this side has."""
        self._timer: asyncio.TimerHandle | None = None
        self.full = False
        """Whether the system takes no more bytes for now."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's only looks like one
        self._transport.set_write_buffer_limits(high=UNSENT)
        self.made = True

    def data_received(self, data: bytes) -> None:
        """Hand on what was read."""
        self.outgoing.feed(data)

    def eof_received(self) -> bool:
        """Hand on the FIN; the other direction stays open."""
        self._ended = True
        self.outgoing.feed(Mark.END)
        if self._finished:
            self._transport.close()
        return True

    def pause_writing(self) -> None:
        """Take note that the system takes no more bytes."""
        self.full = True

    def resume_writing(self) -> None:
        """Take note that it does again."""
        self.full = False
        self.incoming.go_on()

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002
        """Hand on that it is over, unless both sides have sent a FIN."""
        if self._timer is not None:
            self._timer.cancel()
        self.full = False
        self.lost.set()
        if not (self._ended and self._finished):
            self.outgoing.feed(Mark.LOST)
        self.incoming.go_on()

    @property
    def writable(self) -> bool:
        """Whether something written goes anywhere."""
        return self.made and not (self._finished or self.lost.is_set())

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes; nothing if it is over."""
        if self.writable:
            self._transport.write(data)

    def read(self, wanted: bool) -> None:
        """Take bytes from the socket, or leave them there, so that their sender is held up."""
        if self.made and wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def finish(self) -> None:
        """Send a FIN behind what was written."""
        if self.writable:
            self._finished = True
            if self._ended:
                self._transport.close()
            else:
                with suppress(OSError):  # it was reset; that it is lost is told in the next turn
                    self._transport.write_eof()

    def close(self) -> None:
        """Send a FIN, and be gone as soon as the other side closes, or after `LINGER` seconds.

        Bytes that were not read would turn the FIN into a RST.
        """
        self.finish()
        self.read(True)
        self.forget_in(LINGER)

    def reset(self) -> None:
        """Send a RST."""
        if self.made and not self.lost.is_set():
            with suppress(OSError):  # it is gone already
                sock: socket.socket = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.abort()

    def forget_in(self, seconds: float) -> None:
        """Abort after some seconds."""
        if self.made and self._timer is None and not self.lost.is_set():
            self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Be gone at once."""
        if self.made:
            self._transport.abort()


def reset_socket(accepted: socket.socket) -> None:
    """Break a connection off (RST) that has no transport yet."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    accepted.close()
