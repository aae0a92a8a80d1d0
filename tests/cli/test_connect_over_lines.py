"""``hubbub connect`` over lines that are no WebSockets: the same pipe, the same exit codes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed

from cli.test_connect import IDENTITY, Piped, in_pipe, start
from cli.test_conversation import Scripted
from cli.test_pipe import command
from client.lines import FakeLine, until
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.cli import conversation
from hubbub.cli.conversation import Close, ExitCode, Ping, converse
from hubbub.cli.line import LineConnection
from hubbub.cli.target import Target
from hubbub.client.lines import dialling
from hubbub.testing.serving import serving

pytestmark = pytest.mark.anyio

KINDS = ("sse+http", "stream+http", "poll+http", "socketio+http", "grpc")


class Say(Message):
    text: str


class Leave(Message):
    code: int


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def place(kind: str, **settings: object) -> AsyncIterator[str]:
    """Serve a hub; yield the URL of a line to it."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        grpc_port = free.getsockname()[1]
    hub = Hubbub(Settings(drain=0.5, grpc_port=grpc_port if kind.startswith("grpc") else None, **settings))
    hub.socketio()
    chat = hub.room("chat/{name}")

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "nobody":
            raise Denied("Not you.")
        return connection.token or connection.request.headers.get("x-user")

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def leave(connection: Connection, message: Leave) -> None:
        await connection.close(message.code, "as you asked")

    async with serving(hub) as served:
        port = grpc_port if kind.startswith("grpc") else served.port
        yield f"{kind}://127.0.0.1:{port}"


def types_of(ended: Piped) -> list[str]:
    return [json.loads(line)["type"] for line in ended.lines]


async def test_each_line_is_a_message_and_each_message_a_line(kind):
    given = '{"type": "$join", "id": 1, "room": "chat/a"}\n' + "".join(
        f'{{"type": "say", "room": "chat/a", "data": {{"text": "{number}"}}}}\n' for number in range(3)
    )
    async with place(kind) as url:
        ended = await in_pipe(url, "--count", "5", given=given)
    assert ended.status == 0, ended.diagnostics
    assert types_of(ended) == ["$welcome", "$ack", "say", "say", "say"]
    assert [json.loads(line)["data"]["text"] for line in ended.lines[2:]] == ["0", "1", "2"]


async def test_all_answers_arrive_although_the_input_ended(kind):
    given = "\n".join(f'{{"type": "$ping", "id": {number}}}' for number in range(300))
    async with place(kind) as url:
        ended = await in_pipe(url, "--wait", "0.3", given=given)
    assert ended.status == 0, ended.diagnostics
    pongs = [json.loads(line) for line in ended.lines if "$pong" in line]
    assert [pong["id"] for pong in pongs] == list(range(300))


async def test_a_header_is_sent(kind):
    async with place(kind) as url:
        ended = await in_pipe(url, "--header", "X-User: ada", "--count", "1", given="")
    assert ended.status == 0, ended.diagnostics
    assert json.loads(ended.lines[0])["data"]["user"] == "ada"


@pytest.mark.parametrize(("code", "status"), [(1000, 0), (4403, 3)])
async def test_it_ends_when_the_server_closes(kind, code, status):
    async with place(kind) as url:
        leave = f'{{"type": "leave", "data": {{"code": {code}}}}}'
        ended = await in_pipe(url, "--wait", "10", given=leave)
    assert ended.status == status, ended.diagnostics
    assert (str(code) in ended.diagnostics) is (status == 3)


async def test_nobody_is_there(kind):
    async with place(kind) as url:
        pass
    ended = await in_pipe(url, "--timeout", "5", given="")
    assert ended.status == 1
    assert ended.output == ""
    said = "refuse" if kind != "grpc" else "There is no line to"
    assert said in ended.diagnostics, ended.diagnostics


@pytest.mark.parametrize("kind", ["sse+http", "stream+http", "poll+http", "socketio+http"])
async def test_the_wrong_path_is_told(kind):
    async with place(kind) as url:
        ended = await in_pipe(f"{url}/nowhere", given="")
    assert ended.status == 1
    assert "404 Not Found for /nowhere" in ended.diagnostics or kind == "socketio+http"


