"""The head of an HTTP request, judged beyond what its parser judges (RFC 9112).

The parser, llhttp, refuses by itself control characters, NUL, bare CR or LF, folded lines and invalid names
in headers, control characters in the target, repeated or malformed ``Content-Length``, ``Content-Length``
beside ``Transfer-Encoding``, and codings of which the last one is not ``chunked``.
"""

import re
from typing import NamedTuple

from ..settings import Settings
from .admission import Refusal

Headers = list[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_LOOKED_AT = frozenset((
    b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding", b"sec-websocket-protocol",
))  # fmt: skip

MAX_SUBPROTOCOLS = 32
"""Subprotocols that a handshake may offer: each is an object that stays for as long as the connection."""


class Refused(Exception):
    """A request is refused; raised inside the parser's callbacks."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.refusal = refusal


MALFORMED = Refusal(400, "malformed request", "This is no valid HTTP/1.1 request.")
LATE = Refusal(408, "handshake_timeout", "The request took too long to arrive.")
TOO_MANY_HEADERS = Refusal(431, "max_headers", "The request has too many headers.")
HEADERS_TOO_LARGE = Refusal(431, "max_header_bytes", "The request's headers are too large.")
TARGET_TOO_LONG = Refusal(414, "max_target", "The request's target is too long.")
_VERSION = Refusal(505, "malformed request", "Use HTTP/1.1.")
_METHOD = Refusal(501, "malformed request", "This is no proxy.")
_CODING = Refusal(501, "malformed request", "The only transfer coding known here is chunked.")
_NO_HOST = Refusal(400, "malformed request", "The request needs one Host header.")
_HOST_INVALID = Refusal(400, "malformed request", "The Host header is not valid.")
_TARGET = Refusal(400, "malformed request", "The request's target is not valid for this host.")
_OLD_CODING = Refusal(400, "malformed request", "HTTP/1.0 has no transfer codings.")
_SUBPROTOCOLS = Refusal(
    400,
    "subprotocols",
    f"The request offers too many subprotocols; offer no more than {MAX_SUBPROTOCOLS}.",
)
_OLD_VERSION = Refusal(400, "malformed request", "A WebSocket is opened with HTTP/1.1.")
_BODY = Refusal(400, "malformed request", "A request for a WebSocket has no body.")


class Judged(NamedTuple):
    """What a valid head says."""

    target: bytes
    """In origin form: path and query."""
    websocket: bool
    """Whether it asks for a WebSocket."""


def judge(method: bytes, target: bytes, version: str, headers: Headers, max_bytes: int) -> Judged:
    """Return what a whole head says; :exc:`Refused` if it can't be answered.

    The names of the headers are in lower case.
    """
    size = 0
    host: bytes | None = None
    connection = upgrade = coding = offered = b""
    length = b"0"
    for name, value in headers:
        size += len(name) + len(value)
        if name not in _LOOKED_AT:
            continue
        if name == b"host":
            if host is not None:
                raise Refused(_NO_HOST)
            host = value
        elif name == b"connection":
            connection = connection + b"," + value if connection else value
        elif name == b"upgrade":
            upgrade = upgrade + b"," + value if upgrade else value
        elif name == b"content-length":
            length = value
        elif name == b"sec-websocket-protocol":
            offered = offered + b"," + value if offered else value
        else:
            coding = coding + b"," + value if coding else value
    if size + 4 * len(headers) > max_bytes:  # with ": " and the end of the line
        raise Refused(HEADERS_TOO_LARGE)
    if version != "1.1" and version != "1.0":
        raise Refused(_VERSION)
    if host is None:
        if version == "1.1":
            raise Refused(_NO_HOST)
    elif not _HOST.fullmatch(host):
        raise Refused(_HOST_INVALID)
    if method == b"CONNECT":
        raise Refused(_METHOD)
    if not target.startswith(b"/"):
        target = _origin_form(target, host)
    if b"#" in target:
        raise Refused(_TARGET)
    if coding:
        if version == "1.0":
            raise Refused(_OLD_CODING)
        if coding.strip().lower() != b"chunked":
            raise Refused(_CODING)
    websocket = (
        bool(upgrade)
        and version == "1.1"  # of HTTP/1.0 an upgrade must be ignored (RFC 9110 section 7.8)
        and _has(upgrade, b"websocket")
        and _has(connection, b"upgrade")
    )
    if websocket and (coding or length.strip(b"0 \t")):
        raise Refused(_BODY)
    if websocket and offered.count(b",") >= MAX_SUBPROTOCOLS and _listed(offered) > MAX_SUBPROTOCOLS:
        raise Refused(_SUBPROTOCOLS)
    return Judged(target, websocket)


def judge_handshake(
    method: bytes, target: bytes, version: str, headers: Headers, settings: Settings
) -> bytes:
    """Return the target, in origin form, of a whole head that asks for a WebSocket; or raise :exc:`Refused`.

    For a head of which another server than hubbub's own has judged only what its parser does.
    """
    if len(headers) > settings.max_headers:
        raise Refused(TOO_MANY_HEADERS)
    if len(target) > settings.max_target:
        raise Refused(TARGET_TOO_LONG)
    judged = judge(method, target, version, headers, settings.max_header_bytes)
    if version == "1.0":
        raise Refused(_OLD_VERSION)  # there, it can't be served as plain HTTP any more
    return judged.target


def _origin_form(target: bytes, host: bytes | None) -> bytes:
    """Return the origin form of an absolute target (RFC 9112 section 3.2); others have no use here."""
    absolute = _ABSOLUTE.fullmatch(target)
    # Two hosts that differ are how a proxy and a server are made to disagree about a request.
    if absolute is None or host is None or absolute[1].lower() != host.lower():
        raise Refused(_TARGET)
    rest = absolute[2]
    return rest if rest.startswith(b"/") else b"/" + rest


def _listed(value: bytes) -> int:
    return sum(1 for part in value.split(b",") if part.strip())


def _has(value: bytes, token: bytes) -> bool:
    value = value.lower()
    return value == token or token in [part.strip() for part in value.split(b",")]
