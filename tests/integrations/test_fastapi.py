"""FastAPI's dependencies in hooks and handlers, over a real socket."""

import asyncio
import importlib
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated

import pytest
from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    WebSocket,
)
from fastapi.exceptions import WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer, OAuth2PasswordBearer
from starlette.exceptions import HTTPException as AnyHTTPException

from hubbub import ConfigurationError, Connection, Denied, Hubbub, Message, Room
from hubbub.integrations.fastapi import current_connection
from wire import talk

pytestmark = pytest.mark.anyio

of_token = OAuth2PasswordBearer(tokenUrl="token")
USERS = {"token-of-ada": "ada", "token-of-bob": "bob"}


def of_any(connection: HTTPConnection) -> FastAPI:
    return connection.app


FROM_CONNECTION = Depends(of_any)
OWN = Depends(current_connection)


class Say(Message):
    text: str


def current_user(token: Annotated[str, Depends(of_token)]) -> str:
    if token not in USERS:
        raise HTTPException(401, "This token is not valid.")
    return USERS[token]


def mounted(hub: Hubbub) -> FastAPI:
    app = FastAPI(lifespan=hub.lifespan)
    app.mount("/live", hub)
    return app


@pytest.fixture
def hub() -> Hubbub:
    """A hub whose login is FastAPI's."""
    hub = Hubbub()

    @hub.authenticate
    async def who(user: Annotated[str, Depends(current_user)]) -> str:
        return user

    return hub


class TestLogin:
    async def test_a_security_scheme_sees_the_token_of_the_header_and_of_the_query(self, hub, start):
        url = start(mounted(hub)).url + "/live/"
        async with talk(url, additional_headers={"Authorization": "Bearer token-of-ada"}) as client:
            assert client.welcome["user"] == "ada"
        async with talk(f"{url}?token=token-of-bob") as client:
            assert client.welcome["user"] == "bob"

    async def test_an_http_exception_is_a_refusal_with_its_detail(self, hub, start):
        url = start(mounted(hub)).url + "/live/"
        async with talk(f"{url}?token=made-up", welcome=False) as client:
            assert (await client.receive())["data"]["message"] == "This token is not valid."
            assert await client.closed() == (4401, "This token is not valid.")
        async with talk(url, welcome=False) as client:
            assert await client.closed() == (4401, "Not authenticated")

    @pytest.mark.parametrize(
        "problem",
        [WebSocketException(1008, "No such table."), AnyHTTPException(404, "No such table.")],
        ids=["WebSocket", "Starlette"],
    )
    async def test_other_exceptions_that_refuse_do_so_too(self, serve, problem):
        hub = Hubbub()

        def table() -> None:
            raise problem

        @hub.authenticate
        async def who(it: Annotated[None, Depends(table)]) -> None: ...

        async with talk(serve(mounted(hub)).url + "/live/", welcome=False) as client:
            assert await client.closed() == (4401, "No such table.")

    async def test_a_renewed_login_is_seen_too(self, hub, serve):
        hub = Hubbub()

        @hub.authenticate
        async def who(user: Annotated[str | None, Depends(perhaps)]) -> str | None:
            return user

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            assert "user" not in client.welcome
            answer = await client.ask(type="$auth", data={"token": "token-of-ada"})
            assert answer["data"]["user"] == "ada"

    async def test_overrides_of_the_application_are_used(self, hub, serve):
        app = mounted(hub)
        app.dependency_overrides[current_user] = lambda: "cleo"
        async with talk(serve(app).url + "/live/") as client:
            assert client.welcome["user"] == "cleo"


def perhaps(credentials: Annotated[object, Depends(HTTPBearer(auto_error=False))]) -> str | None:
    return USERS.get(getattr(credentials, "credentials", ""))


