"""A client for the tests that knows the wire and nothing of hubbub: `websockets` and JSON or MessagePack."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import websockets

ARRIVES_WITHIN = 5.0

request_numbers = itertools.count(1)
"""Requests of the application need an id of their own each, also on the next connection of a session."""


class Client:
    """Sends and receives envelopes as dictionaries."""

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket
        self.binary = websocket.subprotocol == "hubbub.v1.msgpack"

    async def send(self, **envelope: Any) -> None:
        """Send an envelope; `sender` stands for nothing here, clients have no `from`."""
        if self.binary:
            await self.websocket.send(msgspec.msgpack.encode(envelope))
        else:
            await self.websocket.send(json.dumps(envelope))

    async def receive(self) -> dict[str, Any]:
        """Return the next envelope, whatever it is."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            message = await self.websocket.recv()
        if isinstance(message, bytes):
            return msgspec.msgpack.decode(message)
        return json.loads(message)

    async def receive_type(self, kind: str) -> dict[str, Any]:
        """Return the next envelope of a type; those before it are dropped."""
        while True:
            envelope = await self.receive()
            if envelope["type"] == kind:
                return envelope

    async def ask(self, **envelope: Any) -> dict[str, Any]:
        """Send an envelope with an id and return the answer that carries it; others are dropped."""
        if "id" not in envelope:
            control = envelope["type"].startswith("$")
            envelope["id"] = "asked" if control else f"asked {next(request_numbers)}"
        await self.send(**envelope)
        while True:
            answer = await self.receive()
            if answer.get("id") == envelope["id"]:
                return answer

    async def join(self, room: str, **data: Any) -> dict[str, Any]:
        """Join a room and return the data of the acknowledgement."""
        answer = await self.ask(type="$join", room=room, data=data)
        assert answer["type"] == "$ack", answer
        return answer["data"]

    async def closed(self) -> tuple[int, str]:
        """Wait for the end and return its code and reason; what still arrives is dropped."""
        try:
            async with asyncio.timeout(ARRIVES_WITHIN):
                while True:
                    await self.websocket.recv()
        except websockets.ConnectionClosed as closed:
            end = closed.rcvd
            return (1006, "") if end is None else (end.code, end.reason)


@asynccontextmanager
async def talk(url: str, *, welcome: bool = True, **options: Any) -> AsyncIterator[Client]:
    """Connect as a client of the protocol; the ``$welcome`` is read (`client.welcome`)."""
    options.setdefault("compression", None)
    async with websockets.connect(url, **options) as websocket:
        client = Client(websocket)
        if welcome:
            first = await client.receive()
            assert first["type"] == "$welcome", first
            client.welcome = first["data"]  # type: ignore[attr-defined]
        yield client
