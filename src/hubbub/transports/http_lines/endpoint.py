"""The endpoint of all HTTP lines: which request opens one, which speaks to one, and who may do either."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from ...engine.lines import UNKNOWN, LineAnswer, LineRequest, Lines, failed, too_large
from ...protocol.codecs import JSON
from ...protocol.codes import CloseCode
from ...settings import Settings
from ..access import Access
from ..admission import RESTARTS, RETRY_AFTER, OpenLine, Refusal
from ..over_asgi import Readers, Writers
from ..streamed import streamed
from .negotiation import preferred
from .polling import Polling
from .streaming import EVENTS, FORMS, Stream, must_not_return, put_off

LINE, SEQUENCE, RECEIVED = "hubbub-line", "hubbub-sequence", "hubbub-received"
"""Headers that name a line, a POST, and how much of a line has come."""

ENVELOPE, ENVELOPES = "application/json", "application/x-ndjson"
"""Content types of a POST with one envelope, and with one in each line."""

OPENED_BY = (*FORMS, ENVELOPE)
"""Media types in whose form a line can be had."""

METHODS = "DELETE, GET, HEAD, OPTIONS, POST"

HIGHEST = 2**53 - 1
"""The highest sequence: JavaScript counts no further."""

HOW = (
    "Here is a hubbub. Connect with a WebSocket (Upgrade: websocket), with an EventSource (Accept: "
    "text/event-stream), with fetch (Accept: application/x-ndjson), or by polling (Accept: "
    "application/json).\n"
)

NEVER_STORED = [
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
"""No cache keeps it, nothing on the way changes it, and nginx passes it on at once."""

_ASKED_HEADERS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,1024}")
_NUMBER = re.compile(r"[0-9]{1,16}")

HeaderList = list[tuple[bytes, bytes]]


class HTTPLines:
    """Answers every HTTP request to the hub's path.

    `open_line` lets a new line in; `lines` are those there are. `refusal` tells why a request may not speak
    to one, and has logged it. `ready` starts the hub if need be.
    """

    def __init__(
        self,
        lines: Lines,
        settings: Settings,
        *,
        open_line: OpenLine,
        access: Access,
        refusal: Callable[[Scope], Refusal | None],
        ready: Callable[[], Awaitable[object]],
        readers: Readers,
        writers: Writers,
    ) -> None:
        self._lines = lines
        self._settings = settings
        self._open_line = open_line
        self._polling = Polling(lines, open_line)
        self._access = access
        self._refusal = refusal
        self._ready = ready
        self._readers = readers
        self._writers = writers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method = scope["method"]
        headers = Headers(raw=scope["headers"])
        if method in ("GET", "HEAD") and LINE not in headers:
            opening = await self._opening(scope, headers, receive, send)
            if opening is not None:
                await opening
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._refuse(refusal, scope, send)
        elif method == "OPTIONS":
            await self._preflight(scope, headers, send)
        elif method in ("GET", "POST", "DELETE"):
            await self._answer(await self._ask(scope, headers, receive), scope, send)
        else:
            await self._say(405, "There is no such thing to do here.\n", scope, send, allow=METHODS)

    # Opening a line

    async def _opening(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> Awaitable[None] | None:
        """Return what serves a new line; None if none is opened, and that was answered.

        It is not awaited here: an idle line is to hold no more frames than it needs.
        """
        accept = ", ".join(headers.getlist("accept")) or "*/*"
        form = preferred(accept, OPENED_BY)
        if form is None:
            readable = preferred(accept, ("text/plain",), wildcards=True) is not None
            upgrade = {"upgrade": "websocket"} if readable else {}
            await self._say(426 if readable else 406, HOW, scope, send, **upgrade)
            return None
        query = QueryParams(scope["query_string"])
        rooms = query.getlist("room")
        if any(not 1 <= len(name) <= 255 for name in rooms):
            await self._say(400, "The name of a room has 1 to 255 characters.\n", scope, send)
            return None
        bookmark = headers.get("last-event-id") or query.get("last_event_id") or None
        if bookmark is not None and must_not_return(bookmark):
            # It was told why, and an EventSource understands nothing but this (WHATWG HTML 9.2.3).
            await self._send_head(204, scope, send, NEVER_STORED, last=True)
            return None
        if scope["method"] == "HEAD":
            await self._send_head(200, scope, send, [*NEVER_STORED, _content_type(form)], last=True)
            return None
        if form == ENVELOPE:
            await self._poll(scope, send)
            return None
        again = form == EVENTS.media and "last-event-id" in headers
        return await self._stream(form, rooms, bookmark, scope, receive, send, again=again)

    async def _poll(self, scope: Scope, send: Send) -> None:
        opened = await self._polling.open(scope)
        if isinstance(opened, Refusal):
            await self._refuse(opened, scope, send)
        else:
            await self._answer(opened, scope, send)

    async def _stream(
        self,
        form: str,
        rooms: list[str],
        bookmark: str | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        again: bool,
    ) -> Awaitable[None] | None:
        """Return what serves a new stream; `again` is whether an EventSource comes back for it by itself."""
        connection = streamed(scope)
        stream = Stream(
            FORMS[form],
            receive,
            send,
            headers=[*NEVER_STORED, _content_type(form), *self._access.answer_headers(scope)],
            rooms=rooms,
            bookmark=bookmark,
            lines=self._lines,
            readers=self._readers,
            writers=self._writers,
            connection=connection,
        )
        opened = await self._open_line(scope, stream, JSON)
        if isinstance(opened, Refusal):
            if again and opened.status in (429, 503):
                await self._put_off(opened, scope, send)
            else:
                await self._refuse(opened, scope, send)
            return None
        if connection is not None:
            # The client answers no heartbeat; that it is gone, the kernel has to find out.
            connection.die_after(self._settings.ping_interval + self._settings.ping_timeout)
        return opened

    # Speaking to one

    async def _ask(self, scope: Scope, headers: Headers, receive: Receive) -> LineAnswer:
        token = headers.get(LINE, "")
        if not token:
            return failed(400, "invalid", "Hubbub-Line is missing: the token of the line that it is for.")
        # Before it has started, it knows no other instances either.
        await self._ready()
        method = scope["method"]
        if method == "DELETE":
            request = LineRequest("delete", token)
        elif method == "GET":
            received = _number_of(headers, RECEIVED)
            if received is None:
                return failed(400, "invalid", "Hubbub-Received has to be how many messages have come.")
            request = LineRequest("poll", token, received)
        else:
            posted = await self._posted(scope, headers, receive, token)
            if isinstance(posted, LineAnswer):
                return posted
            request = posted
        return await self._lines.ask(request)

    async def _posted(
        self, scope: Scope, headers: Headers, receive: Receive, token: str
    ) -> LineRequest | LineAnswer:
        """Return what a POST says, or why it can't be taken; nothing is read for a line that is not there."""
        sequence = _number_of(headers, SEQUENCE)
        if SEQUENCE in headers and not sequence:
            return failed(400, "invalid", "Hubbub-Sequence counts the POSTs: 1, 2, 3 and so on.")
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in (ENVELOPE, ENVELOPES):
            return failed(415, "not_json", f"Send Content-Type: {ENVELOPE}, or {ENVELOPES}.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            return failed(415, "not_json", "Send the body as it is, without Content-Encoding.")
        line = self._lines.find(token)
        if line is None and self._lines.elsewhere(token) is None:
            return UNKNOWN
        # Of a line of another instance it is not known here whether its client is logged in.
        limit = self._settings.max_message if line is None else line.max_message
        declared = headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 16 or int(declared) > limit):
            return too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.handshake_timeout):
                async for chunk in Request(scope, receive).stream():
                    body += chunk
                    if len(body) > limit:
                        return too_large(limit)
        except (TimeoutError, ClientDisconnect):
            # To one that has gone, it is said to nobody.
            return failed(408, "too_slow", "The body did not arrive in time.", retry=True)
        return LineRequest("post", token, sequence, media == ENVELOPES, bytes(body))

    # Answering

    async def _preflight(self, scope: Scope, headers: Headers, send: Send) -> None:
        """Say what a page from elsewhere may send (Fetch standard, 3.3.4)."""
        allowed = [(b"allow", METHODS.encode())]
        if "access-control-request-method" in headers:
            asked = headers.get("access-control-request-headers", "")
            allowed = [
                (b"access-control-allow-methods", METHODS.encode()),
                (b"access-control-max-age", b"600"),
                (b"vary", b"Access-Control-Request-Headers"),
            ]
            if _ASKED_HEADERS.fullmatch(asked):
                allowed.append((b"access-control-allow-headers", asked.encode("latin-1")))
        await self._send_head(204, scope, send, allowed, last=True)

    async def _refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        await self._send_all(refusal.status, refusal.headers, refusal.body, scope, send)

    async def _put_off(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        """Have an EventSource come back later; at the refusal's status it would never (WHATWG HTML 9.2.3)."""
        code = CloseCode.SERVICE_RESTART if refusal is RESTARTS else CloseCode.TRY_AGAIN_LATER
        body = put_off(code, refusal.sentence, RETRY_AFTER if refusal.retry else 1)
        await self._send_all(200, [*NEVER_STORED, _content_type(EVENTS.media)], body, scope, send)

    async def _say(self, status: int, text: str, scope: Scope, send: Send, **headers: str) -> None:
        own = [(b"content-type", b"text/plain; charset=utf-8")]
        own += [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send_all(status, own, text.encode(), scope, send)

    async def _answer(self, answer: LineAnswer, scope: Scope, send: Send) -> None:
        if not answer.body:
            await self._send_head(answer.status, scope, send, NEVER_STORED, last=True)
            return
        own: HeaderList = [*NEVER_STORED, (b"content-type", b"application/json")]
        if answer.retry:
            own.append((b"retry-after", b"%d" % (RETRY_AFTER if answer.status == 408 else 1)))
        await self._send_all(answer.status, own, answer.body, scope, send)

    async def _send_all(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, scope: Scope, send: Send
    ) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self._send_head(status, scope, send, [*headers, length])
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _send_head(
        self,
        status: int,
        scope: Scope,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        last: bool = False,
    ) -> None:
        everything = [*headers, *self._access.answer_headers(scope)]
        await send({"type": "http.response.start", "status": status, "headers": everything})
        if last:
            await send({"type": "http.response.body"})


def _content_type(media: str) -> tuple[bytes, bytes]:
    return b"content-type", f"{media}; charset=utf-8".encode()


def _number_of(headers: Headers, name: str) -> int | None:
    found = headers.get(name, "")
    number = int(found) if _NUMBER.fullmatch(found) else None
    return number if number is not None and number <= HIGHEST else None
