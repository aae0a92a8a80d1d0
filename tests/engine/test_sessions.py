"""Sessions that move between connections: orders of events that only a broker under control brings about."""

import asyncio
from collections.abc import Iterator

import pytest

from model.client import Client
from model.lines import Closed, Line, NativeLine
from model.world import WINDOW, Application, Instance, Ledger, StillLoop, Store


class Server:
    """Two instances with one store, and a client of theirs."""

    def __init__(self, user: str | None = None) -> None:
        self.loop = StillLoop()
        ledger = Ledger(self.loop)
        self.store = Store(clock=self.loop.time, lease=1e9, window=WINDOW)
        self.instances = [Instance(Application(10), self.store, ledger) for _ in range(2)]
        for instance in self.instances:
            self.loop.run_until_complete(instance.hub.start())
        self.client = Client(user, self.loop, ledger)

    def connect(self, which: int) -> Line:
        """Have the client connect, and go as far as it comes."""
        line = NativeLine()

        async def open_line() -> None:
            serving = self.instances[which].hub(line.scope(self.client.user), line.receive, line.deliver)
            line.task = asyncio.create_task(serving)  # type: ignore[arg-type]
            self.client.connect(line)

        self.loop.run_until_complete(open_line())
        self.go_on()
        return line

    def go_on(self) -> None:
        """Let everything happen that can."""

        async def hear() -> None:
            self.client.hear(1000)

        for _ in range(10):
            self.loop.settle()
            self.loop.run_until_complete(hear())

    def cut(self) -> None:
        async def cut() -> None:
            self.client.lose_line()

        self.loop.run_until_complete(cut())
        self.loop.settle()

    def let_go(self, which: int, *, fails: bool = False) -> None:
        """Let one of the calls go on that wait for an instance's broker."""

        async def let_go() -> None:
            self.instances[which].broker.let_go(0, fails=fails)

        self.loop.run_until_complete(let_go())
        self.go_on()

    def end(self) -> None:
        for instance in self.instances:
            instance.broker.let_all_go()
        self.loop.end()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.end()


def test_a_session_that_comes_back_leaves_no_connection_on_another_instance(server):
    server.connect(0)
    # The client has left that line, so nobody answers its close: the connection is there for a while yet.
    second = server.connect(1)
    third = server.connect(0)
    assert second.closed_with == Closed(4409, "the session goes on on another connection")
    assert third.closed_with is None
    assert server.client.resumed == 2


def test_the_newer_connection_stays_where_the_record_of_those_before_is_gone(server):
    """It is as old as the last resume, and may be forgotten, where a client stays connected for long."""
    server.connect(0)
    server.connect(0)
    server.store.forget(f"$session/{server.client.session}")
    token = server.client.token
    older = server.connect(0)
    # The answer was lost, so the client shows the same token once more.
    server.client.token = token
    newer = server.connect(1)
    assert older.closed_with == Closed(4409, "the session goes on on another connection")
    assert newer.closed_with is None


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_a_connection_that_is_lost_while_it_resumes_replaces_none(server, calls):
    """Its client may have resumed on another one meanwhile: however far the first one came."""
    server.connect(0)
    server.cut()
    server.instances[0].broker.held = True
    server.connect(0)
    for _ in range(calls):
        server.let_go(0)
    server.cut()
    second = server.connect(1)
    while server.instances[0].broker.calls:
        server.let_go(0)
    assert second.closed_with is None
    assert (server.client.phase, server.client.resumed) == ("open", 1)


def test_a_broker_that_is_away_at_the_login_sends_the_client_away_until_later():
    server = Server("ada")
    server.instances[0].broker.held = True
    line = server.connect(0)
    server.let_go(0, fails=True)
    assert line.closed_with == Closed(1013, "the inbox can't be joined now")
    server.connect(1)
    assert server.client.phase == "open"
    server.end()
