"""Messages over both transports: every size, cut up in every way, nothing lost, nothing reordered."""

import asyncio
import os
import threading

import anyio.to_thread
import pytest
import websockets

from hubbub import Connection, Hubbub
from transports.raw import BINARY, CONTINUATION, FIN, PING, PONG, TEXT, closing, dial, masked, text

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 70_000, 1_048_576]
"""Around each border between the three forms of a frame's length, and the largest message."""

ARRIVES_WITHIN = 10.0


@pytest.mark.anyio
@pytest.mark.parametrize("size", SIZES)
async def test_text_is_str_and_binary_is_bytes_whatever_their_size(echo, size):
    text_sent, binary_sent = "x" * size, os.urandom(size)
    async with websockets.connect(echo.url + "/echo", compression=None) as websocket:
        await websocket.send(text_sent)
        assert await websocket.recv() == text_sent
        await websocket.send(binary_sent)
        assert await websocket.recv() == binary_sent


@pytest.mark.parametrize("size", SIZES)
def test_a_server_s_frames_are_in_their_shortest_form_and_not_masked(line, size):
    line.open()
    line.send(masked(FIN | BINARY, b"x" * size))
    assert line.frame() == (FIN | BINARY, b"x" * size)


def test_types_reach_the_endpoint_and_come_back(start):
    hub = Hubbub()

    @hub.endpoint("/types")
    async def types(connection: Connection) -> None:
        async for message in connection:
            await connection.send(type(message).__name__)
            for answer in ("text", b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")):
                await connection.send(answer)

    with dial(start(hub)) as line:
        line.open("/types")
        for sent, kind in ((text("a"), "str"), (masked(FIN | BINARY, b"a"), "bytes")):
            line.send(sent)
            assert [line.message() for _ in range(5)] == [kind, "text", b"bytes", b"bytearray", b"memoryview"]


@pytest.mark.parametrize("message", [{"a": 1}, 1, None, ["a"]])
def test_what_is_neither_text_nor_binary_is_refused_where_it_is_sent(start, message):
    hub = Hubbub()

    @hub.endpoint("/refuse")
    async def refuse(connection: Connection) -> None:
        with pytest.raises(TypeError, match="An endpoint sends str or bytes"):
            await connection.send(message)
        await connection.send("refused")

    with dial(start(hub)) as line:
        line.open("/refuse")
        assert line.message() == "refused"


def test_text_is_utf_8(line):
    line.open()
    line.send(masked(FIN | TEXT, "κόσμε 🎈\0".encode()))
    assert line.frame() == (FIN | TEXT, "κόσμε 🎈\0".encode())


def test_the_fragments_of_a_message_are_put_together(line):
    line.open()
    whole = "κόσμε 🎈".encode()
    pieces = [whole[i : i + 1] for i in range(len(whole))]  # a character is cut, too
    line.send(masked(TEXT, pieces[0]))
    for piece in pieces[1:-1]:
        line.send(masked(CONTINUATION, piece))
    line.send(masked(FIN | CONTINUATION, pieces[-1]) + text("next"))
    assert line.message() == whole.decode()
    assert line.message() == "next"


def test_empty_fragments_are_fragments(line):
    line.open()
    line.send(masked(BINARY) + masked(CONTINUATION) + masked(FIN | CONTINUATION))
    assert line.message() == b""


def test_pings_between_fragments_are_answered_before_the_message_is_whole(line):
    line.open()
    line.send(masked(BINARY, b"one "))
    for number in range(3):
        line.send(masked(FIN | PING, b"%d" % number))
        assert line.frame() == (FIN | PONG, b"%d" % number)
        line.send(masked(CONTINUATION, b"%d " % number))
    line.send(masked(FIN | CONTINUATION, b"end"))
    assert line.message() == b"one 0 1 2 end"


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125])
def test_a_ping_is_answered_with_its_payload(line, payload):
    line.open()
    line.send(masked(FIN | PING, payload))
    assert line.frame() == (FIN | PONG, payload)


def test_a_pong_that_nobody_asked_for_is_let_pass(line):
    line.open()
    line.send(masked(FIN | PONG, b"unasked") + text("next"))
    assert line.message() == "next"


def test_frames_that_come_byte_by_byte_are_frames(line):
    line.open()
    frames = [
        (text("short"), "short"),
        (masked(FIN | BINARY, b"m" * 300), b"m" * 300),
        (masked(TEXT, b"in ") + masked(FIN | PING, b"") + masked(FIN | CONTINUATION, b"two"), "in two"),
    ]
    for data, message in frames:
        for byte in data:
            line.send(bytes((byte,)))
        if message == "in two":
            assert line.frame() == (FIN | PONG, b"")
        assert line.message() == message


