"""The opening handshake (RFC 6455 section 4.2) on the native transport, with `websockets` as its judge."""

import functools
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeaderValue
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from ..protocol.deflate import Agreement, Deflate
from ..settings import Settings
from .head import Refused, judge_handshake

RawHeaders = list[tuple[bytes, bytes]]

# By whether compression is to be had. Judging a request leaves nothing in the protocol object that the next
# one would see.
_JUDGES = {
    True: ServerProtocol(extensions=[Deflate()]),
    False: ServerProtocol(),
}


class Handshake(NamedTuple):
    """A valid request to open a WebSocket."""

    target: str
    headers: RawHeaders
    subprotocols: list[str]
    accept: str
    """Value of ``Sec-WebSocket-Accept``."""
    extensions: str | None = None
    """Value of ``Sec-WebSocket-Extensions`` in the answer."""
    window_bits: int | None = None
    """Window that messages to the client may be compressed with; None if compression was not agreed to."""

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.raw_path)

    @property
    def raw_path(self) -> str:
        """The path as it was sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> bytes:
        """The query, without its question mark."""
        return self.target.partition("?")[2].encode("latin-1")

    def response(
        self,
        subprotocol: str | None,
        headers: Iterable[tuple[bytes, bytes]],
        own: Iterable[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Return the answer that opens the WebSocket, with the application's headers and the server's own.

        Raises :exc:`ValueError` for a subprotocol that the client did not offer (RFC 6455 section 4.2.2), and
        for headers that can't be sent, or are not the application's to send.
        """
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + self.accept.encode()
        ]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(f"The client did not offer the subprotocol {subprotocol!r}.")
            lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1"))
        if self.extensions is not None:
            lines.append(b"Sec-WebSocket-Extensions: " + self.extensions.encode("latin-1"))
        for name, value in headers:
            if name.lower() in _HANDSHAKE:
                raise ValueError(f"The server itself sends {name!r} in its answer to a handshake.")
            lines.append(_line(name, value))
        lines += [name + b": " + value for name, value in own]
        return b"\r\n".join(lines) + b"\r\n\r\n"


_HANDSHAKE = frozenset((
    b"upgrade", b"connection", b"content-length", b"transfer-encoding", b"sec-websocket-accept",
    b"sec-websocket-extensions", b"sec-websocket-protocol",
))  # fmt: skip

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def _line(name: bytes, value: bytes) -> bytes:
    """Return a header's line; :exc:`ValueError` for what would be more, or less, than one."""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"This can't be a header (RFC 9110 section 5): {name!r}: {value!r}.")
    return name + b": " + value


def _pair(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, value


_shared = functools.lru_cache(maxsize=256)(_pair)
"""One object for all requests that have it, since headers are kept for as long as a connection lasts."""

_ALIKE = frozenset((
    b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"host", b"origin", b"pragma",
    b"sec-websocket-extensions", b"sec-websocket-protocol", b"sec-websocket-version", b"upgrade",
    b"user-agent",
))  # fmt: skip
"""Headers that many clients send alike. Those that tell who somebody is are not to be kept longer."""


class Head(NamedTuple):
    """A whole request, as an HTTP parser took it apart; the names of headers are in lower case."""

    method: str
    target: str
    version: str
    headers: Iterable[tuple[bytes, bytes]]


def read_head(data: bytes, version: str | None = None) -> Head:
    """Return the head that uvicorn put together again after its parser: one line for each header.

    It says HTTP/1.1, whatever the client said: `version` is that, if it is known.
    """
    first, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, said = first.decode("latin-1").split(" ", 2)
    parted = (line.partition(b": ") for line in lines)
    return Head(
        method, target, f"HTTP/{version}" if version else said, [(name, value) for name, _, value in parted]
    )


def judged(head: Head, settings: Settings) -> Head | bytes:
    """Return a head that hubbub's own HTTP protocol has not judged, or the HTTP response that refuses it."""
    headers = list(head.headers)
    method, target, version = head.method.encode(), head.target.encode("latin-1"), head.version
    try:
        target = judge_handshake(method, target, version.removeprefix("HTTP/"), headers, settings)
    except Refused as refused:
        return refused.refusal.response()
    return head._replace(target=target.decode("latin-1"), headers=headers)


def read_handshake(head: Head, compression: bool = False) -> Handshake | bytes:
    """Return the handshake that a request is, or the HTTP response that refuses it.

    `compression` says whether permessage-deflate may be agreed to.
    """
    raw: RawHeaders = []
    headers = Headers()
    request = Request(head.target, headers, head.method, head.version)
    judge = _JUDGES[compression]
    for header in head.headers:
        name, value = header
        raw.append(_shared(name, value) if name in _ALIKE and len(value) < 512 else header)
        try:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        except InvalidHeaderValue as problem:
            # Without this header, what there is of the request may well be valid: it is not to be judged.
            return judge.reject(HTTPStatus.BAD_REQUEST, f"{problem}.\n").serialize()
    try:
        accept, extensions, _ = judge.process_request(request)
    except InvalidHandshake as problem:
        return _refused(request, problem, compression).serialize()
    agreed = next((extension for extension in judge.extensions if isinstance(extension, Agreement)), None)
    offered = ",".join(headers.get_all("Sec-WebSocket-Protocol"))
    # A list may have empty elements, which count for nothing (RFC 9110 section 5.6.1.2).
    subprotocols = [name.strip() for name in offered.split(",") if name.strip()]
    return Handshake(
        head.target, raw, subprotocols, accept, extensions, agreed.window_bits if agreed else None
    )


def _refused(request: Request, problem: InvalidHandshake, compression: bool) -> Response:
    judge = ServerProtocol(extensions=[Deflate()] if compression else None)
    if isinstance(problem, InvalidHeaderValue) and problem.name == "Sec-WebSocket-Version":
        # RFC 6455 section 4.2.2 (4), which `websockets` answers with 400.
        response = judge.reject(HTTPStatus.UPGRADE_REQUIRED, f"{problem}: this server speaks version 13.\n")
        response.headers["Upgrade"] = "websocket"
        response.headers["Sec-WebSocket-Version"] = "13"
        return response
    return judge.accept(request)


_OWN = (b"content-length", b"connection", b"transfer-encoding")


def refusal(
    status: int,
    phrase: str,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    own: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return an HTTP response instead of a WebSocket; the connection is closed after it.

    `own` are the server's own headers. Raises :exc:`ValueError` for others that can't be sent.
    """
    lines = [f"HTTP/1.1 {status} {phrase}".encode()]
    # Framework responses bring their own length; twice would make the response invalid.
    lines += [_line(name, value) for name, value in headers if name.lower() not in _OWN]
    lines += [name + b": " + value for name, value in own]
    lines += [b"Content-Length: " + str(len(body)).encode(), b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
