"""Functions of the application: what each wants to be given, found from its signature once."""

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from operator import itemgetter

import anyio.to_thread
import msgspec

from ..errors import ConfigurationError, ConnectionClosed, Denied
from ..observe.log import fields, logger
from ..protocol.messages import is_message_class

Function = Callable[..., object]

CONNECTION, ROOM, MESSAGE = range(3)
"""Places of what is offered to a callback; the values of the pattern's names follow."""


around_threads: list[Callable[[], AbstractContextManager[object]]] = []
"""Around each plain function, in its thread: a host framework gives back there what is a thread's."""

NOT_CALLED = "not called"
"""Argument of the cancellation of a callback whose function had to wait for a thread, and has not run."""


def place_of(function: Function) -> str:
    """Return where a function was written, for an error's text."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name}() at {code.co_filename}:{code.co_firstlineno}" if code else name


def ends_task(problem: BaseException) -> bool:
    """Tell whether what was raised is to end the task: its cancellation, or Ctrl-C; all else is an error."""
    if isinstance(problem, KeyboardInterrupt):
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        # No loop runs any more: Python takes the coroutine apart.
        return True
    return isinstance(problem, asyncio.CancelledError) and task is not None and task.cancelling() > 0


Filling = Callable[[object], AbstractAsyncContextManager[dict[str, object]]]
"""Given a connection, has arguments by their names while a function is called with them; it may refuse."""


class Host(typing.Protocol):
    """A framework around the hub that fills parameters which the hub does not know."""

    def knows(self, parameter: inspect.Parameter) -> bool:
        """Tell whether it fills a parameter; annotations are resolved."""

    def filling(self, function: Function, parameters: list[inspect.Parameter]) -> Filling:
        """Return what fills them; :exc:`ConfigurationError` if it can't be."""


HOSTS: list[Host] = []
"""Those that are there: a host's module adds its own as it is imported, before functions are declared."""


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
        self._known: list[str] = []
        parameters, self._filling = self._sorted(hints)
        for parameter in parameters:
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
            self._known.append(parameter.name)
        if takes_message and self.message_class is None:
            raise ConfigurationError(
                f"{self.place}: a message handler needs a parameter annotated with the class of the message."
            )
        self._pick: Callable[[tuple[object, ...]], tuple[object, ...]]
        if len(places) > 1:
            self._pick = itemgetter(*places)
        elif places:
            [only] = places
            self._pick = lambda offered: (offered[only],)
        else:
            self._pick = lambda offered: ()  # noqa: ARG005
        self.begin: Callable[..., Awaitable[object]] = self._begin
        """Returns what the function does when it is called; await it at once.

        Whoever does has to tell, with :func:`ends_task`, a failure of the function's from an end of the task.
        """
        if self._filling is not None:
            self.begin = self._begin_filled
        elif not (self._in_thread or self._conversions):
            direct = _DIRECT.get(tuple(places), _picking)(function, self._pick)
            self.begin = typing.cast("Callable[..., Awaitable[object]]", direct)

    def _sorted(self, hints: dict[str, object]) -> tuple[list[inspect.Parameter], Filling | None]:
        """Return the parameters that are the hub's to fill, and what a host fills the others with."""
        parameters = list(inspect.signature(self.function).parameters.values())
        for host in HOSTS:
            resolved = [
                parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
                for parameter in parameters
            ]
            theirs = [parameter for parameter in resolved if host.knows(parameter)]
            if theirs:
                names = {parameter.name for parameter in theirs}
                filling = host.filling(self.function, theirs)
                return [parameter for parameter in parameters if parameter.name not in names], filling
        return parameters, None

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

    def _begin(self, *offered: object) -> Awaitable[object]:
        arguments = self._converted(self._pick(offered))
        if self._in_thread:
            return self._wait_for_thread(arguments)
        return self.function(*arguments)  # type: ignore[return-value]

    async def _begin_filled(self, *offered: object) -> object:
        assert self._filling is not None
        called = False
        try:
            arguments = dict(zip(self._known, self._converted(self._pick(offered)), strict=True))
            async with self._filling(offered[CONNECTION]) as filled:
                called = True
                if self._in_thread:
                    return await self._wait_for_thread((), {**arguments, **filled})
                return await self.function(**arguments, **filled)  # type: ignore[misc]
        except asyncio.CancelledError as cancelled:
            if not called:
                cancelled.args = (NOT_CALLED,)
            raise

    async def __call__(self, *offered: object) -> object:
        """Call the function with what it wants of (connection, room, message, values...)."""
        try:
            return await self.begin(*offered)
        except Exception:
            raise
        except BaseException as problem:
            if ends_task(problem):
                raise
            raise self._failed(problem) from problem

    async def _wait_for_thread(
        self, arguments: tuple[object, ...], by_name: dict[str, object] | None = None
    ) -> object:
        """Run the function in a thread, which has a task of its own, since a thread can't be cancelled.

        Who waits for it can be, and goes on at once; the thread counts among those there may be until it
        ends. Cancelled itself, the task would not count it any more.
        """
        begun = False

        def run() -> object:
            nonlocal begun
            begun = True
            return self._run(*arguments, **(by_name or {}))

        running = asyncio.create_task(anyio.to_thread.run_sync(run), name="hubbub: thread")
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError as cancelled:
            if begun:
                running.add_done_callback(self._tell)
            else:
                running.cancel()
                cancelled.args = (NOT_CALLED,)
            raise

    def _tell(self, abandoned: asyncio.Task[object]) -> None:
        problem = None if abandoned.cancelled() else abandoned.exception()
        # Whoever is gone may well be refused.
        if problem is not None and not isinstance(problem, Denied | ConnectionClosed):
            logger.error("error", exc_info=problem, extra=fields(during=self.place))

    def _run(self, *arguments: object, **by_name: object) -> object:
        try:
            with ExitStack() as around:
                for enter in around_threads:
                    around.enter_context(enter())
                return self.function(*arguments, **by_name)
        except Exception:
            raise
        except BaseException as problem:
            # Here, since a GeneratorExit that comes out of a future would take the connection's task apart.
            raise self._failed(problem) from problem

    def _failed(self, problem: BaseException) -> Exception:
        # One function's SystemExit is not the server's, nor is a cancellation that it only came upon.
        cancelled = isinstance(problem, asyncio.CancelledError)
        what = "awaited what was cancelled" if cancelled else f"raised {type(problem).__name__}"
        return RuntimeError(f"{self.place} {what}.")

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


# Calling with what a function wants, and nothing between: it happens for each message.

Pick = Callable[[tuple[object, ...]], tuple[object, ...]]


def _picking(function: Function, pick: Pick) -> Function:
    return lambda *offered: function(*pick(offered))


def _of_connection_and_message(function: Function, _: Pick) -> Function:
    return lambda connection, _room, message, *_values: function(connection, message)


def _of_connection_room_and_message(function: Function, _: Pick) -> Function:
    return lambda connection, room, message, *_values: function(connection, room, message)


_DIRECT = {
    (CONNECTION, MESSAGE): _of_connection_and_message,
    (CONNECTION, ROOM, MESSAGE): _of_connection_room_and_message,
}
"""By the places of what a function wants: those that are most common."""
