"""Clients' lines without sockets, over either transport, whose ends can be lost at any moment."""

import asyncio
import json
from collections import deque
from typing import Any, NamedTuple

from starlette.types import Message, Scope

from fake_transport import framing, scope
from hubbub.engine.outbox import Chunk
from hubbub.engine.transport import Ending, Listener
from hubbub.transports.native import EXTENSION


class Closed(NamedTuple):
    """The server's close frame."""

    code: int
    reason: str


LOST = Closed(1006, "")
"""What a client sees of a line that ended without a close frame."""


class Line:
    """One connection. `arrived` is on its way to the client, `sent` to the server."""

    driven = None
    served_by = None

    def __init__(self) -> None:
        self.arrived: deque[dict[str, Any] | Closed] = deque()
        self.sent: deque[str] = deque()
        self.closed_with: Closed | None = None
        self.gone = False
        """Whether the server knows that it has ended."""
        self.cut_off = False
        """Whether it was cut, rather than ended by the server."""
        self.stalled = False
        self.late = False
        """Whether what the client sends is still on its way."""
        self.task: asyncio.Task[None] | None = None

    def scope(self, user: str | None) -> Scope:
        """Return the scope of its connection."""
        query = b"" if user is None else b"token=" + user.encode()
        return scope(query_string=query, line=self, extensions={})

    def send(self, envelope: dict[str, Any]) -> None:
        """Send to the server."""
        self.sent.append(json.dumps(envelope))
        self.changed()

    def cut(self) -> None:
        """Lose the line, and all that is on its way, either way."""
        self.gone = self.cut_off = True
        self.sent.clear()
        self.arrived.clear()
        self.changed()

    def arrive(self) -> None:
        """Have what the client has sent reach the server."""
        self.late = False
        self.changed()

    def stall(self) -> None:
        """Read nothing any more."""
        self.stalled = True

    def flow(self) -> None:
        """Read again."""
        self.stalled = False
        self.changed()

    def answer_close(self) -> None:
        """Take part in the closing handshake that the server began."""
        self.gone = True
        self.changed()

    def served(self) -> None:
        """Take that the server is done with it."""
        if self.closed_with is None and not self.gone:
            self.closed_with = LOST
            self.arrived.append(LOST)
        self.gone = True
        self.changed()

    def changed(self) -> None:
        """Go on with whatever waited for a change."""


class ASGILine(Line):
    """A connection over plain ASGI."""

    def __init__(self) -> None:
        super().__init__()
        self._connected = False
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not ((self.sent and not self.late) or self.gone):
            await self._until_changed()
        if self.gone:
            return {"type": "websocket.disconnect", "code": 1006}
        return {"type": "websocket.receive", "text": self.sent.popleft()}

    async def deliver(self, event: Message) -> None:
        while self.stalled and not self.gone:
            await self._until_changed()
        if self.gone:
            raise OSError("the client is gone")
        if event["type"] == "websocket.send":
            self.arrived.append(json.loads(event["text"]))
        elif event["type"] != "websocket.accept":
            # A refusal over HTTP is the end too.
            self.closed_with = Closed(event.get("code", 1013), event.get("reason", ""))
            self.arrived.append(self.closed_with)
            self.gone = True
            self.changed()


class NativeLine(Line):
    """A connection that the engine is given as it is: in the place of hubbub's own protocol class."""

    framing = staticmethod(framing)
    pings = False
    opened = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._listener: Listener | None = None
        self._reading = True

    def scope(self, user: str | None) -> Scope:
        return {**super().scope(user), "extensions": {EXTENSION: self}}

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        self._listener = listener
        if self.stalled:
            listener.pause_writing()
        self.changed()

    def write(self, chunks: list[Chunk]) -> None:
        if not self.gone:
            self.arrived.extend(json.loads(chunk) for chunk in chunks)  # type: ignore[arg-type]

    def close(self, code: int, reason: str) -> None:
        if self.closed_with is None:
            self.closed_with = Closed(code, reason)
            if not self.gone:
                self.arrived.append(self.closed_with)

    def abort(self) -> None:
        self.served()

    def ping(self) -> None: ...

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self.changed)

    def stall(self) -> None:
        super().stall()
        if self._listener is not None:
            self._listener.pause_writing()

    def flow(self) -> None:
        super().flow()
        if self._listener is not None:
            self._listener.resume_writing()

    def changed(self) -> None:
        listener = self._listener
        if listener is None:
            return
        if self.gone:
            self._listener = None
            listener.ended(Ending(sent=self.closed_with))
            return
        while self.sent and not self.late and self._reading and self.closed_with is None:
            listener.received(self.sent.popleft())

    async def receive(self) -> Message:
        raise AssertionError("the engine has the line itself")

    async def deliver(self, event: Message) -> None:
        # It was refused before the engine had it.
        self.closed_with = Closed(event.get("code", 1013), event.get("reason", ""))
        self.arrived.append(self.closed_with)
        self.gone = True
