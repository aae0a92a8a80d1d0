"""Engine.IO over HTTP long polling: GET for packets to the client, POST for those from it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send

from .listener import Reason
from .packets import NOOP, MalformedPacket, Packet
from .payloads import BINARY, read_payload, write_payload
from .refusals import BAD_REQUEST, TOO_LARGE, Refused
from .socket import EngineSocket

AT_ONCE = 64
"""Packets of one request that are taken in a row before others get their turn."""

BROKEN = (Reason.TRANSPORT_ERROR, Reason.PARSE_ERROR, Reason.PING_TIMEOUT)
"""Why a session may have ended so that the packets of a request can't be told to have arrived."""

Headers = list[tuple[bytes, bytes]]


class Poll(ABC):
    """A client's request that waits for packets."""

    __slots__ = ("packets", "woken")

    def __init__(self) -> None:
        self.packets: list[Packet] | None = None
        """What it is to be answered with, if not with all that waits."""
        self.woken = False

    def wake(self) -> None:
        """Have it answered with all that waits at the end of this turn of the event loop."""
        if not self.woken:
            self.woken = True
            self.rouse()

    def answer(self, packets: list[Packet]) -> None:
        """Have it answered with these packets; the session has parted with it."""
        self.packets = packets
        self.wake()

    @abstractmethod
    def rouse(self) -> None:
        """Do so in the next turn. Called once."""

    def taken(self, session: EngineSocket) -> list[Packet]:
        """Return the packets to answer with."""
        return session.take_waiting() if self.packets is None else self.packets


class HTTPPoll(Poll):
    """A GET. It needs no task but the one that serves the request."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        super().__init__()
        self._task: asyncio.Task[object] | None = None

    def rouse(self) -> None:
        """Have the request's task leave :meth:`wait`."""
        if self._task is not None:
            self._task.cancel()

    async def wait(self, receive: Receive) -> bool:
        """Wait until it is to be answered; false if the client has left."""
        self._task = asyncio.current_task()
        try:
            while not self.woken:
                if (await receive())["type"] == "http.disconnect":
                    return False
        except asyncio.CancelledError:
            # The server may cancel it too.
            if not self.woken or self._task is None or self._task.uncancel():
                raise
        finally:
            self._task = None
        return True


async def poll(session: EngineSocket, receive: Receive, send: Send, headers: Headers) -> Refused | None:
    """Answer a client's request for packets once there are some, or return why not."""
    request = HTTPPoll()
    if not session.begin_poll(request):
        return BAD_REQUEST
    packets: list[Packet] | None = None
    lost = True
    try:
        if await request.wait(receive):
            packets = request.taken(session)
            body, content_type = write_payload(packets, session.dialect)
            await answer(send, 200, body, content_type, headers)
            lost = False
    except OSError:
        pass  # The client is gone.
    finally:
        if lost and packets != [NOOP]:
            # What was to be sent is lost, so nothing may follow it.
            session.failed(Reason.CLIENT_CLOSED)
    return None


async def post(
    session: EngineSocket, content_type: bytes, length: int | None, receive: Receive, patience: float
) -> Refused | None:
    """Take the packets that a client sends within `patience` seconds, or return why not."""
    if length is not None and length > session.max_message and session.post is None:
        return TOO_LARGE

    async def read() -> bytes | Refused:
        async with asyncio.timeout(patience):
            return await read_body(receive, session.max_message, lambda: session.closed)

    return await take_body(session, read(), is_binary(content_type))


def is_binary(content_type: bytes) -> bool:
    """Tell whether a request's body is no text, by its content type."""
    return content_type.partition(b";")[0].strip().lower() == BINARY


async def take_body(
    session: EngineSocket, reading: Coroutine[object, object, bytes | Refused], binary: bool
) -> Refused | None:
    """Take the packets in the body of a request, or return why not."""
    if session.post is not None:
        reading.close()
        session.failed(Reason.TRANSPORT_ERROR)
        return BAD_REQUEST
    session.post = asyncio.get_running_loop().create_future()
    try:
        body = await reading
        if isinstance(body, Refused):
            return body
        for taken, (kind, data) in enumerate(read_payload(body, binary, session.dialect)):
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)
            if not session.reading and not await _until_reading(session):
                break
            session.take(kind, data)
        if session.reason in BROKEN:
            return BAD_REQUEST
    except (TimeoutError, ClientDisconnect):
        session.failed(Reason.TRANSPORT_ERROR)
        return BAD_REQUEST
    except MalformedPacket:
        session.failed(Reason.PARSE_ERROR)
        return BAD_REQUEST
    finally:
        session.post = None
    return None


async def read_body(receive: Receive, limit: int, given_up: Callable[[], bool]) -> bytes | Refused:
    """Return the body of a request; :exc:`ClientDisconnect` if its client leaves before it is whole."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if given_up():
            return BAD_REQUEST
        body += message.get("body", b"")
        if len(body) > limit:
            return TOO_LARGE
        if not message.get("more_body", False):
            return bytes(body)


async def _until_reading(session: EngineSocket) -> bool:
    """Wait until packets may be taken; false if the session has ended."""
    while not session.closed and not session.reading:
        session.post = asyncio.get_running_loop().create_future()
        await session.post
    return not session.closed


async def answer(send: Send, status: int, body: bytes, content_type: bytes | None, headers: Headers) -> None:
    """Send an HTTP answer; one without content has no type."""
    own = [(b"cache-control", b"no-store"), *headers]
    if content_type is not None:
        own += [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})
