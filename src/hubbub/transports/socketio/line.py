"""A client's connection to one namespace, as a line of that namespace's hub."""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from enum import Enum
from typing import TYPE_CHECKING, cast

import msgspec
from starlette.types import Scope

from ...engine.outbox import Chunk as AnyChunk
from ...engine.outbox import Framing
from ...engine.transport import Ending, Listener, SessionListener
from ...errors import InvalidMessage
from ...protocol.bookmarks import Bookmark
from ...protocol.codes import CloseCode, comes_back
from ...protocol.envelope import Envelope, Failure
from ..admission import Refusal
from .chunks import Chunk, framing_of
from .codec import EVENTS, PLAIN_EVENTS
from .events import read_event
from .packets import MalformedPacket, PacketType
from .packets import Packet as ClientPacket
from .recovery import Recovery, read_offset

if TYPE_CHECKING:
    from .client import Client

LONGEST_PID = 64
"""Characters of the private id that a client shows when it comes back."""

RESUME = "$resume"
"""Id of the one request that a line makes by itself."""

AGAIN = (429, 503)
"""Statuses of refusals after which a client is to come back by itself."""

_json = msgspec.json.Encoder().encode


class _Stage(Enum):
    LOGIN = "the client was not answered so far"
    RESUMING = "it is logged in, and its earlier session is taken up"
    OPEN = "it is connected"
    CLOSED = "nothing is written any more"


