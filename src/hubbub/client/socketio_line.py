"""A line over Socket.IO: hubbub's envelopes as a Socket.IO client's events, over a WebSocket.

It is for talking to a server that other Socket.IO clients talk to, and seeing what they see: version 4 of
Engine.IO and 5 of Socket.IO, the namespace ``/``. Binary attachments become Base64, as JSON has binary data.
"""

import asyncio
import base64
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ..errors import ConfigurationError
from ..protocol.codecs import JSON, UNREADABLE
from ..protocol.codes import CloseCode
from ..protocol.envelope import ABSENT, RawEnvelope
from .handshake import Headers, Proxy, TLSContext
from .line import Dial, Line, LineLost, NotConnected
from .websocket import dialling as dialling_websocket

PATH = "/socket.io/"
"""Where Socket.IO is served, if the URL has no path."""

HIGHEST_ID = 2**53 - 1
FIRST_OWN_ID = 2**52
"""From here on ids are counted that stand for those that are no number on the wire."""

ANSWERS = {"$resume": "$welcome", "$ping": "$pong"}
"""As what a request is answered that is not with ``$ack``: an acknowledgement does not say."""

MOST_ATTACHMENTS = 100

_PACKET = re.compile(r"4([0-6])(?:(\d{1,3})-)?(\d{0,16})")
"""An Engine.IO message that is a packet of the namespace ``/``: its type, number of attachments, and id."""


