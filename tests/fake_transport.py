"""A client's line without a socket: it keeps what is written to it, and ends when it is told to."""

import json
from typing import Any

from starlette.types import Scope

from hubbub import Connection, Settings
from hubbub.engine.outbox import Chunk, Flusher
from hubbub.engine.transport import Ending, Listener
from hubbub.protocol.codecs import JSON, Codec


def framing(payload: bytes, binary: bool) -> Chunk:
    return payload


class FakeTransport:
    """Keeps payloads in `written`, and what else was asked of it in `asked`."""

    framing = staticmethod(framing)
    pings = True
    driven = None
    served_by = None

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.asked: list[object] = []
        self.listener: Listener | None = None
        self.closed_with: tuple[int, str] | None = None

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        self.listener = listener

    def write(self, chunks: list[Chunk]) -> None:
        self.written += chunks  # type: ignore[arg-type]

    def close(self, code: int, reason: str) -> None:
        self.closed_with = (code, reason)

    def end(self) -> None:
        """Have the line end, as its client answers the close or is gone."""
        assert self.listener is not None
        self.listener.ended(Ending(received=self.closed_with, sent=self.closed_with))

    def abort(self) -> None:
        self.asked.append("abort")
        self.end()

    def ping(self) -> None:
        self.asked.append("ping")

    def pause_reading(self) -> None:
        self.asked.append("pause_reading")

    def resume_reading(self) -> None:
        self.asked.append("resume_reading")

    @property
    def envelopes(self) -> list[dict[str, Any]]:
        """What was written, as a JSON client sees it."""
        return [json.loads(payload) for payload in self.written]


def scope(**changes: object) -> Scope:
    """Return the ASGI scope of a connection."""
    return {
        "type": "websocket", "path": "/", "scheme": "ws", "server": ("127.0.0.1", 80), "query_string": b"",
        "headers": [], "client": ("127.0.0.1", 50000), "subprotocols": [], **changes,
    }  # fmt: skip


def fake_connection(
    settings: Settings | None = None,
    *,
    flusher: Flusher | None = None,
    codec: Codec | None = JSON,
    **changes: object,
) -> tuple[Connection, FakeTransport]:
    """Return a connection and the fake line that it is on."""
    transport = FakeTransport()
    connection = Connection(scope(**changes), transport, flusher or Flusher(), settings or Settings(), codec)
    transport.listener = connection
    return connection, transport
