"""``hubbub connect`` as its users run it in a pipe, against real servers."""

import asyncio
import json
import re
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

PATIENCE = 30.0
COMMAND = (sys.executable, "-m", "hubbub", "connect")

Handler = Callable[[ServerConnection], Awaitable[None]]


IDENTITY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg+WIoaDFBcVN5N7K1
VDHeWIJOIeqntatxlwV3FMw09qahRANCAAQZFWwLiHsqs10BapiaIfVyFr4mDgaR
MB99mTiiPLEzHqdVeom3qalZSO7K4t2UmfXKEOek9rJi4YC++qRzjA31
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBaDCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBkVbAuIeyqzXQFq
mJoh9XIWviYOBpEwH32ZOKI8sTMep1V6ibepqVlI7sri3ZSZ9coQ56T2smLhgL76
pHOMDfWjTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBQje8vOlDobVGY3cp9gLi4qHkeqbDAKBggqhkjOPQQD
AgNJADBGAiEArZsAzmRf+9P2DGJsdWdbBLLaqXohe4UwLfIqFXvH/rsCIQDjVdXl
sRe2VeKt+7MAPmA9mFss3X4W3BKYDrV4tamlEg==
-----END CERTIFICATE-----
"""
"""A key and a certificate for localhost that nobody trusts."""


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def serving(handler: Handler = echo, **settings) -> AsyncIterator[str]:  # type: ignore[no-untyped-def]
    async with serve(handler, "127.0.0.1", 0, **settings) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Piped:
    """What a command in a pipe left behind."""

    def __init__(self, status: int | None, output: bytes, diagnostics: bytes) -> None:
        self.status = status
        self.output = output.decode()
        self.diagnostics = diagnostics.decode()

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def in_pipe(*arguments: str, given: str | bytes = b"") -> Piped:
    process = await start(*arguments)
    given = given.encode() if isinstance(given, str) else given
    async with asyncio.timeout(PATIENCE):
        output, diagnostics = await process.communicate(given)
    return Piped(process.returncode, output, diagnostics)


async def test_each_line_is_a_message_and_each_message_a_line() -> None:
    async with serving() as place:
        ended = await in_pipe(f"ws://{place}/", "--count", "3", given="one\n\nlast, without an end of line")
    assert ended.lines == ["one", "", "last, without an end of line"]
    assert ended.diagnostics == ""
    assert ended.status == 0


async def test_all_answers_arrive_although_the_input_ended() -> None:
    lines = [f"line {number}" for number in range(2000)]
    async with serving() as place:
        ended = await in_pipe(place, "--wait", "0.2", given="\n".join(lines))
    assert ended.lines == lines
    assert ended.status == 0


async def test_it_ends_when_the_server_closes() -> None:
    async def greet(connection: ServerConnection) -> None:
        await connection.send("good day")

    async with serving(greet) as place:
        process = await start(place)
        assert process.stdout
        assert process.stdin
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.read() == b"good day\n"
            assert await process.wait() == 0
        process.stdin.close()


@pytest.mark.parametrize("url", ["http://{}/", "{}", "WS://{}/a?b=c"])
async def test_urls_without_a_websocket_scheme_are_understood(url: str) -> None:
    async with serving() as place:
        ended = await in_pipe(url.format(place), "--count", "1", given="hi")
    assert (ended.status, ended.output) == (0, "hi\n")


async def test_json_stays_on_one_line_in_a_pipe_and_is_laid_out_on_demand() -> None:
    async def send(connection: ServerConnection) -> None:
        await connection.send('{"a": [1.50,\n\t{}]}')

    async with serving(send) as place:
        assert (await in_pipe(place)).output == '{"a": [1.50,  {}]}\n'
        assert (await in_pipe(place, "--json")).output == '{\n  "a": [\n    1.50,\n    {}\n  ]\n}\n'


async def test_binary_is_written_in_hexadecimal_both_ways() -> None:
    got: list[str | bytes] = []

    async def record(connection: ServerConnection) -> None:
        async for message in connection:
            got.append(message)
            await connection.send(message)

    async with serving(record) as place:
        ended = await in_pipe(place, "--binary", "hex", "--count", "2", given="de ad be ef\n00ff\n")
    assert got == [b"\xde\xad\xbe\xef", b"\x00\xff"]
    assert ended.lines == ["deadbeef", "00ff"]


async def test_binary_text_is_sent_byte_for_byte() -> None:
    got: list[str | bytes] = []

    async def record(connection: ServerConnection) -> None:
        async for message in connection:
            got.append(message)
            await connection.send(message)

    async with serving(record) as place:
        ended = await in_pipe(place, "--binary", "text", "--count", "1", given=b"caf\xc3\xa9 \xff\n")
    assert got == [b"caf\xc3\xa9 \xff"]
    assert ended.lines == ["café \\xff"]


async def test_headers_origin_and_subprotocol_reach_the_server() -> None:
    async def tell(connection: ServerConnection) -> None:
        assert connection.request
        headers = connection.request.headers
        told = [headers["Authorization"], headers["X-Two"], headers["Origin"], connection.subprotocol]
        await connection.send(json.dumps(told))

    async with serving(tell, subprotocols=["second", "other"]) as place:
        options = ["-H", "Authorization: Bearer x", "--header", "X-Two:2", "--origin", "https://example.org"]
        ended = await in_pipe(place, *options, "--subprotocol", "first", "--subprotocol", "second")
    assert json.loads(ended.output) == ["Bearer x", "2", "https://example.org", "second"]


async def test_no_subprotocol_is_offered_by_default() -> None:
    async def tell(connection: ServerConnection) -> None:
        assert connection.request
        await connection.send(str(connection.request.headers.get("Sec-WebSocket-Protocol")))

    async with serving(tell) as place:
        assert (await in_pipe(place)).output == "None\n"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        (1000, 0, ""),
        (1001, 0, ""),
        (1011, 3, "1011 “broken”. The server met an error."),
        (1008, 3, "1008 “broken”. The message is against the server's policy."),
        (4401, 3, "4401 “broken”. This code is the application's own; hubbub means by it: The login"),
        (3000, 3, "3000 “broken”. This code is one of a library or framework."),
    ],
)
async def test_the_close_code_decides_the_exit_status(code: int, status: int, said: str) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, "broken")

    async with serving(close) as place:
        ended = await in_pipe(place)
    assert ended.status == status
    assert said in ended.diagnostics
    assert bool(said) == bool(ended.diagnostics)
    assert ended.output == ""


async def test_a_lost_connection_is_told() -> None:
    async def vanish(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with serving(vanish) as place:
        ended = await in_pipe(place)
    assert ended.status == 3
    assert "The connection was lost: 1006." in ended.diagnostics


async def test_too_large_a_message_is_told() -> None:
    async with serving() as place:
        ended = await in_pipe(place, "--max-size", "5", given="123456\n")
    assert ended.status == 3
    assert "Raise --max-size." in ended.diagnostics


async def test_too_few_messages_are_told() -> None:
    async with serving() as place:
        ended = await in_pipe(place, "--count", "2", "--wait", "0.1", given="one\n")
    assert (ended.status, ended.output) == (3, "one\n")
    assert "Only 1 of 2 messages came." in ended.diagnostics


async def test_control_characters_never_reach_the_output() -> None:
    evil = "\x1b]0;evil\x07\x9b2J\u2028\u202e\r\nnext"

    async def attack(connection: ServerConnection) -> None:
        await connection.send(evil)
        await connection.send(json.dumps(evil[:-6] + "\x7f", ensure_ascii=False))
        await connection.close(4000, evil)

    async with serving(attack) as place:
        ended = await in_pipe(place)
    assert ended.lines[0] == r"\u001b]0;evil\u0007\u009b2J\u2028\u202e\r\nnext"
    assert json.loads(ended.lines[1]) == evil[:-6] + "\x7f"
    for written in (ended.output, ended.diagnostics):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", written)
    assert r"\u001b]0;evil" in ended.diagnostics


async def test_a_refused_connection_says_what_to_try() -> None:
    async with serving() as place:
        pass
    ended = await in_pipe(place, given="lost\n")
    assert ended.status == 1
    assert f"{place} refuses connections. Is the server running" in ended.diagnostics


async def test_an_http_refusal_says_what_to_try() -> None:
    async def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.FORBIDDEN, "not\x1b[31m you")

    async with serving(process_request=refuse) as place:
        ended = await in_pipe(f"{place}/chat", given="lost\n")
    assert ended.status == 1
    assert "403 Forbidden for /chat" in ended.diagnostics
    assert "--header" in ended.diagnostics
    assert r"It says: not\u001b[31m you" in ended.diagnostics


async def test_a_silent_server_is_given_up() -> None:
    over = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await in_pipe(f"127.0.0.1:{port}", "--timeout", "0.2")
        over.set()
    assert ended.status == 1
    assert "did not answer within 0.2 s" in ended.diagnostics
    assert "--timeout" in ended.diagnostics


async def test_tls_certificates_are_checked(tmp_path: Path) -> None:
    identity = tmp_path / "identity.pem"
    identity.write_text(IDENTITY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    async with serving(ssl=context) as place:
        distrusted = await in_pipe(f"wss://{place}", given="hi")
        trusted = await in_pipe(f"https://{place}", "--ca", str(identity), "--count", "1", given="hi")
        careless = await in_pipe(f"wss://{place}", "--insecure", "--count", "1", given="hi")
        plain = await in_pipe(f"ws://{place}", given="hi")
    assert distrusted.status == 1
    assert "not trusted" in distrusted.diagnostics
    assert "--insecure" in distrusted.diagnostics
    assert (trusted.status, trusted.output) == (0, "hi\n")
    assert (careless.status, careless.output) == (0, "hi\n")
    assert plain.status == 1
    assert "If it speaks TLS, use wss://" in plain.diagnostics


@pytest.mark.parametrize("given", [b"good\n\xff\n", b"good\nnot hex\n"])
async def test_a_line_that_can_not_be_sent_is_wrong_usage(given: bytes) -> None:
    options = ["--binary", "hex"] if b"hex" in given else []
    async with serving() as place:
        ended = await in_pipe(place, *options, given=given.replace(b"good", b"00"))
    assert ended.status == 2
    assert "Line 2 of the input can't be sent." in ended.diagnostics
    assert "Traceback" not in ended.diagnostics


async def test_an_interrupt_closes_the_connection() -> None:
    connected, codes = asyncio.Event(), []

    async def wait(connection: ServerConnection) -> None:
        await connection.recv()
        connected.set()
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with serving(wait) as place:
        process = await start(place)
        async with asyncio.timeout(PATIENCE):
            assert process.stdin
            process.stdin.write(b"here\n")
            await connected.wait()
            process.send_signal(signal.SIGINT)
            _, diagnostics = await process.communicate()
    assert process.returncode == 130
    assert diagnostics == b""
    assert codes == [1000]


async def test_it_stops_when_nobody_reads_its_output() -> None:
    async def flood(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await connection.send("x" * 1000)
                await asyncio.sleep(0)

    async with serving(flood) as place:
        process = await start(place)
        assert process.stdout
        assert process.stderr
        async with asyncio.timeout(PATIENCE):
            await process.stdout.readline()
            process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
            assert await process.stderr.read() == b""
            assert await process.wait() == 0
        assert process.stdin
        process.stdin.close()
