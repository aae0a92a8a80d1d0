"""A conversation with a server: connect, exchange messages, close, and say in words how it went."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from websockets.exceptions import (
    ConnectionClosed,
    WebSocketException,
)
from websockets.frames import Close as CloseFrame

from ..client.line import NotConnected
from ..protocol.codes import CloseCode
from .target import CLOSES_WITHIN, Connection, Target, explain

CLOSES_WHEN_INTERRUPTED_WITHIN = 1.0
READS_WITHIN = 20.0
"""Seconds that the server has to read what it was sent before the wait for answers starts."""
LONGEST_MESSAGE = 64 * 2**20
"""The most bytes that one message to the server may have."""


class ExitCode(IntEnum):
    """How a conversation ended."""

    NORMAL = 0
    NOT_CONNECTED = 1
    WRONG_USAGE = 2
    ABNORMAL = 3
    INTERRUPTED = 130


@dataclass(frozen=True)
class Ping:
    """Send a ping."""


@dataclass(frozen=True)
class Close:
    """Close the connection."""

    code: int = 1000
    reason: str = ""


Action = str | bytes | Ping | Close
"""What to do next: send a text message, send a binary message, ping or close."""


class Interrupted(Exception):
    """Ctrl-C was pressed at the prompt."""


class Unusable(Exception):
    """The input or the output can't be used; the text says why."""


class Interface(Protocol):
    """The near end of a conversation: a person at a terminal, or a program at the end of a pipe.

    What it is given to show may come from the server: escaping control characters is its task.
    """

    def outgoing(self) -> AsyncGenerator[Action]:
        """Yield what to do, one after the other; at the end the connection is closed."""

    async def received(self, message: str | bytes) -> None:
        """Show a message from the server."""

    async def sent(self, message: str | bytes) -> None:
        """Show a message that goes to the server."""

    async def tell(self, sentence: str, *, problem: bool = False) -> None:
        """Tell what happened to the connection; a `problem` is told even where nobody chats."""


async def converse(target: Target, interface: Interface, *, count: int | None, wait: float) -> ExitCode:
    """Connect, exchange messages until one side is done, close; return how it went.

    After the end of what is to be sent, answers are awaited for `wait` seconds. With `count`, the
    conversation ends after as many messages from the server.
    """
    try:
        connection = await target.open()
    except (OSError, WebSocketException, NotConnected, ValueError, ImportError) as problem:
        await interface.tell(explain(problem, target), problem=True)
        return ExitCode.NOT_CONNECTED
    subprotocol = f"subprotocol {connection.subprotocol}" if connection.subprotocol else "no subprotocol"
    await interface.tell(f"Connected to {target.url}, {subprotocol}.")
    exchange = _Exchange(connection, interface, count)
    try:
        await exchange.run(wait)
    except Interrupted:
        return ExitCode.INTERRUPTED
    except Unusable as problem:
        await interface.tell(str(problem), problem=True)
        return ExitCode.WRONG_USAGE
    except BrokenPipeError:  # who reads the output has seen enough, as `head` does
        return ExitCode.NORMAL
    code, sentence = verdict(connection.closed, exchange.close)
    await interface.tell(sentence, problem=code != ExitCode.NORMAL)
    if code == ExitCode.NORMAL and count is not None and exchange.received < count:
        await interface.tell(f"Only {exchange.received} of {count} messages came.", problem=True)
        return ExitCode.ABNORMAL
    return code


