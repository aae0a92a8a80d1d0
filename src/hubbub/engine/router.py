"""Routers: which handler a message goes to."""

from collections.abc import Sequence

from ..errors import CollisionError, InvalidMessage
from ..protocol.codes import ErrorCode
from ..protocol.messages import schema_of
from .callback import Callback, Function


class Handler:
    """A callback for messages of one type."""

    __slots__ = ("callback", "decode", "schema")

    def __init__(self, callback: Callback) -> None:
        assert callback.message_class is not None
        self.callback = callback
        self.schema = schema_of(callback.message_class)
        self.decode = self.schema.decode
        """Returns the checked message; :exc:`InvalidMessage` says what is wrong where."""


class Router:
    """Handlers by message type, for the hub or for the rooms of one pattern; `name` is for errors."""

    def __init__(self, name: str, types: dict[type, int], names: Sequence[str] = ()) -> None:
        self.name = name
        self._types = types
        self._names = names
        self.handlers: dict[str, Handler] = {}

    def add(self, function: Function) -> None:
        """Route messages of the class that a parameter is annotated with to `function`.

        Raises :exc:`CollisionError` if another function takes that type already.
        """
        handler = Handler(Callback(function, self._types, self._names, takes_message=True))
        kind = handler.schema.name
        present = self.handlers.get(kind)
        if present is not None:
            raise CollisionError(
                f"Two handlers of {self.name} take messages of type {kind!r}: {present.callback.place} and "
                f"{handler.callback.place}. Remove one, or give a message another name with @wire_type(...)."
            )
        self.handlers[kind] = handler

    def find(self, kind: str) -> Handler:
        """Return the handler; :exc:`InvalidMessage` with the types there are if there is none."""
        handler = self.handlers.get(kind)
        if handler is None:
            known = ", ".join(sorted(self.handlers)) or "none"
            raise InvalidMessage(
                f"Nothing in {self.name} handles messages of type {kind!r}; it handles: {known}.",
                code=ErrorCode.UNKNOWN_TYPE,
            )
        return handler
