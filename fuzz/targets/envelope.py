"""A client's message, from its text or bytes to the object that a handler is called with, and to its answer.

The first byte of an input chooses the codec, and whether the client mistook text for binary. The rest is the
message.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic
from msgspec import UNSET, Meta, Raw

from hubbub import InvalidMessage, Message
from hubbub.engine.router import Router
from hubbub.protocol.codecs import JSON, MESSAGEPACK, UNREADABLE, Codec, invalid
from hubbub.protocol.envelope import Envelope, Failure, Incoming, Join, Login, Problem, Since
from hubbub.protocol.messages import MOST_PROBLEMS

from ..values import changed

BINARY = 1
"""Bit of the first byte: the codec is MessagePack."""

MISTAKEN = 2
"""The client sends the other kind of WebSocket message than its codec wants."""

LONGEST_TEXT = 1500
"""Characters of an error's sentence or path: enough to say what is wrong, not to echo a message."""

LARGEST_ERROR = 65_536
"""Bytes of an error as it is answered."""


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Point(Message):
    x: int = 0
    y: float = 0.0


class Circle(Message, tag=True):
    center: Point
    radius: Annotated[float, Meta(gt=0, le=1000)]


class Box(Message, tag=True):
    corners: tuple[Point, Point]


class Draw(Message):
    shape: Circle | Box
    name: Annotated[str, Meta(min_length=1, max_length=20, pattern=r"^\w+$")] = "x"
    tags: Annotated[list[str | int | None], Meta(max_length=5)] = []


class Form(Message, forbid_unknown_fields=True):
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    when: datetime | None = None
    key: UUID | None = None
    amount: Decimal | None = None
    blob: bytes = b""
    names: set[str] = set()
    counts: dict[str, Annotated[int, Meta(ge=0)]] = {}
    by_colour: dict[Colour, bool] = {}
    by_number: dict[int, str] = {}


class Tree(Message):
    children: list["Tree"] = []
    name: str = ""


class Anything(Message):
    value: Any = None


class Line(pydantic.BaseModel, extra="forbid"):
    article: str = pydantic.Field(max_length=10)
    count: int = pydantic.Field(ge=0, le=1000)


class Cash(pydantic.BaseModel):
    kind: Literal["cash"]


class Card(pydantic.BaseModel):
    kind: Literal["card"]
    number: str = pydantic.Field(pattern=r"^\d{4}$")


class Order(pydantic.BaseModel, extra="forbid"):
    lines: list[Line] = []
    payment: Cash | Card | None = pydantic.Field(None, discriminator="kind")
    notes: dict[str, int | str] = {}
    colour: Colour = Colour.RED
    total: float = 0.0


CLASSES = (Draw, Form, Tree, Anything, Order)


def _handler(message_class: type) -> Callable[..., object]:
    async def handle(message: object) -> None: ...

    handle.__annotations__["message"] = message_class
    return handle


_router = Router("the application", {})
for _class in CLASSES:
    _router.add(_handler(_class))

CONTROLS: dict[str, type[msgspec.Struct]] = {"$join": Join, "$history": Since, "$auth": Login}


def check(data: bytes) -> list[str]:
    if not data:
        return []
    codec = MESSAGEPACK if data[0] & BINARY else JSON
    message: str | bytes = data[1:]
    if codec.binary is bool(data[0] & MISTAKEN):
        try:
            message = data[1:].decode()
        except UnicodeDecodeError:
            return []  # no transport lets it through
    try:
        incoming = codec.read(message)
    except InvalidMessage as problem:
        _check_error(problem, codec)
        return [_sign("envelope", problem)]
    assert not data[0] & MISTAKEN, "the wrong kind of WebSocket message was read"
    _check_envelope(message, incoming, codec)
    if not codec.binary:
        _compare_with_json(str(message), incoming)
    return _check_data(incoming, codec)


def _check_error(problem: InvalidMessage, codec: Codec) -> None:
    assert problem.message
    assert len(problem.message) <= LONGEST_TEXT, f"an error of {len(problem.message)} characters"
    assert len(problem.problems) <= MOST_PROBLEMS
    for path, text in problem.problems:
        assert path.startswith("$"), path
        assert text
        assert len(path) <= LONGEST_TEXT, f"a path of {len(path)} characters"
        assert len(text) <= LONGEST_TEXT, f"a problem of {len(text)} characters"
    problems = [Problem(path, text) for path, text in problem.problems]
    failure = Failure(problem.code, problem.message, False, problems)
    answer = codec.encode(Envelope("$error", data=failure))
    assert len(answer) <= LARGEST_ERROR, f"an error of {len(answer)} bytes"


