"""A line to an ASGI application in the same process: the real protocol, without a socket."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Self
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message, Scope

from ..client.handshake import LATER
from ..client.line import Dial, LineLost, NotConnected
from ..errors import ConfigurationError
from ..observe.log import fields, logger
from ..protocol.codes import CloseCode
from ..server import find_hub
from .clock import within
from .lifespan import Lifespan

MOST_ON_THE_WAY = 64
"""Messages that are on their way in one direction; whoever sends more of them waits."""

ENDS_WITHIN = 5.0
"""Real seconds that the application has to leave its connections when it is over; then it is cancelled."""

LOST = int(CloseCode.ABNORMAL), ""
"""Code and reason of a line that was cut."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class InProcessLine:
    """One WebSocket connection, both ends of it: `send`, `recv` and `close` are the client's.

    :meth:`cut` and :meth:`stall` are the network's.
    """

    name = "ws"
    heard_at = 0.0

    def __init__(self) -> None:
        self.subprotocol: str | None = None
        self._to_application: deque[Message] = deque([{"type": "websocket.connect"}])
        self._to_client: deque[str | bytes] = deque()
        self._changed = asyncio.Event()
        self._flowing = True
        self._accepted = False
        self._refused: NotConnected | None = None
        self._ended: tuple[int, str] | None = None
        self._left_by: set[str] = set()

    # The client's end

    async def opened(self) -> None:
        """Wait for the end of the opening handshake; :exc:`NotConnected` if the application refuses."""
        await self._until(lambda: self._accepted or self._refused is not None or self._ended is not None)
        if self._refused is not None:
            raise self._refused
        if not self._accepted:
            raise NotConnected("the line was lost in the opening handshake")

    async def send(self, message: str | bytes) -> None:
        """Send a text or a binary message; :exc:`LineLost` if the line has ended."""
        await self._until(lambda: self._over_for_client or len(self._to_application) < MOST_ON_THE_WAY)
        if self._over_for_client:
            raise LineLost(*self._ended or LOST)
        kind = "text" if isinstance(message, str) else "bytes"
        self._to_application.append({"type": "websocket.receive", kind: message})
        self._tell()

    async def recv(self) -> str | bytes:
        """Return the next message; :exc:`LineLost` if the line has ended and all that came was received."""
        await self._until(lambda: self._over_for_client or bool(self._flowing and self._to_client))
        if not self._to_client:
            raise LineLost(*self._ended or LOST)
        message = self._to_client.popleft()
        self._tell()
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; on a line that has ended it does nothing."""
        self._end("client", code, reason)

    # The network's

    def cut(self) -> None:
        """Lose the line at once, and all that is on its way; each side sees 1006."""
        self._flowing = True
        if self._ended is None:
            self._end("network", *LOST)
        self._tell()

    def stall(self) -> None:
        """Let nothing more through, either way, and tell nobody: a line that is dead or half open."""
        self._flowing = False

    def flow(self) -> None:
        """Let everything through again, in order, what was held up first."""
        self._flowing = True
        self._tell()

    # The application's end

    async def receive(self) -> Message:
        """Return the next event, as an ASGI server does."""
        await self._until(lambda: self._over_for_app or bool(self._flowing and self._to_application))
        if self._to_application:
            message = self._to_application.popleft()
            self._tell()
            return message
        code, reason = self._ended or LOST
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def deliver(self, message: Message) -> None:
        """Take an event, as an ASGI server does: its `send`. Raises :exc:`OSError` if the line has ended."""
        kind = message["type"]
        if self._over_for_app:
            raise OSError("the client is gone")
        if kind == "websocket.accept":
            self.subprotocol = message.get("subprotocol")
            self._accepted = True
        elif kind == "websocket.http.response.start":
            self._refuse(message["status"])
        elif kind == "websocket.close" and not self._accepted:
            self._refuse(403)
        elif kind == "websocket.close":
            self._end("application", int(message.get("code") or 1000), str(message.get("reason") or ""))
        elif kind == "websocket.send":
            await self._until(lambda: self._over_for_app or len(self._to_client) < MOST_ON_THE_WAY)
            if self._over_for_app:
                raise OSError("the client is gone")
            text = message.get("text")
            self._to_client.append(message["bytes"] if text is None else text)
        elif kind != "websocket.http.response.body":
            raise ValueError(f"A WebSocket's application sends no {kind!r}.")
        self._tell()

    def returned(self, problem: Exception | None) -> None:
        """Take that the application is done with the connection."""
        if not self._accepted and self._refused is None:
            self._refuse(500)
        if problem is None:
            self._end("application", *LOST)
        else:
            self._end("application", CloseCode.INTERNAL_ERROR, "the application failed")

    # Both

    @property
    def _over_for_client(self) -> bool:
        return "client" in self._left_by or (self._ended is not None and self._flowing)

    @property
    def _over_for_app(self) -> bool:
        return "application" in self._left_by or (self._ended is not None and self._flowing)

    def _refuse(self, status: int) -> None:
        told = f"the server answered with HTTP {status}"
        self._refused = NotConnected(told, status=status, comes_back=status in LATER)
        self._tell()

    def _end(self, by: str, code: int, reason: str) -> None:
        # What the other side has sent before is still to be received; this one receives nothing more.
        if by != "application":
            self._to_client.clear()
        if by != "client":
            self._to_application.clear()
        self._left_by.add(by)
        if self._ended is None:
            self._ended = int(code), reason
        self._tell()

    def _tell(self) -> None:
        self._changed.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._changed.clear()
            await self._changed.wait()


class InProcess:
    """An ASGI application that runs while the body does, in the same event loop, for clients without socket.

    >>> async with InProcess(app) as running:
    ...     line = await running.dialling("ws://localhost/")("token-of-ada")

    Its lifespan is run as a server does, and the hub in it started even where the lifespan does not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lifespan = Lifespan(app)
        self._connections: dict[asyncio.Task[None], InProcessLine] = {}
        self._running = False
        self._ports = itertools.cycle(range(49152, 65536))

    async def __aenter__(self) -> Self:
        await self._lifespan.start()
        hub = find_hub(self._app)
        if hub is not None:
            await hub.start()
        self._running = True
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._running = False
        hub = find_hub(self._app)
        try:
            if hub is not None:
                await hub.drain()
        finally:
            try:
                await self._end_connections()
            finally:
                await self._lifespan.stop()
                if hub is not None:
                    await hub.stop()

    def dialling(self, url: str, *, subprotocol: str = "hubbub.v1.json", headers: Headers = ()) -> Dial:
        """Return what opens lines to a path of the application, at a URL such as ``ws://localhost/live/``.

        Raises :exc:`ConfigurationError` for a URL that is none for WebSockets.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ConfigurationError(f"{url} isn't a valid URI: connect to a ws:// or wss:// URL.")
        given = list(headers.items() if isinstance(headers, Mapping) else headers)

        async def dial(token: str | None) -> InProcessLine:
            login = [] if token is None else [("authorization", f"Bearer {token}")]
            sent = [("host", parts.netloc), ("sec-websocket-protocol", subprotocol), *given, *login]
            scope: Scope = {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "scheme": parts.scheme,
                "path": unquote(parts.path) or "/",
                "raw_path": (parts.path or "/").encode(),
                "query_string": parts.query.encode(),
                "root_path": "",
                "headers": [
                    (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent
                ],
                "client": ("127.0.0.1", next(self._ports)),
                "server": (parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)),
                "subprotocols": [subprotocol],
                "state": self._lifespan.state.copy(),
                "extensions": {"websocket.http.response": {}},
            }
            return await self._open(scope)

        return dial

    async def _open(self, scope: Scope) -> InProcessLine:
        if not self._running:
            raise NotConnected("the application does not run")
        line = InProcessLine()
        task = asyncio.create_task(self._serve(scope, line), name="hubbub: in-process connection")
        self._connections[task] = line
        task.add_done_callback(self._connections.pop)
        try:
            await line.opened()
        except BaseException:
            line.cut()
            raise
        return line

    async def _serve(self, scope: Scope, line: InProcessLine) -> None:
        problem: Exception | None = None
        try:
            await self._app(scope, line.receive, line.deliver)
        except Exception as raised:
            problem = raised
            logger.exception("error", extra=fields(during="serving an in-process connection"))
        finally:
            line.returned(problem)

    async def _end_connections(self) -> None:
        for line in self._connections.values():
            line.cut()
        for _ in range(2):
            if not self._connections:
                return
            with suppress(TimeoutError):
                async with within(ENDS_WITHIN):
                    await asyncio.wait(self._connections)
            for task in self._connections:
                task.cancel()
        if self._connections:
            raise RuntimeError(f"{len(self._connections)} connections don't end, not even when cancelled.")