class TestWhatAFunctionIsGiven:
    async def test_the_hub_s_own_and_fastapi_s_in_any_order(self, serve):
        hub = Hubbub()
        chat = hub.room("chat/{name}")
        given: list[object] = []

        @chat.on_join
        async def admit(
            user_agent: Annotated[str, Header()],
            connection: Connection,
            colour: Annotated[str, Query()],
            name: str,
            session: Annotated[str, Cookie()] = "none",
        ) -> None:
            given.extend([user_agent, connection.id, colour, name, session])

        headers = {"User-Agent": "a test", "Cookie": "session=f3b09d61"}
        url = serve(mounted(hub)).url + "/live/?colour=red"
        async with talk(url, additional_headers=headers, user_agent_header=None) as client:
            await client.join("chat/lobby")
            assert given == ["a test", client.welcome["connection"], "red", "lobby", "f3b09d61"]

    async def test_what_is_missing_is_a_refusal_that_says_so(self, serve):
        hub = Hubbub()
        chat = hub.room("chat/{name}")

        @chat.on_join
        async def admit(key: Annotated[str, Header(alias="x-key")]) -> None: ...

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            refused = await client.ask(type="$join", room="chat/lobby")
            assert refused["data"]["code"] == "denied"
            assert refused["data"]["message"] == "header.x-key: Field required"

    async def test_requests_websockets_and_connections(self, serve):
        hub = Hubbub()
        given: list[object] = []

        def of_request(request: Request) -> str:
            return f"{request.method} {request.url.path}"

        def of_websocket(websocket: WebSocket) -> str:
            return websocket.query_params["colour"]

        @hub.on_connect
        async def connected(
            connection: Connection,
            request: str = Depends(of_request),
            websocket: str = Depends(of_websocket),
            app: FastAPI = FROM_CONNECTION,
            own: Connection = OWN,
        ) -> None:
            given.extend([request, websocket, app, own is connection])

        app = mounted(hub)
        async with talk(serve(app).url + "/live/?colour=red"):
            assert given == ["GET /live/", "red", app, True]

    async def test_handlers_of_messages(self, serve):
        hub = Hubbub()
        chat = hub.room("chat/{name}")

        @hub.authenticate
        async def who(connection: Connection) -> str | None:
            return USERS.get(connection.token or "")

        @chat.on_message
        async def say(room: Room, message: Say, user: Annotated[str, Depends(current_user)]) -> str:
            await room.send(message)
            return user

        url = serve(mounted(hub)).url + "/live/"
        async with talk(f"{url}?token=token-of-ada") as ada, talk(url) as guest:
            for client in (ada, guest):
                await client.join("chat/lobby")
            assert (await ada.ask(type="say", room="chat/lobby", data={"text": "hi"}))["data"] == "ada"
            refused = await guest.ask(type="say", room="chat/lobby", data={"text": "hi"})
            assert refused["data"]["message"] == "Not authenticated"


