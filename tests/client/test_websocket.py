"""Lines over real WebSockets: servers that are no hubbub, TLS, proxies, and refusals by HTTP."""

import asyncio
import http
import socket
import ssl
import time
import traceback
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate

import pytest
from websockets.exceptions import ConnectionClosed

import hubbub
from client.lines import at_once, soon
from hubbub import ConfigurationError, Gap, Message, ReconnectFailed, State
from hubbub.client import LineLost, NotConnected
from hubbub.client.websocket import _Connection, dialling
from plain_server import plain_server

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


def dial(url: str, **options):
    return dialling(url, **{"subprotocol": "hubbub.v1.json", **options})


@asynccontextmanager
async def tcp_server(handle):
    """Serve TCP connections; yield the address."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader, writer) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*tasks)


class TestALine:
    async def test_messages_pass_both_ways(self):
        with plain_server() as server:
            line = await dial(server.url)(None)
            assert line.subprotocol is None
            for message in ("text", b"bytes"):
                await line.send(message)
                assert await soon(line.recv()) == message
            await line.close()
            await line.close()

    async def test_the_end_says_how_it_came(self):
        async def leave(connection) -> None:
            await connection.close(4403, "not you")

        with plain_server(leave) as server:
            line = await dial(server.url)(None)
            for _ in range(2):
                with pytest.raises(LineLost) as lost:
                    await soon(line.recv())
                assert (lost.value.code, lost.value.reason) == (4403, "not you")
            with pytest.raises(LineLost):
                await line.send("late")

    async def test_a_line_that_breaks_ends_with_1006(self):
        async def drop(connection) -> None:
            connection.transport.abort()

        with plain_server(drop) as server:
            line = await dial(server.url)(None)
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1006

    async def test_1006_lets_go_without_a_handshake(self):
        ended: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def listen(connection) -> None:
            try:
                await connection.recv()
            except ConnectionClosed as closed:
                code = 1006 if closed.rcvd is None else closed.rcvd.code
                loop.call_soon_threadsafe(ended.put_nowait, code)

        with plain_server(listen) as server:
            for code in (1006, 1000):
                line = await dial(server.url)(None)
                await line.close(code)
                assert await soon(ended.get()) == code

    async def test_a_message_that_is_too_large_ends_it(self):
        with plain_server() as server:
            line = await dial(server.url, max_size=10)(None)
            await line.send("x" * 11)
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1009

    async def test_a_message_that_inflates_beyond_the_limit_ends_it(self):
        async def bomb(connection) -> None:
            assert connection.protocol.extensions
            await connection.send("x" * 2**20)

        with plain_server(bomb, compression="deflate") as server:
            line = await dial(server.url, max_size=2**16)(None)
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1009

    async def test_the_login_and_the_headers_are_in_the_request(self):
        async def tell(connection) -> None:
            for name in ("Authorization", "X-One"):
                await connection.send(connection.request.headers[name])

        with plain_server(tell) as server:
            for headers in ({"X-One": "1"}, [("X-One", "1")]):
                line = await dial(server.url, headers=headers)("secret")
                assert [await soon(line.recv()) for _ in range(2)] == ["Bearer secret", "1"]
                await line.close()

    async def test_only_servers_that_are_no_hubbub_are_pinged(self, serve):
        with plain_server() as server:
            plain = await dial(server.url)(None)
            assert plain._connection.keepalive_task is not None
            await plain.close()
        line = await dial(serve(hubbub.Hubbub()).url)(None)
        assert line.subprotocol == "hubbub.v1.json"
        assert line._connection.keepalive_task is None
        await line.close()

    async def test_what_nobody_takes_does_not_hold_up_the_end(self):
        async def flood(connection) -> None:
            for number in range(100):
                await connection.send(str(number))
            await connection.wait_closed()

        loop = asyncio.get_running_loop()
        with plain_server(flood) as server:
            line = await dial(server.url)(None)
            await soon(line.recv())
            begun = loop.time()
            await line.close()
            assert loop.time() - begun < 2.0


class TestNoLine:
    @pytest.mark.parametrize(
        ("said", "seconds"),
        [
            (("7",), 7.0),
            ((), 0.0),
            (("-7",), 0.0),
            (("soon",), 0.0),
            (("9" * 400,), 999_999_999.0),
            (("7", "9"), 7.0),
            (("Wed, 21 Oct 2015 07:28:00 GMT",), 0.0),
            (("Wed, 21 Oct 2015 07:28:00",), 0.0),
        ],
    )
    async def test_http_says_when_to_come_back(self, said, seconds):
        def refuse(connection, request):
            response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no")
            for value in said:
                response.headers["Retry-After"] = value
            return response

        with plain_server(process_request=refuse) as server, pytest.raises(NotConnected) as refused:
            await dial(server.url)(None)
        assert refused.value.after == seconds

    async def test_http_says_until_when_to_stay_away(self):
        def refuse(connection, request):
            response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "no")
            response.headers["Retry-After"] = formatdate(time.time() + 100, usegmt=True)
            return response

        with plain_server(process_request=refuse) as server, pytest.raises(NotConnected) as refused:
            await dial(server.url)(None)
        assert 90 < refused.value.after <= 100

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 426, 408, 429, 500, 503])
    async def test_http_refuses(self, status):
        def refuse(connection, request):
            return connection.respond(http.HTTPStatus(status), "no")

        with plain_server(process_request=refuse) as server:
            with pytest.raises(NotConnected, match=str(status)) as refused:
                await dial(server.url)(None)
            assert refused.value.status == status
            assert refused.value.comes_back is (status in (408, 429, 500, 503))

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirection_is_followed_on_the_same_host(self, status):
        def redirect(connection, request):
            if request.path == "/hub?x=1":
                return None
            response = connection.respond(http.HTTPStatus(status), "")
            response.headers["Location"] = "/hub?x=1"
            return response

        async def tell(connection) -> None:
            await connection.send(connection.request.headers["Authorization"])

        with plain_server(tell, process_request=redirect) as server:
            line = await dial(server.url)("secret")
            assert await soon(line.recv()) == "Bearer secret"
            await line.close()

    @pytest.mark.parametrize("elsewhere", ["another host", "another port"])
    async def test_another_host_or_port_is_told_nothing(self, elsewhere):
        seen: list[str] = []

        def see(connection, request):
            seen.append(request.path)

        def redirect(connection, request):
            if request.path != "/from":
                return see(connection, request)
            response = connection.respond(http.HTTPStatus.TEMPORARY_REDIRECT, "")
            place = f"localhost:{server.port}" if elsewhere == "another host" else f"127.0.0.1:{other.port}"
            response.headers["Location"] = f"ws://{place}/to"
            return response

        with plain_server(process_request=see) as other, plain_server(process_request=redirect) as server:
            with pytest.raises(NotConnected, match="307") as refused:
                await dial(f"{server.url}/from", headers={"X-Key": "secret"})("secret")
            assert not refused.value.comes_back
        assert seen == []

    @pytest.mark.parametrize("place", ["", "http://127.0.0.1/", "//["])
    async def test_a_redirection_to_no_websocket_is_a_refusal(self, place):
        def redirect(connection, request):
            response = connection.respond(http.HTTPStatus.FOUND, "")
            response.headers["Location"] = place
            return response

        with plain_server(process_request=redirect) as server, pytest.raises(NotConnected, match="302"):
            await dial(server.url)("secret")

    async def test_redirections_without_end_are_not_followed(self):
        asked: list[str] = []

        def redirect(connection, request):
            asked.append(request.path)
            response = connection.respond(http.HTTPStatus.FOUND, "")
            response.headers["Location"] = f"/{len(asked)}"
            return response

        with plain_server(process_request=redirect) as server, pytest.raises(NotConnected, match="10 times"):
            await dial(server.url)(None)
        assert len(asked) == 10

    async def test_nobody_is_there(self, unused_port):
        with pytest.raises(NotConnected) as refused:
            await dial(f"ws://127.0.0.1:{unused_port}")(None)
        assert refused.value.comes_back
        assert refused.value.status is None

    async def test_nobody_answers(self):
        async def wait(reader, _) -> None:
            with suppress(ConnectionError):
                await reader.read()

        async with tcp_server(wait) as address:
            with pytest.raises(ReconnectFailed, match="timed out"):
                await hubbub.connect(f"ws://{address}", open_timeout=0.05, backoff=at_once(1)).__aenter__()

    async def test_somebody_hangs_up(self):
        async def hang_up(*_) -> None:
            pass

        async with tcp_server(hang_up) as address:
            with pytest.raises(NotConnected) as refused:
                await dial(f"ws://{address}")(None)
            assert refused.value.comes_back

    async def test_somebody_hangs_up_before_anything_was_asked(self, monkeypatch):
        handshake = _Connection.handshake

        async def shake_too_late(connection, *arguments) -> None:
            await connection.connection_lost_waiter
            await handshake(connection, *arguments)

        async def hang_up(*_) -> None:
            pass

        monkeypatch.setattr(_Connection, "handshake", shake_too_late)
        async with tcp_server(hang_up) as address:
            with pytest.raises(NotConnected) as refused:
                await dial(f"ws://{address}")(None)
            assert refused.value.comes_back

    @pytest.mark.parametrize("proxy", ["http://127.0.0.1:{port}", "ftp://127.0.0.1:1"])
    async def test_there_is_no_such_proxy(self, unused_port, proxy):
        with plain_server() as server, pytest.raises(NotConnected) as refused:
            await dial(server.url, proxy=proxy.format(port=unused_port))(None)
        assert refused.value.comes_back is proxy.startswith("http")

    @pytest.mark.parametrize("url", ["http://localhost", "localhost:80", "ws://"])
    def test_the_url_is_none(self, url):
        with pytest.raises(ConfigurationError, match="ws://"):
            hubbub.connect(url)

    def test_a_tls_context_is_for_tls(self):
        with pytest.raises(ConfigurationError, match="wss://") as refused:
            hubbub.connect("ws://localhost/?token=secret", ssl=ssl.create_default_context())
        assert "secret" not in str(refused.value)

    def test_a_url_that_is_none_is_not_repeated(self):
        with pytest.raises(ConfigurationError) as refused:
            hubbub.connect("http://localhost/?token=secret")
        assert "secret" not in str(refused.value)

    @pytest.mark.parametrize(
        ("token", "options"),
        [
            ("secret\n", {}),
            ("secret€", {}),
            (None, {"headers": {"Cookie": "secret\r\nX: 1"}}),
            (None, {"proxy": "foo://me:secret@localhost:1"}),
        ],
    )
    async def test_a_secret_that_can_not_be_sent_is_not_told(self, token, options):
        with plain_server() as server, pytest.raises(NotConnected) as refused:
            await dial(server.url, **options)(token)
        assert not refused.value.comes_back
        assert "secret" not in "".join(traceback.format_exception(refused.value, limit=0))

    @pytest.mark.parametrize("limit", ["inbox", "outbox"])
    def test_nothing_could_wait(self, limit):
        with pytest.raises(ConfigurationError, match=limit):
            hubbub.connect("ws://localhost", **{limit: 0})

    def test_two_classes_with_one_name_are_one_too_many(self):
        with pytest.raises(ConfigurationError, match="'say'"):
            hubbub.connect("ws://localhost", messages=[Say, Say])


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class TestTLS:
    async def test_a_context_says_whom_to_trust(self, start, certificate):
        url = start(hubbub.Hubbub(), **certificate).url.replace("ws://", "wss://")
        trusting = ssl.create_default_context(cafile=certificate["ssl_certfile"])
        async with hubbub.connect(url, ssl=trusting) as client:
            assert client.state.state is State.OPEN

    @pytest.mark.parametrize("secure", [False, True])
    async def test_a_redirection_leads_to_tls_and_never_away_from_it(
        self, start, certificate, secure, monkeypatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", certificate["ssl_certfile"])
        over_tls = start(hubbub.Hubbub(), **certificate).port
        places = {True: f"wss://localhost:{over_tls}/", False: "ws://localhost:1/"}

        def redirect(connection, request):
            response = connection.respond(http.HTTPStatus.FOUND, "")
            response.headers["Location"] = places[not secure]
            return response

        trusting = ssl.create_default_context(cafile=certificate["ssl_certfile"])
        options = {}
        if secure:
            options["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            options["ssl"].load_cert_chain(certificate["ssl_certfile"], certificate["ssl_keyfile"])
        with plain_server(process_request=redirect, **options) as server:
            if secure:
                with pytest.raises(NotConnected, match="302"):
                    await dial(f"wss://localhost:{server.port}", ssl=trusting)("t")
            else:
                line = await dial(f"ws://localhost:{server.port}")(None)
                assert '"$welcome"' in await soon(line.recv())
                await line.close()

    async def test_a_certificate_that_is_not_trusted_is_final(self, start, certificate):
        url = start(hubbub.Hubbub(), **certificate).url.replace("ws://", "wss://")
        with pytest.raises(ReconnectFailed, match="certificate"):
            await hubbub.connect(url).__aenter__()


class TestAProxy:
    async def test_the_line_goes_through_it(self, serve):
        asked: list[bytes] = []

        async def pipe(reader, writer) -> None:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def proxy(reader, writer) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            host, port = asked[-1].split()[1].decode().rsplit(":", 1)
            onward, back = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(pipe(reader, back), pipe(onward, writer))

        url = serve(hubbub.Hubbub()).url
        async with (
            tcp_server(proxy) as address,
            hubbub.connect(url, proxy=f"http://{address}") as client,
        ):
            assert client.state.state is State.OPEN
        assert asked[0].startswith(b"CONNECT 127.0.0.1:")


class TestWithoutHubbub:
    """A server that speaks another protocol: text and bytes, and the same care for the line."""

    async def test_text_and_bytes_are_sent_and_yielded(self):
        with plain_server() as server:
            async with hubbub.connect(server.url, subprotocol=None) as client:
                await client.send("text")
                await client.send(b"bytes")
                assert [await soon(anext(client)) for _ in range(2)] == ["text", b"bytes"]
                assert client.inbox is None
                for wrong in (client.send(Say("hi")), client.join("chat/lobby")):
                    with pytest.raises(hubbub.ClientError, match="no hubbub"):
                        await wrong

    async def test_its_own_subprotocol_can_be_asked_for(self):
        with plain_server(subprotocols=["graphql-ws"]) as server:
            async with hubbub.connect(server.url, subprotocol="graphql-ws") as client:
                await client.send("text")
                assert await soon(anext(client)) == "text"

    async def test_the_client_comes_back_and_sends_what_waited(self):
        async def echo_once(connection) -> None:
            await connection.send(await connection.recv())
            await connection.close(1012)

        with plain_server(echo_once) as server:
            async with hubbub.connect(server.url, backoff=at_once(9)) as client:
                for number in range(3):
                    # It may be lost with the line that it went to: whoever cares asks for an answer.
                    watch = client.states()
                    while (await soon(anext(watch))).state is not State.OPEN:
                        pass
                    await client.send(str(number))
                    assert await soon(anext(client)) == str(number)
                    while (await soon(anext(watch))).state is not State.OPEN:
                        pass

    async def test_what_is_sent_without_a_line_waits_for_one(self):
        async def lose_first(connection) -> None:
            if await connection.recv() == "go":
                await connection.close(1012)
            else:
                await connection.send("heard")

        with plain_server(lose_first) as server:
            async with hubbub.connect(server.url, backoff=lambda: iter([0.02] * 5)) as client:
                watch = client.states()
                await client.send("go")
                while (await soon(anext(watch))).state is not State.WAITING:
                    pass
                await client.send("dropped", acknowledged=False)
                await client.send("kept")
                assert await soon(anext(client)) == "heard"

    async def test_a_flood_that_nobody_takes_is_told(self):
        async def flood(connection) -> None:
            for number in range(100):
                await connection.send(str(number))
            assert await connection.recv() == "hello"
            await connection.send("hello")
            await connection.wait_closed()

        with plain_server(flood) as server:
            async with hubbub.connect(server.url, inbox=10) as client:
                await client.send("hello")
                seen = []
                async for event in client:
                    seen.append(event)
                    if event == "hello" or event == Gap(None, None):
                        break
                assert seen[:10] == [str(number) for number in range(10)]

    async def test_a_server_that_is_done_ends_the_iteration(self):
        async def bye(connection) -> None:
            await connection.send("bye")

        with plain_server(bye) as server:
            async with hubbub.connect(server.url) as client:
                assert [event async for event in client] == ["bye"]
                with pytest.raises(ReconnectFailed):
                    await client.send("late")
