"""permessage-deflate (RFC 7692) on the native transport, and what of it holds over plain ASGI too."""

import os
import subprocess
import sys
import zlib

import pytest
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from conftest import serving
from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.transports import framing
from transports.raw import BINARY, CONTINUATION, FIN, PING, PONG, TEXT, Line, dial, masked, text
from wire import talk

RSV1 = 0x40
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"
FINAL = b"\x01\x01\x00\xfe\xffa"
"""A block that is marked as final and says an a."""


class Say(Message):
    text: str


def echoing(settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings)

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    return hub


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=-15).decompress(payload + TAIL)


@pytest.fixture(scope="module")
def served():
    with serving() as serve:
        yield serve(echoing())


@pytest.fixture
def line(served):
    with Line(("127.0.0.1", served.port)) as line:
        line.open(headers=(OFFER,))
        yield line


# What is agreed to


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (["permessage-deflate"], BOTH),
        (["permessage-deflate; client_max_window_bits"], BOTH),
        (["permessage-deflate; server_max_window_bits=10"], f"{BOTH}; server_max_window_bits=10"),
        (["unknown, permessage-deflate"], BOTH),
        (["unknown; a=1", "permessage-deflate"], BOTH),
        (
            ["permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=9"],
            f"{BOTH}; server_max_window_bits=9",
        ),
        (
            ["permessage-deflate; server_max_window_bits=9, permessage-deflate"],
            f"{BOTH}; server_max_window_bits=9",
        ),
        (["permessage-deflate; server_max_window_bits=99"], None),
        (["permessage-deflate; mux"], None),
        (["x-webkit-deflate-frame"], None),
        (["unknown"], None),
    ],
)
def test_the_first_acceptable_offer_is_taken_and_without_one_it_goes_on_uncompressed(served, offers, answer):
    with dial(served) as line:
        response = line.open(headers=[f"Sec-WebSocket-Extensions: {offer}" for offer in offers])
        assert response.headers.get("sec-websocket-extensions") == answer
        line.send(text("x" * 1000))
        first, payload = line.frame()
        assert first == (FIN | TEXT if answer is None else FIN | RSV1 | TEXT)
        assert (payload if answer is None else inflated(payload)) == b"x" * 1000


def test_without_the_setting_nothing_is_agreed_to(start):
    with dial(start(echoing(Settings(compression=False)))) as line:
        assert "sec-websocket-extensions" not in line.open(headers=(OFFER,)).headers
        line.send(masked(FIN | RSV1 | TEXT, deflated(b"a")))
        assert line.close_frame()[0] == 1002
        assert line.rest() == b""


def test_another_asgi_application_s_messages_are_compressed_too(serve):
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"] * 1000})
        await receive()

    with dial(serve(app)) as line:
        assert line.open("/", headers=(OFFER,)).headers["sec-websocket-extensions"] == BOTH
        line.send(masked(FIN | RSV1 | TEXT, deflated(b"a")))
        first, payload = line.frame()
        assert (first, inflated(payload)) == (FIN | RSV1 | TEXT, b"a" * 1000)


# Out


def test_only_what_is_large_is_compressed_and_only_where_that_makes_it_smaller(serve):
    with dial(serve(echoing(Settings(compression_threshold=100)))) as line:
        line.open(headers=(OFFER,))
        line.send(text("x" * 99))
        assert line.frame() == (FIN | TEXT, b"x" * 99)
        line.send(text("x" * 100))
        first, payload = line.frame()
        assert (first, inflated(payload)) == (FIN | RSV1 | TEXT, b"x" * 100)
        noise = os.urandom(1000)
        line.send(masked(FIN | BINARY, noise))
        assert line.frame() == (FIN | BINARY, noise)


def test_from_a_threshold_of_nothing_on_all_is_compressed_but_what_would_grow(serve):
    with dial(serve(echoing(Settings(compression_threshold=0)))) as line:
        line.open(headers=(OFFER,))
        line.send(text("") + text("a") + text("a" * 20))
        assert line.frame() == (FIN | TEXT, b"")
        assert line.frame() == (FIN | TEXT, b"a")
        first, payload = line.frame()
        assert (first, inflated(payload)) == (FIN | RSV1 | TEXT, b"a" * 20)


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.anyio
async def test_websockets_reads_and_is_read_with_any_window(served, bits):
    offer = ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=bits)
    url = served.url + "/echo"
    async with websockets.connect(url, compression=None, extensions=[offer], max_size=None) as websocket:
        for message in ("é" * 3000, os.urandom(50) * 500, os.urandom(300_000), "", "x" * 1_000_000):
            await websocket.send(message)
            assert await websocket.recv() == message
    (agreed,) = websocket.protocol.extensions
    assert agreed.remote_max_window_bits == bits


