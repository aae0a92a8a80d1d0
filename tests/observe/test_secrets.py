"""A client's token reaches no log, whatever fails, at any level, of anybody who logs here."""

import logging
import socket
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import websockets
from pydantic import BaseModel

from hubbub import Connection, Denied, Hubbub, Message, Settings
from hubbub.observe.log import CorrelationFilter, JSONFormatter, TextFormatter, hide_secrets
from told import Told, fields_of
from transports.raw import FIN, TEXT, UPGRADE, Line, dial, masked, request
from wire import talk

pytestmark = pytest.mark.anyio

TOKEN = "s3cr3t-t0k3n-0f-ada"

LOGGERS = (
    "", "hubbub", "hubbub.native", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets",
    "websockets.server", "websockets.protocol", "asyncio",
)  # fmt: skip


class Everything(logging.Handler):
    """Keeps every record in every shape that it could be written in."""

    def __init__(self) -> None:
        super().__init__(0)
        self.addFilter(CorrelationFilter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        shown = [TextFormatter().format(record), JSONFormatter().format(record)]
        shown += [repr(record.args), repr(fields_of(record))]

        if record.exc_info and record.exc_info[1]:
            # As much as a logging set-up of one's own shows, such as one with rich's tracebacks.
            shown += traceback.TracebackException.from_exception(record.exc_info[1]).format()
        self.lines += [f"{record.name} {line}" for line in shown]


@pytest.fixture
def everything() -> Iterator[Everything]:
    handler = Everything()
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    # The test's own client logs to "websockets.client"; that is not the server's.
    logging.getLogger("websockets.client").propagate = False
    try:
        yield handler
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("websockets.client").propagate = True
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class Fail(Message):
    pass


class Model(BaseModel):
    number: int


def failing_hub(told: Told) -> Hubbub:
    """A hub in which everything fails that a client asks for by name."""
    hub = Hubbub(Settings(max_message_before_login=4096, max_message=4096))
    room = hub.room("room")

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        how = connection.request.query_params.get("how")
        if how == "deny":
            raise Denied("no")
        if how == "fail" or connection.state.get("fails"):
            raise ValueError("the login failed")
        if how == "kind":
            return 7  # type: ignore[return-value]
        connection.state["fails"] = True
        return "ada"

    @hub.on_connect
    async def connected(connection: Connection) -> None:
        if connection.request.query_params.get("how") == "connect":
            raise RuntimeError("the hook failed")

    @hub.on_message
    async def fail(connection: Connection, message: Fail) -> None:
        raise RuntimeError("the handler failed")

    @hub.on_message
    async def model(message: Model) -> None: ...

    @room.on_join
    async def join(connection: Connection) -> None:
        raise RuntimeError("the hook failed")

    @hub.endpoint("/fail")
    async def endpoint(connection: Connection) -> None:
        raise RuntimeError("the endpoint failed")

    @hub.endpoint("/busy")
    async def busy(connection: Connection) -> None:
        await connection.recv()

    return hub


def header(token: str = TOKEN) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


async def test_no_way_to_fail_brings_a_token_into_a_log(start, everything):
    told = Told()
    served = start(failing_hub(told))
    for query, options in ((f"token={TOKEN}", {}), ("x=1", header())):
        for how in ("deny", "fail", "kind", "connect"):
            async with talk(f"{served.url}/?{query}&how={how}", welcome=False, **options) as client:
                assert (await client.closed())[0] in (4401, 1011)
        for path in ("/", "/fail", "/busy"):
            async with websockets.connect(f"{served.url}{path}?{query}", **options) as websocket:
                # Not JSON and a wrong type, in pieces, so that it goes the long way through the parser.
                with suppress(websockets.ConnectionClosed):
                    await websocket.send([f"[{TOKEN}"[:9], f"[{TOKEN}"[9:]])
        for path in ("/nowhere", "/healthz", "/nowhere?how=deny"):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"{served.url}{path}?{query}", **options)
        async with talk(f"{served.url}/?{query}", **options) as client:
            for envelope in (
                {"type": "fail"},
                {"type": "model", "data": {"number": TOKEN}},
                {"type": "$auth", "data": {"token": TOKEN}},
                {"type": "$auth", "data": {"token": [TOKEN]}},
                {"type": "$join", "room": "room"},
                {"type": TOKEN},
                {"type": "$leave", "room": TOKEN},
            ):
                assert (await client.ask(**envelope))["type"] == "$error"
            await client.websocket.send(f'{{"type":"$auth","data":{{"token":"{TOKEN}' + "x" * 5000 + '"}}')
            await client.closed()
    for line in everything.lines:
        assert TOKEN not in line
    assert any("the login failed" in line for line in everything.lines)


def test_no_broken_request_or_frame_brings_a_token_into_a_log(start, everything):
    served = start(failing_hub(Told()))
    target = f"/?token={TOKEN}"
    authorization = f"Authorization: Bearer {TOKEN}"
    broken = [
        request(target, *UPGRADE[:-1]),
        request(target, *UPGRADE[:2], authorization),
        request(target, "Sec-WebSocket-Version: 99", *UPGRADE[:3], authorization),
        request(target, authorization, method="POST"),
        request(target, authorization, "Content-Length: x"),
        request(target, authorization, "No colon"),
        f"GET {target}\r\n{authorization}\r\n\r\n".encode(),
        b"\x16\x03\x01" + TOKEN.encode() + b"\r\n\r\n",
    ]
    for data in broken:
        with Line(("127.0.0.1", served.port)) as line:
            line.send(data)
            line.socket.shutdown(socket.SHUT_WR)
            line.rest()
    secret = f'{{"type":"$auth","data":{{"token":"{TOKEN}"}}}}'.encode()
    for frame in (
        masked(FIN | 0x70 | TEXT, secret),
        masked(FIN | 0x3, secret),
        bytes((FIN | TEXT, len(secret))) + secret,
        masked(FIN | TEXT, secret + b"\xff"),
        masked(TEXT, secret) + masked(FIN | TEXT, secret),
        masked(FIN | 0x8, b"\x00\x01" + secret),
        masked(FIN | 0x9, secret) + masked(FIN | 0x8, b"\x03\xe8"),
        masked(TEXT, secret[:20]) + masked(FIN, secret[20:]) + masked(FIN | 0x8, b"\x03\xe8"),
    ):
        with dial(served, target) as line:
            line.send(frame)
            line.rest()
    for line in everything.lines:
        assert TOKEN not in line


@pytest.mark.parametrize(
    ("name", "message", "arguments"),
    [
        ("uvicorn.access", "%s", ("/?%74oken=" + TOKEN,)),
        ("uvicorn.asgi", "%s - %s", ("127.0.0.1", {"query_string": b"a=b&token=" + TOKEN.encode()})),
        ("uvicorn.asgi", "%(query_string)s", ({"query_string": "token=" + TOKEN},)),
        ("uvicorn.error", "> %s: %s", ("Set-Cookie", "session=" + TOKEN)),
        ("websockets.server", "%s", (b"GET /?token=" + TOKEN.encode() + b" HTTP/1.1",)),
    ],
)
def test_a_record_of_any_shape_is_without_the_token(everything, name, message, arguments):
    hide_secrets()
    logging.getLogger(name).error(message, *arguments)
    [first, *_] = lines = everything.lines
    assert "***" in first
    assert not any(TOKEN in line for line in lines)
