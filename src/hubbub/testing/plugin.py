"""A pytest plugin: clients and servers of your application, faults of the network, a clock.

It works under anyio's pytest plugin and under pytest-asyncio alike: no fixture is asynchronous. What they
give is entered in the test: ``async with hub_client(hub) as client``.
"""

# Every pytest run where hubbub is installed imports this module: the rest is imported when it is asked for.
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .clock import Clock
    from .factories import FaultProxyTo, HubClient, HubServer, ServerProcess


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A clock (:class:`hubbub.testing.Clock`) that has the time of the test's event loop in hand.

    Time stands still from its first use on, or from when `hub_client` or `hub_server` is first used.
    """
    from .clock import Clock

    clock = Clock()
    yield clock
    clock.release()


@pytest.fixture
def hub_client(request: pytest.FixtureRequest) -> HubClient:
    """Return what connects clients (:class:`hubbub.testing.HubClient`).

    >>> async with hub_client(hub, token="ada", messages=[Say]) as ada:
    ...     room = await ada.join("chat/lobby")
    """
    from .factories import HubClient

    return HubClient(_clock_of(request))


@pytest.fixture
def hub_server(request: pytest.FixtureRequest) -> HubServer:
    """Return what serves hubs on real sockets (:class:`hubbub.testing.HubServer`).

    >>> async with hub_server(hub) as server, hubbub.connect(server.url) as client: ...
    """
    from .factories import HubServer

    return HubServer(_clock_of(request))


@pytest.fixture
def fault_proxy() -> FaultProxyTo:
    """Return what puts a proxy in front of a server, to have faults happen.

    >>> async with hub_server(hub) as server, fault_proxy(server) as proxy:
    ...     proxy.apply(Cut())
    """
    from .factories import proxy_to

    return proxy_to


@pytest.fixture
def server_process(request: pytest.FixtureRequest) -> ServerProcess:
    """Return what serves in a process that can be killed (:meth:`hubbub.testing.Process.serving`).

    >>> async with server_process("chat:hub", drain=0) as process:
    ...     await process.kill()

    It has a time of its own, which `clock` can't move: a test may ask for one of them.
    """
    from .processes import Process

    if _clock_of(request) is not None:
        pytest.fail("A server process has a time of its own: use `clock` or `server_process`, not both.")
    return Process.serving


def _clock_of(request: pytest.FixtureRequest) -> Clock | None:
    """Return the test's clock if it asks for one; a fixture of that name may be something else."""
    from .clock import Clock

    found = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
    return found if isinstance(found, Clock) else None