@pytest.mark.parametrize("threshold", [512, 10**9])
@pytest.mark.anyio
async def test_a_message_to_a_room_is_compressed_once_for_all_its_members(serve, monkeypatch, threshold):
    calls: list[int] = []
    compress = framing.compress

    def counted(payload: bytes, window_bits: int) -> bytes:
        calls.append(window_bits)
        return compress(payload, window_bits)

    monkeypatch.setattr(framing, "compress", counted)
    hub = Hubbub(Settings(compression_threshold=threshold))
    chat = hub.room("chat/{name}")

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message)

    url = serve(hub).url
    small = [ClientPerMessageDeflateFactory(server_max_window_bits=10)]
    deflating = {"compression": "deflate"}
    async with (
        talk(url, **deflating) as one,
        talk(url, **deflating) as two,
        talk(url, **deflating) as three,
        talk(url, extensions=small) as narrow,
        talk(url) as plain,
    ):
        everyone = (one, two, three, narrow, plain)
        for client in everyone:
            await client.join("chat/lobby")
        calls.clear()
        await one.send(type="say", room="chat/lobby", data={"text": "again and " * 100})
        for client in everyone:
            assert (await client.receive_type("say"))["data"] == {"text": "again and " * 100}
    # Once for each window that someone has.
    assert sorted(calls) == ([10, 15] if threshold == 512 else [])


# In


def test_compressed_messages_are_received(line):
    line.send(
        masked(FIN | RSV1 | TEXT, deflated("é".encode())) + masked(FIN | RSV1 | BINARY, deflated(b"\xff"))
    )
    assert line.message() == "é"
    assert line.message() == b"\xff"
    line.send(text("plain ones, too"))
    assert line.message() == "plain ones, too"


def test_fragments_of_a_compressed_message_come_with_pings_between_them(line):
    wire = deflated(b"one two three")
    line.send(masked(RSV1 | TEXT, wire[:4]) + masked(FIN | PING, b"between"))
    assert line.frame() == (FIN | PONG, b"between")
    for byte in wire[4:]:
        line.send(masked(CONTINUATION, bytes((byte,))))
    line.send(masked(FIN | CONTINUATION))
    assert line.message() == "one two three"


def test_a_small_message_may_be_as_large_as_the_limit_and_no_larger(serve):
    limit = 100_000
    served = serve(echoing(Settings(max_message=limit)))
    with dial(served) as line:
        line.open(headers=(OFFER,))
        line.send(masked(FIN | RSV1 | TEXT, deflated(b"x" * limit)))
        assert inflated(line.frame()[1]) == b"x" * limit
        line.send(masked(FIN | RSV1 | TEXT, deflated(b"x" * (limit + 1))))
        assert line.close_frame() == (1009, f"over the size limit of {limit} bytes")
        assert line.rest() == b""


SERVER = """
import resource, sys
from hubbub import Connection, Hubbub, Settings
from hubbub.listening import listen
from hubbub.server import run

hub = Hubbub()

@hub.endpoint("/echo")
async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)

@hub.endpoint("/memory")
async def memory(connection: Connection) -> None:
    await connection.send(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

settings = Settings(port=0, native=sys.argv[1] == "native")
socket = listen(settings)
print(socket.getsockname()[1], flush=True)
run(hub, settings, [socket])
"""


@pytest.fixture
def port(native):
    """A server in a process of its own, so that its memory can be told from the tests'."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, "native" if native else "asgi"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_bombs_cost_no_more_than_the_limit(port, native):
    def bomb_of(mebibytes: int) -> bytes:
        compressor = zlib.compressobj(9, wbits=-15)
        parts = [compressor.compress(bytes(1 << 20)) for _ in range(mebibytes)]
        return b"".join(parts) + compressor.flush(zlib.Z_SYNC_FLUSH)

    bomb, small = bomb_of(200), bomb_of(50)
    # Frames that are smaller than this are read by a short cut.
    assert len(small) < 65_536 < len(bomb)
    third = len(bomb) // 3

    def peak() -> int:
        with Line(("127.0.0.1", port)) as line:
            line.open("/memory")
            kilobytes = int(line.message())
        return kilobytes // 1024 if sys.platform == "darwin" else kilobytes

    def throw(*frames: bytes) -> None:
        with Line(("127.0.0.1", port)) as line:
            line.open(headers=(OFFER,))
            line.send(b"".join(frames))
            assert line.close_frame()[0] == 1009

    # What any message costs is no bomb's doing. That of a bomb itself must not be in what is compared with.
    with Line(("127.0.0.1", port)) as line:
        line.open(headers=(OFFER,))
        line.send(masked(FIN | RSV1 | TEXT, deflated(b"a")))
        assert line.frame()[0] & ~RSV1 == FIN | TEXT
    before = peak()
    for _ in range(10):
        throw(masked(FIN | RSV1 | BINARY, small))
        throw(masked(FIN | RSV1 | BINARY, bomb))
        throw(
            masked(RSV1 | TEXT, bomb[:third]),
            masked(CONTINUATION, bomb[third : 2 * third]),
            masked(FIN | CONTINUATION, bomb[2 * third :]),
        )
        if native:
            # Behind a final block; the `websockets` library reads no further than that.
            throw(masked(FIN | RSV1 | BINARY, FINAL + bomb))
    # 40 bombs, of which each may have been inflated to 1 MiB, one at a time.
    assert peak() - before < 16 * 1024
