"""What clients send in hope that it ends up in a log: it is escaped there, always within one line."""

import io
import json
import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from conftest import Serve
from hubbub import Connection, CorrelationFilter, Hubbub, Message, Room
from hubbub.observe.log import JSONFormatter, TextFormatter, logger
from told import Logs
from transports.raw import UPGRADE, closing, dial, request
from wire import talk

FORGED = "x\r\n12:00:00.000 INFO    connect user=root\x1b[2J\x1b]0;owned\x07\u2028\u202e\x85\x00 y=1"
"""Line breaks of all kinds, a line like the log's own, and sequences that terminals obey."""


class Say(Message):
    text: str


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a server writes as text while the test runs, without the lines of tracebacks."""
    root, stream = logging.getLogger(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.addFilter(CorrelationFilter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def check(written: io.StringIO) -> list[str]:
    """Return the lines that were written, all of them printable and made by hubbub."""
    lines = written.getvalue().split("\n")[:-1]
    assert lines
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith("12:00:00.000")] == []
    return lines


def hub_that_logs_all() -> Hubbub:
    hub = Hubbub()
    rooms = hub.room("chat/{name}")

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return json.loads(connection.request.headers.get("x-user", "null"))

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        logger.info("said", extra={"fields": {"text": message.text}})
        logger.info("%s", message.text)
        raise ValueError(message.text)

    @hub.endpoint("/echo/{what}")
    async def echo(connection: Connection, what: str) -> None:
        async for _ in connection:
            pass

    return hub


async def test_a_path_does_not_forge_a_line(start: Serve, written: io.StringIO, logs: Logs) -> None:
    """uvicorn's CVE-2020-7694: a percent-encoded path with line breaks and escape sequences."""
    served = start(hub_that_logs_all())
    with dial(served) as line:
        line.open(f"/echo/{quote(FORGED)}")
        await logs.wait("connect")
        line.send(closing(1000))
    await logs.wait("disconnect")
    (connect,) = [line for line in check(written) if " connect " in line]
    assert 'path="/echo/x\\r\\n12:00:00.000 INFO' in connect


@pytest.mark.parametrize(
    "host", ["evil/forged", "evil/forged?", "user=root@evil", "evil#", "[evil", "evil\\forged"]
)
async def test_a_host_header_does_not_forge_the_path(start: Serve, logs: Logs, host: str) -> None:
    """A path that is read out of a URL made with `Host` is what the client says it is."""
    with dial(start(hub_that_logs_all())) as line:
        line.send(request("/echo/x", *UPGRADE).replace(b"Host: localhost", f"Host: {host}".encode()))
        if line.response().status == 101:
            assert (await logs.wait("connect")).fields["path"] == "/echo/x"
            line.send(closing(1000))
            await logs.wait("disconnect")


async def test_a_path_that_leads_nowhere_is_not_logged_as_it_is(start: Serve, written: io.StringIO) -> None:
    with dial(start(hub_that_logs_all())) as line:
        line.send(request(f"/nowhere/{quote(FORGED)}"))
        assert line.response().status in (403, 404)
    logger.info("end")
    check(written)


async def test_a_close_reason_does_not_forge_a_line(start: Serve, written: io.StringIO, logs: Logs) -> None:
    with dial(start(hub_that_logs_all()), "/echo/x") as line:
        line.send(closing(4000, FORGED))
        assert line.close_frame() == (4000, FORGED)
    await logs.wait("disconnect", code=4000)
    (last,) = [line for line in check(written) if " disconnect " in line]
    assert 'reason="x\\r\\n12:00:00.000 INFO' in last


@pytest.mark.parametrize("header", ["X-Request-ID", "traceparent"])
@pytest.mark.parametrize(
    "value", [FORGED.encode("unicode_escape").decode() + "\t\t end", "a b", "x" * 129, "\xe9", '"']
)
async def test_a_correlation_id_is_passed_over_or_fit_for_a_log(
    start: Serve, written: io.StringIO, logs: Logs, header: str, value: str
) -> None:
    with dial(start(hub_that_logs_all())) as line:
        line.open("/echo/x", [f"{header}: {value}"])
        record = await logs.wait("connect")
        line.send(closing(1000))
    await logs.wait("disconnect")
    check(written)
    assert record.correlation_id in (record.fields["connection"], value)
    assert value == '"' or record.correlation_id == record.fields["connection"]


async def test_names_types_and_texts_do_not_forge_lines(
    start: Serve, written: io.StringIO, logs: Logs
) -> None:
    """A user's name, a room's, a message's type and text, and the exception of the handler that got it."""
    room = f"chat/{FORGED}"
    user = {"X-User": json.dumps(FORGED)}
    async with talk(start(hub_that_logs_all()).url, additional_headers=user) as client:
        await client.join(room)
        await client.ask(type=FORGED, room=room)
        answer = await client.ask(type="say", room=room, data={"text": FORGED})
        assert answer["data"]["code"] == "internal"
        await client.ask(type="$leave", room=room)
    await logs.wait("disconnect")
    lines = check(written)
    for event in ("connect", "join", "leave", "disconnect", "said"):
        assert sum(line[21:].startswith(f"{event} ") for line in lines) == 1, event


async def test_what_a_terminal_would_obey_is_escaped_in_tracebacks_too(
    start: Serve, written: io.StringIO, logs: Logs
) -> None:
    async with talk(start(hub_that_logs_all()).url) as client:
        await client.join("chat/x")
        await client.ask(type="say", room="chat/x", data={"text": "\x1b[2J\x07"})
    await logs.wait("disconnect")
    assert any(r"ValueError: \x1b[2J\x07" in line for line in check(written))


async def test_lines_for_machines_hold_the_same_without_harm(start: Serve, logs: Logs) -> None:
    user = {"X-User": json.dumps(FORGED)}
    async with talk(start(hub_that_logs_all()).url, additional_headers=user) as client:
        await client.join("chat/x")
        await client.ask(type="say", room="chat/x", data={"text": FORGED})
    await logs.wait("disconnect")
    for record in logs.records:
        line = JSONFormatter().format(record)
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line)["event"] == record.getMessage()


async def test_cookies_that_are_none_make_no_lines(start: Serve, logs: Logs) -> None:
    """aiohttp's CVE-2025-69230 and Tornado's CVE-2025-47287: a warning for each part of a broken header."""
    hub = hub_that_logs_all()

    @hub.endpoint("/cookies")
    async def cookies(connection: Connection) -> None:
        assert connection.request.cookies is not None
        async for _ in connection:
            pass

    with dial(start(hub)) as line:
        line.open(
            "/cookies",
            ["Cookie: " + ";".join(f"({number} ,@=\\{number}" for number in range(500))[:20_000]],
        )
        await logs.wait("connect")
        line.send(closing(1000))
    await logs.wait("disconnect")
    assert [record for record in logs.records if record.levelno > logging.INFO] == []


async def test_a_flood_of_refused_messages_is_not_logged(start: Serve, logs: Logs) -> None:
    """Whoever sends nonsense gets errors; the log is not filled with them."""
    async with talk(start(hub_that_logs_all()).url) as client:
        for _ in range(200):
            await client.websocket.send("nonsense")
            assert (await client.receive())["type"] == "$error"
    await logs.wait("disconnect")
    assert [record.getMessage() for record in logs.records if record.name == "hubbub"] == [
        "connect",
        "disconnect",
    ]
