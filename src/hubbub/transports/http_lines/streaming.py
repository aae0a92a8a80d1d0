"""Streams: all that a server says is one long answer to a GET, as server-sent events or as lines of JSON."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from starlette.types import Message, Receive, Send

from ...engine.lines import TAKEN, LineAnswer, Lines, failed
from ...engine.outbox import Chunk, Framing
from ...engine.transport import Ending, Listener
from ...observe.log import fields, logger
from ...protocol.bookmarks import Bookmark
from ...protocol.codecs import JSON
from ...protocol.codes import CloseCode, comes_back
from ...protocol.envelope import Drain, Envelope
from ..over_asgi import GONE, OverASGI, Readers, Writers
from ..streamed import Streamed
from .opening import Opening
from .posts import Posts

Headers = list[tuple[bytes, bytes]]

SHORTEST_RETRY, RETRY_SPREAD = 1000, 1000
"""Milliseconds after which an EventSource comes back: at the least, and how many more, as chance has it."""

TOO_LONG_FOR = 64
"""Writes after a bookmark that was too long until there is a look whether it still is."""

PING = JSON.encode(Envelope("$ping"))
_DRAIN = JSON.encode(Envelope("$drain"))[:-1]

NO_POLLS = failed(409, "not_polled", "This line is a stream; what the server says comes there.")


class _Drain(msgspec.Struct):
    data: Drain


_drain = msgspec.json.Decoder(_Drain).decode


def event(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001  # it is the shape of a framing
    """Return an envelope as a server-sent event (WHATWG HTML 9.2.5); one chunk serves many lines."""
    if payload == PING:
        return b":\n\n"
    if payload.startswith(_DRAIN):
        # An EventSource keeps to it when the line has ended; at 0 it would come back without a pause.
        after = max(SHORTEST_RETRY, round(_drain(payload).data.after * 1000))
        return b"retry: %d\ndata: %b\n\n" % (after, payload)
    return b"data: %b\n\n" % payload


def json_line(payload: bytes, binary: bool) -> Chunk:  # noqa: ARG001  # it is the shape of a framing
    """Return an envelope as a line of JSON; one chunk serves many lines."""
    return b"\n" if payload == PING else payload + b"\n"


class Form(NamedTuple):
    """How a stream looks."""

    media: str
    framing: Framing
    bookmarks: bool
    """Whether the client is told, and keeps, where its session is taken up."""

    def payload(self, chunk: Chunk) -> bytes:
        """Return the envelope in a chunk; nothing for a heartbeat."""
        assert isinstance(chunk, bytes)
        return chunk.partition(b"data: ")[2] if self.bookmarks else chunk.strip()


EVENTS = Form("text/event-stream", event, True)
JSON_LINES = Form("application/x-ndjson", json_line, False)

FORMS = {form.media: form for form in (EVENTS, JSON_LINES)}
"""Forms by media type."""


def closed_mark(code: int) -> str:
    """Return the last event ID that tells an EventSource's next request that it must not come back."""
    return f"$close:{code}"


def must_not_return(last_event_id: str) -> bool:
    """Tell whether a last event ID is a :func:`closed_mark`."""
    return last_event_id.startswith("$close:")


def put_off(code: int, reason: str, after: int) -> bytes:
    """Return all that an EventSource is told which is to come back after some seconds."""
    payload = JSON.encode(Envelope("$close", data={"code": code, "reason": reason}))
    return b"retry: %d\ndata: %b\n\n" % (after * 1000 + secrets.randbelow(RETRY_SPREAD), payload)


