"""How a message is packed for a broker, whoever publishes it: a handler, a route, a program of its own."""

import msgspec

from ..errors import InvalidMessage
from .codecs import JSON, pack
from .envelope import Envelope, Publication

MARGIN = 64
"""Levels of nesting that are left for whatever a message is put into later."""

MAX_KEY = 128
"""Characters that a key may have: one to conflate by, or one that a repeated publish is known by."""

DEFAULT_AGE = 24 * 3600.0
"""Seconds for which a room's history is kept if nothing else is said."""


def inbox_of(user: str) -> str:
    """Return the name of the room in which messages to a user arrive."""
    return f"$user/{user}"


def packed(
    kind: str,
    message: object,
    *,
    sender: str | None = None,
    exclude: str | None = None,
    conflation_key: str | None = None,
) -> bytes:
    """Return a message of type `kind` as a broker carries it (:class:`.envelope.Publication`).

    Raises :exc:`InvalidMessage` for what MessagePack or JSON can't say: it would be missing for those who
    speak the one that can't.
    """
    try:
        data = msgspec.Raw(pack(message))
        value = JSON.data(data)
        if len(data) > 500:
            # So much could be nested nearly as deep as can be encoded.
            for _ in range(MARGIN):
                value = [value]
        JSON.encode(Envelope(kind, data=value))
    except (TypeError, ValueError, OverflowError, RecursionError) as problem:
        raise InvalidMessage(f"A {kind!r} can't be sent: {problem}.", [("$", str(problem))]) from None
    return pack(Publication(kind, data, sender, exclude, conflation_key))


def check_key(key: str, name: str = "key") -> None:
    """Raise :exc:`ValueError` for a key that is not 1 to 128 characters long; `name` is what it is called."""
    if not 1 <= len(key) <= MAX_KEY:
        raise ValueError(f"A {name} has 1 to {MAX_KEY} characters, not {len(key)}.")


def outside_key(key: str) -> str:
    """Return what a broker remembers an outside publisher's idempotency key by.

    It is apart from the keys that handlers' publishes have, which begin with a session's id.
    """
    check_key(key, "idempotency_key")
    return f"outside/{key}"
