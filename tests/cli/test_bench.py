"""``hubbub bench`` as its users run it, against real servers."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from http import HTTPStatus

import pytest
from typer.testing import CliRunner, Result
from websockets.asyncio.server import broadcast

from cli.test_connect import IDENTITY
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.cli import app
from hubbub.cli.bench import duration
from hubbub.load.bench import Figures, Watcher, Work
from hubbub.load.connection import ABORT
from plain_server import Handler, echo, plain_server, send_on, silent

SHORT = "0.2"


class Say(Message):
    text: str


SAY = '{"type": "say", "data": {"text": "hi"}}'


@pytest.fixture
def hub() -> Hubbub:
    hub = Hubbub(Settings(max_message_rate=1e6, max_message_burst=1_000_000))
    talk = hub.room("talk/{name}", presence=True)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "stranger":
            raise Denied("Who are you?\n\x1b[2J")
        return connection.token

    @hub.on_message
    async def answer(connection: Connection, message: Say) -> dict[str, str | None]:
        return {"to": connection.user}

    @talk.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    return hub


def bench(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", url, "--seconds", SHORT, *arguments], catch_exceptions=False)


def figures(url: str, *arguments: str, status: int = 0) -> dict[str, object]:
    """What a run with --json prints: nothing but an object."""
    result = bench(url, "--json", *arguments)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def check(found: dict[str, object], connections: int) -> None:
    assert found["connections"] == connections
    assert found["count"] > 0
    assert found["rate"] == pytest.approx(found["count"] / found["seconds"], rel=0.01)
    latency = found["latency_ms"]
    assert 0 <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert found["errors"] == {}
    assert found["interrupted"] is False
    assert found["ended_after"] is None


@pytest.mark.parametrize(
    ("work", "arguments", "unit"),
    [
        ("echo", [], "answers/s"),
        ("echo", ["--message", SAY, "--token", "ada"], "answers/s"),
        ("fan-out", ["--room", "talk/1", "--message", SAY], "deliveries/s"),
        ("fan-out", ["--room", "talk/1", "--message", SAY, "--in-flight", "4"], "deliveries/s"),
        ("connections", [], "connections/s"),
        ("connections", ["--room", "talk/1"], "connections/s"),
        ("latency", [], "answers/s"),
        ("latency", ["--room", "talk/1", "--message", SAY, "--rate", "50"], "deliveries/s"),
    ],
)
def test_a_hub_is_loaded_in_its_protocol(start, hub, work, arguments, unit):
    found = figures(start(hub).url, "--work", work, "--connections", "3", *arguments)
    assert (found["work"], found["protocol"], found["unit"]) == (work, "hubbub", unit)
    check(found, 3)


@pytest.mark.parametrize(
    ("work", "arguments", "own"),
    [("echo", [], False), ("latency", [], False), ("fan-out", ["--room", "talk/1"], True)],
)
def test_no_request_is_taken_for_a_retry_of_another(work, arguments, own):
    """A message's own id is replaced; for a room it is left out, since nobody waits for an answer."""
    ids: list[int | None] = []

    async def note(connection):
        await connection.send('{"type":"$welcome","data":{}}')
        async for message in connection:
            envelope = json.loads(message)
            if envelope["type"] == "$join":
                await connection.send('{"type":"$ack","id":"join"}')
                continue
            ids.append(envelope.get("id"))
            answer = json.dumps({"type": "$ack", "id": envelope.get("id")}, separators=(",", ":"))
            for receiver in list(connection.server.connections) if own else [connection]:
                await receiver.send(answer)

    with plain_server(note) as server:
        message = '{"type": "say", "id": "mine", "data": {}}'
        figures(server.url, "--work", work, "--connections", "3", "--message", message, *arguments)
    assert len(ids) > 3
    if own:
        assert set(ids) == {None}
    else:
        assert len(set(ids)) == len(ids)
        assert None not in ids


@pytest.mark.parametrize(
    ("work", "handler"), [("echo", echo), ("fan-out", send_on), ("connections", silent), ("latency", echo)]
)
def test_any_other_server_is_loaded_with_plain_messages(work, handler):
    message = [] if work == "connections" else ["--message", "hi there"]
    with plain_server(handler) as server:
        found = figures(f"{server.url}/path", "--work", work, "--connections", "3", *message)
    assert (found["work"], found["protocol"], found["url"]) == (work, "plain", f"{server.url}/path")
    check(found, 3)


@pytest.mark.parametrize("work", ["fan-out", "connections", "latency"])
def test_a_server_without_rooms_is_no_place_for_one(work):
    with plain_server(send_on) as server:
        result = bench(server.url, "--work", work, "--room", "talk/1")
    assert result.exit_code == 2
    assert "it has no rooms: leave --room out" in result.stderr


