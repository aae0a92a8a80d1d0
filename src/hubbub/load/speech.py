"""Finding out how to talk to a server that nothing is known of: in hubbub's protocol, or not."""

import json
from dataclasses import dataclass

from .connection import PATIENCE, Connection
from .frames import Closed, raise_errors
from .line import Line, Step, Target
from .load import part
from .numbered import Numbered

SUBPROTOCOL = "hubbub.v1.json"
SPEAKS_WITHIN = 0.5
"""Seconds that a server other than hubbub has for a first message, if it begins with one."""
WELCOME = Step(None, b'"type":"$welcome"')
GREETING = Step(None, b"")
TEXT = "Many voices, nothing lost. " * 2 + "Many voice"
"""What is sent where nothing else is asked for: 64 bytes."""


@dataclass(frozen=True)
class Speech:
    """How connections to a server open, and whether it speaks hubbub's protocol."""

    line: Line
    hubbub: bool


def find_out(target: Target, path: str) -> Speech:
    """Connect once and listen: a hubbub server's first message is ``$welcome``.

    Raises :exc:`Refused`, :exc:`OSError`, or :exc:`Answered` if the server refuses the login.
    """
    try:
        connection = Connection(target, Line(path))
    except Closed as closed:  # not so by a server that speaks WebSocket: later the same means something else
        raise ConnectionResetError(str(closed)) from None
    try:
        if not connection.hears(PATIENCE if connection.subprotocol == SUBPROTOCOL else SPEAKS_WITHIN):
            return Speech(Line(path), hubbub=False)
        first = connection.receive()
    finally:
        part([connection])
        connection.abort()
    raise_errors(first, "The server refused the login")
    if WELCOME.answer in first:
        return Speech(Line(path, (WELCOME,)), hubbub=True)
    return Speech(Line(path, (GREETING,)), hubbub=False)


def joined(speech: Speech, room: str) -> Line:
    """Return the line of a member of a room."""
    join = json.dumps({"type": "$join", "id": "join", "room": room}).encode()
    return Line(speech.line.path, (*speech.line.opening, Step(join, b'"id":"join"', others=True)))


def request(speech: Speech, message: str | None) -> tuple[bytes | Numbered, bytes]:
    """Return what asks for an answer, and what the answer must contain.

    For hubbub, `message` is a request: each time it is sent its id is a new one. Without `message` it is a
    ``$ping``.
    Raises :exc:`ValueError` if it is no such message.
    """
    if not speech.hubbub:
        return (TEXT if message is None else message).encode(), b""
    envelope: dict[str, object] = {"type": "$ping"} if message is None else _envelope(message)
    envelope.pop("id", None)
    return Numbered(b'{"id":', b"," + _encoded(envelope)[1:]), b'"id":'


def publication(speech: Speech, room: str, message: str) -> bytes:
    """Return what publishes `message` to a room; :exc:`ValueError` if it is no message of hubbub's.

    It has no id: nobody waits for an answer, and a message with the same id again would be a retry.
    """
    if not speech.hubbub:
        return message.encode()
    envelope = _envelope(message) | {"room": room}
    envelope.pop("id", None)
    return _encoded(envelope)


def _envelope(message: str) -> dict[str, object]:
    try:
        envelope = json.loads(message)
    except ValueError as problem:
        raise ValueError(f"The message is not JSON: {problem}.") from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("type"), str):
        raise ValueError('hubbub\'s messages are objects with a type: {"type": "say", "data": {...}}.')
    return envelope


def _encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
