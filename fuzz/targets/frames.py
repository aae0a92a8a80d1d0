"""A client's frames, through the native transport as a whole.

The first byte of an input chooses how the server behaves, the next eight are the lengths of the pieces in
which the rest arrives. The rest is what the client sends once its WebSocket is open.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send
from websockets.frames import Close, Opcode

from hubbub import Settings
from hubbub.engine.transport import Ending
from hubbub.transports.native import EXTENSION, WebSocketProtocol

from ..line import TURNS, Lines, Socket, pieces
from ..reference import ANY_OF_INFLATING, Reading, readings, server_frames

LIMITS = (125, 300, 1000, 70_000)
"""Sizes of the largest message: bits 0 and 1 of the first byte."""

PAUSING = 4
"""Bit of the first byte: the server takes one message at a time."""

SLOW = 8
"""The client reads nothing, so it is sent no pongs."""

CLOSING = 16
"""The server closes after the first piece."""

PLAIN = 32
"""The client offers no compression."""

OFFERS = ("", "; client_no_context_takeover", "; client_max_window_bits=9", "; server_no_context_takeover")
"""Parameters of its offer: bits 6 and 7."""

MOST_FRAGMENTS = 20
"""Fragments that a message may come in: few, so that an input can have more."""

HEADER = 9

OVERHEAD = 512
"""Bytes that a parser may hold beyond the payload: a header, the reason of a close, names."""

_REQUEST = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Listener:
    """Notes what it is told, as the engine would be."""

    def __init__(self, limit: int, pausing: bool) -> None:
        self.max_message = limit
        self.messages: list[str | bytes] = []
        self.failed = False
        self.full = False
        self.ending: Ending | None = None
        self._pausing = pausing
        self.protocol: WebSocketProtocol

    def heard_from(self, control_frames: int = 0) -> None:
        pass

    def received(self, message: str | bytes, more: bool = False) -> bool:  # noqa: ARG002
        assert not self.failed, "a message after the end"
        assert isinstance(message, str | bytes)
        size = len(message.encode() if isinstance(message, str) else message)
        assert size <= self.max_message, f"a message of {size} bytes, over the limit"
        self.messages.append(message)
        assert not self.full, "a message for one who takes no more"
        if self._pausing:
            self.full = True
            self.protocol.pause_reading()
            return False
        return True

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def failing(self) -> None:
        assert not self.failed, "told twice of the end"
        self.failed = True

    def ended(self, ending: Ending) -> None:
        assert self.ending is None, "ended twice"
        self.ending = ending

    def shut_down(self) -> None:
        pass


class Application:
    """Takes every WebSocket over, for the listener of the moment."""

    def __init__(self) -> None:
        self.listener: Listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self.listener.protocol = scope["extensions"][EXTENSION]
        await self.listener.protocol.accept(self.listener, None)


_application = Application()
_lines = Lines(_application, Settings(max_fragments=MOST_FRAGMENTS))


@dataclass
class Outcome:
    """What came of a client's bytes."""

    messages: list[str | bytes]
    ending: Ending
    extensions: str
    pongs: list[bytes] = field(default_factory=list)
    closes: list[bytes] = field(default_factory=list)


def check(data: bytes) -> list[str]:
    if len(data) < HEADER:
        return []
    options, lengths, wire = data[0], data[1:HEADER], data[HEADER:]
    limit = LIMITS[options & 3]
    whole = _lines.run(_converse([wire] if wire else [], limit, options & ~(PAUSING | CLOSING)))
    expected = readings(wire, limit, whole.extensions, MOST_FRAGMENTS)
    _compare(whole, expected, silent=bool(options & SLOW))
    arriving = list(pieces(wire, lengths))
    torn = _lines.run(_converse(arriving, limit, options & ~CLOSING))
    assert torn.messages == whole.messages, "other messages when the bytes are torn"
    if all(reading.codes != ANY_OF_INFLATING for reading in expected):
        assert torn.ending == whole.ending, f"another end when torn: {torn.ending}, {whole.ending}"
    _compare(torn, expected, silent=bool(options & SLOW))
    if options & CLOSING and arriving:
        _compare_closed(_lines.run(_converse(arriving, limit, options)), whole)
    sent = whole.ending.sent
    return [] if sent is None else [f"closed with {min(sent[0], 3000)}"]  # from 3000 on all are the same


