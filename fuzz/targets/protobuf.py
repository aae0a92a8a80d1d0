"""gRPC's messages: envelopes become protobuf and come back; strangers' protobuf becomes envelopes.

The first byte of an input says what the rest is: see :data:`KINDS`.
"""

import json
import random
from typing import Any

import msgspec

from hubbub import InvalidMessage
from hubbub.protocol.codecs import JSON
from hubbub.protocol.protobuf import messages

from ..values import changed

KINDS = ("an envelope's JSON", "a client's Message", "the server's Messages", "what Publish takes")
ENVELOPE, MESSAGE, MESSAGES, PUBLICATION = range(len(KINDS))


def check(data: bytes) -> list[str]:
    if not data:
        return []
    kind, given = data[0] % len(KINDS), data[1:]
    try:
        return [
            KINDS[kind],
            *(_check_envelope, _check_message, _check_messages, _check_publication)[kind](given),
        ]
    except messages.UNREADABLE_PROTOBUF:
        assert kind != ENVELOPE
        return [KINDS[kind], "no protobuf"]
    except UnicodeDecodeError:
        assert kind != PUBLICATION, "it goes to whoever reads JSON, and says what is wrong"
        return [KINDS[kind], "no UTF-8"]


def _check_envelope(given: bytes) -> list[str]:
    """What the server would send comes back as it was."""
    text = given.decode()
    try:
        message = messages.message_of(text)
    except ValueError:
        return ["refused"]
    _compare(given, messages.envelope_of(message))
    batch = messages.messages_of(given)
    both = list(messages.envelopes_of(batch + batch))
    assert both == [messages.envelope_of(message)] * 2, "two batches, one behind the other, are not both"
    return ["taken"]


def _check_message(given: bytes) -> list[str]:
    """What a client sent is one envelope, or none that a session would take."""
    envelope = messages.envelope_of(given)
    try:
        incoming = JSON.read(envelope)
    except InvalidMessage:
        return ["no envelope"]
    sent = messages.Message.FromString(given)
    assert incoming.type == sent.type, "data took the place of the type"
    assert (incoming.room or "") == sent.room
    named = sent.WhichOneof("id")
    assert incoming.id == (None if named is None else getattr(sent, named))
    assert bytes(incoming.data).strip() == sent.data.strip(b" \t\r\n")
    _compare(envelope.encode(), messages.envelope_of(messages.message_of(envelope)))
    return ["an envelope"]


def _check_messages(given: bytes) -> list[str]:
    count = 0
    for envelope in messages.envelopes_of(given):
        assert isinstance(envelope, str)
        count += 1
    assert count == len(messages.Messages.FromString(given).messages)
    return [f"{min(count, 3)} messages"]


def _check_publication(given: bytes) -> list[str]:
    try:
        request = messages.publication_of(given)
    except ValueError:
        return ["refused"]
    read = messages.Publication.FromString(given)
    told = msgspec.json.decode(request, type=dict[str, msgspec.Raw])
    assert told.keys() <= {"type", "room", "user", "key", "idempotency_key", "ephemeral", "data"}
    assert bytes(told.get("data", b"")).strip() == read.data.strip(b" \t\r\n")
    for name in ("type", "room", "user", "key", "idempotency_key"):
        found = msgspec.json.decode(told[name]) if name in told else ""
        assert found == getattr(read, name), f"data took the place of {name}"
    return ["taken"]


def _compare(before: bytes, after: str) -> None:
    """Compare two envelopes; what is empty is left out."""
    try:
        first, second = json.loads(before), json.loads(after)
    except (RecursionError, ValueError):
        return  # deeper, or with longer numbers, than Python reads; or a lone surrogate in data
    for name in ("type", "id", "room", "offset", "from", "data"):
        one, other = first.get(name), second.get(name)
        if name in ("room", "offset", "from"):
            one, other = one or None, other or None
        assert json.dumps(one) == json.dumps(other), f"{name} was {one!r}, and is {other!r}"
    assert ("data" in first) is ("data" in second)


def mutate(data: bytes, chance: random.Random) -> bytes | None:
    """Return an input that is well-formed and new, or None if this one is too far from it."""
    kind = data[0] % len(KINDS)
    try:
        if kind == ENVELOPE:
            return data[:1] + json.dumps(changed(json.loads(data[1:]), chance)).encode()
        if kind != MESSAGE:
            return None
        message: Any = messages.Message.FromString(data[1:])
        message.data = json.dumps(changed(json.loads(message.data or b"{}"), chance)).encode()
        return data[:1] + bytes(message.SerializeToString())
    except (ValueError, TypeError, RecursionError, messages.UNREADABLE_PROTOBUF):
        return None
