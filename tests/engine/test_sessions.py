"""Sessions that move between connections: orders of events that only a broker under control brings about."""

import asyncio
from collections.abc import Iterator

import pytest

from hubbub.brokers.base import Retention
from model.client import Client
from model.lines import Closed, Line, NativeLine
from model.world import WINDOW, Application, Instance, Ledger, StillLoop, Store


class Server:
    """Two instances with one store, and a client of theirs."""

    def __init__(self, user: str | None = None, *, counts: bool = True) -> None:
        self.loop = StillLoop()
        ledger = Ledger(self.loop)
        self.store = Store(clock=self.loop.time, lease=1e9, window=WINDOW)
        self.instances = [Instance(Application(10), self.store, ledger) for _ in range(2)]
        for instance in self.instances:
            self.loop.run_until_complete(instance.hub.start())
        self.client = Client(user, self.loop, ledger, counts=counts)

    def connect(self, which: int, *, late: bool = False) -> Line:
        """Have the client connect, and go as far as it comes; what it sends may be late."""
        line = NativeLine()
        line.late = late

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

    def release(self, which: int) -> None:
        """Hold up an instance's broker no more."""

        async def release() -> None:
            self.instances[which].broker.release()

        self.loop.run_until_complete(release())
        self.go_on()

    def arrive(self, line: Line) -> None:
        """Have what was sent on a line reach the server."""

        async def arrive() -> None:
            line.arrive()

        self.loop.run_until_complete(arrive())
        self.go_on()

    def on(self, which: int) -> list[Line]:
        """Return the lines on which an instance has the client's session."""
        return [
            connection.scope["line"]
            for connection in self.instances[which].hub._hub.connections.values()
            if connection.session == self.client.session and not connection.closing
        ]

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
    assert line.closed_with == Closed(1013, "the broker can't be reached now")
    server.connect(1)
    assert server.client.phase == "open"
    server.end()


REPLACED = Closed(4409, "the session goes on on another connection")
TURNS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(("first", "second"), TURNS)
def test_an_attempt_that_arrives_late_replaces_none(server, first, second):
    """The line of the first attempt died without a word, and what was sent on it was on its way for long."""
    server.connect(0)
    server.cut()
    late = server.connect(first, late=True)
    assert server.client.phase == "resuming"
    newer = server.connect(second)
    server.arrive(late)
    assert newer.closed_with is None
    assert server.client.phase == "open"
    # It is refused in the words for all that are, and has no part in the session.
    assert server.on(0) + server.on(1) == [newer]


@pytest.mark.parametrize(("first", "second"), TURNS)
@pytest.mark.parametrize("calls", range(1, 8))
def test_an_attempt_whose_broker_is_slow_replaces_none(server, first, second, calls):
    """However far the first one came before the second: the second one has the session."""
    server.connect(0)
    server.cut()
    server.instances[first].broker.held = True
    server.connect(first)
    for _ in range(calls):
        if server.instances[first].broker.calls:
            server.let_go(first)
    newer = server.connect(second)
    server.release(first)
    server.release(second)
    assert newer.closed_with is None
    assert server.client.phase == "open"
    assert server.on(0) + server.on(1) == [newer]


def test_of_a_client_that_does_not_count_the_one_that_came_later_wins():
    server = Server(counts=False)
    server.connect(0)
    server.cut()
    late = server.connect(0, late=True)
    newer = server.connect(1)
    server.arrive(late)
    assert newer.closed_with == REPLACED
    server.end()


def test_all_instances_that_may_have_the_session_are_told(server):
    """The one that was the last to record it may be one that was lost before it could tell the others."""
    first = server.connect(0)
    server.instances[1].broker.held = True
    second = server.connect(1)
    while server.client.phase == "resuming" and len(records(server)) < 1:
        server.let_go(1)
    server.cut()
    second.served()
    third = server.connect(1)
    server.release(1)
    assert first.closed_with == REPLACED
    assert third.closed_with is None
    assert server.on(0) + server.on(1) == [third]


def records(server: Server) -> list[bytes]:
    stream = server.store.streams.get(f"$session/{server.client.session}")
    return [] if stream is None else [entry.payload for _, entry in stream.entries]


def test_a_record_that_turns_up_unreadable_refuses_the_session(server):
    """It may have come between the first look at the records and the second."""
    first = server.connect(0)
    session = server.client.session
    server.client.token_until = 0.0  # the client takes it for no wonder
    server.instances[0].broker.held = True
    second = server.connect(0)
    while not records(server):
        server.let_go(0)
    spoil = server.instances[1].broker.publish(
        f"$session/{session}", b"\xc1", sender=None, key=None, keep=Retention(8, 3600.0)
    )
    server.loop.run_until_complete(spoil)
    server.release(0)
    assert server.client.refusals == 1
    assert second.closed_with is None
    assert server.client.session != session
    assert server.on(0) == [second]
    # The session is where it was, for whoever is there.
    assert first.closed_with is None
    sessions = server.instances[0].hub._hub.sessions
    assert sessions.connections[session].scope["line"] is first


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_is_where_it_was_when_the_broker_fails_in_the_middle(server, fails):
    first = server.connect(0)
    session = server.client.session
    server.instances[0].broker.held = True
    second = server.connect(0)
    while not records(server):
        server.let_go(0)
    server.let_go(0)  # the answer to the record
    assert server.instances[0].broker.calls, "the second look"
    if fails:
        server.let_go(0, fails=True)
        assert second.closed_with.code == 1013
    else:
        second.cut()
    server.release(0)
    sessions = server.instances[0].hub._hub.sessions
    assert sessions.connections[session].scope["line"] is first
    assert first.closed_with is None
