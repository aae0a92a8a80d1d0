"""Functions of the application: what each wants to be given, found from its signature once."""

import asyncio
import inspect
import typing
from collections.abc import Callable, Sequence
from operator import itemgetter

import anyio.to_thread
import msgspec

from ..errors import ConfigurationError
from ..protocol.messages import is_message_class

Function = Callable[..., object]

CONNECTION, ROOM, MESSAGE = range(3)
"""Places of what is offered to a callback; the values of the pattern's names follow."""


def place_of(function: Function) -> str:
    """Return where a function was written, for an error's text."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name}() at {code.co_filename}:{code.co_firstlineno}" if code else name


class Callback:
    """A handler or hook, which is called with those of the things on offer that it has parameters for.

    `types` are the classes that an annotation asks for, each with its place; `names` the named parts of
    the pattern. A parameter without annotation is the connection, as in programs for the `websockets`
    library. With `any_connection` the first parameter is, whatever its annotation.
    """

    def __init__(
        self,
        function: Function,
        types: dict[type, int],
        names: Sequence[str] = (),
        *,
        takes_message: bool = False,
        any_connection: bool = False,
    ) -> None:
        self.function = function
        self.place = place_of(function)
        self.message_class: type | None = None
        self.reply: object = None
        """The annotation of what it returns, for descriptions."""
        # A decorator may have made an asynchronous function of a plain one, or the other way round.
        self._in_thread = not any(map(inspect.iscoroutinefunction, (function, inspect.unwrap(function))))
        self._conversions: list[tuple[int, object]] = []
        places: list[int] = []
        hints = self._hints()
        self.reply = hints.pop("return", None)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigurationError(
                    f"{self.place}: a handler takes plain parameters only, not {str(parameter)!r}."
                )
            hint = hints.get(parameter.name)
            place = types.get(hint) if isinstance(hint, type) else None
            if place is None and parameter.name in names:
                place = 3 + list(names).index(parameter.name)
                if hint not in (None, str):
                    self._conversions.append((len(places), hint))
            elif place is None and takes_message and self.message_class is None and is_message_class(hint):
                place, self.message_class = MESSAGE, typing.cast(type, hint)
            elif place is None and (hint is None or (any_connection and not places)):
                place = CONNECTION if CONNECTION not in places else None
            if place is None:
                on_offer = [kind.__name__ for kind in types] + [f"the part {name!r}" for name in names]
                on_offer += ["a Message class"] if takes_message else []
                raise ConfigurationError(
                    f"{self.place}: the parameter {parameter.name!r} can't be filled. Annotate it with, or "
                    f"name it for, one of: {', '.join(on_offer)}."
                )
            places.append(place)
        if takes_message and self.message_class is None:
            raise ConfigurationError(
                f"{self.place}: a message handler needs a parameter annotated with the class of the message."
            )
        self._pick: Callable[[tuple[object, ...]], tuple[object, ...]]
        if len(places) > 1:
            self._pick = itemgetter(*places)
        else:
            self._pick = lambda offered: tuple(offered[place] for place in places)

    def _hints(self) -> dict[str, object]:
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except NameError as problem:
            raise ConfigurationError(
                f"{self.place}: an annotation can't be resolved: {problem}. Import what it names, outside of "
                "`if TYPE_CHECKING`."
            ) from None
        except TypeError:
            raise ConfigurationError(
                f"{self.place} is neither a function nor a method; write a `def` around it."
            ) from None

    async def __call__(self, *offered: object) -> object:
        """Call the function with what it wants of (connection, room, message, values...)."""
        arguments = self._pick(offered)
        if self._conversions:
            arguments = self._converted(arguments)
        try:
            if self._in_thread:
                return await anyio.to_thread.run_sync(self.function, *arguments)
            return await self.function(*arguments)  # type: ignore[misc]
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this task: the function awaited one that was. That is an error like others.
            raise RuntimeError(f"{self.place} awaited what was cancelled.") from cancelled

    def fits(self, values: tuple[str, ...]) -> bool:
        """Tell whether the values of the pattern's names are of the types that the function asks for."""
        try:
            self._converted(self._pick((None, None, None, *values)))
        except msgspec.ValidationError:
            return False
        return True

    def _converted(self, arguments: tuple[object, ...]) -> tuple[object, ...]:
        converted = list(arguments)
        for place, kind in self._conversions:
            converted[place] = msgspec.convert(arguments[place], kind, strict=False)
        return tuple(converted)