class Stream(OverASGI):
    """A client's line as the long answer to a GET; what the client says comes in POSTs.

    Somebody has to wait for the client's leaving. Under hubbub's own server, the session does so in its own
    task, which a POST wakes, and a task in its place while it is busy. Other servers may lose the news when
    a wait for it is cancelled; there it is one task for as long as the line is.
    """

    def __init__(
        self,
        form: Form,
        receive: Receive,
        send: Send,
        *,
        headers: Headers,
        rooms: list[str],
        bookmark: str | None,
        lines: Lines,
        readers: Readers,
        writers: Writers,
        connection: Streamed | None = None,
    ) -> None:
        """`connection` is the request's, where its server offers it."""
        super().__init__(receive, send, readers, writers)
        self._form = form
        self._headers: Headers | None = headers
        self._lines = lines
        self._token = ""
        self._connection = connection
        self._posts = Posts(self._deliver)
        self._opening = Opening(rooms, bookmark, self._say) if rooms or bookmark is not None else None
        self._to_say: deque[str] = deque()
        """What the client's request asked for and the session has no room for yet."""
        self._full = False
        self._posted = False
        """Whether something came since the session began to wait."""
        self._told: Bookmark | None = None
        self._skipped = 0
        """Writes for which nothing is to be told of a bookmark that was too long."""

    @property
    def framing(self) -> Framing:
        """The same function for all lines of the form."""
        return self._form.framing

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:  # noqa: ARG002
        """Begin the answer; from now on `listener` is told what comes in."""
        self._listener = listener
        self._task = asyncio.current_task()
        self._token = self._lines.open(self)
        headers, self._headers = self._headers or [], None
        self._writing = True
        self._waiting.append(self._first())
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        except GONE:
            self._end(Ending())
            return
        await self.write_waiting(self._task)
        if self._over:
            return
        self._readers.add(self)
        if self._opening is not None:
            self._opening.begin()
        self._go_on()

    def _first(self) -> bytes:
        payload = JSON.encode(Envelope("$line", data={"line": self._token}))
        chunk = self._form.framing(payload, False)
        assert isinstance(chunk, bytes)
        if self._form.bookmarks:
            # An EventSource keeps to what an earlier line told it, at a drain perhaps, until it is told anew.
            chunk = b"retry: %d\n%b" % (SHORTEST_RETRY + secrets.randbelow(RETRY_SPREAD), chunk)
        return chunk

    @property
    def _over(self) -> bool:
        return self._listener is None

    # What the client says

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest body of a POST to let in."""
        return 0 if self._listener is None else self._listener.max_message

    async def post(self, messages: list[str], sequence: int | None) -> LineAnswer:
        """Take a client's messages, in order; wait, for a bounded time, while its session is behind."""
        return await self._posts.take(messages, sequence)

    async def poll(self, received: int) -> LineAnswer:  # noqa: ARG002  # it is of no use here
        """Refuse: it is a stream."""
        return NO_POLLS

    async def leave(self) -> LineAnswer:
        """End the line: its client is done."""
        if self._listener is not None and self._close is None:
            self._listener.failing()
            self.close(CloseCode.NORMAL, "")
        return TAKEN

    def _deliver(self, message: str) -> None:
        if self._listener is None or self._close is not None:
            return
        self._listener.received(message)
        if self._puller is not None and not self._posted:
            self._posted = True
            self._puller.cancel()

    def _say(self, message: str) -> None:
        self._to_say.append(message)

    def _go_on(self) -> None:
        """Say what the request asked for, and then let the client speak."""
        while self._to_say and not self._full:
            self._deliver(self._to_say.popleft())
        if not self._full and not self._to_say and (self._opening is None or self._opening.said):
            self._posts.resume()

    def pause_reading(self) -> None:
        """Have POSTs wait."""
        self._full = True
        self._posts.pause()

    def resume_reading(self) -> None:
        """Take POSTs again."""
        self._full = False
        self._go_on()

    # Whether the client is there

    async def pull(self) -> None:
        """Wait, in the caller's task, until something was said, unless a task waits all the time."""
        if self._connection is None or self._listener is None or self._full:
            return
        task = self._puller = self._task
        self._posted = False
        try:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.cancel()
                await asyncio.wait((reader,))
            await self._until_gone()
        except asyncio.CancelledError:
            # It was woken, or the line was ended from here; the caller goes on, or has yet to leave.
            if not (self._posted or self._over) or task is None or task.uncancel():
                raise
        except Exception:
            self._not_received()
        finally:
            self._puller = None

    def read_on(self) -> None:
        """Wait in a task for the client's leaving, if the session does not."""
        if self._listener is not None and self._puller is None and self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="hubbub: read")

    async def _read(self) -> None:
        try:
            await self._until_gone()
        except asyncio.CancelledError:
            if self._reader is asyncio.current_task():
                # It was not the session that took over.
                self._end(Ending(sent=self._close))
            raise
        except Exception:
            self._not_received()

    async def _until_gone(self) -> None:
        while self._listener is not None:
            if (await self._receive())["type"] == "http.disconnect":
                self._end(Ending(sent=self._close))

    def _not_received(self) -> None:
        logger.exception("error", extra=fields(during="receiving from the ASGI server"))
        self._end(Ending(sent=self._close))

    # What the client is told

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order, and how to take the session up after them."""
        if self._close is not None or self._listener is None:
            return
        opening = self._opening
        if opening is not None:
            chunks = [chunk for chunk in chunks if opening.passes(self._form.payload(chunk))]
            self._go_on()
            if opening.over:
                self._opening = None
        if self._form.bookmarks and chunks:
            mark = self._mark(self._listener, opening)
            if mark is not None:
                # In the last event: so its last event ID and its message reach the client together.
                chunks.insert(-1, mark)
        if chunks:
            super().write(chunks)

    def _mark(self, listener: Listener, opening: Opening | None) -> bytes | None:
        """Return the line that says where the session is taken up; None if that was said already."""
        if self._skipped:
            self._skipped -= 1
            return None
        bookmark = listener.bookmark()
        if bookmark is None or (opening is not None and not opening.said):
            return None
        if opening is not None and opening.positions:
            bookmark = Bookmark(bookmark.session, bookmark.rooms | opening.positions)
        if bookmark == self._told:
            return None
        self._told = bookmark
        text = bookmark.text()
        if text is None:
            # It grows with the rooms, and so does the work for it; it won't be shorter with each write.
            self._skipped = TOO_LONG_FOR
            return None
        return b"id: %b\n" % text.encode()

    def _events(self, chunks: list[Chunk]) -> Sequence[Message]:
        body = b"".join(chunks)  # type: ignore[arg-type]  # they are what the framing made
        return ({"type": "http.response.body", "body": body, "more_body": True},)

    async def _send_close(self, code: int, reason: str) -> None:
        payload = JSON.encode(Envelope("$close", data={"code": code, "reason": reason}))
        chunk = self._form.framing(payload, False)
        assert isinstance(chunk, bytes)
        if self._form.bookmarks and not comes_back(code):
            chunk = b"id: %b\n%b" % (closed_mark(code).encode(), chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    def abort(self) -> None:
        """End the line at once; the server cuts it, at the latest when the application returns."""
        if self._listener is None:
            return  # another request may be on the connection by now
        super().abort()
        if self._connection is not None:
            self._connection.cut()

    def close(self, code: int, reason: str) -> None:
        """Close after what was written."""
        self._posts.end()
        super().close(code, reason)

    def _end(self, ending: Ending) -> None:
        self._posts.end()
        self._lines.close(self._token)
        super()._end(ending)

    def _tasks(self) -> tuple[asyncio.Task[object] | None, ...]:
        # A session that was woken is cancelled already.
        puller, *others = super()._tasks()
        return None if self._posted else puller, *others
