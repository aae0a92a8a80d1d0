"""Socket.IO as python-socketio's client speaks it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio
import socketio.exceptions

from hubbub.testing.serving import serving
from socketio_chat import chat_hub

pytestmark = [
    pytest.mark.anyio,
    # python-engineio does not always give aiohttp's connection back.
    pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning"),
]

LOBBY = "chat/lobby"
ARRIVES_WITHIN = 10.0
TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]]


class Client:
    """A client, and the events that it got."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(handle_sigint=False, reconnection_delay=0.1)
        self.events: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.client.on("*", self._event)

    async def _event(self, *event: Any) -> None:
        self.events.put_nowait(event)

    async def ask(self, event: str, *arguments: Any, namespace: str | None = None) -> Any:
        return await self.client.call(event, arguments, namespace=namespace, timeout=ARRIVES_WITHIN)

    async def event(self, name: str) -> tuple[Any, ...]:
        """Return the arguments of the next event of a name."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            while (event := await self.events.get())[0] != name:
                pass
        return event[1:]


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Client]:
    found = Client()
    await found.client.connect(url, wait_timeout=ARRIVES_WITHIN, **options)
    try:
        yield found
    finally:
        await found.client.disconnect()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have what the client leaves behind be found in the test that is to blame."""
    yield
    gc.collect()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    hub = chat_hub()
    hub.socketio(namespaces={"/admin": chat_hub()})
    async with serving(hub) as at:
        yield at.http


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_events_and_acknowledgements_are_messages_and_replies(url, transports):
    async with (
        connected(url, transports=transports, auth={"token": "ada"}) as ada,
        connected(url, transports=transports, auth={"token": "bob"}) as bob,
    ):
        for client in (ada, bob):
            assert "epoch" in await client.ask("$join", {"room": LOBBY})
        assert await ada.ask("say", {"text": "hi"}, {"room": LOBBY}) == {"said": "hi"}
        assert (await bob.event("say"))[:2] == ({"text": "hi"}, {"room": LOBBY, "offset": 1, "from": "ada"})
        assert await bob.ask("chat message", "hello", {"room": LOBBY}) == ("hello", 2)
        assert (await ada.event("chat message"))[0] == "hello"


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_binary_data_arrives_as_such_both_ways(url, transports):
    async with connected(url, transports=transports, auth={"token": "ada"}) as ada:
        await ada.ask("$join", {"room": LOBBY})
        picture = {"name": "sky", "pixels": bytes(range(256))}
        assert await ada.ask("picture", picture, {"room": LOBBY}) == picture
        assert (await ada.event("picture"))[0] == picture


async def test_a_client_is_in_several_namespaces_over_one_line(url):
    async with connected(url, namespaces=["/", "/admin"], auth={"token": "ada"}) as ada:
        assert (await ada.ask("whoami"))["user"] == "ada"
        assert (await ada.ask("whoami", namespace="/admin"))["user"] == "ada"
        sids = {ada.client.get_sid("/"), ada.client.get_sid("/admin")}
        assert len(sids) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"auth": {"token": "nobody"}},
            {
                "message": "You are nobody.",
                "data": {"code": "denied", "message": "You are nobody.", "retry": False},
            },
        ),
        ({"namespaces": ["/unknown"]}, {"message": "Invalid namespace"}),
    ],
)
async def test_a_refused_login_and_an_unknown_namespace_are_connection_errors(url, options, told):
    errors: list[Any] = []

    async def connect_error(error: Any) -> None:
        errors.append(error)

    # Of its own session it leaves the line open.
    async with aiohttp.ClientSession() as session:
        client = socketio.AsyncClient(handle_sigint=False, reconnection=False, http_session=session)
        client.on("connect_error", connect_error, namespace=options.get("namespaces", ["/"])[0])
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(url, transports=["websocket"], wait_timeout=ARRIVES_WITHIN, **options)
    assert errors == [told]


async def test_a_client_without_room_for_more_arguments_is_served_plain():
    hub = chat_hub()
    hub.socketio(plain=True)
    async with serving(hub) as at:
        heard: asyncio.Queue[str] = asyncio.Queue()
        client = socketio.AsyncClient(handle_sigint=False)

        async def chat_message(text: str) -> None:
            heard.put_nowait(text)

        client.on("chat message", chat_message)
        await client.connect(at.http, wait_timeout=ARRIVES_WITHIN)
        try:
            await client.call("$join", {"room": LOBBY}, timeout=ARRIVES_WITHIN)
            await client.emit("chat message", ("hello", {"room": LOBBY}))
            async with asyncio.timeout(ARRIVES_WITHIN):
                assert await heard.get() == "hello"
        finally:
            await client.disconnect()
