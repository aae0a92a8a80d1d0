"""uvicorn's HTTP protocol with limits on who connects, on a request's head and on the time that it takes."""

import asyncio
from enum import Enum

import httptools
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..observe.log import fields, logger
from ..settings import Settings
from .admission import CROWDED, Deadlines, Places, Proxies, Refusal, Refusals, Waiting
from .handshake import Head
from .head import (
    HEADERS_TOO_LARGE,
    LATE,
    MALFORMED,
    TARGET_TOO_LONG,
    TOO_MANY_HEADERS,
    Refused,
    judge,
)
from .native import WebSocketProtocol
from .streamed import STREAMED, Answered, die_after
from .unread import Answers

MAX_PIPELINED = 32
"""Requests that may wait for the answer to an earlier one on the same connection."""

GRACE = 1.0
"""Seconds that everybody has to send a request, however many are waiting."""

LINGER = 2.0
"""Seconds within which who was refused has to have read why."""

MAX_LINGERING = 32
"""Refused connections that are kept so long; past it, the answer may be lost in a reset."""

LEAST_RATE = 500
"""Bytes of a request's body that have to arrive in a second, in the mean over the handshake's time-out."""

REQUEST_LINE = 64
"""Bytes of a request line beside the target, and of empty lines before it."""

LONGEST_TARGET = 65_535
"""Bytes of a target that the parser can take apart."""

_PIPELINED = Refusal(503, "pipelined requests", "Too many requests at once on one connection.")
_EARLY_UPGRADE = Refusal(400, "pipelined requests", "Wait for the answer before you ask for a WebSocket.")
_UNREAD = Refusal(408, "unread answer", "The answer was not read.")
_BROKEN = Refusal(500, "internal error", "Internal Server Error")


class Connections(set[object]):
    """uvicorn's set of connections: whichever protocol speaks on a socket, it leaves here at the end."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places

    def discard(self, connection: object) -> None:
        """Forget a connection; its place is free."""
        self._places.give_back(connection)
        super().discard(connection)

    def remove(self, connection: object) -> None:
        """Do the same; :exc:`KeyError` if it is not there."""
        self._places.give_back(connection)
        super().remove(connection)


class HTTPState(ServerState):
    """What the connections of one server share: its limits, and who is there."""

    def __init__(self, settings: Settings, max_connections: int) -> None:
        super().__init__()
        self.settings = settings
        self.places = Places(max_connections, settings.max_connections_per_address)
        self.connections = Connections(self.places)  # type: ignore[assignment]
        self.proxies = Proxies(settings)
        self.refusals = Refusals()
        self.heads = Deadlines(settings.handshake_timeout, settings.max_pending, GRACE)
        """Connections from which no whole head has come, from accept on."""
        self.bodies = Deadlines(settings.handshake_timeout)
        """Those whose request's body is not whole yet."""
        self.unread = Deadlines(settings.handshake_timeout)
        """Those that have an answer to read, looked at in turn."""
        self.lingering = Deadlines(LINGER)
        """Those that were refused, until they have read why."""
        self.max_target = min(settings.max_target, LONGEST_TARGET)
        self.max_head = self.max_target + settings.max_header_bytes + REQUEST_LINE

    def expire(self, now: float) -> None:
        """End what has taken too long; `now` is the event loop's time in seconds."""
        self.heads.expire(now)
        self.bodies.expire(now)
        self.unread.expire(now)
        self.lingering.expire(now)


class _Stage(Enum):
    IDLE = "no request has begun"
    HEAD = "a head is arriving"
    BODY = "a body is arriving"
    LEAVING = "refused; what still comes is dropped"