@pytest.mark.parametrize("kind", ["poll+https", "socketio+https"])
async def test_tls_certificates_are_checked(kind, tmp_path: Path):
    identity = tmp_path / "identity.pem"
    identity.write_text(IDENTITY)
    async with place(kind, ssl_certfile=str(identity)) as url:
        distrusted = await in_pipe(url, given="")
        trusted = await in_pipe(url, "--ca", str(identity), "--count", "1", given="")
        careless = await in_pipe(url, "--insecure", "--count", "1", given="")
    assert distrusted.status == 1
    assert "not trusted" in distrusted.diagnostics
    assert "--insecure" in distrusted.diagnostics
    assert (trusted.status, types_of(trusted)) == (0, ["$welcome"])
    assert (careless.status, types_of(careless)) == (0, ["$welcome"])


async def test_an_interrupt_closes(kind):
    async with place(kind) as url:
        process = await start(url)
        assert process.stdout
        async with asyncio.timeout(20):
            await process.stdout.readline()
            process.send_signal(2)
            assert await process.wait() == 130
        assert process.stdin
        process.stdin.close()


@pytest.mark.parametrize("option", [["--subprotocol", "x"], ["--binary", "hex"]])
def test_what_only_websockets_have_is_refused(kind, option):
    ended = CliRunner().invoke(command, [f"{kind}://localhost", *option])
    assert ended.exit_code == 2
    assert "Only WebSockets" in ended.output


@pytest.mark.parametrize("url", ["sse+http://", "poll+https://[::1", "grpc://x/path", "socketio+http://"])
def test_a_url_that_is_none_is_refused(url):
    assert CliRunner().invoke(command, [url]).exit_code == 2


async def test_pings_are_the_protocols(kind):
    interface = Scripted(Ping(), Close(1000, "done"), awaited=1)
    async with place(kind) as url:
        target = Target(url, dial=dialling(url))
        assert await converse(target, interface, count=None, wait=0) == ExitCode.NORMAL
    assert interface.told[1].startswith("The pong came after ") or "Closed" in interface.told[1]
    assert interface.told[-1].startswith("Closed: 1000 “done”.")
    assert not any("$pong" in str(message) for message in interface.messages)


async def test_bytes_are_not_sent_and_the_conversation_goes_on():
    interface = Scripted(b"bytes", '{"type": "$ping", "id": 1}', awaited=2)
    async with place("sse+http") as url:
        assert await converse(Target(url, dial=dialling(url)), interface, count=2, wait=0) == ExitCode.NORMAL
    assert "carries text only" in interface.problems[0]


class TestTheConnection:
    async def test_a_lost_line_is_told_as_that(self):
        line = FakeLine(None, "hubbub.v1.json")
        connection = LineConnection(line, 1.0)
        line.lose(1006)
        for use in (connection.recv, lambda: connection.send("late")):
            with pytest.raises(ConnectionClosed) as closed:
                await use()
            assert closed.value.rcvd is None
        assert conversation.verdict(connection.closed, Close())[0] == ExitCode.ABNORMAL

    async def test_closing_takes_no_longer_than_it_may(self):
        class Stuck(FakeLine):
            async def close(self, code: int = 1000, reason: str = "") -> None:
                if code != 1006:
                    await asyncio.get_running_loop().create_future()

        connection = LineConnection(Stuck(None, "hubbub.v1.json"), 0.01)
        await connection.close(1000)
        assert conversation.verdict(connection.closed, Close())[1].startswith(
            "Closed, but the server did not"
        )

    async def test_a_ping_that_is_never_answered_ends_with_the_connection(self):
        line = FakeLine(None, "hubbub.v1.json")
        connection = LineConnection(line, 1.0)
        pong = asyncio.ensure_future(await connection.ping())
        line.say("$pong", id=99)
        line.send_raw("no envelope")
        assert "99" in str(await connection.recv())
        assert await connection.recv() == "no envelope"
        await connection.close()
        await until(pong.done)
        assert pong.cancelled()