async def _converse(arriving: list[bytes], limit: int, options: int) -> Outcome:
    listener = _application.listener = Listener(limit, bool(options & PAUSING))
    socket = _lines.connect()
    offer = "" if options & PLAIN else f"permessage-deflate{OFFERS[options >> 6]}"
    header = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
    socket.protocol.data_received(f"{_REQUEST}{header}\r\n".encode())
    await _lines.settle()
    head, _, rest = bytes(socket.written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), f"the handshake was refused: {head!r}"
    assert not rest, f"frames before the client's: {rest!r}"
    extensions = _header(head, b"sec-websocket-extensions")
    socket.written.clear()
    # Compressed, a message may be held in both forms.
    bound = limit * (2 if extensions else 1) + OVERHEAD
    before = _lines.held(listener.protocol, socket, listener)
    if options & SLOW:
        listener.protocol.pause_writing()
    for number, piece in enumerate(arriving):
        await _arrive(socket, listener, piece)
        if number < 16:
            kept = _lines.held(listener.protocol, socket, listener) - before
            assert kept <= bound, f"{kept} bytes are held, where a message may have {limit}"
        if number == 0 and options & CLOSING and not listener.failed:
            listener.protocol.close(1001, "bye")
    await _lines.settle()
    await _lines.disconnect(socket)
    assert listener.ending is not None, "the end was not told"
    outcome = Outcome(listener.messages, listener.ending, extensions)
    for opcode, payload in server_frames(bytes(socket.written)):
        if opcode is Opcode.PONG:
            outcome.pongs.append(payload)
        else:
            assert opcode is Opcode.CLOSE, f"the server sent {opcode!r}"
            outcome.closes.append(payload)
    return outcome


async def _arrive(socket: Socket, listener: Listener, piece: bytes) -> None:
    """Let bytes arrive as an event loop does: none at a socket that is closed or not being read."""
    if not socket.is_reading():
        return
    socket.protocol.data_received(piece)
    turns = len(piece) + TURNS
    while not socket.is_reading() and not socket.closed:
        if listener.full:
            listener.full = False
            listener.protocol.resume_reading()
        await asyncio.sleep(0)
        turns -= 1
        assert turns, "the socket is read no more, and nothing is under way"


def _header(head: bytes, name: bytes) -> str:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return next((value.strip().decode() for key, _, value in lines if key.lower() == name), "")


def _compare(outcome: Outcome, expected: list[Reading], *, silent: bool) -> None:
    for number, reading in enumerate(expected, 1):
        try:
            _compare_with(outcome, reading)
            _compare_pongs(outcome.pongs, reading.pings, silent=silent)
        except AssertionError:
            if number == len(expected):
                raise
        else:
            return


def _compare_with(outcome: Outcome, expected: Reading) -> None:
    assert outcome.messages == expected.messages, "other messages than websockets reads"
    assert [type(message) for message in outcome.messages] == [type(message) for message in expected.messages]
    received, sent, received_first = outcome.ending
    if sent is None and (expected.undecided or not expected.codes):
        assert outcome.ending == Ending()
        assert not outcome.closes, "a close frame was sent that nobody knows of"
        return
    assert sent is not None, f"not closed, where websockets closes with {expected.codes}"
    code, reason = sent
    assert code in expected.codes, f"closed with {code} {reason!r}, where it is {expected.codes}"
    assert (received is not None) is expected.closed is received_first
    [close] = outcome.closes
    # A close frame is echoed. One without a code is answered with one without a code.
    assert Close.parse(close) == Close(code, reason), f"said {Close.parse(close)}, noted {sent}"
    if received is not None:
        assert received == sent


def _compare_pongs(pongs: list[bytes], pings: list[bytes], *, silent: bool) -> None:
    if silent:
        assert not pongs, "pongs for a client that reads nothing"
        return
    # Of several pings, the latest alone may be answered (RFC 6455 section 5.5.3).
    unanswered = iter(pings)
    assert all(pong in unanswered for pong in pongs), f"pongs {pongs} for pings {pings}"


def _compare_closed(outcome: Outcome, whole: Outcome) -> None:
    """Compare what the server closed in the middle with what it did not."""
    assert outcome.messages == whole.messages[: len(outcome.messages)], "other messages before the close"
    assert len(outcome.closes) == 1, "not one close frame"
    if outcome.ending.received is not None:
        assert outcome.ending.received == whole.ending.received
