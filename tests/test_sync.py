"""The blocking client does what the asynchronous one does, from any thread."""

import asyncio
import errno
import inspect
import os
import signal
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import get_type_hints

import pytest

import hubbub
from hubbub import (
    Backoff,
    ClientError,
    Connection,
    Hubbub,
    Message,
    Position,
    Received,
    ReconnectFailed,
    RequestFailed,
    Room,
    State,
    sync,
)
from hubbub import client as asynchronous
from plain_server import plain_server
from told import Gate

LOBBY = "chat/lobby"


class Say(Message):
    text: str


class Wait(Message):
    pass


class Count(Message):
    pass


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def asked() -> threading.Event:
    """Set when the server was asked to wait."""
    return threading.Event()


@pytest.fixture
def url(serve, gate, asked) -> str:
    hub = Hubbub()
    chat = hub.room("chat/{name}", history=100, presence=True)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    @chat.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @chat.on_message
    async def count(room: Room, message: Count) -> int:
        return len(await room.history())

    @hub.on_message
    async def wait(message: Wait) -> str:
        asked.set()
        await gate.passed()
        return "at last"

    @hub.on_message
    async def remind(connection: Connection, message: Say) -> None:
        await hub.user(connection.user).send(message)

    return serve(hub).url


def test_a_script_joins_speaks_and_listens(url):
    with sync.connect(url, messages=[Say], token="ada") as client:
        room = client.join(LOBBY)
        assert (client.user, room.name, room.position.offset) == ("ada", LOBBY, 0)
        for text in "ab":
            room.send(Say(text))
        texts = []
        for event in room:
            texts.append(event.message.text)
            if len(texts) == 2:
                break
        assert texts == ["a", "b"]
        assert room.request(Count(), int) == room.request(Count()) == 2
        assert [event.offset for event in room.history(limit=1).messages] == [2]
        assert [member.user for member in room.members()] == ["ada"]
        assert room.position.offset == 2
        room.leave()
        assert list(room) == []


def test_everything_and_the_inbox_can_be_iterated_over(url):
    with sync.connect(url, messages=[Say], token="ada") as client:
        client.send(Say("one"))
        client.send(Say("two"), acknowledged=False)
        assert client.inbox.receive().message == Say("one")
        for event in client:
            assert event.message == Say("two")
            break
        client.send(Say("three"))
        assert client.receive().message == Say("three")
    with sync.connect(url) as guest:
        assert guest.inbox is None
        assert guest.log_in("bob") == guest.user == "bob"


def test_what_takes_too_long_is_told(url, gate):
    with sync.connect(url) as client:
        with pytest.raises(TimeoutError):
            client.receive(timeout=0.01)
        with pytest.raises(TimeoutError):
            client.request(Wait(), timeout=0.01)
        gate.open()
        assert client.request(Wait(), str) == "at last"


def test_nothing_is_taken_by_a_wait_that_ended(url):
    with sync.connect(url, messages=[Say]) as client:
        room = client.join(LOBBY)
        for number in range(20):
            with pytest.raises(TimeoutError):
                room.receive(timeout=0)
            room.send(Say(str(number)))
            assert room.receive().message == Say(str(number))


def test_errors_are_raised(url):
    with sync.connect(url) as client, pytest.raises(RequestFailed, match="nowhere"):
        client.join("nowhere")


def test_threads_share_a_client(url):
    with sync.connect(url, messages=[Say]) as client, ThreadPoolExecutor(4) as threads:
        room = client.join(LOBBY)
        listening = threads.submit(lambda: [next(iter(room)).offset for _ in range(40)])
        list(threads.map(lambda number: room.send(Say(str(number))), range(40)))
        assert listening.result(10) == list(range(1, 41))