class TestDependenciesThatYield:
    @pytest.mark.parametrize("plain_hook", [False, True])
    @pytest.mark.parametrize("scope", ["function", "request"])
    async def test_they_are_closed_after_the_function(self, serve, scope, plain_hook):
        hub = Hubbub()
        chat = hub.room("chat/{name}")
        told: list[str] = []

        async def connection() -> AsyncIterator[str]:
            told.append("connect")
            yield "database"
            told.append("disconnect")

        def session(database: Annotated[str, Depends(connection, scope=scope)]) -> Iterator[str]:
            told.append("begin")
            yield f"session of the {database}"
            told.append("commit")

        def join(database: str) -> None:
            told.append(database)

        if plain_hook:

            @chat.on_join
            def admit(database: Annotated[str, Depends(session, scope=scope)]) -> None:
                join(database)
        else:

            @chat.on_join
            async def admit(database: Annotated[str, Depends(session, scope=scope)]) -> None:
                join(database)

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            await client.join("chat/lobby")
        assert told == ["connect", "begin", "session of the database", "commit", "disconnect"]

    async def test_they_see_what_the_function_raised(self, serve, caplog):
        hub = Hubbub()
        chat = hub.room("chat/{name}")
        told: list[str] = []

        async def session() -> AsyncIterator[str]:
            try:
                yield "session"
            except BaseException as problem:
                told.append(f"roll back: {problem!r}")
                raise

        @chat.on_join
        async def admit(name: str, database: Annotated[str, Depends(session)]) -> None:
            if name == "full":
                raise HTTPException(409, "The room is full.")
            raise LookupError(name)

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            full = await client.ask(type="$join", room="chat/full")
            other = await client.ask(type="$join", room="chat/other")
        assert full["data"]["message"] == "The room is full."
        assert other["data"]["code"] == "internal"
        assert [line.partition("(")[0] for line in told] == [
            "roll back: HTTPException",
            "roll back: LookupError",
        ]
        assert [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR] == [
            LookupError
        ]

    @pytest.mark.parametrize("plain_hook", [False, True])
    @pytest.mark.parametrize("scope", ["function", "request"])
    async def test_one_that_swallows_a_refusal_lets_nobody_in(self, serve, scope, plain_hook):
        hub = Hubbub()

        async def session() -> AsyncIterator[None]:
            with suppress(Exception):
                yield

        if plain_hook:

            @hub.authenticate
            def who(database: Annotated[None, Depends(session, scope=scope)]) -> str:
                raise Denied("Not you.")
        else:

            @hub.authenticate
            async def who(database: Annotated[None, Depends(session, scope=scope)]) -> str:
                raise Denied("Not you.")

        async with talk(serve(mounted(hub)).url + "/live/", welcome=False) as client:
            assert await client.closed() == (4401, "Not you.")

    async def test_a_login_whose_client_leaves_closes_them(self, serve):
        hub = Hubbub()
        began, closed = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def session() -> AsyncIterator[None]:
            try:
                yield
            finally:
                loop.call_soon_threadsafe(closed.set)

        @hub.authenticate
        async def who(database: Annotated[None, Depends(session)]) -> None:
            loop.call_soon_threadsafe(began.set)
            await asyncio.Event().wait()

        async with asyncio.timeout(10):
            async with talk(serve(mounted(hub)).url + "/live/", welcome=False):
                await began.wait()
            await closed.wait()

    async def test_each_is_solved_once_for_a_call_and_anew_for_the_next(self, serve):
        hub = Hubbub()
        chat = hub.room("chat/{name}")
        made: list[object] = []

        def settings() -> object:
            made.append(object())
            return made[-1]

        def upper(it: Annotated[object, Depends(settings)]) -> object:
            return it

        @chat.on_join
        async def admit(
            one: Annotated[object, Depends(settings)], other: Annotated[object, Depends(upper)]
        ) -> None:
            assert one is other

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            await client.join("chat/one")
            await client.join("chat/two")
        assert len(made) == 2

    async def test_background_tasks_run(self, serve):
        hub = Hubbub()
        chat = hub.room("chat/{name}")
        told: list[str] = []

        def later(tasks: BackgroundTasks) -> None:
            tasks.add_task(told.append, "later")

        @chat.on_join
        async def admit(it: Annotated[None, Depends(later)]) -> None:
            told.append("joined")

        async with talk(serve(mounted(hub)).url + "/live/") as client:
            await client.join("chat/lobby")
        assert told == ["joined", "later"]


class TestAnotherFastAPI:
    """What is used of it is none of what it promises to leave as it is."""

    @pytest.fixture(autouse=True)
    def _afresh(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "hubbub.integrations.fastapi")

    def test_that_has_moved_something_is_refused_as_the_module_is_imported(self, monkeypatch):
        monkeypatch.delattr("fastapi.dependencies.utils.solve_dependencies")
        with pytest.raises(ConfigurationError, match=r"not one that hubbub knows.*solve_dependencies"):
            importlib.import_module("hubbub.integrations.fastapi")

    def test_that_wants_something_else_is_refused_as_the_module_is_imported(self, monkeypatch):
        async def solve_dependencies(*, connection: object) -> None: ...

        monkeypatch.setattr("fastapi.dependencies.utils.solve_dependencies", solve_dependencies)
        with pytest.raises(ConfigurationError, match=r"not one that hubbub knows.*TypeError"):
            importlib.import_module("hubbub.integrations.fastapi")


def test_a_body_is_refused_when_it_is_declared():
    hub = Hubbub()

    def wants_body(body: dict[str, str]) -> None: ...

    with pytest.raises(ConfigurationError, match="no body"):

        @hub.authenticate
        async def who(it: Annotated[None, Depends(wants_body)]) -> None: ...


def test_what_neither_knows_is_refused_when_it_is_declared():
    with pytest.raises(ConfigurationError, match="'number' can't be filled"):

        @Hubbub().authenticate
        async def who(number: int, user: Annotated[str, Depends(current_user)]) -> None: ...