def test_a_server_that_greets_is_not_taken_for_one_that_answers():
    async def greet(connection):
        await connection.send("good day")
        await echo(connection)

    with plain_server(greet) as server:
        check(figures(server.url, "--connections", "2"), 2)


def test_people_are_shown_a_table(serve, hub):
    result = bench(serve(hub).url, "--connections", "2")
    assert result.exit_code == 0
    for heading in ("answers/s", "p50", "p99", "max", "connections", "errors"):
        assert heading in result.stdout
    assert " ms" in result.stdout
    assert "Ended" not in result.stdout
    assert result.stderr == ""  # no progress where nobody looks


def test_figures_are_whole_on_a_narrow_terminal(monkeypatch, serve, hub):
    monkeypatch.setenv("COLUMNS", "30")
    result = bench(serve(hub).url, "--connections", "2")
    rows = dict(re.findall(r"^ (\S+) +(\S+(?: m?s)?) *$", result.stdout, re.MULTILINE))
    assert list(rows) == ["answers/s", "p50", "p99", "max", "connections", "errors"]
    assert "…" not in result.stdout


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.000123, "0.123 ms"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (2.49, "2.49 s"),
        (1234.5, "1,234.50 s"),
    ],
)
def test_durations_are_written_without_powers_of_ten(seconds, written):
    assert duration(seconds) == written


def test_waiting_for_the_next_message_to_be_due_does_not_count_as_work():
    """Less than a millisecond is waited for by looking at the clock."""
    with plain_server(echo) as server:
        arguments = ["--work", "latency", "--rate", "1200", "--connections", "2", "--seconds", "1"]
        result = bench(server.url, *arguments)
    assert result.exit_code == 0
    assert "busy all the time" not in result.stdout


def test_a_token_in_the_query_is_not_shown(serve, hub):
    result = bench(f"{serve(hub).url}/?token=secret", "--connections", "1")
    assert result.exit_code == 0
    assert "secret" not in result.output


def test_tls_is_spoken(tmp_path):
    certificate = tmp_path / "identity.pem"
    certificate.write_text(IDENTITY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    big = "x" * 40_000  # several TLS records
    with plain_server(echo, ssl=context) as server:
        url = f"wss://localhost:{server.port}/"
        check(figures(url, "--ca", str(certificate), "--connections", "2", "--message", big), 2)
        check(figures(url, "--insecure", "--connections", "2", "--work", "latency"), 2)
        refused = bench(url)
        without = bench(f"ws://localhost:{server.port}/")
    assert without.exit_code == 1
    assert "If it speaks TLS, use wss://" in without.stderr
    assert refused.exit_code == 1
    assert "is not trusted" in refused.stderr


def nobody() -> str:
    with plain_server() as server:
        return server.url


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--work", "fan-out"], 2, "--room NAME"),
        (["--work", "fan-out", "--room", "talk/1"], 2, "--message"),
        (["--work", "fan-out", "--room", "nowhere", "--message", SAY], 1, "There is no room 'nowhere'"),
        (["--work", "fan-out", "--room", "talk/1", "--message", '{"type": "shout"}'], 1, "shout"),
        (["--work", "latency", "--room", "talk/1", "--message", '{"type": "shout"}'], 1, "shout"),
        (["--message", '{"type": "shout"}'], 1, "shout"),
        (["--message", "{"], 1, "not JSON"),
        (["--message", "[]"], 1, "objects with a type"),
        (["--token", "stranger"], 1, "Who are you?"),
        (["--ca", __file__, "--insecure"], 2, "one of --ca and --insecure"),
        (["--connections", "100000"], 2, "--connections"),
        (["--room", "talk/1"], 2, "--room: --work echo has no use for it: it is for fan-out, connections"),
        (["--rate", "100"], 2, "--rate: --work echo has no use for it: it is for latency."),
        (["--in-flight", "1"], 2, "--in-flight: --work echo has no use for it: it is for fan-out."),
        (["--work", "connections", "--message", SAY], 2, "--message: --work connections has no use for it"),
    ],
)
def test_what_can_not_be_measured_is_said_in_words(serve, hub, arguments, status, said):
    result = bench(serve(hub).url, "--connections", "2", *arguments)
    assert result.exit_code == status
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--token", "stranger"], "The server refused the login: denied. Who are you?\\n\\u001b[2J"),
        (
            ["--message", '{"type": "shout"}'],
            "The server answered with an error: unknown_type. Nothing in the hub",
        ),
    ],
)
def test_an_error_of_hubbubs_is_told_in_one_line_by_its_code_and_message(serve, hub, arguments, said):
    result = bench(serve(hub).url, "--connections", "2", *arguments)
    [line] = result.stderr.splitlines()
    assert line.startswith(f"hubbub: {said}")
    assert "{" not in line


