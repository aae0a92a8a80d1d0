"""A connection through the proxy: two ends, and a flow of bytes each way."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from .end import End
from .fault import BlackHole, Clear, Cut, Direction, Fault, HalfOpen, Refuse, Reset
from .flow import FORGOTTEN, Flow

Dial: TypeAlias = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
"""Connects a protocol to the server; :exc:`OSError` if that fails."""


class ProxiedConnection:
    """One client's connection through the proxy."""

    def __init__(self, number: int, count: Callable[[Direction, int], None]) -> None:
        self.number = number
        """Counts the proxy's connections, from 1 on."""
        self._count = count
        self._client = End()
        self._server = End()
        self._flows = {
            Direction.UP: Flow(self, self._client, self._server, Direction.UP),
            Direction.DOWN: Flow(self, self._server, self._client, Direction.DOWN),
        }
        self._over: Cut | Reset | None = None
        self._closes_server = False
        """Whether the server's side is to be closed, as soon as there is one."""

    def apply(self, fault: Fault) -> None:
        """Put a fault on this connection; `ValueError` for one that is only for new ones."""
        match fault:
            case Refuse() | BlackHole():
                raise ValueError(f"{fault.kind} is for new connections, not for one that is open.")
            case Cut() | Reset():
                self.end(fault)
            case HalfOpen(closed=True):
                self._swallow()
                self._closes_server = True
                self._server.close()
            case Clear():
                for flow in self._flows.values():
                    flow.clear()
            case HalfOpen(direction):
                for flow in self._in(direction):
                    flow.swallow()
            case _:
                for flow in self._in(fault.direction):
                    flow.apply(fault)

    def bytes(self, direction: Direction) -> int:
        """Return how many bytes have passed in a direction, or in BOTH."""
        return sum(flow.forwarded for flow in self._in(direction))

    def _in(self, direction: Direction) -> list[Flow]:
        return [flow for way, flow in self._flows.items() if direction in (way, Direction.BOTH)]

    def count(self, direction: Direction, size: int) -> None:
        """Take note of bytes that were passed on."""
        self._count(direction, size)

    def end(self, fault: Cut | Reset) -> None:
        """End it, on both sides."""
        self._over = fault
        self._swallow()
        for end in (self._client, self._server):
            if isinstance(fault, Cut):
                end.close()
            else:
                end.reset()

    def _swallow(self) -> None:
        for flow in self._flows.values():
            flow.swallow()

    def ended(self, direction: Direction) -> None:
        """Take note that one side's end of the stream was passed on."""
        if direction is Direction.UP and self._flows[Direction.DOWN].swallows:
            self._client.forget_in(FORGOTTEN)
        if direction is Direction.DOWN and self._flows[Direction.UP].swallows:
            self._server.forget_in(FORGOTTEN)

    def flow_ended(self, task: asyncio.Task[None]) -> None:
        """Break the connection off if one of its flows has failed."""
        if not task.cancelled() and (problem := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a flow of a fault proxy failed", "exception": problem, "task": task}
            )
            self.end(Reset())

    async def run(self, accepted: socket.socket, dial: Dial | None, faults: Iterable[Fault]) -> None:
        """Carry a connection, under faults from the start, until it is over.

        Without `dial` nobody is at its other end. Raises `OSError` if the server can't be reached, after the
        client's connection was broken off.
        """
        connected: list[End] = []
        """Those that will be told when they are lost: not all loops do it if they are cancelled before."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self._client, accepted)
            connected.append(self._client)
            for fault in faults:
                self.apply(fault)
            if dial is None:
                self._swallow()
            if dial is None or self._over is not None:
                self._server.lost.set()
            else:
                await self._connect(dial)
                connected.append(self._server)
            await self._client.lost.wait()
            await self._server.lost.wait()
        finally:
            if not self._client.made:
                accepted.close()
            for flow in self._flows.values():
                await flow.stop()
            for end in (self._client, self._server):
                end.abort()
                if end in connected:
                    await end.lost.wait()

    async def _connect(self, dial: Dial) -> None:
        try:
            await dial(lambda: self._server)
        except OSError:
            self.end(Reset())
            raise
        if self._over is not None:
            self.end(self._over)
        elif self._closes_server:
            self._server.close()
        for flow in self._flows.values():
            flow.go_on()
