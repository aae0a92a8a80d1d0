"""Typed messages: which class a wire type is, how it is decoded, checked and described."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from ..errors import ConfigurationError, InvalidMessage
from .codecs import UNREADABLE, Codec, invalid

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_PROBLEMS = 20
"""How many of a message's problems its sender is told at the most."""

MANY_PROBLEMS = 1000
"""Past it none is told: pydantic describes all or nothing, and a message can have half a million."""

Class = TypeVar("Class", bound=type)

_WIRE_TYPE = "__hubbub_wire_type__"
_WIRE_TYPES: dict[type, str] = {}


class Message(msgspec.Struct):
    """Base of an application's messages. Subclasses declare fields; msgspec checks them as it decodes.

    >>> class Say(Message):
    ...     text: str
    """


class Model(Protocol):
    """A pydantic model, as far as hubbub needs to know it."""

    def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, object]: ...  # noqa: D102


Sendable = msgspec.Struct | Model
"""What can be sent as a message: a :class:`Message` (any msgspec struct) or a pydantic model."""


def wire_type(name: str) -> Callable[[Class], Class]:
    """Give a message class another wire type than its name in snake case.

    >>> @wire_type("chat.said")
    ... class Say(Message): ...
    """

    def name_it(message_class: Class) -> Class:
        if not name or name.startswith("$"):
            raise ConfigurationError(
                f"{message_class.__qualname__} can't have the wire type {name!r}: names that are empty or "
                "start with $ are the protocol's own. Choose another."
            )
        setattr(message_class, _WIRE_TYPE, name)
        return message_class

    return name_it


def wire_type_of(message_class: type) -> str:
    """Return the wire type of a message class: the one given, else its name in snake case.

    Raises :exc:`TypeError` for a class whose instances can't be sent.
    """
    known = _WIRE_TYPES.get(message_class)
    if known is None:
        if not is_message_class(message_class):
            raise TypeError(
                f"{message_class.__name__} is no message: send an instance of a hubbub.Message subclass "
                "or of a pydantic model."
            )
        # Only what the class itself says counts: a subclass is another message.
        given = message_class.__dict__.get(_WIRE_TYPE)
        known = _WIRE_TYPES[message_class] = given or _snake_case(message_class.__name__)
    return known


def is_message_class(candidate: object) -> bool:
    """Tell whether `candidate` is a class of messages: a msgspec struct or a pydantic model."""
    return isinstance(candidate, type) and (
        issubclass(candidate, msgspec.Struct) or hasattr(candidate, "model_validate_json")
    )


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Schema(Protocol):
    """How messages of one type are read and described."""

    name: str
    """Wire type."""

    def decode(self, data: msgspec.Raw, codec: Codec) -> object:
        """Return the checked message; :exc:`InvalidMessage` says what is wrong where."""

    def describe(self) -> dict[str, object]:
        """Return the JSON Schema of the message's data."""


class StructSchema:
    """Messages that are msgspec structs."""

    def __init__(self, message_class: type[msgspec.Struct]) -> None:
        self.name = wire_type_of(message_class)
        self._class = message_class
        self._decoders: dict[str, Callable[[msgspec.Raw], object]] = {}

    def decode(self, data: msgspec.Raw, codec: Codec) -> object:  # noqa: D102
        decode = self._decoders.get(codec.subprotocol)
        if decode is None:
            decode = self._decoders[codec.subprotocol] = codec.decoder(self._class)
        try:
            return decode(data or codec.empty)
        except UNREADABLE as problem:
            raise invalid(self.name, problem) from None

    def describe(self) -> dict[str, object]:  # noqa: D102
        return msgspec.json.schema(self._class)


class ModelSchema:
    """Messages that are pydantic models."""

    def __init__(self, model_class: type) -> None:
        self.name = wire_type_of(model_class)
        self._class = model_class

    def decode(self, data: msgspec.Raw, codec: Codec) -> object:  # noqa: D102
        from pydantic import ValidationError

        try:
            value = codec.decoder(object)(data or codec.empty)
            return self._class.model_validate(value)  # type: ignore[attr-defined]
        except ValidationError as problem:
            problems = _problems(problem)
            raise InvalidMessage(f"Not a valid {self.name!r}: {problems[0][1]}", problems) from None
        except UNREADABLE as problem:
            raise invalid(self.name, problem) from None

    def describe(self) -> dict[str, object]:  # noqa: D102
        description: dict[str, object] = self._class.model_json_schema()  # type: ignore[attr-defined]
        return description


def _problems(problem: "ValidationError") -> list[tuple[str, str]]:
    count = problem.error_count()
    if count > MANY_PROBLEMS:
        return [("$", f"{count} problems, too many to tell")]
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return [(_path(error["loc"]), error["msg"]) for error in errors[:MOST_PROBLEMS]]


def _path(location: tuple[int | str, ...]) -> str:
    return "$" + "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in location)


def schema_of(message_class: type) -> Schema:
    """Return how to read messages of a class; :exc:`TypeError` if its instances are no messages."""
    if issubclass(message_class, msgspec.Struct):
        return StructSchema(message_class)
    return ModelSchema(message_class)
