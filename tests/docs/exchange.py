"""Exchanges as docs/protocol.md shows them, replayed against a real server.

A line is a step: ``→`` sends an envelope, ``←`` awaits one and compares, ``connect URL`` opens a connection,
``→ close CODE`` and ``← close CODE "REASON"`` end one; a name before it says whose. Indented lines continue
the line before them. ``the server stops`` and ``the server starts`` are steps too. What is different each
time, guests' names included, is bound to what the page says at first sight, and has to stay the same.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest
import websockets

from wire import Client

DIFFERENT_EACH_TIME = {"epoch", "session", "connection", "after"}
WRITTEN_URL = "ws://localhost:8000"
WELCOMED_URL = f"{WRITTEN_URL}/?token=token-of-ada"

_STEP = re.compile(r"(?:(?P<who>[a-z]+) )?(?P<what>→|←|connect) (?P<rest>.*)", re.DOTALL)
_SERVER = re.compile(r"the server (stops|starts)")
_CLOSE = re.compile(r'close (\d+)(?: "(.*)")?')

Value = dict[str, "Value"] | list["Value"] | str | int | float | bool | None


class Server(Protocol):
    url: str

    def stop(self) -> None: ...
    def begin_to_stop(self) -> None: ...


@dataclass(frozen=True)
class Step:
    who: str
    what: str
    rest: str


def steps(text: str) -> Iterator[Step]:
    """Yield the steps of an exchange."""
    for line in re.sub(r"\n +", " ", text).splitlines():
        server, step = _SERVER.fullmatch(line), _STEP.fullmatch(line)
        if server:
            yield Step("", server[1], "")
        elif step:
            yield Step(step["who"] or "", step["what"], step["rest"])
        else:
            assert not line, f"can't be replayed: {line!r}"


def is_all_envelopes(text: str) -> bool:
    """Tell whether an exchange can be had in another codec: nothing but envelopes is sent."""
    return all(
        step.what != "→" or step.rest.startswith("{") or _CLOSE.fullmatch(step.rest) for step in steps(text)
    )


class Exchange:
    """Replays steps, each connection with the subprotocol that is asked for."""

    def __init__(self, start: Callable[[], Server], subprotocol: str) -> None:
        self._start = start
        self._server = start()
        self._subprotocol = websockets.Subprotocol(subprotocol)
        self._known: dict[Value, Value] = {}
        self._clients: dict[str, Client] = {}

    async def replay(self, text: str) -> None:
        """Replay an exchange; then nothing more may have arrived."""
        found = list(steps(text))
        async with AsyncExitStack() as self._stack:
            if found[0].what != "connect":
                await self._connect("", WELCOMED_URL)
                assert (await self._clients[""].receive())["type"] == "$welcome"
            for step in found:
                await self._do(step)
            for client in self._clients.values():
                await self._expect_nothing(client)

    async def _do(self, step: Step) -> None:
        closes = _CLOSE.fullmatch(step.rest)
        if step.what == "stops":
            self._server.begin_to_stop()
        elif step.what == "starts":
            await asyncio.to_thread(self._server.stop)
            self._server = self._start()
        elif step.what == "connect":
            await self._connect(step.who, step.rest)
        elif closes and step.what == "→":
            await self._clients.pop(step.who).websocket.close(int(closes[1]))
        elif closes:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await self._clients.pop(step.who).receive()
            end = closed.value.rcvd
            assert end is not None
            assert (end.code, end.reason) == (int(closes[1]), closes[2])
        elif step.what == "→" and not step.rest.startswith("{"):
            await self._clients[step.who].websocket.send(step.rest)
        elif step.what == "→":
            await self._clients[step.who].send(**self._told(json.loads(step.rest)))
        else:
            arrived = await self._clients[step.who].receive()
            self._compare(json.loads(step.rest), arrived, "")
            expected = self._told(json.loads(step.rest))
            assert arrived == expected, f"arrived: {arrived}\non the page: {expected}"

    async def _connect(self, who: str, url: str) -> None:
        assert url.startswith(WRITTEN_URL), url
        opened = websockets.connect(
            url.replace(WRITTEN_URL, self._server.url),
            subprotocols=[self._subprotocol],
            compression=None,
        )
        self._clients[who] = Client(await self._stack.enter_async_context(opened))

    async def _expect_nothing(self, client: Client) -> None:
        await client.send(type="$ping", id="the end")
        arrived = await client.receive()
        while arrived == {"type": "$ping"}:
            # Due whenever the line is silent.
            arrived = await client.receive()
        assert arrived == {"type": "$pong", "id": "the end"}

    def _told(self, written: Value) -> Value:
        """Return what is written with what is known now in place of what is different each time."""
        if isinstance(written, dict):
            return {
                key: self._known.get(value, value) if _differs(key, value) else self._told(value)
                for key, value in written.items()
            }
        if isinstance(written, list):
            return [self._told(value) for value in written]
        return written

    def _compare(self, written: Value, arrived: Value, key: str) -> None:
        """Note what stands for what."""
        if _differs(key, written):
            assert type(written) is type(arrived), (key, arrived)
            self._known.setdefault(written, arrived)
            stand_for_it = [other for other, known in self._known.items() if known == arrived]
            assert stand_for_it == [written], f"{key} {arrived!r} is {stand_for_it}, not {written!r}"
        elif isinstance(written, dict) and isinstance(arrived, dict):
            for name in written.keys() & arrived.keys():
                self._compare(written[name], arrived[name], name)
        elif isinstance(written, list) and isinstance(arrived, list):
            for one, other in zip(written, arrived, strict=False):
                self._compare(one, other, "")


def _differs(key: str, value: Value) -> bool:
    return key in DIFFERENT_EACH_TIME or (isinstance(value, str) and value.startswith("guest:"))
