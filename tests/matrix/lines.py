"""The lines: each a way into the chat, opened as a `client.line.Line`, and who talks over one."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hubbub.client.line import Dial, Line, LineLost, NotConnected
from hubbub.client.lines import dialling

ARRIVES_WITHIN = 10.0
"""Seconds, on a machine that has much else to do."""

ADA, BOB, CLEO = "token-of-ada", "token-of-bob", "token-of-cleo"


@dataclass(frozen=True)
class Kind:
    """A kind of line: the URL's scheme says which."""

    name: str
    title: str
    scheme: str

    @property
    def has_own_port(self) -> bool:
        """Whether it does not come to the host's port."""
        return self.scheme == "grpc"

    def dial(self, port: int, path: str, headers: Mapping[str, str]) -> Dial:
        """Return what opens one to a port and a path, with headers of the request's."""
        below = {"grpc": "", "socketio+http": f"{path}socket.io/"}
        return dialling(
            f"{self.scheme}://127.0.0.1:{port}{below.get(self.scheme, path)}",
            headers=headers,
            proxy=None,
            compression=None,  # so that a flood is one
        )

    def __str__(self) -> str:
        return self.name


LINES = (
    Kind("websocket", "WebSocket", "ws"),
    Kind("sse", "Server-Sent Events", "sse+http"),
    Kind("stream", "HTTP streaming", "stream+http"),
    Kind("poll", "Long polling", "poll+http"),
    Kind("socketio", "Socket.IO", "socketio+http"),
    Kind("grpc", "gRPC", "grpc"),
)

requests = itertools.count(1)


class Speaker:
    """One who talks over a line, in envelopes as dictionaries. Heartbeats are passed over."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.welcome: dict[str, Any] = {}

    @property
    def heard_at(self) -> float:
        """When the line last heard something, by the loop's clock, where that need be no message."""
        return getattr(self.line, "heard_at", 0.0)

    async def send(self, **envelope: Any) -> None:
        await self.line.send(json.dumps(envelope))

    async def receive_any(self) -> dict[str, Any]:
        """Return the next envelope, a heartbeat too."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            return json.loads(await self.line.recv())

    async def receive(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next envelope, or the next of a type."""
        while True:
            envelope = await self.receive_any()
            if envelope["type"] == (kind or envelope["type"]) and envelope["type"] != "$ping":
                return envelope

    async def ask(self, **envelope: Any) -> dict[str, Any]:
        """Send a request and return its answer; what arrives before it is dropped."""
        number = envelope["id"] = f"r{next(requests)}"
        await self.send(**envelope)
        while True:
            answer = await self.receive()
            if answer.get("id") == number:
                return answer

    async def join(self, room: str, **data: Any) -> dict[str, Any]:
        """Join a room and return the position."""
        answer = await self.ask(type="$join", room=room, data=data)
        assert answer["type"] == "$ack", answer
        return answer["data"]

    async def say(self, room: str, *texts: str, **data: Any) -> None:
        for text in texts:
            answer = await self.ask(type="say", room=room, data={"text": text, **data})
            assert answer["type"] == "$ack", answer

    async def said(self, count: int) -> list[str]:
        """Return the texts of the next messages."""
        return [(await self.receive("say"))["data"]["text"] for _ in range(count)]

    async def closed(self) -> LineLost:
        """Wait for the end; what still arrives is dropped."""
        try:
            async with asyncio.timeout(ARRIVES_WITHIN):
                while True:
                    await self.line.recv()
        except LineLost as lost:
            return lost


class Caller:
    """Opens lines of one kind to one host that runs."""

    def __init__(self, kind: Kind, port: int, path: str) -> None:
        self._kind = kind
        self._port = port
        self._path = path

    async def dial(self, token: str | None, **headers: str) -> Line:
        """Open a line; :exc:`NotConnected` if it is refused."""
        return await self._kind.dial(self._port, self._path, headers)(token)

    @asynccontextmanager
    async def opened(self, token: str | None = ADA, **headers: str) -> AsyncIterator[Speaker]:
        """Open a line while the body runs."""
        speaker = Speaker(await self.dial(token, **headers))
        try:
            yield speaker
        finally:
            await speaker.line.close()

    @asynccontextmanager
    async def logged_in(self, token: str = ADA) -> AsyncIterator[Speaker]:
        """Open a line, on which the server has said welcome, while the body runs."""
        async with self.opened(token) as speaker:
            first = await speaker.receive()
            assert first["type"] == "$welcome", first
            speaker.welcome = first["data"]
            yield speaker

    async def refused(self, token: str | None = ADA, **headers: str) -> NotConnected:
        """Return how a line was refused."""
        try:
            line = await self.dial(token, **headers)
        except NotConnected as refused:
            return refused
        await line.close()
        raise AssertionError("The line was not refused.")