def _check_envelope(message: str | bytes, incoming: Incoming, codec: Codec) -> None:
    """What was read is answered with its id and its room, and is the same when it is read again."""
    assert 1 <= len(incoming.type) <= 128
    assert incoming.room is None or 1 <= len(incoming.room) <= 255
    assert len(bytes(incoming.data)) <= len(message.encode() if isinstance(message, str) else message)
    answer = codec.encode(Envelope("$ack", id=incoming.id, room=incoming.room))
    decoded: dict[str, object] = _value(codec, answer)
    assert decoded.get("id") == incoming.id
    assert decoded.get("room") == incoming.room
    again = codec.encode(
        Envelope(incoming.type, id=incoming.id, room=incoming.room, data=incoming.data or UNSET)
    )
    second = codec.read(again if codec.binary else again.decode())
    assert (second.type, second.id, second.room) == (incoming.type, incoming.id, incoming.room)
    assert bytes(second.data).strip() == bytes(incoming.data).strip()


def _value(codec: Codec, payload: bytes) -> Any:
    return msgspec.msgpack.decode(payload) if codec.binary else json.loads(payload)


def _compare_with_json(message: str, incoming: Incoming) -> None:
    try:
        value = json.loads(message, parse_constant=_refuse)
    except RecursionError:
        return
    except ValueError as problem:
        if "integer string conversion" in str(problem):
            return  # digits that Python will not read; a class refuses them too
        raise
    assert isinstance(value, dict)
    assert value["type"] == incoming.type
    assert value.get("room") == incoming.room
    assert value.get("id") == incoming.id
    assert type(value.get("id")) is type(incoming.id)
    assert ("data" in value) is bool(incoming.data)
    if incoming.data:
        assert json.dumps(json.loads(bytes(incoming.data))) == json.dumps(value["data"])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_data(incoming: Incoming, codec: Codec) -> list[str]:
    """Decode as each kind of message there is; return what came of it."""
    try:
        _router.find(incoming.type)
    except InvalidMessage as problem:
        _check_error(problem, codec)
    outcomes = []
    for name, decode in _decoders(codec):
        try:
            decoded = decode(incoming.data)
        except InvalidMessage as problem:
            _check_error(problem, codec)
            outcomes.append(_sign(name, problem))
        else:
            _check_decoded(decoded, decode, codec)
            outcomes.append(name)
    return outcomes


def _decoders(codec: Codec) -> Iterator[tuple[str, Callable[[Raw], object]]]:
    for name, handler in _router.handlers.items():
        yield name, functools.partial(handler.decode, codec=codec)
    for name, control in CONTROLS.items():
        yield name, functools.partial(_control, name, codec.decoder(control), codec.empty)


def _sign(name: str, problem: InvalidMessage) -> str:
    """Return what kind of problem it is, without what a client can make up."""
    path, text = problem.problems[0] if problem.problems else ("", problem.message)
    words = re.split(r"['\"`\d]", text, maxsplit=1)[0]
    return f"{name} {words[:40]} {min(path.count('.') + path.count('['), 4)}"


def _control(name: str, decode: Callable[[Raw], object], empty: Raw, data: Raw) -> object:
    """Decode as the session does it for a control message."""
    try:
        return decode(data or empty)
    except UNREADABLE as problem:
        raise invalid(name, problem) from None


def _check_decoded(decoded: object, decode: Callable[[Raw], object], codec: Codec) -> None:
    """What a handler is given it may send back, and the client would be understood."""
    payload = codec.encode(Envelope("answer", data=decoded))
    data = codec.read(payload if codec.binary else payload.decode()).data
    again = decode(data)
    # NaN, which MessagePack can carry, is not equal to itself.
    assert again == decoded or repr(again) == repr(decoded), f"{decoded!r} came back as {again!r}"


def mutate(data: bytes, chance: random.Random) -> bytes | None:
    """Return a message that is well-formed and new, or None if this one is too far from it."""
    binary = bool(data[0] & BINARY)
    try:
        value = msgspec.msgpack.decode(data[1:]) if binary else json.loads(data[1:])
        value = changed(value, chance)
        text = msgspec.msgpack.encode(value) if binary else json.dumps(value).encode()
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
    return data[:1] + text
