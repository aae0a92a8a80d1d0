"""Sending an application's messages: how an object becomes a request, and an answer an object."""

from typing import TypeVar, overload

from ..protocol.envelope import Envelope
from ..protocol.messages import Sendable, wire_type_of
from .outbox import Request
from .session import Session

Reply = TypeVar("Reply")


@overload
async def ask(session: Session, message: Sendable, reply: None, room: str | None) -> object: ...
@overload
async def ask(session: Session, message: Sendable, reply: type[Reply], room: str | None) -> Reply: ...
@overload
async def ask(
    session: Session, message: Sendable, reply: type[Reply] | None, room: str | None
) -> Reply | object: ...
async def ask(
    session: Session, message: Sendable, reply: type[Reply] | None, room: str | None
) -> Reply | object:
    """Send a message until it is acknowledged; return what its handler replied."""
    tongue = session.spoken()
    request = session.request(enveloped(message, room), lambda answer: tongue.reply(answer, reply))
    return await session.ask(request)


async def tell(session: Session, message: Sendable, room: str | None) -> None:
    """Send a message once at the most; return when it was sent, or dropped since there is no line."""
    if session.carried:
        await session.ask(session.request(enveloped(message, room), None, kept=False))


async def send_plain(session: Session, message: str | bytes, *, kept: bool) -> None:
    """Send text or bytes to a server that is no hubbub; what is `kept` waits for a line if need be."""
    if session.ended is not None:
        raise session.ended.with_traceback(None)
    if session.tongue is not None:
        raise TypeError("The server speaks hubbub's protocol: send a hubbub.Message.")
    if kept or session.carried:
        await session.ask(Request(session.outbox.number(), message, None, kept=kept))


def enveloped(message: Sendable, room: str | None) -> Envelope:
    """Return a message as it goes over the wire; an envelope names its type, and maybe its room, itself."""
    if isinstance(message, Envelope):
        return Envelope(message.type, room=room if message.room is None else message.room, data=message.data)
    return Envelope(wire_type_of(type(message)), room=room, data=message)
