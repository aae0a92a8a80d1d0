"""The wire from the client's side: what is decoded from the server, and how messages become objects."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import msgspec

from ..errors import ConfigurationError, InvalidMessage, RequestFailed
from ..protocol.codecs import UNREADABLE, Codec, invalid
from ..protocol.envelope import ABSENT, Envelope, Failure, Welcome
from ..protocol.messages import Schema, is_message_class, schema_of, wire_type_of

Kind = TypeVar("Kind")

logger = logging.getLogger("hubbub.client")


class Arrived(msgspec.Struct, frozen=True, gc=False, rename={"sender": "from"}):
    """A message from the server; `data` stays encoded until it is known what it should be."""

    type: str
    data: msgspec.Raw = ABSENT
    room: str | None = None
    id: int | str | None = None
    offset: int | None = None
    sender: str | None = None


class Greeting(Welcome, frozen=True, kw_only=True):
    """Data of ``$welcome``, also of a server that is too old to say how sessions are taken up."""

    lifetime: float = 0.0
    window: float = 0.0


class Tongue:
    """How a client speaks: a codec, and the classes of the messages that it knows."""

    def __init__(self, codec: Codec, schemas: dict[str, Schema]) -> None:
        self.codec = codec
        self._schemas = schemas
        self._read = cast("Callable[[str | bytes], Arrived]", codec.decoder(Arrived))
        self._plain = codec.decoder(object)
        self._greeting = codec.decoder(Greeting)

    def read(self, message: str | bytes) -> Arrived:
        """Return a message from the server; :exc:`InvalidMessage` if it is no envelope."""
        try:
            return self._read(message)
        except UNREADABLE as problem:
            raise invalid("envelope", problem) from None

    def write(self, envelope: Envelope) -> str | bytes:
        """Return the WebSocket message of an envelope; :exc:`TypeError` if its data can't be sent."""
        payload = self.codec.encode(envelope)
        return payload if self.codec.binary else payload.decode()

    def data(self, arrived: Arrived, kind: type[Kind]) -> Kind:
        """Return a message's data as `kind`; :exc:`InvalidMessage` says what is wrong where."""
        try:
            if _is_model(kind):
                return cast(Kind, schema_of(kind).decode(arrived.data, self.codec))
            return self.codec.decoder(kind)(arrived.data or self.codec.empty)
        except UNREADABLE as problem:
            raise invalid(arrived.type, problem) from None

    def message(self, arrived: Arrived) -> object:
        """Return a message as an instance of its class, or as plain data where none fits."""
        schema = self._schemas.get(arrived.type)
        if schema is not None:
            try:
                return schema.decode(arrived.data, self.codec)
            except InvalidMessage as problem:
                logger.warning("taken as plain data: %s", problem)
            except Exception:
                # The class is the application's, and so is what is wrong; the line goes on.
                logger.exception("taken as plain data: %s", arrived.type)
        return self.plain(arrived)

    def plain(self, arrived: Arrived) -> object:
        """Return a message's data as JSON or MessagePack has it."""
        try:
            return self._plain(arrived.data or self.codec.empty)
        except UNREADABLE as problem:
            raise invalid(arrived.type, problem) from None

    def reply(self, arrived: Arrived, kind: type[Kind] | None) -> Kind | object:
        """Return the data of an ``$ack``: as `kind`, or plain; None where there is none."""
        if kind is not None:
            return self.data(arrived, kind)
        return self.plain(arrived) if arrived.data else None

    def failure(self, arrived: Arrived) -> RequestFailed:
        """Return what an ``$error`` says."""
        return failed(self.data(arrived, Failure))


def size_of(payload: str | bytes) -> int:
    """Return how many bytes a WebSocket message has."""
    return len(payload) if isinstance(payload, bytes) or payload.isascii() else len(payload.encode())


def failed(failure: Failure) -> RequestFailed:
    """Return a failure as the exception that it is raised as."""
    problems = [(problem.path, problem.message) for problem in failure.errors]
    return RequestFailed(failure.code, failure.message, retry=failure.retry, problems=problems)


def _is_model(kind: object) -> bool:
    return is_message_class(kind) and not issubclass(cast(type, kind), msgspec.Struct)


def schemas_of(messages: Sequence[type]) -> dict[str, Schema]:
    """Return how the messages of some classes are read, by their wire type."""
    schemas: dict[str, Schema] = {}
    for message_class in messages:
        name = wire_type_of(message_class)
        if name in schemas:
            raise ConfigurationError(f"Two of the client's message classes have the wire type {name!r}.")
        schemas[name] = schema_of(message_class)
    return schemas
