"""The far end of a client's lines, played by the test: what a server says, and when a line is lost."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from hubbub.client import Client, LineLost, NotConnected

ARRIVES_WITHIN = 5.0
EPOCH = "3b9aca00"


class FakeLine:
    """A line whose other end is the test."""

    name = "ws"
    heard_at = 0.0

    def __init__(self, token: str | None, subprotocol: str | None) -> None:
        self.token = token
        self.subprotocol = subprotocol
        self.closed: int | None = None
        self.stuck = False
        """Whether the other side reads no more."""
        self._incoming: asyncio.Queue[str | bytes | LineLost] = asyncio.Queue()
        self._outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._lost: LineLost | None = None

    # The client's end

    async def send(self, message: str | bytes) -> None:
        if self._lost is not None:
            raise self._lost
        self._outgoing.put_nowait(message)
        if self.stuck:
            await asyncio.get_running_loop().create_future()

    async def recv(self) -> str | bytes:
        if self._lost is not None and self._incoming.empty():
            raise self._lost
        message = await self._incoming.get()
        if isinstance(message, LineLost):
            raise message
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closed is None:
            self.closed = code
        if self._lost is None:
            self.lose(1006)

    # The test's end

    def say(self, kind: str, **envelope: Any) -> None:
        """Send an envelope to the client; `sender` is its `from`."""
        if "sender" in envelope:
            envelope["from"] = envelope.pop("sender")
        self.send_raw(json.dumps({"type": kind, **envelope}))

    def send_raw(self, message: str | bytes) -> None:
        self._incoming.put_nowait(message)

    def welcome(self, session: str = "token-1", **data: Any) -> None:
        """Say what a server says first of all."""
        self.say("$welcome", data=welcome(session, **data))

    def lose(self, code: int = 1006, reason: str = "") -> None:
        """End the line after what was said."""
        self._lost = LineLost(code, reason)
        self._incoming.put_nowait(self._lost)

    async def heard_raw(self) -> str | bytes:
        """Return the next message from the client."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            return await self._outgoing.get()

    async def heard(self, kind: str) -> dict[str, Any]:
        """Return the next envelope from the client, which has to be of a type."""
        envelope = json.loads(await self.heard_raw())
        assert envelope["type"] == kind, envelope
        return envelope

    async def acknowledge(self, kind: str, data: Any = None) -> dict[str, Any]:
        """Acknowledge the next request, which has to be of a type, and return it."""
        request = await self.heard(kind)
        answer = {} if data is None else {"data": data}
        self.say("$ack", id=request["id"], **answer)
        return request

    async def refuse(self, kind: str, code: str, *, retry: bool = False) -> dict[str, Any]:
        """Answer the next request, which has to be of a type, with an error."""
        request = await self.heard(kind)
        self.say("$error", id=request["id"], data={"code": code, "message": f"{code}!", "retry": retry})
        return request

    async def resume(self, session: str = "token-2", **data: Any) -> dict[str, Any]:
        """Take up the session that the client asks for; return the request's data."""
        request = await self.heard("$resume")
        asked = request["data"]
        refused = data.get("refused", {})
        rooms = {name: at or position(0) for name, at in asked["rooms"].items() if name not in refused}
        answer = {**welcome(session), "resumed": True, "rooms": rooms, **data}
        self.say("$welcome", id=request["id"], data=answer)
        return asked

    @property
    def unread(self) -> int:
        """How many messages the client has not taken in."""
        return self._incoming.qsize()

    @property
    def silent(self) -> bool:
        """Whether the client has said nothing more so far."""
        return self._outgoing.empty()


def welcome(session: str = "token-1", **data: Any) -> dict[str, Any]:
    return {
        "protocol": 1,
        "session": session,
        "connection": "c1",
        "resumed": False,
        "heartbeat": 20.0,
        "max_message": 1_000_000,
        "lifetime": 3600.0,
        "window": 300.0,
        **data,
    }


def position(offset: int, epoch: str = EPOCH) -> dict[str, Any]:
    return {"epoch": epoch, "offset": offset}


class Exchange:
    """Where a client dials: each line goes to the test. `refusals` are raised first, one for each attempt."""

    def __init__(self, subprotocol: str | None = "hubbub.v1.json") -> None:
        self.subprotocol = subprotocol
        self.refusals: list[NotConnected] = []
        self.dialled: list[str | None] = []
        """The tokens with which the client has dialled."""
        self._lines: asyncio.Queue[FakeLine] = asyncio.Queue()

    async def dial(self, token: str | None) -> FakeLine:
        self.dialled.append(token)
        if self.refusals:
            raise self.refusals.pop(0)
        line = FakeLine(token, self.subprotocol)
        self._lines.put_nowait(line)
        return line

    async def line(self) -> FakeLine:
        """Return the next line that the client opens."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            return await self._lines.get()

    def client(self, **options: Any) -> Client:
        options.setdefault("backoff", at_once(5))
        return Client(self.dial, **options)


def at_once(times: int) -> Callable[[], Any]:
    """Return a back-off without waits."""
    return lambda: iter([0.0] * times)


class Conversation:
    """A client and the line that it is on; entered, it has been welcomed."""

    def __init__(self, exchange: Exchange, welcome: dict[str, Any], **options: Any) -> None:
        self.exchange = exchange
        self.client = exchange.client(**options)
        self._welcome = welcome

    async def __aenter__(self) -> tuple[Client, FakeLine]:
        entering = asyncio.ensure_future(self.client.__aenter__())
        line = await self.exchange.line()
        if self.exchange.subprotocol == "hubbub.v1.json":
            line.welcome(**self._welcome)
        await entering
        return self.client, line

    async def __aexit__(self, *problem: Any) -> None:
        await self.client.__aexit__(*problem)


async def joined(client: Client, line: FakeLine, name: str = "chat/lobby", offset: int = 0) -> Any:
    """Have the client join a room; return that."""
    joining = asyncio.ensure_future(client.join(name))
    await line.acknowledge("$join", position(offset))
    return await joining


async def soon(awaitable: Any) -> Any:
    """Wait for something that comes by itself."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        return await awaitable


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so that nothing tells of."""
    async with asyncio.timeout(ARRIVES_WITHIN):
        while not condition():  # noqa: ASYNC110  # what it waits for is no event
            await asyncio.sleep(0.001)


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