def test_a_wrong_path_is_told(start, hub):
    result = bench(f"{start(hub).url}/nowhere")
    assert result.exit_code == 1
    assert "for /nowhere instead of a WebSocket" in result.stderr


def test_a_server_that_is_not_there_is_told():
    result = bench(nobody())
    assert result.exit_code == 1
    assert "refuses connections. Is the server running" in result.stderr


def test_what_a_refusal_says_does_not_reach_the_terminal_as_it_is():
    def refuse(connection, request):
        return connection.respond(HTTPStatus.FORBIDDEN, "not you\x1b[2J\n")

    with plain_server(silent, process_request=refuse) as server:
        result = bench(server.url)
    assert "403" in result.stderr
    assert "not you\\u001b[2J" in result.stderr


def test_a_server_that_takes_no_more_is_told_of_with_the_setting():
    taken = []

    def refuse_after_three(connection, request):
        taken.append(request)
        if len(taken) > 3:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many\n")
        return None

    with plain_server(silent, process_request=refuse_after_three) as server:
        found = figures(server.url, "--work", "connections", "--connections", "5", status=3)
    assert found["connections"] == 2  # one was for finding out what is spoken
    assert found["ended_after"] is None
    [(sentence, times)] = found["errors"].items()
    assert times == 3
    assert "503" in sentence
    assert "--max-connections-per-address" in sentence


def test_a_server_that_limits_messages_is_told_of_with_the_setting():
    async def limit(connection):
        for _ in range(5):
            await connection.send(await connection.recv())
        await connection.close(4529, "too many messages")

    with plain_server(limit) as server:
        result = bench(server.url, "--connections", "2")
    assert result.exit_code in (1, 3)
    assert "4529" in result.output
    assert "--max-message-rate" in result.output


def test_a_server_that_does_not_send_on_is_told_of(monkeypatch):
    monkeypatch.setattr("hubbub.load.fanout.PATIENCE", 0.2)
    with plain_server(echo) as server:
        result = bench(server.url, "--work", "fan-out", "--connections", "2")
    assert result.exit_code == 1
    assert "Does the server send such messages on?" in result.stderr


def test_a_server_that_does_not_answer_is_told_of(monkeypatch):
    monkeypatch.setattr("hubbub.load.connection.PATIENCE", 0.2)
    with plain_server(silent) as server:
        result = bench(server.url, "--connections", "2")
    assert result.exit_code == 1
    assert "sent nothing" in result.stderr


@pytest.fixture
def shown(monkeypatch):
    """Have what a test adds hear what is shown while a load goes on."""
    listeners: list[Watcher] = []

    def show(bar: object, what: str, done: float, total: float, figures: Figures) -> None:
        for listener in listeners:
            listener(what, done, total, figures)

    monkeypatch.setattr("hubbub.cli.bench._Bar.show", show)
    for module in ("echo", "fanout", "paced"):
        monkeypatch.setattr(f"hubbub.load.{module}.TELLS_EVERY", 0.01)
    return listeners.append


def closing(when: threading.Event) -> Handler:
    """Answer; from `when` on close instead."""

    async def handle(connection):
        async for message in connection:
            if when.is_set():
                await connection.close(4529, "too many messages")
            else:
                await connection.send(message)

    return handle


def test_what_is_shown_tells_the_warm_up_from_what_is_measured(shown):
    stages: list[str] = []
    shown(lambda what, *_: stages.append(what))
    with plain_server(echo) as server:
        assert bench(server.url, "--connections", "2").exit_code == 0
    assert list(dict.fromkeys(stages)) == ["connecting", "warming up", "echo"]
    assert stages.count("warming up") > 1


@pytest.mark.parametrize("more", [[], ["--json"], ["--work", "latency"]])
def test_a_load_that_ends_while_it_warms_up_has_no_figures(shown, more):
    warm = threading.Event()
    shown(lambda what, *_: warm.set() if what == "warming up" else None)
    with plain_server(closing(warm)) as server:
        result = bench(server.url, "--connections", "2", *more)
    assert result.exit_code == 1
    assert result.stdout == ""
    closed, ended = result.stderr.splitlines()
    assert closed.startswith("hubbub: 2 times: The server closed a connection: 4529")
    assert ended == "hubbub: It ended before anything was measured."