class _About(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """The last argument of a room's event."""

    room: str
    offset: int | None = None
    sender: str | None = None


class _Refused(msgspec.Struct):
    message: str = "the server refused the connection"
    data: msgspec.Raw = ABSENT


class _Closing(msgspec.Struct):
    code: int = int(CloseCode.NO_STATUS)
    reason: str = ""


class _Failed(msgspec.Struct):
    failure: msgspec.Raw = msgspec.field(name="$error")


_read_envelope = msgspec.json.Decoder(RawEnvelope).decode
_read_about = msgspec.json.Decoder(_About).decode
_read_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_name = msgspec.json.Decoder(str).decode
_read_refused = msgspec.json.Decoder(_Refused).decode
_read_closing = msgspec.json.Decoder(_Closing).decode
_read_failed = msgspec.json.Decoder(_Failed).decode
_json = msgspec.json.Encoder().encode


@dataclass
class _Packet:
    event: bool
    """Whether it is an event; else it is an acknowledgement."""
    number: int
    payload: bytes
    kept: bool
    """Whether its last argument is a text: what a client keeps to come back with, where it is an event."""
    missing: int = 0
    """Attachments that are still to come."""
    attached: int = 0


class SocketIOLine:
    """A connection to the namespace ``/``, over a WebSocket that is open.

    A message with its attachments may have about `max_size` bytes; None is without a limit.
    """

    subprotocol: str | None = JSON.subprotocol

    def __init__(self, name: str, line: Line, max_size: int | None = None) -> None:
        self.name = name
        self.heard_at = 0.0
        self._line = line
        self._max_size = max_size
        self._asked: dict[int, tuple[int | str, str]] = {}
        """By the id on the wire: the id and the answer's type of requests where they are not the usual."""
        self._own_ids = FIRST_OWN_ID
        self._packet: _Packet | None = None
        """What attachments are still to come for."""

    async def begin(self) -> None:
        """Do both handshakes; :exc:`NotConnected` and :exc:`LineLost` if the server does not."""
        opened = await self._next()
        if not isinstance(opened, str) or not opened.startswith("0"):
            raise NotConnected("the server does not speak Engine.IO", comes_back=False)
        await self._line.send("40")
        answer = await self._next()
        if not isinstance(answer, str) or not answer.startswith(("40", "44")):
            raise NotConnected("the server does not speak Socket.IO", comes_back=False)
        if answer.startswith("44"):
            refused = _read_refused(answer[2:].encode())
            status = 401 if refused.data else None
            raise NotConnected(refused.message, status=status, comes_back=False)

    async def send(self, message: str | bytes) -> None:
        """Send an envelope's JSON as an event; :exc:`ValueError` for what is none."""
        if isinstance(message, bytes):
            raise TypeError("Lines over Socket.IO carry text.")
        envelope = _read_envelope(message.encode())
        data = bytes(envelope.data).strip()
        arguments = [bytes(argument) for argument in _read_array(data)] if data[:1] == b"[" else [data]
        if envelope.room is not None:
            arguments = [argument or b"null" for argument in arguments or [b""]]
            arguments.append(b'{"room":%b}' % _json(envelope.room))
        number = b"" if envelope.id is None else b"%d" % self._number(envelope.id, envelope.type)
        parts = [_json(envelope.type), *filter(None, arguments)]
        await self._line.send((b"42%b[%b]" % (number, b",".join(parts))).decode())

    def _number(self, request: int | str, kind: str) -> int:
        number = request if isinstance(request, int) and 0 <= request < FIRST_OWN_ID else self._own_ids
        if number == self._own_ids:
            self._own_ids += 1
        if number != request or kind in ANSWERS:
            self._asked[number] = (request, ANSWERS.get(kind, "$ack"))
        return number

    async def recv(self) -> str | bytes:
        """Return the next envelope's JSON."""
        while True:
            message = await self._next()
            try:
                envelope = self._take(message)
            except (*UNREADABLE, IndexError):  # the last one where arguments are missing
                raise LineLost(CloseCode.PROTOCOL_ERROR, "the server sent what is no packet") from None
            if envelope is not None:
                return _json(envelope).decode()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Leave the namespace, and close the WebSocket."""
        if code != CloseCode.ABNORMAL:
            with suppress(LineLost):
                await self._line.send("41")
        await self._line.close(code, reason)

    async def _next(self) -> str | bytes:
        """Return the next message that is no heartbeat."""
        while True:
            try:
                message = await self._line.recv()
            except LineLost as lost:
                if lost.code not in (CloseCode.NORMAL, CloseCode.NO_STATUS):
                    raise
                # Whoever is not to come back is told so before, by an event.
                raise LineLost(CloseCode.ABNORMAL, lost.reason) from lost
            self.heard_at = asyncio.get_running_loop().time()
            if message != "2":
                return message
            # Where it has ended, what came before the end is still to be read: the reason, perhaps.
            with suppress(LineLost):
                await self._line.send("3")

    def _take(self, message: str | bytes) -> RawEnvelope | None:
        """Return the envelope that a message is or completes; None if it does neither."""
        if isinstance(message, bytes):
            return self._attach(message)
        if message in ("1", "41"):
            raise LineLost(CloseCode.ABNORMAL, "the server disconnected")
        found = _PACKET.match(message)
        if found is None or found[1] not in "2356":
            return None
        payload = message[found.end() :].encode()
        packet = _Packet(found[1] in "25", int(found[3] or 0), payload, payload.endswith(b'"]'))
        if found[1] in "56":
            packet.missing = int(found[2] or 0)
            if packet.missing > MOST_ATTACHMENTS:
                raise LineLost(CloseCode.MESSAGE_TOO_BIG, "a message has too many attachments")
        self._packet = packet
        return self._complete()

    def _attach(self, attachment: bytes) -> RawEnvelope | None:
        packet = self._packet
        if packet is None:
            raise LineLost(CloseCode.PROTOCOL_ERROR, "the server sent an attachment of nothing")
        placeholder = b'{"_placeholder":true,"num":%d}' % packet.attached
        packet.payload = packet.payload.replace(placeholder, b'"%b"' % base64.b64encode(attachment))
        if self._max_size is not None and len(packet.payload) > self._max_size:
            raise LineLost(CloseCode.MESSAGE_TOO_BIG, "a message is larger than `max_size`")
        packet.attached += 1
        packet.missing -= 1
        return self._complete()

    def _complete(self) -> RawEnvelope | None:
        packet = self._packet
        if packet is None or packet.missing:
            return None
        self._packet = None
        arguments = _read_array(packet.payload)
        if packet.event:
            return self._event(arguments, packet.kept)
        return self._answer(packet.number, arguments)

    def _event(self, parts: Sequence[msgspec.Raw], kept: bool) -> RawEnvelope | None:
        kind, *arguments = _read_name(parts[0]), *parts[1:]
        if arguments and kept:
            arguments.pop()  # hubbub's own client has its session for that
        elif len(arguments) > 1 and bytes(arguments[-1]) == b"{}" and bytes(arguments[-2])[:1] == b'"':
            arguments.pop()  # it says that the text before is none
        if kind == "$close":
            closing = _read_closing(arguments[0])
            raise LineLost(closing.code, closing.reason)
        if kind == "$bookmark":
            return None
        envelope = RawEnvelope(kind)
        if len(arguments) > 1:
            with suppress(msgspec.ValidationError):
                about = _read_about(arguments[-1])
                envelope.room, envelope.offset, envelope.sender = about.room, about.offset, about.sender
                arguments.pop()
        envelope.data = _data_of(arguments)
        return envelope

    def _answer(self, number: int, arguments: Sequence[msgspec.Raw]) -> RawEnvelope:
        request, kind = self._asked.pop(number, (number, "$ack"))
        if len(arguments) == 1:
            with suppress(msgspec.ValidationError):
                return RawEnvelope("$error", id=request, data=_read_failed(arguments[0]).failure)
        return RawEnvelope(kind, id=request, data=_data_of(arguments))


def _data_of(arguments: Sequence[msgspec.Raw]) -> msgspec.Raw:
    if not arguments or (len(arguments) == 1 and bytes(arguments[0]) == b"null"):
        return ABSENT
    if len(arguments) == 1:
        return arguments[0]
    return msgspec.Raw(b"[%b]" % b",".join(map(bytes, arguments)))


def dialling(
    url: str,
    *,
    headers: Headers | None = None,
    ssl: TLSContext | None = None,
    proxy: Proxy = True,
    max_size: int | None = 16 * 2**20,
    open_timeout: float = 10.0,
) -> Dial:
    """Return what opens lines to a ``socketio+http://`` or ``socketio+https://`` URL.

    Without a path, that is ``/socket.io/``. Raises :exc:`hubbub.ConfigurationError` for what can't work.
    """
    name = url.partition("://")[0].lower()
    secure = name.endswith("https")
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError
        query = f"{parts.query}&" if parts.query else ""
        place = urlunsplit(
            (
                "wss" if secure else "ws",
                parts.netloc,
                PATH if parts.path in ("", "/") else parts.path,
                f"{query}EIO=4&transport=websocket",
                "",
            )
        )
    except ValueError:
        # What it says may hold a password.
        raise ConfigurationError("The URL is none: connect to socketio+https://host.") from None
    if ssl is not None and not secure:
        raise ConfigurationError(
            "The URL is not encrypted: connect to a socketio+https:// URL, or give no `ssl`."
        )
    dial_websocket = dialling_websocket(
        place,
        subprotocol=None,
        headers=headers,
        ssl=ssl,
        proxy=proxy,
        max_size=max_size,
        open_timeout=open_timeout,
    )

    async def dial(token: str | None) -> SocketIOLine:
        websocket = await dial_websocket(token)
        line = SocketIOLine(name, websocket, max_size)
        try:
            async with asyncio.timeout(open_timeout):
                await line.begin()
        except BaseException as problem:
            await websocket.close(CloseCode.ABNORMAL)
            _raise_not_connected(problem, open_timeout)
        return line

    return dial


def _raise_not_connected(problem: BaseException, open_timeout: float) -> NoReturn:
    if isinstance(problem, LineLost):
        raise NotConnected(f"the line ended before it began: {problem}") from None
    if isinstance(problem, TimeoutError):
        raise NotConnected(f"no line was open within {open_timeout:g} s") from problem
    if isinstance(problem, UNREADABLE):
        raise NotConnected("the server can't be understood", comes_back=False) from None
    raise problem