class _Exchange:
    """Messages in both directions, until one side is done."""

    def __init__(self, connection: Connection, interface: Interface, count: int | None) -> None:
        self.connection = connection
        self.interface = interface
        self.count = count
        self.received = 0
        self.close = Close()
        """How this side closes when it is done."""
        self._pongs: set[asyncio.Task[None]] = set()

    async def run(self, wait: float) -> None:
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive())
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not receiving.done():
                self.close = sending.result()
                if wait:
                    await self._until_all_is_read(receiving)
                    await asyncio.wait({receiving}, timeout=wait)
        except (asyncio.CancelledError, Interrupted):
            receiving.cancel()  # it may have much to show yet, or wait for a reader of the output
            self.connection.close_timeout = CLOSES_WHEN_INTERRUPTED_WITHIN
            raise
        finally:
            sending.cancel()
            closing = self.connection.close(self.close.code, self.close.reason)
            await asyncio.gather(closing, self._finish(receiving))
            await asyncio.gather(sending, *self._pongs, return_exceptions=True)
        for task in (sending, receiving):
            if not task.cancelled():
                task.result()

    async def _send(self) -> Close:
        async with aclosing(self.interface.outgoing()) as outgoing:
            async for action in outgoing:
                if isinstance(action, Close):
                    return action
                try:
                    if isinstance(action, Ping):
                        self._await(await self.connection.ping())
                    else:
                        await self.interface.sent(action)
                        await self.connection.send(action)
                except TypeError as problem:
                    await self.interface.tell(str(problem), problem=True)
                except ConnectionClosed:  # which the receiving side reports
                    break
        return Close()

    async def _until_all_is_read(self, receiving: asyncio.Task[None]) -> None:
        """Wait for a pong: it comes when the server has read all before it, which may be a lot."""
        with suppress(ConnectionClosed):
            pong = asyncio.ensure_future(await self.connection.ping())
            await asyncio.wait({pong, receiving}, timeout=READS_WITHIN, return_when=asyncio.FIRST_COMPLETED)

    def _await(self, pong: Awaitable[float]) -> None:
        task = asyncio.create_task(self._tell_latency(pong))
        self._pongs.add(task)
        task.add_done_callback(self._pongs.discard)

    async def _tell_latency(self, pong: Awaitable[float]) -> None:
        await self.interface.tell(f"The pong came after {await pong * 1000:.1f} ms.")

    async def _receive(self) -> None:
        while self.received != self.count:
            try:
                message = await self.connection.recv()
            except ConnectionClosed:
                return
            await self.interface.received(message)
            self.received += 1

    async def _finish(self, receiving: asyncio.Task[None]) -> None:
        """Read on until the connection is closed: the server's answer comes after what it sent before."""
        await asyncio.gather(receiving, return_exceptions=True)
        while True:
            try:
                await self.connection.recv()
            except ConnectionClosed:
                return


def verdict(closed: ConnectionClosed, close: Close) -> tuple[ExitCode, str]:
    """Say how a connection ended, for a side that closes with `close` when it wants to."""
    received, sent = closed.rcvd, closed.sent
    if sent is not None and not closed.rcvd_then_sent:
        if sent != CloseFrame(close.code, close.reason):
            advice = " Raise --max-size." if sent.code == CloseCode.MESSAGE_TOO_BIG else ""
            return (
                ExitCode.ABNORMAL,
                f"hubbub closed the connection: {_reason(sent.code, sent.reason)}{advice}",
            )
        if received is None:
            return ExitCode.NORMAL, f"Closed, but the server did not answer within {CLOSES_WITHIN:g} s."
        expected, who = {*_EXPECTED, close.code}, "Closed"
    else:
        expected, who = _EXPECTED, "The server closed the connection"
    if received is None:
        return ExitCode.ABNORMAL, f"The connection was lost: {_reason(CloseCode.ABNORMAL, '')}"
    code = ExitCode.NORMAL if received.code in expected else ExitCode.ABNORMAL
    return code, f"{who}: {_reason(received.code, received.reason)}"


_EXPECTED = {CloseCode.NORMAL.value, CloseCode.GOING_AWAY.value, CloseCode.NO_STATUS.value}
_MEANINGS = {code.value: code.meaning for code in CloseCode} | {
    1008: "The message is against the server's policy.",
    1010: "The server lacks an extension that the client needs.",
    1014: "A gateway got an invalid answer from the server behind it.",
}


def _reason(code: int, reason: str) -> str:
    quoted = f" “{reason}”" if reason else ""
    return f"{int(code)}{quoted}. {_meaning(code)}"


def _meaning(code: int) -> str:
    """Say in words what a close code means."""
    known = _MEANINGS.get(code)
    if code >= 4000:
        return "This code is the application's own" + (f"; hubbub means by it: {known}" if known else ".")
    if code >= 3000:
        return "This code is one of a library or framework."
    return known or "RFC 6455 gives this code no meaning."
