"""What a client opens with: any bytes, through the HTTP protocol, the opening handshake and an application.

The first byte of an input chooses what the application does, the next eight are the lengths of the pieces in
which the rest arrives.
"""

import re
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from hubbub.engine.transport import Ending
from hubbub.transports.native import EXTENSION

from ..line import Lines, Socket, pieces
from ..reference import server_frames

HEADER = 9

TAKES_OVER, ACCEPTS, REFUSES, LEAVES = range(4)
"""What the application does with a WebSocket: bits 0 and 1 of the first byte."""

ECHOES = 4
"""Bit of the first byte: it agrees on the first subprotocol on offer, whatever that is."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) [\t -~]*")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_TARGET = re.compile(rb"[!-~\x80-\xff]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Listener:
    """Takes frames and does nothing with them."""

    max_message = 1000

    def __init__(self) -> None:
        self.endings: list[Ending] = []

    def heard_from(self, control_frames: int = 0) -> None:
        pass

    def received(self, message: str | bytes, more: bool = False) -> bool:  # noqa: ARG002
        return True

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def failing(self) -> None:
        pass

    def ended(self, ending: Ending) -> None:
        self.endings.append(ending)

    def shut_down(self) -> None:
        pass


class Application:
    """Checks what it is given, and answers as the input says."""

    def __init__(self) -> None:
        self.behaves = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_scope(scope)
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
            return
        offered = scope["subprotocols"] if self.behaves & ECHOES else []
        subprotocol = offered[0] if offered else None
        does = self.behaves & 3
        if does == TAKES_OVER:
            await scope["extensions"][EXTENSION].accept(Listener(), subprotocol)
            return
        assert (await receive())["type"] == "websocket.connect"
        if does == ACCEPTS:
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            while (await receive())["type"] != "websocket.disconnect":
                pass
        elif does == REFUSES:
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
            await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"Never"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
        body = b"" if scope["method"] == "HEAD" else b"fine"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


_application = Application()
_lines = Lines(_application)


@dataclass
class Answer:
    """What a client was sent: responses with their headers, then frames."""

    statuses: list[int] = field(default_factory=list)
    last: bool = False


def check(data: bytes) -> list[str]:
    if len(data) < HEADER:
        return []
    _application.behaves = data[0]
    answer = _lines.run(_open(list(pieces(data[HEADER:], data[1:HEADER]))))
    return [str(status) for status in answer.statuses]


async def _open(arriving: list[bytes]) -> Answer:
    socket = _lines.connect()
    for piece in arriving:
        if not socket.is_reading():
            break
        socket.protocol.data_received(piece)
        await _lines.settle()
    answer = _read(socket)
    await _lines.disconnect(socket)
    return answer


def _read(socket: Socket) -> Answer:
    answer, rest = Answer(), bytes(socket.written)
    while rest:
        head, found, rest = rest.partition(b"\r\n\r\n")
        assert found, f"a response without an end: {head[:200]!r}"
        line, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(line)
        assert status, f"no status line: {line!r}"
        headers = dict(_header(line) for line in lines)
        assert len(headers) == len(lines), f"a header twice: {lines}"
        answer.statuses.append(int(status[1]))
        assert not answer.last, "a response after one that was said to be the last"
        answer.last = headers.get(b"connection") == b"close"
        if answer.statuses[-1] == 101:
            assert headers[b"upgrade"] == b"websocket"
            assert re.fullmatch(rb"[A-Za-z0-9+/]{27}=", headers[b"sec-websocket-accept"])
            if b"sec-websocket-protocol" in headers:
                assert _TOKEN.fullmatch(headers[b"sec-websocket-protocol"].decode("latin-1")), headers
            server_frames(rest)
            return answer
        if answer.statuses[-1] != 100:
            length = headers[b"content-length"]
            assert length.isdigit(), headers
            assert len(rest) >= int(length), "a body that is cut"
            rest = rest[int(length) :]
    assert socket.closed or socket.eof or not answer.last, "said to be closed, and still open"
    return answer


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    assert colon, f"no header: {line!r}"
    assert _NAME.fullmatch(name), f"no name of a header: {line!r}"
    assert _VALUE.fullmatch(value), f"no value of a header: {line!r}"
    return name.lower(), value.strip()


def _check_scope(scope: Scope) -> None:
    """An application is given what HTTP allows, whatever the client sent."""
    for name, value in scope["headers"]:
        assert _NAME.fullmatch(name), f"a header's name is {name!r}"
        assert name == name.lower(), f"a header's name is {name!r}"
        assert _VALUE.fullmatch(value), f"a header's value is {value!r}"
    assert isinstance(scope["path"], str)
    assert _TARGET.fullmatch(scope["raw_path"]), scope["raw_path"]
    assert _TARGET.fullmatch(scope["query_string"]), scope["query_string"]
    if scope["type"] == "websocket":
        for subprotocol in scope["subprotocols"]:
            assert _TOKEN.fullmatch(subprotocol), f"a subprotocol is {subprotocol!r}"
