"""Listening for TLS: a handshake holds a place and has a deadline, like everything that is not a request yet.

An event loop's own TLS server tells of a connection only when its handshake is done. Until then nobody could
count it or send it away. So connections are accepted here, counted, and only then handed to the event loop.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from ..observe.log import fields, logger
from .admission import CROWDED, Refusal, Waiting
from .head import LATE
from .http import HTTPProtocol, HTTPState

PAUSE = 1.0
"""Seconds to wait before the next try to accept, where the machine has nothing to accept with."""

SHUTDOWN_TIMEOUT = 5.0
"""Seconds for the client's part of TLS's close."""

_FAILED = Refusal(400, "TLS handshake", "The TLS handshake failed.")

ProtocolFactory = Callable[[Waiting], HTTPProtocol]


class TLSListener:
    """Accepts connections from one listening socket; to uvicorn, one of its servers."""

    def __init__(
        self, listener: socket.socket, tls: ssl.SSLContext, state: HTTPState, create: ProtocolFactory
    ) -> None:
        self._listener = listener
        self.tls = tls
        self.state = state
        self.create = create
        self._task: asyncio.Task[None] | None = None

    def start(self, backlog: int) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._task = asyncio.get_running_loop().create_task(self._accept(), name="hubbub: accept TLS")
        self._task.add_done_callback(_tell)

    def close(self) -> None:
        """Accept no more."""
        if self._task is not None:
            self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing is accepted any more."""
        if self._task is not None:
            await asyncio.wait([self._task])  # if it failed, that was told already

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except OSError as problem:
                logger.error("error", extra=fields(during="accepting a connection", problem=problem.strerror))
                await asyncio.sleep(PAUSE)
                continue
            self._begin(connection)
            del connection

    def _begin(self, connection: socket.socket) -> None:
        handshake = Handshake(self, connection)
        try:
            handshake.begin()
        except Exception:
            logger.exception("error", extra=fields(during="accepting a connection"))
            handshake.forget()


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        logger.error("error", exc_info=problem, extra=fields(during="TLS"))


class Handshake:
    """A connection from accept until its first request is whole; the TLS handshake is a part of that.

    Whoever is refused before the TLS handshake is done gets no answer, since none could be read.
    """

    def __init__(self, listener: TLSListener, connection: socket.socket) -> None:
        self._listener = listener
        self._socket = connection
        self._peer: str | None = None
        self._http: HTTPProtocol | None = None
        self._task: asyncio.Task[None] | None = None
        self._handed_over = False

    def begin(self) -> None:
        """Take a place and a deadline, then shake hands."""
        loop, state = asyncio.get_running_loop(), self._listener.state
        try:
            address = self._socket.getpeername()
        except OSError:
            self._socket.close()  # gone already
            return
        client = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        self._peer = client[0] if client else None
        refusal = state.places.take(self, state.proxies.counted_peer(client))
        if refusal is not None:
            state.refusals.log(refusal, self._peer)
            self._socket.close()
            return
        state.connections.add(self)  # type: ignore[arg-type]
        state.heads.add(self, loop.time())
        self._task = loop.create_task(self._shake_hands())
        self._task.add_done_callback(self._done)

    def forget(self) -> None:
        """Give everything back that it has, after it failed to begin."""
        state = self._listener.state
        state.heads.forget(self)
        state.connections.discard(self)
        self._socket.close()

    async def _shake_hands(self) -> None:
        loop, state = asyncio.get_running_loop(), self._listener.state
        self._handed_over = True
        try:
            await loop.connect_accepted_socket(
                self._create,
                self._socket,
                ssl=self._listener.tls,
                # The deadline is sooner, since it counts from accept.
                ssl_handshake_timeout=state.heads.timeout + 1,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
        except OSError:
            state.heads.forget(self)
            state.refusals.log(_FAILED, self._peer)

    def _done(self, task: asyncio.Task[None]) -> None:
        state = self._listener.state
        # HTTP has the place now, or it is free.
        state.connections.discard(self)
        if not self._handed_over:
            self._socket.close()
        if task.cancelled():
            state.heads.forget(self)
        _tell(task)

    def _create(self) -> HTTPProtocol:
        self._http = self._listener.create(self)
        return self._http

    def expire(self, crowded: bool) -> None:
        """End it: the handshake, or the first request after it, took too long."""
        assert self._task is not None
        if self._task.done() and self._http is not None:
            self._http.expire(crowded)
        else:
            self._listener.state.refusals.log(CROWDED if crowded else LATE, self._peer)
            self._task.cancel()

    def shutdown(self) -> None:
        """Leave: called by uvicorn when the server stops."""
        if self._task is not None:
            self._task.cancel()