class HTTPProtocol(HttpToolsProtocol):
    """An HTTP connection that is held to the limits."""

    def __init__(
        self,
        config: Config,
        server_state: HTTPState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        admitted: Waiting | None = None,
    ) -> None:
        """`admitted` is who has the place and the deadline already, if not this protocol."""
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self._admitted = admitted
        self._stage = _Stage.IDLE
        self._websocket = False
        self._began = 0.0
        self._answers: Answers | None = None
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered, or was last."""
        self._silence = 0  # bytes since the last part of a request was whole
        self._body = 0
        self._max_headers = server_state.settings.max_headers

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place and a deadline for the first request."""
        super().connection_made(transport)
        state = self._state
        if self._admitted is not None:
            state.places.pass_on(self._admitted, self)
            return
        refusal = state.places.take(self, state.proxies.counted_peer(self.client))
        if refusal is None:
            state.heads.add(self, self.loop.time())
        else:
            self._refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines; the place is given back."""
        self._state.heads.forget(self._waiting)
        self._state.bodies.forget(self)
        self._state.lingering.forget(self)
        self._unwatch()
        cycle = self._answered
        if cycle is not None and cycle is not self.cycle and not cycle.response_complete:
            # uvicorn tells only the request that came last; an answer that goes on for long would never end.
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # which uvicorn leaves where the line was lost
        self._let_go()

    def resume_writing(self) -> None:
        """Go on with an answer, since the client reads it."""
        if self._answers is not None:
            self._answers.read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse what it, or a limit, does not let pass."""
        if self._stage is _Stage.LEAVING:
            return
        self._unset_keepalive_if_required()
        self._silence += len(data)
        try:
            if self._feed(data):
                return
            if self._silence > self._state.max_head:
                raise Refused(HEADERS_TOO_LARGE)
        except Refused as refused:
            self._refuse(refused.refusal)
        except httptools.HttpParserCallbackError as problem:
            logger.error("error", exc_info=problem.__context__, extra=fields(during="reading a request"))
            self._refuse(_BROKEN)
        except httptools.HttpParserError:
            self._refuse(MALFORMED)
        else:
            if self._stage is _Stage.BODY:
                self._state.bodies.add(self, self.loop.time())
            elif not self.answering:
                self._state.heads.add(self._waiting, self.loop.time())

    def _feed(self, data: bytes) -> bool:
        """Parse; true if the connection is a WebSocket now."""
        while data:
            try:
                self.parser.feed_data(data)
                return False
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._websocket:
                    if self.answering or self.flow.write_paused:
                        # Of an answer that is not read, the WebSocket would not be told to pause.
                        raise Refused(_EARLY_UPGRADE) from None
                    self._upgrade(data)
                    return True
                # Any other upgrade is not done (RFC 9110 section 7.8); what follows is the next request.
            except httptools.HttpParserCallbackError as problem:
                if isinstance(problem.__context__, Refused):
                    raise problem.__context__ from None
                raise
        return False

    # What the parser calls

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._stage = _Stage.HEAD
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.url += url
        if len(self.url) > self._state.max_target:
            raise Refused(TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        headers = self.headers
        if len(headers) >= self._max_headers:
            raise Refused(TOO_MANY_HEADERS)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Judge the head; begin to answer the request, unless it is for a WebSocket."""
        state, parser = self._state, self.parser
        self.url, websocket = judge(
            parser.get_method(),
            self.url,
            parser.get_http_version(),
            self.headers,
            state.settings.max_header_bytes,
        )
        self._websocket = websocket and bool(parser.should_upgrade())
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refused(_PIPELINED)
        self._began = state.heads.forget(self._waiting) or self.loop.time()
        self._admitted = None
        if not self._websocket:
            self.scope["extensions"] = {STREAMED: {"connection": self}}
            super().on_headers_complete()
            self.watch()
        self._stage = _Stage.BODY
        self._silence = self._body = 0
        # Trailers mean nothing here (RFC 9110 section 6.5.1), and must not pass for headers.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._silence = 0
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._stage = _Stage.IDLE
        self._silence = 0
        self._state.bodies.forget(self)
        if not self._websocket:
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return self._websocket

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._answered = cycle
        super()._start_asgi_task(cycle, Answered(app, cycle))  # type: ignore[arg-type]

    # What an application may ask of a long answer

    def cut(self) -> None:
        """End the connection at once, whether its client reads or not."""
        if self._answered is not None:
            # The application returns before the event loop tells it.
            self._answered.disconnected = True
        self.transport.abort()

    def die_after(self, seconds: float) -> None:
        """Have the connection end when what was sent is not acknowledged for so long."""
        die_after(self.transport.get_extra_info("socket"), seconds)

    # What follows

    @property
    def _waiting(self) -> Waiting:
        """Who has the deadline for the head of a request."""
        return self if self._admitted is None else self._admitted

    def _let_go(self) -> None:
        """Let go of what refers back to this: it would stay, headers and all, until a full collection."""
        self._admitted = self._answered = None
        self.parser = self.scope = self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    @property
    def secure(self) -> bool:
        """Whether TLS is between it and its socket."""
        return self.scheme == "https"

    @property
    def answering(self) -> bool:
        """Whether a request still waits for the end of its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def watch(self) -> None:
        """Have a look later whether the client reads its answer."""
        if self._answers is None:
            self._answers = Answers(self)
        self._state.unread.add(self._answers, self.loop.time())

    def _unwatch(self) -> None:
        if self._answers is not None:
            self._state.unread.forget(self._answers)
            self._answers = None  # they refer to each other

    def abandon(self) -> None:
        """End the connection with what the client does not read."""
        self._state.refusals.log(_UNREAD, self.client[0] if self.client else None)
        self.transport.abort()

    def _upgrade(self, rest: bytes) -> None:
        """Hand the socket over to the WebSocket's protocol, with what followed the head."""
        method, headers = self.parser.get_method(), self.scope["headers"]
        protocol = self.ws_protocol_class(  # type: ignore[call-arg, misc]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.opened = self._began  # type: ignore[union-attr]
        self._state.places.pass_on(self, protocol)
        self.connections.discard(self)
        self._unwatch()
        self._let_go()
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        if isinstance(protocol, WebSocketProtocol):
            head = Head(method.decode(), self.url.decode("latin-1"), "HTTP/1.1", headers)
            protocol.begin(head, self.server, self.client, self.secure)
        else:
            lines = [b"%b: %b\r\n" % header for header in headers]
            protocol.data_received(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self.url, b"".join(lines)))
        if rest and not self.transport.is_closing():
            protocol.data_received(rest)

    def shutdown(self) -> None:
        """Leave: called by uvicorn when the server stops."""
        if self in self._state.lingering.waiting or self.cycle is None:
            # Nothing is under way. A close would wait for the client's part of TLS's, which may never come.
            if self.transport.get_write_buffer_size():
                self.transport.close()
            else:
                self.transport.abort()
        else:
            super().shutdown()

    def expire(self, crowded: bool) -> None:
        """End what has taken too long."""
        state = self._state
        if self._stage is _Stage.LEAVING:
            self.transport.abort()
        elif self._stage is not _Stage.BODY:
            self._refuse(CROWDED if crowded else LATE)
        elif self.answering and (self.flow.read_paused or self._body >= LEAST_RATE * state.bodies.timeout):
            # It gets on, or it is the application that does not.
            self._body = 0
            state.bodies.add(self, self.loop.time())
        else:
            self._refuse(LATE)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with the reason, after the answers to earlier requests, and close."""
        state, cycle, stage = self._state, self.cycle, self._stage
        self._stage = _Stage.LEAVING
        self._unset_keepalive_if_required()
        state.heads.forget(self._waiting)
        state.bodies.forget(self)
        state.refusals.log(refusal, self.client[0] if self.client else None)
        if stage is not _Stage.BODY:
            if self.answering:
                return  # on_response_complete goes on
        elif self.pipeline:
            self.pipeline.popleft()  # it is the request that is refused, and has not had its turn
            return
        elif cycle.response_complete:
            self._linger(b"")
            return
        else:
            # Its body will not be whole, and its answer goes nowhere.
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False  # nor is it asked for the rest
            cycle.message_event.set()
            if cycle.response_started:
                self._linger(b"")
                return
        self._linger(refusal.response())

    def on_response_complete(self) -> None:
        """Go on with the next request, or leave if what followed was refused."""
        last = not self.pipeline
        super().on_response_complete()
        if last and self._stage is _Stage.LEAVING and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._linger(b"")

    def _linger(self, answer: bytes) -> None:
        """Say the last word, and close when the client has, so that it can read it even if it still sends."""
        state, transport = self._state, self.transport
        state.places.give_back(self)
        state.lingering.add(self, self.loop.time())
        if answer:
            transport.write(answer)
        if len(state.lingering.waiting) > MAX_LINGERING:
            transport.close()
            return
        # Closing the socket while the client sends would reset it, and the client might never read why.
        if transport.can_write_eof():
            transport.write_eof()
        self.flow.resume_reading()