@pytest.mark.parametrize("work", ["echo", "fan-out", "connections", "latency"])
def test_a_server_that_takes_nobody_in_leaves_no_figures(work):
    taken = []

    def refuse_after_one(connection, request):
        taken.append(request)
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "") if len(taken) > 1 else None

    with plain_server(silent, process_request=refuse_after_one) as server:
        result = bench(server.url, "--work", work, "--connections", "3")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "503" in result.stderr.splitlines()[0]
    assert "wss://" not in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_load_that_ends_early_says_after_how_long(shown, as_json):
    measured = threading.Event()
    shown(lambda what, done, total, figures: measured.set() if figures.count else None)
    with plain_server(closing(measured)) as server:
        arguments = ["--connections", "2", "--seconds", "30", *(["--json"] if as_json else [])]
        result = bench(server.url, *arguments)
    assert result.exit_code == 3
    if as_json:
        found = json.loads(result.stdout)
        assert found["asked_seconds"] == 30
        assert 0 < found["ended_after"] == found["seconds"] < 30
    else:
        assert re.search(r"^Ended after \d+\.\d s of 30 s\.$", result.stdout, re.MULTILINE)


def test_connections_that_are_not_held_to_the_end_are_told_of(shown):
    opened = threading.Event()
    shown(lambda what, done, total, figures: opened.set() if done == total else None)

    async def close_then(connection):
        await asyncio.to_thread(opened.wait, 20)

    with plain_server(close_then) as server:
        result = bench(server.url, "--work", "connections", "--connections", "2", "--seconds", "30")
    assert result.exit_code == 3
    assert re.search(r"^Ended after they were held for \d+\.\d s of 30 s\.$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_while_connections_are_opened_leaves_their_figures(shown, as_json):
    def interrupt(what: str, done: float, total: float, figures: Figures) -> None:
        if (what, done) == ("opening", 40):
            raise KeyboardInterrupt

    shown(interrupt)
    with plain_server(silent) as server:
        arguments = ["--work", "connections", "--connections", "100", *(["--json"] if as_json else [])]
        result = bench(server.url, *arguments)
    assert result.exit_code == 130
    if as_json:
        found = json.loads(result.stdout)
        assert (found["connections"], found["interrupted"], found["ended_after"]) == (40, True, 0)
        assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["max"]
    else:
        assert "p99" in result.stdout
        assert "Interrupted after they were held for 0.0 s of 0.2 s." in result.stdout


def test_ctrl_c_before_anything_is_measured_leaves_no_figures(shown):
    def interrupt(what: str, done: float, total: float, figures: Figures) -> None:
        if what == "warming up" and done:
            raise KeyboardInterrupt

    shown(interrupt)
    with plain_server(echo) as server:
        result = bench(server.url, "--connections", "2")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "hubbub: Interrupted before anything was measured.\n"


@pytest.mark.parametrize("work", [Work.ECHO, Work.FAN_OUT, Work.LATENCY])
def test_a_server_that_dies_is_one_kind_of_error_and_no_matter_of_tls(shown, work):
    """Of the connections that it had some are reset and some end, some while they send."""
    measured, died = threading.Event(), threading.Event()

    async def die(connection):
        async for message in connection:
            everyone = list(connection.server.connections)
            if measured.is_set() and not died.is_set():
                died.set()
                for number, one in enumerate(everyone):
                    if number % 2:
                        one.transport.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, ABORT
                        )
                    one.transport.abort()
            else:
                broadcast(set(everyone) - {connection} if work is Work.FAN_OUT else {connection}, message)

    def watch(what: str, done: float, total: float, figures: Figures) -> None:
        if what == work and figures.count:
            measured.set()

    shown(watch)
    with plain_server(die) as server:
        rate = ["--rate", "1000"] if work is Work.LATENCY else []
        arguments = ["--work", work, "--connections", "10", "--seconds", "20", *rate]
        errors = figures(server.url, *arguments, status=3)["errors"]
    assert list(errors) == ["The server broke a connection off."]
    if work is Work.ECHO:
        assert list(errors.values()) == [10]


def test_ctrl_c_ends_it_with_the_figures_so_far():
    answered = threading.Event()

    async def count(connection):
        number = 0
        async for message in connection:
            await connection.send(message)
            number += 1
            if number == 100_000:
                answered.set()

    with plain_server(count) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "hubbub", "bench", server.url, "--seconds", "600", "--connections", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert answered.wait(50)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert re.search(r"^Interrupted after \d+\.\d s of 600 s\.$", output, re.MULTILINE)
    assert "answers/s" in output
    assert errors == ""


def test_on_a_terminal_there_is_a_bar_with_the_rate(hub, serve):
    near, far = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hubbub", "bench", serve(hub).url, "--seconds", "0.6", "--json"],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=far,
    )
    os.close(far)
    shown = b""
    try:
        while data := _read(near):
            shown += data
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        os.close(near)
    assert process.returncode == 0
    assert json.loads(output)["count"] > 0
    assert b"answers/s" in shown
    assert "━".encode() in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def test_files_that_the_machine_does_not_allow_are_told_of_before(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    result = bench("ws://127.0.0.1:1", "--connections", "99")
    assert result.exit_code == 2
    assert "ulimit" in result.stderr
