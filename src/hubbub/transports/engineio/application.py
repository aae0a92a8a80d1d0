"""Engine.IO as an ASGI application: opens sessions, and finds the session of a request."""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ...engine.lines import LineAnswer, LineRequest, Lines
from ...engine.transport import Transport
from ...observe.log import fields, logger
from ...settings import Settings
from ..admission import CROWDED, RESTARTS, Refusal
from .listener import EngineListener
from .packets import Dialect, Kind, MalformedPacket, Packet
from .payloads import TEXT, write_payload
from .polling import Headers, HTTPPoll, answer, is_binary, poll, post, read_body
from .refusals import (
    BAD_METHOD,
    BAD_REQUEST,
    TOO_LARGE,
    UNKNOWN_SESSION,
    UNKNOWN_TRANSPORT,
    UNSUPPORTED_VERSION,
    Refused,
    forbidden,
    refuse_websocket,
)
from .relayed import RelayedLine
from .schedule import Schedule
from .socket import EngineSocket
from .websocket import WebSocketLine

TRANSPORTS = ("polling", "websocket")

GRACE = 1.0
"""Seconds that every new session has until it is of use, however many others wait too."""

VERSIONS = {"4": 4, "3": 3}

METHODS = b"GET, POST, OPTIONS"

_ASKED_HEADERS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,1024}")

MOST_DIGITS = 20
"""Digits of a length that are looked at: it is too much by then."""

HIGHEST_NUMBER = 2**53 - 1
"""Polls that go to another instance have random numbers up to this one."""

LONGEST_QUERY = 64
"""Parameters of a request's query that are looked at."""