def test_closing_ends_what_waits_in_other_threads(url, gate, asked):
    with ThreadPoolExecutor(4) as threads:
        with sync.connect(url) as client:
            room = client.join(LOBBY)
            iterating = threads.submit(lambda: (list(room), list(client)))
            watching = threads.submit(lambda: [change.state for change in client.states()])
            asking = threads.submit(lambda: client.request(Wait(), timeout=None))
            assert asked.wait(10)
        gate.open()
        assert iterating.result(10) == ([], [])
        assert watching.result(10) == [State.OPEN, State.CLOSED]
        with pytest.raises(ClientError):
            asking.result(10)
    client.close()
    assert client.state.state is State.CLOSED
    assert list(client) == list(room) == []
    for late in (lambda: room.send(Say("late")), client.receive, lambda: client.join(LOBBY)):
        with pytest.raises(ClientError, match="closed"):
            late()


def test_the_end_of_what_comes_is_told():
    async def bye(connection) -> None:
        await connection.send("bye")

    with plain_server(bye) as server, sync.connect(server.url) as client:
        assert client.receive() == "bye"
        with pytest.raises(EOFError):
            client.receive()


def test_one_that_can_not_connect_says_why(unused_url):
    with pytest.raises(ReconnectFailed), sync.connect(unused_url, backoff=lambda: iter([])):
        pass
    endless = Backoff([0.01], endless=True)
    with pytest.raises(TimeoutError), sync.connect(unused_url, timeout=0.05, backoff=endless):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "hubbub client"]


def test_a_call_at_the_moment_of_the_close_ends_too(url, monkeypatch):
    begin, calling, closed = asyncio.run_coroutine_threadsafe, threading.Event(), threading.Event()

    def late(coroutine, loop):
        if threading.current_thread() is not threading.main_thread():
            calling.set()
            closed.wait(0.2)
        return begin(coroutine, loop)

    with ThreadPoolExecutor(1) as threads, sync.connect(url) as client:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
        asking = threads.submit(lambda: client.receive(timeout=None))
        assert calling.wait(10)
        client.close()
        closed.set()
        with pytest.raises((ClientError, EOFError)):
            asking.result(10)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_it_is_the_parents(url):
    with sync.connect(url) as client:
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            try:
                client.receive()
            except ClientError:
                client.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.join(LOBBY).name == LOBBY


def test_a_loop_that_can_not_be_made_is_an_error(monkeypatch):
    def no_more_files() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    client = sync.connect("ws://127.0.0.1:1")
    monkeypatch.setattr(asyncio, "new_event_loop", no_more_files)
    monkeypatch.setattr(asyncio.events, "new_event_loop", no_more_files)
    with ThreadPoolExecutor(1) as threads, pytest.raises(ClientError, match="Too many open files"):
        threads.submit(client.__enter__).result(5)


@pytest.fixture
def unused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{free.getsockname()[1]}"


def test_an_interrupt_ends_the_wait(url, monkeypatch):
    with sync.connect(url) as client:
        waiting = client._client._session.rooms.arrivals
        with pytest.raises(KeyboardInterrupt):
            _interrupted(client, monkeypatch)
        client.join(LOBBY)  # by now the loop has had its turn
        assert waiting.waiting == 0


def _interrupted(client, monkeypatch) -> None:
    def interrupt(self, timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupt)
        client.receive()


@pytest.mark.parametrize("name", ["Client", "Room"])
def test_it_has_the_same_methods(name):
    blocking, original = getattr(sync, name), getattr(asynchronous, name)
    for method, function in vars(original).items():
        if method.startswith("_"):
            continue
        assert hasattr(blocking, method), method
        if inspect.isfunction(function):
            parameters = inspect.signature(function).parameters
            assert set(parameters) <= set(inspect.signature(getattr(blocking, method)).parameters)


def test_it_takes_the_same_options():
    parameters = set(inspect.signature(hubbub.connect).parameters)
    assert set(get_type_hints(sync.Options)) == parameters - {"url"}


def test_a_position_of_one_is_good_for_the_other(url):
    with sync.connect(url, messages=[Say]) as client:
        room = client.join(LOBBY)
        for text in "ab":
            room.send(Say(text))
        assert isinstance(room.receive(), Received)
        position = room.position
        assert isinstance(position, Position)
    with sync.connect(url, messages=[Say]) as client:
        assert client.join(LOBBY, position).receive().message == Say("b")
