"""The line of clients in great numbers, against real servers."""

import asyncio

import pytest
from websockets.asyncio.server import serve as serve_websocket

from hubbub import Hubbub, Settings
from hubbub.client import LineLost, NotConnected
from hubbub.soak.line import dialling

pytestmark = pytest.mark.anyio


async def dial(port: int):
    return await dialling(port, open_timeout=5)(None)


async def test_it_carries_messages_both_ways(serve):
    line = await dial(serve(Hubbub()).port)
    assert line.subprotocol == "hubbub.v1.json"
    assert '"$welcome"' in await line.recv()
    await line.send('{"type":"$ping","id":1}')
    assert await line.recv() == '{"type":"$pong","id":1}'
    await line.close()
    with pytest.raises(LineLost):
        await line.recv()
    with pytest.raises(LineLost):
        await line.send("more")


async def test_it_answers_pings(serve):
    line = await dial(serve(Hubbub(Settings(ping_interval=0.2, ping_timeout=0.2))).port)
    async with asyncio.timeout(10):
        while (await line.recv()) != '{"type":"$ping"}':
            pass
        # Without a pong it would be closed before the server says something again.
        assert await line.recv() == '{"type":"$ping"}'
    await line.close(1006)


async def test_it_says_with_which_code_it_was_closed():
    async def close(connection):
        await connection.send("first")
        await connection.close(4513, "too slow")

    async with serve_websocket(close, "127.0.0.1", 0) as server:
        line = await dial(server.sockets[0].getsockname()[1])
        assert await line.recv() == "first"
        with pytest.raises(LineLost) as lost:
            await line.recv()
        assert (lost.value.code, lost.value.reason) == (4513, "too slow")
        await line.close()


async def test_a_server_that_refuses_the_handshake_is_not_connected_to():
    async def refuse(connection, request):
        return connection.respond(503, "no")

    async with serve_websocket(lambda _: None, "127.0.0.1", 0, process_request=refuse) as server:
        with pytest.raises(NotConnected, match="503"):
            await dial(server.sockets[0].getsockname()[1])


async def test_where_nobody_listens_there_is_no_line():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(NotConnected):
        await dial(port)


async def test_a_server_that_does_not_answer_is_given_up():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        with pytest.raises(NotConnected, match="TimeoutError"):
            await dialling(server.sockets[0].getsockname()[1], open_timeout=0.05)(None)


async def test_a_server_that_leaves_the_close_unanswered_is_left(monkeypatch):
    monkeypatch.setattr("hubbub.soak.line.CLOSES_WITHIN", 0.05)
    released = asyncio.Event()

    async def stuck(connection):
        connection.transport.pause_reading()
        await released.wait()
        connection.transport.abort()

    async with serve_websocket(stuck, "127.0.0.1", 0) as server:
        line = await dial(server.sockets[0].getsockname()[1])
        await line.close()
        released.set()
