"""One client: its Engine.IO session, and its connections to namespaces over it."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.types import Scope

from ...engine.connection import TOKEN
from ..engineio import EngineSocket, Reason
from .events import read_auth
from .line import NamespaceLine
from .packets import (
    MalformedPacket,
    Packet,
    PacketReader,
    PacketTooBig,
    PacketType,
    write_packet,
)

if TYPE_CHECKING:
    from .server import SocketIO

AUTH = "socketio.auth"
"""What a scope has a client's ``auth`` as."""

LONGEST_TOKEN = 16_384
"""Characters of a login token."""

CONNECTS = 100
"""Namespaces that a client may ask for in a burst, and one more in each second that passes.

Heartbeats of a client in no namespace are taken off it too: ``max_message_burst`` of them are all of it.
"""


class Client:
    """Who listens on an Engine.IO session: it finds the namespace of each packet.

    Whatever is no packet, or can't come now, closes the session, as the protocol asks and the reference does
    (socket.io's ``client.ts``).
    """

    __slots__ = (
        "_allowed", "_gone", "_lines", "_max_message", "_pausing", "_reader", "_since", "closed", "paused",
        "plain", "recovers", "server", "socket",
    )  # fmt: skip

    def __init__(self, server: "SocketIO", socket: EngineSocket) -> None:
        self.server = server
        self.socket = socket
        self.plain = server.plain
        modern = socket.dialect.version == 4
        self.recovers = modern and not server.plain
        """Whether the client can be given what it comes back with."""
        self.closed = False
        self.paused = False
        """Whether the client takes no more for now."""
        self._max_message = 0
        """Largest of the messages that the client may send to any namespace."""
        self._reader = PacketReader(socket.max_message)
        self._lines: dict[str, NamespaceLine] = {}
        self._gone: set[str] = set()
        """Namespaces that the server disconnected the client from, which may not know of it."""
        self._pausing: set[NamespaceLine] = set()
        self._allowed = float(CONNECTS)
        self._since = socket.opened
        if not modern:
            # Clients of before version 5 are connected to this one without asking.
            self._connect("/", {}, None)

    # What the Engine.IO session tells

    def received(self, message: str | bytes) -> bool:
        """Take a message; false if no more may come now."""
        try:
            packet = self._reader.read(message)
            if packet is not None:
                self._take(packet)
        except MalformedPacket:
            self._break_off()
        except PacketTooBig as problem:
            line = self._lines.get(problem.namespace)
            if line is not None:
                line.too_big(self.server.settings.max_message)
            self._break_off()
        return self.socket.reading

    def heard_from(self, control_packets: int) -> None:
        """Note a sign of life that is no message; it counts once, whichever namespaces there are."""
        if not self._lines and not self._may(
            control_packets * CONNECTS / self.server.settings.max_message_burst
        ):
            self._break_off()
        for line in list(self._lines.values()):
            line.heard_from(control_packets)
            control_packets = 0

    def pause_writing(self) -> None:
        """Pass on that enough waits for the client."""
        self.paused = True
        for line in list(self._lines.values()):
            line.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client takes more."""
        self.paused = False
        for line in list(self._lines.values()):
            line.resume_writing()

    def ended(self, reason: Reason) -> None:  # noqa: ARG002
        """Take that the session is gone, and all connections with it."""
        self.closed = True
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.end()

    def shut_down(self) -> None:
        """Pass on that the server stops."""
        for line in list(self._lines.values()):
            line.shut_down()
        if not self._lines:
            self.socket.close()

    # What the connections ask

    def write(self, kind: PacketType, namespace: str, payload: bytes = b"") -> None:
        """Write a packet that is no event."""
        self.socket.send(write_packet(kind, namespace, payload).decode())

    def connected(self, max_message: int) -> None:
        """Take that the client is connected to a namespace, and may send messages of a size."""
        self.socket.keep()
        self._max_message = self.socket.max_message = self._reader.limit = max(self._max_message, max_message)

    def left(self, line: NamespaceLine) -> None:
        """Take that the client is connected to a namespace no more."""
        if self._lines.get(line.namespace) is line:
            del self._lines[line.namespace]
            self._gone.add(line.namespace)
            self.resume_reading(line)
            if not self._lines:
                self.socket.release()

    def pause_reading(self, line: NamespaceLine) -> None:
        """Take in nothing more until that connection takes more."""
        self._pausing.add(line)
        self.socket.pause_reading()

    def resume_reading(self, line: NamespaceLine) -> None:
        """Take in again, if no other connection is behind."""
        if line in self._pausing:
            self._pausing.discard(line)
            if not self._pausing:
                self.socket.resume_reading()

    def serves_others(self, line: NamespaceLine) -> bool:
        """Tell whether the client is connected to another namespace."""
        return any(other.connected for other in self._lines.values() if other is not line)

    def close(self) -> None:
        """Close the session after what was written, so that the client comes back."""
        self.socket.close()

    # Packets

    def _take(self, packet: Packet) -> None:
        namespace, query = packet.namespace, ""
        if self.socket.dialect.version == 3:
            namespace, _, query = packet.namespace.partition("?")
        line = self._lines.get(namespace)
        if packet.type is PacketType.CONNECT:
            if line is not None:
                # One that asks twice before it is answered is patient no more, and that is no error.
                if line.connected and self.socket.dialect.version == 4:
                    raise MalformedPacket("The client is connected already.")
                self.heard_from(1)
                return
            self._connect(namespace, read_auth(packet), dict(parse_qsl(query)).get("token"))
        elif line is None and namespace in self._gone and packet.type is not PacketType.CONNECT_ERROR:
            self.heard_from(1)  # It was on its way. Many of them are too many all the same.
        elif line is None or not line.connected:
            raise MalformedPacket("The client is not connected to that namespace.")
        elif packet.type is PacketType.DISCONNECT:
            line.disconnected()
            self._gone.discard(namespace)
        else:
            line.take(packet)

    def _connect(self, namespace: str, auth: dict[str, object], token: str | None) -> None:
        if not self._may(1):
            raise MalformedPacket("The client asks for too many namespaces.")
        if namespace not in self.server.namespaces:
            modern = self.socket.dialect.version == 4
            refusal = b'{"message":"Invalid namespace"}' if modern else b'"Invalid namespace"'
            self.write(PacketType.CONNECT_ERROR, namespace, refusal)
            return
        line = NamespaceLine(self, namespace, auth)
        self._gone.discard(namespace)
        self._lines[namespace] = line
        self.socket.run(line.serve(self._scope(auth, token)))

    def _may(self, cost: float) -> bool:
        """Count what no namespace counts; false if it is too much."""
        now = asyncio.get_running_loop().time()
        self._allowed = min(CONNECTS, self._allowed + now - self._since) - cost
        self._since = now
        return self._allowed >= 0

    def _scope(self, auth: dict[str, object], token: str | None) -> Scope:
        """Return the scope of the request that opened the session, with what came with CONNECT."""
        given = {name: value for name, value in auth.items() if name not in ("pid", "offset")}
        own = given.get("token", token)
        if not given and own is None:
            return self.socket.scope
        scope = {**self.socket.scope, AUTH: given}
        if isinstance(own, str) and 0 < len(own) <= LONGEST_TOKEN:
            scope[TOKEN] = own
        return scope

    def _break_off(self) -> None:
        """Close the session: what the client sends makes no sense."""
        for line in list(self._lines.values()):
            line.broken()
        self.socket.close()
