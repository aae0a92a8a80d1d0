"""What the tests of the transports share."""

from collections.abc import Iterator

import pytest

from conftest import Served, serving
from hubbub import Connection, Hubbub
from transports.raw import Line


@pytest.fixture(scope="module", params=["native", "asgi"])
def echo(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with an endpoint that echoes: one for all tests of a file, over each transport in turn."""
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

    with serving() as serve:
        yield serve(hub, native=request.param == "native")


@pytest.fixture
def line(echo: Served) -> Iterator[Line]:
    """A connection to that server on which nothing has been sent yet."""
    with Line(("127.0.0.1", echo.port)) as line:
        yield line
