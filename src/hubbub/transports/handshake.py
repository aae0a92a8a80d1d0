"""The opening handshake (RFC 6455 section 4.2) on the native transport, with `websockets` as its judge."""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.server import ServerProtocol

RawHeaders = list[tuple[bytes, bytes]]

# Judging a request leaves nothing in the protocol object that the next one would see.
_JUDGE = ServerProtocol()


class Handshake(NamedTuple):
    """A valid request to open a WebSocket."""

    target: str
    headers: RawHeaders
    subprotocols: list[str]
    accept: str
    """Value of ``Sec-WebSocket-Accept``."""

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

    def response(self, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the answer that opens the WebSocket."""
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + self.accept.encode()
        ]
        if subprotocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1"))
        lines += [name + b": " + value for name, value in headers]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def read_handshake(data: bytes) -> Handshake | bytes:
    """Return the handshake that a whole request is, or the HTTP response that refuses it.

    `data` is what an HTTP parser took apart and uvicorn put together again: one line for each header.
    """
    head, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, version = head.decode("latin-1").split(" ", 2)
    raw: RawHeaders = []
    headers = Headers()
    for line in lines:
        name, _, value = line.partition(b": ")
        raw.append((name, value))
        headers[name.decode("latin-1")] = value.decode("latin-1")
    request = Request(target, headers, method, version)
    try:
        accept, _, _ = _JUDGE.process_request(request)
    except InvalidHandshake:
        return ServerProtocol().accept(request).serialize()
    subprotocols = [
        name.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for name in value.split(",")
    ]
    return Handshake(target, raw, subprotocols, accept)


_OWN = (b"content-length", b"connection")


def refusal(status: int, phrase: str, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return an HTTP response instead of a WebSocket; the connection is closed after it."""
    lines = [f"HTTP/1.1 {status} {phrase}".encode()]
    # Framework responses bring their own length; twice would make the response invalid.
    lines += [name + b": " + value for name, value in headers if name.lower() not in _OWN]
    lines += [b"Content-Length: " + str(len(body)).encode(), b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
