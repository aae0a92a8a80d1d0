"""Back-pressure, over both transports: no buffer without a bound, and nothing is lost by waiting."""

import asyncio
import queue
import threading

import anyio
import anyio.to_thread
import pytest

from hubbub import Connection, ConnectionClosed, ConnectionClosedError, Hubbub, Message, Settings
from told import Told
from transports.applications import accepting
from transports.raw import BINARY, CLOSE, CONTINUATION, FIN, Line, closing, dial, masked, text

ARRIVES_WITHIN = 20.0
SMALL_BUFFER = 16_384
KILOBYTE = 1024

# More than the kernel's buffers of both ends can hold together (4 MiB to send and 6 MiB to receive).
MORE_THAN_FITS = 24 * KILOBYTE * KILOBYTE


class Tell(Message):
    size: int


def numbered(size: int) -> list[bytes]:
    """Return messages of a size, numbered, that are more than fits on the way."""
    return [b"%08d" % number + b"x" * (size - 8) for number in range(MORE_THAN_FITS // size)]


# An endpoint that does not receive


def as_one(message: bytes) -> bytes:
    return masked(FIN | BINARY, message)


def as_fragments(message: bytes) -> bytes:
    half = len(message) // 2
    return masked(BINARY, message[:half]) + masked(FIN | CONTINUATION, message[half:])


@pytest.mark.parametrize(
    ("size", "frames"),
    [(32 * KILOBYTE, as_one), (256 * KILOBYTE, as_one), (32 * KILOBYTE, as_fragments)],
    ids=["medium", "large", "fragmented"],
)
def test_a_socket_is_not_read_while_the_inbox_is_full_and_then_all_is_there_in_order(start, size, frames):
    hub = Hubbub(Settings(max_inbox=4))
    may_receive = threading.Event()
    results: queue.Queue[object] = queue.Queue()
    messages = numbered(size)

    @hub.endpoint("/busy")
    async def busy(connection: Connection) -> None:
        await anyio.to_thread.run_sync(may_receive.wait, ARRIVES_WITHIN)
        results.put(connection.messages_in)
        for message in messages:
            if await connection.recv() != message:
                results.put(f"not in order at {message[:8]!r}")
                return
        results.put("all in order")

    with dial(start(hub), "/busy") as line:
        stream = b"".join(map(frames, messages))
        sent = line.send_while_taken(stream)
        assert sent < len(stream), "all was taken, though nobody received it"
        may_receive.set()
        assert results.get(timeout=ARRIVES_WITHIN) <= 4
        line.send(stream[sent:])
        assert results.get(timeout=ARRIVES_WITHIN) == "all in order"


def test_a_connection_that_is_not_received_from_holds_up_no_other(start):
    hub = Hubbub(Settings(max_inbox=1))

    @hub.endpoint("/busy")
    async def busy(connection: Connection) -> None:
        await connection.wait_closed()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    served = start(hub)
    with dial(served, "/busy") as stuck, dial(served, "/echo") as line:
        stuck.send_while_taken(as_one(b"x" * 65536) * 300)
        line.send(text("there"))
        assert line.message() == "there"
        stuck.vanish()


def test_a_close_gets_through_both_ways_though_nobody_received_the_messages(start):
    hub = Hubbub(Settings(max_inbox=2))
    may_close = threading.Event()
    endings: queue.Queue[ConnectionClosed] = queue.Queue()

    @hub.endpoint("/busy")
    async def busy(connection: Connection) -> None:
        await anyio.to_thread.run_sync(may_close.wait, ARRIVES_WITHIN)
        await connection.close(4000, "enough")
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            endings.put(closed)

    with dial(start(hub), "/busy") as line:
        line.send(text("x" * 1000) * 100)
        may_close.set()
        assert line.close_frame() == (4000, "enough")
        line.send(closing(4000))
        assert line.rest() == b""
        closed = endings.get(timeout=ARRIVES_WITHIN)
    assert (closed.sent.code, closed.rcvd.code) == (4000, 4000)


# A client that does not read


def test_send_waits_while_the_client_does_not_read_and_loses_nothing(start):
    hub = Hubbub(Settings(max_outbox=256 * KILOBYTE))
    sent: queue.Queue[int] = queue.Queue()
    payload = b"x" * (16 * KILOBYTE)

    @hub.endpoint("/flood")
    async def flood(connection: Connection) -> None:
        number = 0
        try:
            while True:
                # It only ever waits where the client's line is full.
                async with asyncio.timeout(0.3):
                    await connection.send(b"%08d" % number + payload)
                number += 1
        except TimeoutError:
            sent.put(number + 1)
        await connection.close()

    with dial(start(hub), "/flood", receive_buffer=SMALL_BUFFER) as line:
        count = sent.get(timeout=ARRIVES_WITHIN)
        assert count * len(payload) < MORE_THAN_FITS
        for number in range(count):
            assert line.message() == b"%08d" % number + payload
        assert line.close_frame() == (1000, "")


def test_a_client_that_reads_too_slowly_is_closed_with_4513(start):
    hub = Hubbub(Settings(max_outbox=256 * KILOBYTE))
    results: queue.Queue[object] = queue.Queue()
    payload = b"x" * (16 * KILOBYTE)

    @hub.endpoint("/flood")
    async def flood(connection: Connection) -> None:
        async def send(number: int) -> None:
            await connection.send(b"%08d" % number + payload)

        number = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                # As in a broadcast, nobody waits for this one client.
                while not connection.closing:
                    tasks.create_task(send(number))
                    number += 1
                    await asyncio.sleep(0)
                results.put(number)
        except* ConnectionClosed as closed:
            results.put(closed.exceptions[0])

    with dial(start(hub), "/flood", receive_buffer=SMALL_BUFFER) as line:
        sent = results.get(timeout=ARRIVES_WITHIN)
        assert sent * len(payload) < MORE_THAN_FITS
        number = 0
        while (frame := line.frame())[0] == FIN | BINARY:
            assert frame[1] == b"%08d" % number + payload, "not whole, or not in order"
            number += 1
        assert 0 < number < sent, "what waited past the limit is dropped"
        assert frame == (FIN | CLOSE, (4513).to_bytes(2, "big") + b"reads too slowly")
        line.send(closing(4513))
        closed = results.get(timeout=ARRIVES_WITHIN)
    assert type(closed) is ConnectionClosedError
    assert (closed.sent.code, closed.sent.reason) == (4513, "reads too slowly")


def test_much_in_one_turn_is_no_slow_reader_yet(start):
    hub = Hubbub(Settings(max_outbox=16 * KILOBYTE))

    @hub.endpoint("/burst")
    async def burst(connection: Connection) -> None:
        # Twice what may wait for a slow reader.
        await asyncio.gather(*(connection.send(b"%08d" % number * 4) for number in range(1024)))
        await connection.close()

    with dial(start(hub), "/burst") as line:
        assert [line.message() for _ in range(1024)] == [b"%08d" % number * 4 for number in range(1024)]
        assert line.close_frame() == (1000, "")


def test_a_client_that_reads_slowly_holds_up_no_other(start):
    hub = Hubbub()

    @hub.endpoint("/flood")
    async def flood(connection: Connection) -> None:
        while True:
            await connection.send(b"x" * 65536)

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    served = start(hub)
    with dial(served, "/flood", receive_buffer=SMALL_BUFFER) as slow, dial(served, "/echo") as line:
        slow.message()
        for number in range(10):
            line.send(text(str(number)))
            assert line.message() == str(number)
        slow.vanish()


def test_an_endpoint_that_sends_without_end_lets_others_have_their_turn(start):
    hub = Hubbub()

    @hub.endpoint("/flood/{size}")
    async def flood(connection: Connection, size: int) -> None:
        while True:
            await connection.send(b"x" * size)

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    served = start(hub)
    for size in (1000, 500_000):
        with dial(served, f"/flood/{size}") as fast, dial(served, "/echo") as line:
            # It reads as fast as it can, so that its line never fills up.
            enough = threading.Event()
            reader = threading.Thread(target=read_until, args=(enough, fast))
            reader.start()
            for number in range(10):
                line.send(text(str(number)))
                assert line.message() == str(number)
            enough.set()
            reader.join(ARRIVES_WITHIN)
            assert not reader.is_alive()
            fast.vanish()


def read_until(enough: threading.Event, line: Line) -> None:
    while not enough.is_set():
        assert line.socket.recv(1_000_000)


# Another ASGI application's WebSocket


def test_a_socket_is_not_read_while_the_application_does_not_receive(start):
    may_receive = threading.Event()
    results = queue.Queue()
    messages = [b"%08d" % number + b"x" * 65528 for number in range(MORE_THAN_FITS // 65536)]

    @accepting
    async def app(scope, receive, send):
        await anyio.to_thread.run_sync(may_receive.wait, ARRIVES_WITHIN)
        for message in messages:
            if (await receive()).get("bytes") != message:
                results.put(f"not in order at {message[:8]!r}")
                return
        results.put("all in order")

    with dial(start(app), "/") as line:
        stream = b"".join(masked(FIN | BINARY, message) for message in messages)
        sent = line.send_while_taken(stream)
        assert sent < len(stream), "all was taken, though nobody received it"
        may_receive.set()
        line.send(stream[sent:])
        assert results.get(timeout=ARRIVES_WITHIN) == "all in order"


def test_send_waits_while_the_client_does_not_read(start):
    results = queue.Queue()
    payload = b"x" * 65536

    @accepting
    async def app(scope, receive, send):
        sent = 0
        with anyio.move_on_after(0.3) as waiting:
            while sent * len(payload) < MORE_THAN_FITS:
                await send({"type": "websocket.send", "bytes": payload})
                sent += 1
                waiting.deadline = anyio.current_time() + 0.3
        results.put(sent)
        await send({"type": "websocket.close"})

    with dial(start(app), "/", receive_buffer=16_384) as line:
        sent = results.get(timeout=ARRIVES_WITHIN)
        assert sent * len(payload) < MORE_THAN_FITS
        for _ in range(sent):
            assert line.message() == payload
        assert line.close_frame() == (1000, "")


def test_a_client_that_asks_and_never_reads_is_let_go_by_the_pings(start):
    hub, gone = Hubbub(Settings(ping_interval=0.4, ping_timeout=0.4, close_timeout=0.3)), Told()

    @hub.on_message
    async def tell(message: Tell) -> str:
        return "x" * message.size

    @hub.on_disconnect
    async def disconnected(connection: Connection) -> None:
        gone(connection.close_code)

    with dial(start(hub), "/", receive_buffer=SMALL_BUFFER) as line:
        size = MORE_THAN_FITS // 200
        for number in range(400):
            line.send(text(f'{{"type": "tell", "id": {number}, "data": {{"size": {size}}}}}'))
        assert asyncio.run(gone.next()) in (1006, 1011, 4508)
