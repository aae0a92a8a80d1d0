"""FastAPI: its dependencies in a hub's hooks and handlers.

Importing this module is all it takes. A parameter with ``Depends(...)``, or with ``Header()``, ``Query()`` or
``Cookie()``, is filled by FastAPI with what the request has that opened the line:

>>> @hub.authenticate
... async def who(user: Annotated[User, Depends(current_user)]) -> str:
...     return user.name
"""

import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, cast, get_args, get_origin

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope
from starlette.websockets import WebSocket

from ..engine.callback import HOSTS, Filling, Function, place_of
from ..engine.connection import Connection
from ..errors import ConfigurationError, Denied

try:
    import fastapi
except ImportError:
    raise ConfigurationError("FastAPI is not installed: pip install 'hubbub[fastapi]'.") from None

UNKNOWN_VERSION = f"FastAPI {fastapi.__version__} is not one that hubbub knows"

try:
    from fastapi import params
    from fastapi.dependencies.models import Dependant
    from fastapi.dependencies.utils import SolvedDependency, get_dependant, solve_dependencies
    from fastapi.exceptions import FastAPIError
except ImportError as missing:
    raise ConfigurationError(f"{UNKNOWN_VERSION}: {missing}.") from missing

_CONNECTION = "hubbub.connection"


def current_connection(request: HTTPConnection) -> Connection:
    """Return the connection that a hook is called for: ``Depends(current_connection)``, in a dependency."""
    return cast(Connection, request.scope[_CONNECTION])


class _OfHook(Request, WebSocket):  # type: ignore[misc]  # of which neither receives any more
    """The request that opened a line, for dependencies written for requests and for those for WebSockets.

    It has been answered: there is nothing to receive, and nothing to send.
    """

    def __init__(self, scope: Scope) -> None:
        HTTPConnection.__init__(self, scope)


class FastAPIDependencies:
    """Fills what FastAPI has markers for."""

    def knows(self, parameter: inspect.Parameter) -> bool:
        """Tell whether a parameter has one of FastAPI's markers."""
        marks: tuple[object, ...] = (parameter.default,)
        if get_origin(parameter.annotation) is Annotated:
            marks += get_args(parameter.annotation)[1:]
        return any(isinstance(mark, params.Depends | params.Param) for mark in marks)

    def filling(self, function: Function, parameters: list[inspect.Parameter]) -> Filling:
        """Return what fills them."""

        def shell() -> None:
            """Stand for a function that has these parameters only."""

        named = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=parameter.annotation)
            for parameter in parameters
        ]
        shell.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
        try:
            dependant = get_dependant(path="", call=shell)
        except (FastAPIError, AssertionError) as problem:
            raise ConfigurationError(f"{place_of(function)}: {problem}") from problem
        if _reads_body(dependant):
            raise ConfigurationError(f"{place_of(function)}: a line has no body for FastAPI to read.")

        def filled(connection: object) -> AbstractAsyncContextManager[dict[str, object]]:
            return _filled(dependant, cast(Connection, connection))

        return filled


def _reads_body(dependant: Dependant) -> bool:
    return bool(dependant.body_params) or any(map(_reads_body, dependant.dependencies))


@asynccontextmanager
async def _filled(dependant: Dependant, connection: Connection) -> AsyncIterator[dict[str, object]]:
    """Have the values of the dependencies; those that yield go on after the function, as it ended."""
    raised: BaseException | None = None
    try:
        # FastAPI ends the dependencies of the function's scope before those of the request's.
        async with AsyncExitStack() as of_request, AsyncExitStack() as of_function:
            solved = await _solve(dependant, _scope(connection), of_request, of_function)
            if solved.errors:
                where = ".".join(map(str, solved.errors[0]["loc"]))
                raised = Denied(f"{where}: {solved.errors[0]['msg']}")
                raise raised
            try:
                yield solved.values
            except BaseException as problem:
                raised = problem
                raise
            if solved.background_tasks is not None:
                await solved.background_tasks()
        if raised is not None:
            # A dependency has swallowed it; without it a refused login would be a guest's.
            raise raised
    except HTTPException as problem:
        raise Denied(str(problem.detail)) from problem
    except WebSocketException as problem:
        raise Denied(problem.reason) from problem


async def _solve(
    dependant: Dependant, scope: Scope, of_request: AsyncExitStack, of_function: AsyncExitStack
) -> SolvedDependency:
    scope["fastapi_inner_astack"] = of_request
    scope["fastapi_function_astack"] = of_function
    return await solve_dependencies(
        request=_OfHook(scope),
        dependant=dependant,
        dependency_overrides_provider=scope.get("app"),
        async_exit_stack=of_request,
        embed_body_fields=False,
    )


def _scope(connection: Connection) -> Scope:
    """Return a scope as of a request, in which the token is where FastAPI's security classes look for it."""
    scope = {**connection.scope, "method": "GET", _CONNECTION: connection}
    token = connection.token
    if token is not None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        scope["headers"] = [*headers, (b"authorization", b"Bearer " + token.encode("utf-8"))]
    return scope


def _try_out() -> None:
    """Solve nothing. What this module uses of FastAPI is none of what that promises to leave as it is."""
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    solving = _solve(get_dependant(path="", call=lambda: None), scope, AsyncExitStack(), AsyncExitStack())
    try:
        solving.send(None)
    except StopIteration as ended:
        solved = ended.value
        if (solved.values, solved.errors, solved.background_tasks) != ({}, [], None):
            raise ConfigurationError(f"{UNKNOWN_VERSION}: it solves nothing as {solved!r}.") from None
    except Exception as problem:
        raise ConfigurationError(f"{UNKNOWN_VERSION}: {problem!r}.") from problem
    finally:
        solving.close()


_try_out()
HOSTS.append(FastAPIDependencies())