class NamespaceLine:
    """The transport of a connection to a namespace; the Engine.IO session under it may have several.

    The client is told that it is connected, or why not, when its hub has let it in. A close code after which
    clients come back closes the Engine.IO session, since they come back after nothing else; other codes
    disconnect from this namespace alone. Who is not let in, and is connected to other namespaces, is told so
    in any case, lest those are cut off time and again.
    """

    pings = False
    driven = None
    served_by = None

    __slots__ = (
        "_client", "_ending", "_failure", "_held", "_held_size", "_listener", "_pid", "_recovery", "_resumes",
        "_stage", "_welcome", "framing", "namespace",
    )  # fmt: skip

    def __init__(self, client: "Client", namespace: str, auth: Mapping[str, object]) -> None:
        self.namespace = namespace
        self.framing: Framing = framing_of(namespace)
        self._client = client
        self._listener: SessionListener | None = None
        self._stage = _Stage.LOGIN
        self._ending: Ending | None = None
        self._failure: Failure | None = None
        """Why the login was refused, if the client was to be told."""
        self._welcome: Chunk | None = None
        self._held: list[Chunk] = []
        """What is to be written after the earlier session is taken up."""
        self._held_size = 0
        self._recovery: Recovery | None = None
        self._pid = ""
        self._resumes: Bookmark | None = None
        pid, offset = auth.get("pid"), auth.get("offset")
        if client.recovers and isinstance(pid, str) and len(pid) <= LONGEST_PID and isinstance(offset, str):
            try:
                self._resumes = read_offset(offset)
                self._pid = pid
            except InvalidMessage:
                pass  # It has nothing to come back to, and is told so by another pid.

    @property
    def connected(self) -> bool:
        """Whether the client was told that it is connected, and is."""
        return self._stage is _Stage.OPEN

    async def serve(self, scope: Scope) -> None:
        """Let the client into its namespace's hub, and serve it until it has left."""
        serving = await self._open(scope)
        if serving is not None:
            await serving

    async def _open(self, scope: Scope) -> Coroutine[object, object, None] | None:
        client = self._client
        codec = PLAIN_EVENTS if client.plain else EVENTS
        outcome = await client.server.namespaces[self.namespace](scope, self, codec)
        if not isinstance(outcome, Refusal):
            return outcome
        if outcome.status in AGAIN and not client.serves_others(self):
            client.close()
        elif self._stage is not _Stage.CLOSED:
            self._refuse(outcome.sentence, None)
        self._stage = _Stage.CLOSED
        client.left(self)
        return None

    # What the session asks

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:  # noqa: ARG002
        """Tell `listener` from now on what comes in. The client is answered when it is logged in."""
        # Every line that the hub lets in has a session.
        self._listener = cast("SessionListener", listener)
        if self._client.closed:
            self.end()
        elif self._client.paused:
            listener.pause_writing()

    def write(self, chunks: list[AnyChunk]) -> None:
        """Write events and acknowledgements, in order."""
        events = cast("list[Chunk]", chunks)
        if self._stage is _Stage.OPEN:
            recovery = self._recovery
            if recovery is not None:
                packets = recovery.packets(events)
            else:
                packets = [packet for chunk in events for packet in chunk.packets]
            if packets:
                self._client.socket.write(packets)
        elif self._stage is not _Stage.CLOSED:
            self._write_first(events)

    def close(self, code: int, reason: str) -> None:
        """Close after what was written. The client is told code and reason by an event before it."""
        if self._stage is _Stage.CLOSED:
            return
        returns = comes_back(code)
        if self._stage is _Stage.OPEN:
            if not self._client.plain:
                self._event("$close", {"code": code, "reason": reason})
            if not returns:
                self._client.write(PacketType.DISCONNECT, self.namespace)
        elif not returns or self._client.serves_others(self):
            returns = False
            failure = self._failure
            self._refuse(reason if failure is None else failure.message, failure)
        self._stage = _Stage.CLOSED
        self._ending = Ending(sent=(code, reason), received=(code, reason))
        if returns:
            self._client.close()
        else:
            self._client.left(self)
            asyncio.get_running_loop().call_soon(self.end)

    def abort(self) -> None:
        """End the Engine.IO session at once: a client that is cut off comes back."""
        self._stage = _Stage.CLOSED
        self._client.socket.abort()
        self.end()

    def ping(self) -> None:
        """Do nothing: the heartbeat is Engine.IO's."""

    def pause_reading(self) -> None:
        """Take in nothing more, of no namespace: they share a line."""
        self._client.pause_reading(self)

    def resume_reading(self) -> None:
        """Take in again."""
        self._client.resume_reading(self)

    # What the client's Engine.IO session tells

    def take(self, packet: ClientPacket) -> None:
        """Take an event, or a sign of life that the session has nothing to do with."""
        listener = self._listener
        assert listener is not None
        if packet.type in (PacketType.EVENT, PacketType.BINARY_EVENT):
            listener.received(read_event(packet))
        elif packet.type in (PacketType.ACK, PacketType.BINARY_ACK):
            # Nothing that is sent asks for one.
            listener.heard_from(1)
        else:
            raise MalformedPacket(f"A client that is connected sends no {packet.type.name}.")

    def heard_from(self, control_packets: int) -> None:
        """Note a sign of life that is no message."""
        if self._listener is not None:
            self._listener.heard_from(control_packets)

    def disconnected(self) -> None:
        """Take that the client leaves the namespace."""
        self._ending = Ending(received=(1000, ""), sent=(1000, ""), received_first=True)
        self._stage = _Stage.CLOSED
        self.end()

    def too_big(self, limit: int) -> None:
        """Take that a message is larger than may be."""
        if self._listener is not None:
            self._listener.failing()
            self.close(CloseCode.MESSAGE_TOO_BIG, f"over the size limit of {limit} bytes")

    def broken(self) -> None:
        """Take that the client broke the protocol: nothing more can be sent."""
        self._stage = _Stage.CLOSED
        if self._listener is not None:
            self._listener.failing()

    def pause_writing(self) -> None:
        """Pass on that enough waits for the client."""
        if self._listener is not None:
            self._listener.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client takes more."""
        if self._listener is not None:
            self._listener.resume_writing()

    def shut_down(self) -> None:
        """Pass on that the server stops."""
        if self._listener is not None:
            self._listener.shut_down()

    def end(self) -> None:
        """Take that the line is gone."""
        self._stage = _Stage.CLOSED
        self._held.clear()
        listener, self._listener = self._listener, None
        if listener is not None:
            self._client.left(self)
            listener.ended(self._ending or Ending())

    # Until the client is connected

    def _write_first(self, chunks: list[Chunk]) -> None:
        """Take what a session says before the client is connected: its welcome, or why there is none."""
        for place, chunk in enumerate(chunks):
            if self._stage is _Stage.OPEN:
                self.write(list(chunks[place:]))
                return
            if self._stage is _Stage.RESUMING:
                if chunk.answers == RESUME:
                    self._resumed(chunk, list(chunks[place + 1 :]))
                    return
                self._hold(chunk)
            elif chunk.type == "$error":
                self._failure = _failure(chunk)
            elif chunk.type == "$welcome":
                self._welcomed(chunk)
            else:
                self._hold(chunk)

    def _welcomed(self, chunk: Chunk) -> None:
        resumes = self._resumes
        if resumes is None:
            self._connect([chunk], recovered=False)
            return
        self._welcome = chunk
        self._stage = _Stage.RESUMING
        rooms = {
            name: {"epoch": position.epoch, "offset": position.offset}
            for name, position in resumes.rooms.items()
        }
        data = [{"session": resumes.session, "rooms": rooms}]
        request = {"type": "$resume", "id": RESUME, "data": data}
        assert self._listener is not None
        self._listener.received(_json(request).decode())

    def _resumed(self, answer: Chunk, rest: list[Chunk]) -> None:
        """Connect the client, with its earlier session or, as that could not be taken up, another one."""
        recovered = answer.type == "$welcome"
        if recovered:
            text = answer.packets[0].payload
            data = msgspec.json.decode(text[text.index(b"[") :], type=list[msgspec.Raw])[0]
            first = cast("Chunk", self.framing(EVENTS.encode(Envelope("$welcome", data=data)), False))
            # What came live of these rooms, of the user's inbox that is, comes again in order.
            resumed = _read_resumed(data).rooms
            self._held = [chunk for chunk in self._held if chunk.room not in resumed]
        else:
            assert self._welcome is not None
            first = self._welcome
        self._connect([first, *self._held, *rest], recovered=recovered)

    def _connect(self, first: list[Chunk], *, recovered: bool) -> None:
        client, listener = self._client, self._listener
        assert listener is not None
        if not recovered:
            self._pid = secrets.token_urlsafe(15)
        self._resumes, self._welcome, self._held = None, None, []
        self._stage = _Stage.OPEN
        client.connected(listener.max_message)
        if client.socket.dialect.version == 3:
            client.write(PacketType.CONNECT, self.namespace)
        else:
            answer = {"sid": listener.session}
            if client.recovers:
                answer["pid"] = self._pid
                self._recovery = Recovery(listener, self.namespace)
            client.write(PacketType.CONNECT, self.namespace, _json(answer))
        if client.plain:
            first = first[1:]
        if first:
            self.write(list(first))

    def _hold(self, chunk: Chunk) -> None:
        self._held.append(chunk)
        self._held_size += sum(map(len, chunk.packets))
        if self._held_size > self._client.server.settings.max_outbox:
            # It said more than a client may be behind before it knew whose client it is.
            self.close(CloseCode.TOO_SLOW, "too much was sent before the session was taken up")

    def _refuse(self, message: str, failure: Failure | None) -> None:
        if self._client.socket.dialect.version == 3:
            self._client.write(PacketType.CONNECT_ERROR, self.namespace, _json(failure or message))
            return
        error: dict[str, object] = {"message": message}
        if failure is not None:
            error["data"] = failure
        self._client.write(PacketType.CONNECT_ERROR, self.namespace, _json(error))

    def _event(self, kind: str, data: object) -> None:
        chunk = cast("Chunk", self.framing(EVENTS.encode(Envelope(kind, data=data)), False))
        self._client.socket.write(list(chunk.packets))


class _Resumed(msgspec.Struct):
    """What has to be known of the answer to ``$resume``."""

    rooms: dict[str, msgspec.Raw] = {}


_read_resumed = msgspec.json.Decoder(_Resumed).decode


def _failure(chunk: Chunk) -> Failure:
    text: bytes = chunk.packets[0].payload
    return msgspec.convert(msgspec.json.decode(text[text.index(b"[") :])[1], Failure)
