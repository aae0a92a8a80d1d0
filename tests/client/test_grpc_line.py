"""The client's lines over gRPC: to real servers of hubbub's, and to some that are none."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from chat_room import LOBBY, Say, chat_hub
from client.lines import soon
from hubbub import ConfigurationError, Connection, Denied, Hubbub, ReconnectFailed, Room, Settings
from hubbub.client import LineLost, NotConnected
from hubbub.client.client import Client
from hubbub.client.grpc_line import dialling
from hubbub.testing.processes import Process
from hubbub.testing.serving import serving
from plain_server import plain_server
from transports.grpc_calls import settled

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


def make_hub(**settings: object) -> Hubbub:
    hub = Hubbub(Settings(**{"grpc_port": 0, "drain": 1.0, **settings}))  # type: ignore[arg-type]
    chat = chat_hub(hub)

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token == "wrong":
            raise Denied("This token is not valid.")
        return connection.token

    return hub


@asynccontextmanager
async def opened(url: str, token: str | None = None, **options):
    line = await dialling(url, **options)(token)
    try:
        yield line
    finally:
        await line.close()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


async def for_ever(work) -> None:
    while True:
        await soon(work())


class TestALine:
    async def test_envelopes_pass_both_ways_as_text(self):
        async with serving(make_hub()) as served, opened(served.grpc, "ada") as line:
            assert line.subprotocol == "hubbub.v1.json"
            assert '"user":"ada"' in await soon(line.recv())
            await line.send('{"type":"$ping","id":"é"}')
            assert await soon(line.recv()) == '{"type":"$pong","id":"é"}'

    async def test_headers_are_metadata(self):
        login = {"Authorization": "Bearer bob"}
        async with serving(make_hub()) as served, opened(served.grpc, headers=login) as line:
            assert '"user":"bob"' in await soon(line.recv())

    async def test_a_cancelled_recv_has_taken_nothing(self):
        async with serving(make_hub()) as served, opened(served.grpc) as line:
            await soon(line.recv())
            for _ in range(3):
                receiving = asyncio.ensure_future(line.recv())
                await asyncio.sleep(0)
                receiving.cancel()
                await asyncio.wait([receiving])
            await line.send('{"type":"$ping","id":1}')
            assert await soon(line.recv()) == '{"type":"$pong","id":1}'

    async def test_a_cancelled_send_does_not_end_the_line(self):
        async with serving(make_hub()) as served, opened(served.grpc) as line:
            await soon(line.recv())
            for number in range(3):
                sending = asyncio.ensure_future(line.send(f'{{"type":"$ping","id":{number}}}'))
                await asyncio.sleep(0)
                sending.cancel()
                await asyncio.wait([sending])
            await line.send('{"type":"$ping","id":3}')
            while await soon(line.recv()) != '{"type":"$pong","id":3}':
                pass

    async def test_what_is_no_envelope_is_not_sent(self):
        async with serving(make_hub()) as served, opened(served.grpc) as line:
            for text in ("{", "[]", '{"data":1}', f'{{"type":"$ping","id":{2**64}}}'):
                with pytest.raises(ValueError):  # noqa: PT011  # whose words it has, does not matter
                    await line.send(text)

    async def test_after_a_close_it_is_lost(self):
        async with serving(make_hub()) as served, opened(served.grpc) as line:
            await line.close()
            await line.close()
            with pytest.raises(LineLost):
                await line.recv()
            with pytest.raises(LineLost):
                await line.send('{"type":"$ping"}')

    async def test_it_lets_go_without_waiting_where_it_has_to(self):
        async with serving(make_hub()) as served, opened(served.grpc) as line:
            receiving = asyncio.ensure_future(line.recv())
            await soon(receiving)
            receiving = asyncio.ensure_future(line.recv())
            await asyncio.sleep(0)
            await soon(line.close(1006))
            with pytest.raises(LineLost):
                await soon(receiving)


class TestTheEnd:
    async def test_a_close_that_is_cancelled_closes_the_connection_all_the_same(self):
        async with serving(make_hub()) as served:
            line = await dialling(served.grpc)(None)
            # A read of gRPC's that does not come to its end at once.
            line._reading = asyncio.get_running_loop().create_future()
            closing = asyncio.ensure_future(line.close(1006))
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert line._channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN

    async def test_a_close_code_comes_back(self):
        async with serving(make_hub()) as served, opened(served.grpc, "wrong") as line:
            assert '"denied"' in await soon(line.recv())
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert (lost.value.code, lost.value.reason) == (4401, "This token is not valid.")

    async def test_also_where_a_write_meets_it(self):
        hub = make_hub(max_message_rate=1, max_message_burst=20)
        async with serving(hub) as served:
            for _ in range(10):
                async with opened(served.grpc) as line:
                    with pytest.raises(LineLost) as lost:
                        await for_ever(lambda: line.send('{"type":"$ping"}'))
                    assert lost.value.code == 4529

    async def test_a_message_that_is_too_large_for_either_side(self):
        async with serving(make_hub(max_message=1000)) as served:
            for size in (2000, 1_000_000):
                async with opened(served.grpc) as line:
                    await line.send('{"type":"say","data":"' + "x" * size + '"}')
                    with pytest.raises(LineLost) as lost:
                        await for_ever(line.recv)
                    assert lost.value.code == 1009
            async with opened(served.grpc, max_size=10) as line:
                with pytest.raises(LineLost) as lost:
                    await soon(line.recv())
                assert lost.value.code == 1009

    async def test_a_server_that_dies(self, tmp_path):
        (tmp_path / "app.py").write_text("from hubbub import Hubbub\nhub = Hubbub()\n")
        port = free_port()
        process = Process.serving("app:hub", directory=tmp_path, grpc_port=port)
        async with process, opened(f"grpc://127.0.0.1:{port}") as line:
            await soon(line.recv())
            await process.kill()
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1006


class TestNotConnected:
    async def refused(self, url: str, token: str | None = None, **options) -> NotConnected:
        with pytest.raises(NotConnected) as refused:
            await soon(dialling(url, **options)(token))
        return refused.value

    async def test_nobody_listens(self):
        refused = await self.refused(f"grpc://127.0.0.1:{free_port()}")
        assert refused.comes_back

    async def test_a_server_without_a_place_says_when_to_come_back(self):
        async with serving(make_hub(max_connections=1)) as served, opened(served.grpc):
            refused = await self.refused(served.grpc)
            assert (refused.status, refused.comes_back, refused.after) == (503, True, 5.0)

    async def test_an_origin_that_may_not_connect(self):
        async with serving(make_hub()) as served:
            refused = await self.refused(served.grpc, headers={"Origin": "https://elsewhere.example"})
            assert (refused.status, refused.comes_back) == (403, False)

    async def test_a_grpc_server_that_is_no_hubbub(self):
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        refused = await self.refused(f"grpc://127.0.0.1:{port}")
        assert not refused.comes_back
        await server.stop(None)

    async def test_a_server_that_speaks_no_grpc(self):
        with plain_server() as server:
            refused = await self.refused(server.url.replace("ws:", "grpc:").rstrip("/"), open_timeout=1.0)
            assert refused.comes_back

    async def test_a_server_that_says_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
            refused = await self.refused(url, open_timeout=0.3)
            assert (refused.reason, refused.comes_back) == ("not opened within 0.3 s", True)

    async def test_a_token_that_can_t_be_sent_is_named_and_not_told(self):
        refused = await self.refused("grpc://127.0.0.1:1", "geheim\n")
        assert not refused.comes_back
        assert "the token" in refused.reason
        assert "geheim" not in refused.reason

    @pytest.mark.parametrize(
        "url",
        [
            "ws://localhost", "grpc://", "grpc://localhost:x", "grpc://localhost/path", "grpc://localhost?token=x",
            "grpc://user:geheim@localhost", "grpc://[::1",
        ],
    )  # fmt: skip
    async def test_a_url_that_can_t_be(self, url):
        with pytest.raises(ConfigurationError, match="connect to grpc://host:port") as raised:
            dialling(url)
        assert "geheim" not in str(raised.value)


class TestTLS:
    async def test_the_authorities_of_an_ssl_context_are_trusted(self, certificate):
        context = ssl.create_default_context(cafile=certificate["ssl_certfile"])
        async with serving(make_hub(**certificate)) as served, opened(served.grpc, ssl=context) as line:
            assert '"$welcome"' in await soon(line.recv())

    async def test_who_is_not_trusted_is_not_asked_again(self, certificate):
        async with serving(make_hub(**certificate)) as served:
            with pytest.raises(NotConnected) as refused:
                await soon(dialling(served.grpc)(None))
            assert not refused.value.comes_back

    async def test_what_grpc_can_t_do_is_refused(self):
        careless = ssl.create_default_context()
        careless.check_hostname = False
        with pytest.raises(ConfigurationError, match="always checks"):
            dialling("grpcs://localhost", ssl=careless)
        with pytest.raises(ConfigurationError, match="not encrypted"):
            dialling("grpc://localhost", ssl=ssl.create_default_context())


class TestAClient:
    async def test_it_sends_and_receives(self):
        async with (
            serving(make_hub()) as served,
            Client(dialling(served.grpc), token="ada", messages=[Say]) as client,
        ):
            room = await client.join(LOBBY)
            await room.send(Say(text="hi"))
            received = await soon(anext(aiter(room)))
            assert (received.message, received.sender) == (Say(text="hi"), "ada")

    async def test_a_refused_login_ends_it(self):
        async with serving(make_hub()) as served:
            with pytest.raises(ReconnectFailed, match="This token is not valid"):
                async with Client(dialling(served.grpc), token="wrong"):
                    pass

    async def test_it_loses_and_repeats_nothing_when_the_server_restarts(self, tmp_path):
        port, settings = free_port(), {"broker": f"sqlite:///{tmp_path}/rooms.db"}
        dial = dialling(f"grpc://127.0.0.1:{port}")
        hub = make_hub(grpc_port=port, **settings)
        async with serving(hub):
            client = Client(dial, messages=[Say])
            await client.__aenter__()
            room = await client.join(LOBBY)
            received = aiter(room)
            for number in range(5):
                await hub.rooms[0](name="lobby").send(Say(text=str(number)))
            told = [(await soon(anext(received))).message.text for _ in range(5)]
        # While it is away, somebody publishes.
        hub = make_hub(grpc_port=port, **settings)
        async with hub.lifespan():
            for number in range(5, 10):
                await hub.rooms[0](name="lobby").send(Say(text=str(number)))
        async with serving(make_hub(grpc_port=port, **settings)):
            await room.send(Say(text="10"))
            told += [(await soon(anext(received))).message.text for _ in range(6)]
            await client.close()
        assert told == [str(number) for number in range(11)]
