"""A client, the proxy and a server, on real sockets, each end seen by the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from hubbub.testing.faults import FaultProxy, Happened

WITHIN = 10.0
MUCH = 32 * 2**20
"""Bytes that are more than the system and the proxy take together."""


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops, one after the other."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Peer(asyncio.Protocol):
    """One end of a TCP connection, and all that it sees."""

    def __init__(self, made: Callable[["Peer"], None] | None = None) -> None:
        self._made = made
        self.pieces: list[bytes] = []
        self.times: list[float] = []
        self.received = b""
        self.ended = False
        """Whether a FIN came."""
        self.problem: Exception | None = None
        """With what it was lost."""
        self.lost = False
        self.full = False
        self.transport: asyncio.Transport
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self._made is not None:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.times.append(asyncio.get_running_loop().time())
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return True

    def connection_lost(self, problem: Exception | None) -> None:
        self.problem, self.lost = problem, True
        self._changed.set()

    def pause_writing(self) -> None:
        self.full = True
        self._changed.set()

    def resume_writing(self) -> None:
        self.full = False
        self._changed.set()

    def write(self, data: bytes) -> None:
        """Send bytes, if there is anybody to send them to."""
        if not self.lost:
            self.transport.write(data)

    async def until(self, true: Callable[["Peer"], bool]) -> None:
        """Wait until something is true of this end."""
        try:
            async with asyncio.timeout(WITHIN):
                while not true(self):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it did not happen; seen: {vars(self)}") from None

    def sees_nothing(self) -> bool:
        """Whether, for all this end knows, the line is open and quiet."""
        return not (self.received or self.ended or self.lost)

    async def receives(self, data: bytes) -> None:
        """Wait until this, and only this, was received in all."""
        await self.until(lambda self: len(self.received) >= len(data))
        assert self.received == data

    async def ends(self) -> None:
        """Wait for a FIN."""
        await self.until(lambda self: self.ended or self.lost)
        assert self.ended, self.problem

    async def breaks_off(self) -> None:
        """Wait for a RST."""
        await self.until(lambda self: self.lost or self.ended)
        assert isinstance(self.problem, ConnectionResetError), vars(self)


class Network:
    """A server behind a proxy, and clients of it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._arrivals: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server
        self.proxy: FaultProxy
        self.told: list[Happened] = []

    async def open(self) -> None:
        loop = asyncio.get_running_loop()

        def arrived(peer: Peer) -> None:
            self._stack.callback(peer.transport.abort)
            self._arrivals.put_nowait(peer)

        self._server = await loop.create_server(lambda: Peer(arrived), "127.0.0.1", 0)
        self._stack.callback(self._server.close)
        port = self._server.sockets[0].getsockname()[1]
        self.proxy = await self._stack.enter_async_context(
            FaultProxy("127.0.0.1", port, on_fault=self.told.append)
        )

    async def client(self) -> Peer:
        """Connect to the proxy, and no further."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Peer, "127.0.0.1", self.proxy.port)
        self._stack.callback(client.transport.abort)
        return client

    async def arrival(self) -> Peer:
        """Return the server's end of the connection that came next."""
        async with asyncio.timeout(WITHIN):
            return await self._arrivals.get()

    def arrived(self) -> bool:
        return not self._arrivals.empty()

    async def pair(self) -> tuple[Peer, Peer]:
        """Return both ends of a new connection."""
        client = await self.client()
        return client, await self.arrival()

    def close_server(self) -> None:
        self._server.close()

    async def seen(self, true: Callable[[FaultProxy], bool]) -> None:
        """Wait until something is true of the proxy."""
        async with asyncio.timeout(WITHIN):
            await self.proxy.until(true)

    async def is_over(self) -> None:
        """Wait until the proxy has forgotten all connections."""
        await self.seen(lambda proxy: not proxy.connections)


def now() -> float:
    return asyncio.get_running_loop().time()


async def crosses(network: Network) -> None:
    """See that a new connection works, both ways."""
    client, server = await network.pair()
    client.write(b"ping")
    await server.receives(b"ping")
    server.write(b"pong")
    await client.receives(b"pong")


async def connects(network: Network) -> None:
    """See that a new connection is set up while others have faults."""
    await network.pair()


@asynccontextmanager
async def opened() -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        network = Network(stack)
        await network.open()
        yield network
    await asyncio.sleep(0)  # transports say goodbye in the turn after they were aborted
    await asyncio.sleep(0)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with opened() as network:
        yield network


@pytest.fixture
async def told() -> AsyncIterator["asyncio.Future[BaseException]"]:
    """The exception that the event loop is told of."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[BaseException] = loop.create_future()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.set_result(context["exception"]))
    yield told
    loop.set_exception_handler(before)