class EngineIO:
    """The sessions of one hub, behind one path.

    `on_open` is given each new session and returns who is told what happens on it. `settings` say how large
    messages may be, how often there are pings, and how long a session may wait until somebody has use of it
    (:meth:`EngineSocket.keep`): ``handshake_timeout``; so many may wait: ``max_pending``.

    `refusal` says why a request is not taken in, or None; `full` why one that would open a session is not.
    `websocket` gives the transport of a WebSocket.
    `cross_origin` gives the headers with which a page from elsewhere may read an answer, if it may. With the
    `lines` of a hub, which `ready` starts if need be, sessions that poll are found from every instance.
    """

    def __init__(
        self,
        on_open: Callable[[EngineSocket], EngineListener],
        settings: Settings,
        *,
        refusal: Callable[[Scope], Refusal | None],
        websocket: Callable[[Scope, Receive, Send], tuple[Transport, float]],
        cross_origin: Callable[[Scope], Headers] = lambda _: [],
        full: Callable[[Scope], Refusal | None] = lambda _: None,
        lines: Lines | None = None,
        ready: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.settings = settings
        self.sessions: dict[str, EngineSocket] = {}
        """Those that have not ended, by their id."""
        self.pending: dict[EngineSocket, None] = {}
        """Those that nobody has use of so far, the oldest first."""
        self.schedule = Schedule()
        self.patience = settings.ping_interval + settings.ping_timeout
        """Seconds of silence after which a client is gone."""
        self._on_open = on_open
        self._refusal = refusal
        self._open_websocket = websocket
        self._cross_origin = cross_origin
        self._full = full
        self._lines = lines
        self._ready = ready
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http`` or ``websocket``."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    def start(self) -> None:
        """Take sessions in again, after :meth:`stop`."""
        self._leaving = False

    async def stop(self) -> None:
        """End the sessions that there still are and take no new ones in."""
        self._leaving = True
        for session in list(self.sessions.values()):
            session.close()
            session.expire()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # What sessions ask

    def now(self) -> float:
        """Return the event loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def forget(self, session: EngineSocket) -> None:
        """Take that a session has ended."""
        self.sessions.pop(session.id, None)
        if self._lines is not None:
            self._lines.close(session.id)
        self.pending.pop(session, None)
        self.schedule.drop(session)

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what serves a session in a task of its own. Its failure is logged."""
        task = asyncio.create_task(work, name="hubbub: engine.io session")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def opening(self, session: EngineSocket, *, upgrades: bool) -> Packet:
        """Return the packet that opens a session."""
        settings = self.settings
        handshake = {
            "sid": session.id,
            "upgrades": ["websocket"] if upgrades else [],
            "pingInterval": max(1, round(settings.ping_interval * 1000)),
            "pingTimeout": max(1, round(settings.ping_timeout * 1000)),
            "maxPayload": settings.max_message,
        }
        return Packet(json.dumps(handshake, separators=(",", ":")).encode(), kind=Kind.OPEN)

    # Requests

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self._cross_origin(scope)
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, forbidden(refusal), headers)
            return
        if scope["method"] == "OPTIONS":
            await answer(send, 204, b"", None, [*headers, *_preflight(scope)])
            return
        if self._ready is not None:
            await self._ready()
        query = _query(scope)
        found = self._find(scope, query)
        if found is UNKNOWN_SESSION and self._is_elsewhere(query):
            refused = await self._ask_elsewhere(query["sid"] or "", scope, receive, send, headers)
        elif isinstance(found, EngineSocket):
            refused = await self._poll_or_post(found, scope, receive, send, headers)
        elif found is not None:
            refused = found
        elif scope["method"] != "GET":
            refused = BAD_METHOD
        elif query.get("transport") == "websocket":
            refused = BAD_REQUEST
        else:
            refused = await self._handshake(scope, query, send, headers)
        if refused is not None:
            await _refuse(send, refused, headers)

    async def _poll_or_post(
        self, session: EngineSocket, scope: Scope, receive: Receive, send: Send, headers: Headers
    ) -> Refused | None:
        if scope["method"] == "GET":
            return await poll(session, receive, send, headers)
        if scope["method"] != "POST":
            return BAD_REQUEST
        found = dict(scope["headers"])
        content_length = found.get(b"content-length", b"")
        length = int(content_length[:MOST_DIGITS]) if content_length.isdigit() else None
        refused = await post(session, found.get(b"content-type", b""), length, receive, self.patience)
        if refused is None:
            await answer(send, 200, b"ok", b"text/html", headers)
        return refused

    async def _handshake(
        self, scope: Scope, query: dict[str, str | None], send: Send, headers: Headers
    ) -> Refused | None:
        dialect = self._dialect(scope, query)
        if isinstance(dialect, Refused):
            return dialect
        session = self._open(scope, dialect)
        body, content_type = write_payload([session.opening()], dialect)
        await answer(send, 200, body, content_type, headers)
        return None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        query = _query(scope)
        found: EngineSocket | Refused | Dialect | None
        found = self._find(scope, query) if refusal is None else forbidden(refusal)
        if found is None:
            found = self._dialect(scope, query) if query.get("transport") == "websocket" else BAD_REQUEST
        if isinstance(found, Refused):
            await refuse_websocket(found, scope, send)
            return
        transport, _ = self._open_websocket(scope, receive, send)
        line = WebSocketLine(transport, self.schedule, self.settings.close_timeout)
        try:
            await transport.accept(line, None)
            if line.over:
                return
            if isinstance(found, Dialect):
                self._open(scope, found, line)
            else:
                line.session = found
                if not found.begin_probe(line):
                    # Another WebSocket has the session, or is about to.
                    line.close()
        except BaseException:
            line.abort()
            raise
        del found, scope, query  # an idle line is to hold no more than it needs
        await line.serve()

    def _is_elsewhere(self, query: dict[str, str | None]) -> bool:
        """Return whether a session that is not here polls, and is on another instance by its id."""
        polls = query.get("transport") == "polling" and query.get("EIO") == "4"
        return self._lines is not None and polls and self._lines.elsewhere(query.get("sid") or "") is not None

    async def _ask_elsewhere(
        self, session_id: str, scope: Scope, receive: Receive, send: Send, headers: Headers
    ) -> Refused | None:
        """Have another instance answer a request for a session of its own."""
        assert self._lines is not None
        if scope["method"] == "POST":
            try:
                async with asyncio.timeout(self.patience):
                    body = await read_body(receive, self.settings.max_message, lambda: False)
                if isinstance(body, Refused):
                    return body
                body.decode()
                if is_binary(dict(scope["headers"]).get(b"content-type", b"")):
                    raise MalformedPacket("A payload is text.")
            except (TimeoutError, ClientDisconnect, UnicodeDecodeError, MalformedPacket):
                # What it was is lost, so nothing may follow it.
                await self._lines.ask(LineRequest("delete", session_id))
                return BAD_REQUEST
            reply = await self._lines.ask(LineRequest("post", session_id, body=body))
            if reply.status == 413:
                return TOO_LARGE
        elif scope["method"] == "GET":
            number = 1 + secrets.randbelow(HIGHEST_NUMBER)
            found = await self._poll_elsewhere(session_id, number, receive)
            if found is None:
                return None
            if found.status == 204:
                # This instance is about to stop, or does not know whether it was heard. The client's next
                # poll comes to another one, and what was to answer this one must not be lost.
                found = await self._lines.ask(LineRequest("give_up", session_id, number))
            reply = found
        else:
            return BAD_REQUEST
        if reply.status == 404:
            return UNKNOWN_SESSION
        kind = TEXT if reply.status == 200 and scope["method"] == "GET" else b"text/html"
        content_type = kind if reply.status == 200 else b"application/json"
        await answer(send, reply.status, reply.body, content_type, headers)
        return None

    async def _poll_elsewhere(self, session_id: str, number: int, receive: Receive) -> LineAnswer | None:
        """Return what another instance answers to a poll; None if the client left meanwhile."""
        assert self._lines is not None
        poll = HTTPPoll()
        asking = asyncio.ensure_future(self._lines.ask(LineRequest("poll", session_id, number)))
        asking.add_done_callback(lambda _: poll.wake())
        try:
            if await poll.wait(receive):
                return await asking
        finally:
            asking.cancel()
        await self._lines.ask(LineRequest("delete", session_id))
        return None

    def _find(self, scope: Scope, query: dict[str, str | None]) -> EngineSocket | Refused | None:
        """Return the session of a request; None if it is to open one; or why it is refused."""
        transport, session_id = query.get("transport"), query.get("sid", "")
        if transport not in TRANSPORTS or "j" in query:
            return UNKNOWN_TRANSPORT
        if session_id == "":
            return None
        session = self.sessions.get(session_id or "")
        if session is not None:
            # It may be over by now, though its timer is late.
            self.schedule.look(session)
        if session is None or session.closed:
            return UNKNOWN_SESSION
        if query.get("EIO") != str(session.dialect.version):
            return UNSUPPORTED_VERSION
        if scope["type"] == "http" and transport != session.transport:
            return BAD_REQUEST
        if scope["type"] == "websocket" and transport != "websocket":
            return BAD_REQUEST
        return session

    def _dialect(self, scope: Scope, query: dict[str, str | None]) -> Dialect | Refused:
        version = VERSIONS.get(query.get("EIO") or "")
        if version is None:
            return UNSUPPORTED_VERSION
        crowded = self._full(scope) or self._crowded()
        if crowded is not None:
            return forbidden(crowded)
        return Dialect(version, not query.get("b64"))

    def _crowded(self) -> Refusal | None:
        """Return why there is no place for another session; if need be, the oldest that waits makes room."""
        if self._leaving:
            return RESTARTS
        if len(self.pending) >= self.settings.max_pending:
            oldest = next(iter(self.pending))
            if self.now() - oldest.opened < GRACE:
                return CROWDED
            oldest.expire()
        return None

    def _open(self, scope: Scope, dialect: Dialect, line: WebSocketLine | None = None) -> EngineSocket:
        session = EngineSocket(self, scope, dialect, line)
        if line is None and dialect.version == 4 and self._lines is not None:
            session.id = self._lines.open(RelayedLine(session))
        self.sessions[session.id] = session
        self.pending[session] = None
        if line is not None:
            line.session = session
            line.become_transport(session.max_message)
            line.write([session.opening()])
        try:
            session.listen(self._on_open(session))
        except BaseException:
            session.abort()
            raise
        return session

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("error", exc_info=task.exception(), extra=fields(during="an Engine.IO session"))


def _query(scope: Scope) -> dict[str, str | None]:
    """Return the parameters of a request's query; None for one that comes more than once."""
    text = scope["query_string"].decode("latin-1")
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=LONGEST_QUERY)
    except ValueError:
        return {}
    return {name: values[0] if len(values) == 1 else None for name, values in found.items()}


def _preflight(scope: Scope) -> Headers:
    """Return what a page from elsewhere may send (Fetch standard, 3.3.4)."""
    found = dict(scope["headers"])
    if b"access-control-request-method" not in found:
        return [(b"allow", METHODS)]
    headers = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    asked = found.get(b"access-control-request-headers", b"")
    if _ASKED_HEADERS.fullmatch(asked):
        headers.append((b"access-control-allow-headers", asked))
    return headers


async def _refuse(send: Send, refused: Refused, headers: Headers) -> None:
    await answer(send, refused.status, refused.body, b"application/json", [*headers, *refused.headers])