@pytest.mark.parametrize("cut", [1, 3, 7, 13, 64, 1000, 65537])
def test_many_frames_in_pieces_of_any_size_stay_in_order(line, cut):
    messages = [str(number) * (number % 50) for number in range(200)]
    stream = b"".join(map(text, messages))
    line.open()
    received: list[str | bytes] = []
    reader = threading.Thread(target=lambda: received.extend(line.message() for _ in messages))
    reader.start()
    for position in range(0, len(stream), cut):
        line.send(stream[position : position + cut])
    reader.join(30)
    assert received == messages


def test_messages_before_a_close_are_received_before_it_is_told(start):
    hub = Hubbub()
    outcome: list[object] = []
    may_receive, over = threading.Event(), threading.Event()

    @hub.endpoint("/late")
    async def late(connection: Connection) -> None:
        await anyio.to_thread.run_sync(may_receive.wait, ARRIVES_WITHIN)
        try:
            while True:
                outcome.append(await connection.recv())
        except websockets.ConnectionClosed as closed:
            outcome.append((closed.rcvd.code, closed.rcvd.reason))
        over.set()

    with dial(start(hub)) as line:
        line.open("/late")
        line.send(text("1") + text("2") + text("3") + closing(4000, "bye"))
        may_receive.set()
        assert line.close_frame() == (4000, "bye")
        assert line.rest() == b""
        assert over.wait(ARRIVES_WITHIN)
    assert outcome == ["1", "2", "3", (4000, "bye")]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["timeout", "wait_for"])
async def test_a_time_out_around_recv_loses_nothing(start, way):
    hub = Hubbub()

    @hub.endpoint("/impatient")
    async def impatient(connection: Connection) -> None:
        timeouts = 0
        while True:
            try:
                # So short that it ends at any moment: before, while and after a message arrives.
                if way == "timeout":
                    async with asyncio.timeout(0.0005):
                        message = await connection.recv()
                else:
                    message = await asyncio.wait_for(connection.recv(), 0.0005)
            except TimeoutError:
                timeouts += 1
                if timeouts in (1, 10):
                    await connection.send("idle")
                continue
            await connection.send(message)

    async with websockets.connect(start(hub).url + "/impatient", compression=None) as websocket:
        assert await websocket.recv() == "idle"
        assert await websocket.recv() == "idle"
        echoed = []
        for number in range(300):
            await websocket.send(str(number))
            if number % 3 == 0:
                echoed.append(await websocket.recv())
        while len(echoed) < 300:
            echoed.append(await websocket.recv())
    assert echoed == [str(number) for number in range(300)]


@pytest.mark.anyio
async def test_two_tasks_that_receive_from_one_connection_are_told_not_to(start):
    hub = Hubbub()

    @hub.endpoint("/two")
    async def two(connection: Connection) -> None:
        first = asyncio.create_task(connection.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Two tasks can't receive"):
            await connection.recv()
        await connection.send("told")
        await connection.send(await first)

    async with websockets.connect(start(hub).url + "/two", compression=None) as websocket:
        assert await websocket.recv() == "told"
        await websocket.send("to the first")
        assert await websocket.recv() == "to the first"


@pytest.mark.anyio
async def test_one_connection_sends_while_it_receives(start):
    """A task that produces beside one that consumes, as the patterns of `websockets` have it."""
    hub = Hubbub()

    @hub.endpoint("/both")
    async def both(connection: Connection) -> None:
        consumed: asyncio.Queue[str | bytes] = asyncio.Queue()

        async def consume() -> None:
            async for message in connection:
                consumed.put_nowait(message)

        async def produce() -> None:
            while True:
                await connection.send(await consumed.get())

        done, pending = await asyncio.wait(
            [asyncio.create_task(consume()), asyncio.create_task(produce())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

    messages = [str(number) for number in range(200)]
    async with websockets.connect(start(hub).url + "/both", compression=None) as websocket:
        for message in messages:
            await websocket.send(message)
        assert [await websocket.recv() for _ in messages] == messages


@pytest.mark.anyio
async def test_connections_do_not_mix(echo):
    url = echo.url + "/echo"

    async def converse(name: str) -> list[str]:
        async with websockets.connect(url, compression=None) as websocket:
            answers = []
            for number in range(20):
                await websocket.send(f"{name} {number}")
                answers.append(await websocket.recv())
            return answers

    names = [f"client {number}" for number in range(20)]
    async with asyncio.timeout(30):
        conversations = await asyncio.gather(*map(converse, names))
    assert conversations == [[f"{name} {number}" for number in range(20)] for name in names]
