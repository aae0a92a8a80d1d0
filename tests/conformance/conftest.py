"""What the conformance tests share: a server that echoes, and a line to it.

The cases are those of the Autobahn test suite, by its families and in its order, in plain bytes on a socket.
They are held against the native transport, which is to be strict; what another server makes of them is its
own affair.
"""

from collections.abc import Iterator

import pytest

from conftest import Served, serving
from hubbub import Connection, Hubbub
from transports.raw import Line


@pytest.fixture(scope="session")
def peer() -> Iterator[Served]:
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with serving() as serve:
        yield serve(hub)


@pytest.fixture
def line(peer: Served) -> Iterator[Line]:
    """An open WebSocket."""
    with Line(("127.0.0.1", peer.port)) as line:
        line.open()
        yield line
