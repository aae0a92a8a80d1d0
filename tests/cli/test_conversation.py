"""What a conversation says about its end, and about connections that could not be established."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidUpgrade,
)
from websockets.frames import Close as CloseFrame
from websockets.http11 import Response

from hubbub.cli import conversation
from hubbub.cli import target as targets
from hubbub.cli.conversation import (
    Action,
    Close,
    ExitCode,
    Interrupted,
    Ping,
    Unusable,
    converse,
    verdict,
)
from hubbub.cli.target import Target, explain


class Scripted:
    """An interface that does what it was told, then waits for as many messages as `awaited`."""

    def __init__(self, *script: Action | Exception, awaited: int = 0) -> None:
        self.script = script
        self.awaited = awaited
        self.messages: list[str | bytes] = []
        self.echoed: list[str | bytes] = []
        self.told: list[str] = []
        self.problems: list[str] = []
        self._news = asyncio.Condition()

    async def outgoing(self) -> AsyncGenerator[Action]:
        for step in self.script:
            if isinstance(step, Ping | Close | Exception):
                await self.until_received()
            if isinstance(step, Exception):
                raise step
            yield step
        await self.until_received()

    async def until_received(self) -> None:
        async with self._news:
            await self._news.wait_for(lambda: len(self.messages) >= self.awaited)

    async def received(self, message: str | bytes) -> None:
        async with self._news:
            self.messages.append(message)
            self._news.notify_all()

    async def sent(self, message: str | bytes) -> None:
        self.echoed.append(message)

    async def tell(self, sentence: str, *, problem: bool = False) -> None:
        (self.problems if problem else self.told).append(sentence)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def target(handler=echo, **settings) -> AsyncIterator[Target]:  # type: ignore[no-untyped-def]
    async with serve(handler, "127.0.0.1", 0) as server:
        yield Target(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", **settings)


async def test_messages_go_both_ways_and_the_end_is_told() -> None:
    interface = Scripted("text", b"binary", awaited=2)
    async with target() as there:
        assert await converse(there, interface, count=None, wait=0) == ExitCode.NORMAL
    assert interface.messages == interface.echoed == ["text", b"binary"]
    assert interface.told == [
        f"Connected to {there.url}, no subprotocol.",
        "Closed: 1000. One side is done.",
    ]
    assert interface.problems == []


async def test_a_pong_is_told() -> None:
    interface = Scripted(Ping(), "after", awaited=0)
    async with target() as there:
        assert await converse(there, interface, count=1, wait=30) == ExitCode.NORMAL
    assert interface.told[1].startswith("The pong came after ")


async def test_a_ping_that_is_never_answered_ends_with_the_connection() -> None:
    async def leave(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.pause_reading()
        connection.transport.abort()

    interface = Scripted("leave", Ping(), awaited=0)
    async with target(leave) as there:
        assert await converse(there, interface, count=None, wait=30) == ExitCode.ABNORMAL


async def test_a_close_code_of_ones_own_is_a_normal_end() -> None:
    closes = []

    async def record(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closes.append((connection.close_code, connection.close_reason))

    interface = Scripted(Close(4001, "going"))
    async with target(record) as there:
        assert await converse(there, interface, count=None, wait=0) == ExitCode.NORMAL
    assert closes == [(4001, "going")]
    assert interface.told[-1] == "Closed: 4001 “going”. This code is the application's own."


async def test_it_ends_after_count_messages_although_the_server_goes_on() -> None:
    async def flood(connection: ServerConnection) -> None:
        for number in range(1000):
            await connection.send(str(number))
        await connection.wait_closed()

    interface = Scripted(awaited=1_000_000)
    async with target(flood) as there:
        assert await converse(there, interface, count=3, wait=0) == ExitCode.NORMAL
    assert interface.messages == ["0", "1", "2"]


async def test_too_few_messages_are_a_problem() -> None:
    interface = Scripted("one", awaited=1)
    async with target() as there:
        assert await converse(there, interface, count=2, wait=0) == ExitCode.ABNORMAL
    assert interface.problems == ["Only 1 of 2 messages came."]


async def test_an_interrupt_at_the_prompt_closes() -> None:
    closes = []

    async def record(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closes.append(connection.close_code)

    async with target(record) as there:
        ended = await converse(there, Scripted(Interrupted()), count=None, wait=0)
    assert ended == ExitCode.INTERRUPTED
    assert closes == [1000]


async def test_unusable_input_is_told_and_wrong_usage() -> None:
    interface = Scripted(Unusable("Line 1 is odd."))
    async with target() as there:
        assert await converse(there, interface, count=None, wait=30) == ExitCode.WRONG_USAGE
    assert interface.problems == ["Line 1 is odd."]


async def test_a_reader_that_has_seen_enough_is_a_normal_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(message: str | bytes) -> None:
        raise BrokenPipeError

    interface = Scripted("one", awaited=1)
    monkeypatch.setattr(interface, "received", refuse)
    async with target() as there:
        assert await converse(there, interface, count=None, wait=30) == ExitCode.NORMAL
    assert interface.problems == []


async def test_a_cancelled_conversation_closes() -> None:
    closes = []

    async def record(connection: ServerConnection) -> None:
        await connection.send("here")
        await connection.wait_closed()
        closes.append(connection.close_code)

    interface = Scripted(awaited=1_000_000)
    async with target(record) as there:
        talking = asyncio.create_task(converse(there, interface, count=None, wait=0))
        interface.awaited = 1
        await interface.until_received()
        interface.awaited = 1_000_000
        talking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talking
    assert closes == [1000]


async def test_a_line_that_breaks_while_sending_is_told_once() -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(1011, "broken")

    interface = Scripted(*["x"] * 1000)
    async with target(close) as there:
        assert await converse(there, interface, count=None, wait=30) == ExitCode.ABNORMAL
    assert interface.problems == ["The server closed the connection: 1011 “broken”. The server met an error."]


async def test_a_server_that_does_not_close_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (conversation, targets):
        monkeypatch.setattr(module, "CLOSES_WITHIN", 0.1)

    async def ignore(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await gone.wait()
        connection.transport.abort()

    gone = asyncio.Event()
    interface = Scripted()
    async with target(ignore) as there:
        assert await converse(there, interface, count=None, wait=0) == ExitCode.NORMAL
        gone.set()
    assert interface.told[-1] == "Closed, but the server did not answer within 0.1 s."


async def test_a_fault_of_the_interface_is_not_hidden() -> None:
    async with target() as there:
        with pytest.raises(ZeroDivisionError):
            await converse(there, Scripted(ZeroDivisionError()), count=None, wait=0)


NORMAL, ABNORMAL = ExitCode.NORMAL, ExitCode.ABNORMAL


@pytest.mark.parametrize(
    ("received", "sent", "received_first", "code", "sentence"),
    [
        (None, None, None, ABNORMAL, "The connection was lost: 1006. The line was lost without"),
        (1005, 1005, True, NORMAL, "The server closed the connection: 1005. The other side gave no code."),
        (1002, 1002, True, ABNORMAL, "The server closed the connection: 1002. A frame broke RFC 6455."),
        (1000, 1000, False, NORMAL, "Closed: 1000."),
        (1011, 1000, False, ABNORMAL, "Closed: 1011."),
        (1007, 1007, False, ABNORMAL, "hubbub closed the connection: 1007. A text message was not UTF-8."),
        (None, 1011, None, ABNORMAL, "hubbub closed the connection: 1011."),
        (3000, 3000, True, ABNORMAL, "This code is one of a library or framework."),
        (2500, 2500, True, ABNORMAL, "RFC 6455 gives this code no meaning."),
    ],
)
def test_the_verdict_tells_who_closed_and_why(
    received: int | None, sent: int | None, received_first: bool | None, code: ExitCode, sentence: str
) -> None:
    closed = ConnectionClosed(
        None if received is None else CloseFrame(received, ""),
        None if sent is None else CloseFrame(sent, ""),
        received_first,
    )
    ended, said = verdict(closed, Close())
    assert ended == code
    assert sentence in said


def status(code: int, phrase: str = "", body: bytes = b"") -> InvalidStatus:
    return InvalidStatus(Response(code, phrase, Headers(), body))


def untrusted() -> ssl.SSLCertVerificationError:
    problem = ssl.SSLCertVerificationError(1, "certificate verify failed")
    problem.verify_message = "self-signed certificate"
    return problem


REFUSED = f"[Errno {errno.ECONNREFUSED}] Connect call failed"


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "There is no host called host. Check the spelling."),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "can't be looked up: try again. Is the network up?"),
        (TimeoutError(), "host:80 did not answer within 10 s."),
        (untrusted(), "The certificate of host:80 is not trusted: self-signed certificate."),
        (ssl.SSLError(1, "odd"), "TLS with host:80 failed: "),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "host:80 refuses connections."),
        (OSError(f"Multiple exceptions: {REFUSED}, {REFUSED}"), "host:80 refuses connections."),
        (ConnectionResetError(), "host:80 broke the connection off. If it speaks TLS, use wss://"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "can't be reached: Network is unreachable."),
        (InvalidMessage("no"), "host:80 does not answer as an HTTP server. If it speaks TLS, use wss://"),
        (InvalidProxy("gopher://x", "odd"), "The proxy does not work: gopher://x isn't a valid proxy: odd."),
        (InvalidUpgrade("Upgrade"), "The handshake with host:80 failed: missing Upgrade header."),
        (status(200, "OK"), "answered 200 OK for /there instead of a WebSocket. There is a page here"),
        (status(300), "answered 300 for /there instead of a WebSocket. It sends on"),
        (status(401, "Unauthorized"), "try --header 'Authorization: Bearer"),
        (status(418), "Check the URL and the headers."),
        (status(502), "The server, or a proxy before it, has a problem."),
        (status(404, "Not Found", b"no\n such   page"), "Check the path of the URL. It says: no such page"),
        (status(500, "", b"x" * 400), "It says: " + "x" * 300 + "…"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_prevents_a_connection_is_said_in_words(problem: Exception, said: str) -> None:
    assert said in explain(problem, Target("ws://host/there"))


async def test_a_failed_connection_is_a_problem() -> None:
    async with target() as there:
        pass
    interface = Scripted()
    assert await converse(there, interface, count=None, wait=0) == ExitCode.NOT_CONNECTED
    assert "refuses connections" in interface.problems[0]


async def test_options_of_a_target_reach_the_server() -> None:
    async def tell(connection: ServerConnection) -> None:
        assert connection.request
        await connection.send(connection.request.headers["X-One"] + connection.request.headers["Origin"])

    interface = Scripted(awaited=1)
    async with target(tell, headers=(("X-One", "1"),), origin="http://o", ping=None) as there:
        await converse(there, interface, count=1, wait=0)
    assert interface.messages == ["1http://o"]
