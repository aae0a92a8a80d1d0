"""Programs that run no server publish as a hub does, and can't do harm to what the rooms keep."""

import asyncio
import inspect
import os
import signal
import threading

import pytest
from pydantic import BaseModel

import hubbub
from hubbub import (
    ConfigurationError,
    Envelope,
    Hubbub,
    InvalidMessage,
    Message,
    Publisher,
    Settings,
    Unavailable,
    sync,
)
from hubbub import publisher as asynchronous
from hubbub.brokers.base import Guarantees, Retention
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


class Told(BaseModel):
    text: str


def application(broker: MemoryBroker | None = None, settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings, broker=broker)
    hub.room("chat/{name}", history=2, history_age=60.0)
    hub.room("price/{name}", slow="conflate")
    return hub


class Watched(MemoryBroker):
    """Keeps what it was asked to publish."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, str | None, Retention | None]] = []
        self.sender: object = "not asked"

    async def publish(self, room, payload, *, sender, key, keep):
        self.asked.append((room, key, keep))
        self.sender = sender
        return await super().publish(room, payload, sender=sender, key=key, keep=keep)


class Shared(Watched):
    """Stands for an engine that processes share, of which each broker object is an instance."""

    guarantees = Guarantees(shared=True, durable=True)
    opened: "list[Shared]" = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self) -> None:
        super().__init__(MemoryStore(clock=lambda: 0.0))
        self.stopped = False
        self.opened.append(self)

    async def start(self, receiver):
        await super().start(receiver)
        self.process = os.getpid()
        self.thread = threading.current_thread()

    async def stop(self):
        await super().stop()
        self.stopped = True


@pytest.fixture
def shared(monkeypatch):
    """Have every URL open a :class:`Shared`; gives those that were opened."""
    monkeypatch.setattr(Shared, "opened", [])
    monkeypatch.setattr(asynchronous, "open_broker", lambda settings: Shared())
    return Shared.opened


async def test_what_it_sends_reaches_the_room_from_nobody(start):
    store = MemoryStore()
    hub = application(MemoryBroker(store))
    async with talk(start(hub).url) as client:
        await client.join("chat/lobby")
        async with Publisher(MemoryBroker(store), rooms=hub) as publisher:
            position = await publisher.send("chat/lobby", Say(text="hi"))
        assert await client.receive() == {
            "type": "say",
            "room": "chat/lobby",
            "offset": position.offset,
            "data": {"text": "hi"},
        }


async def test_a_room_keeps_what_its_declaration_says():
    broker = Watched()
    async with Publisher(broker, rooms=application()) as publisher:
        await publisher.send("chat/lobby", Say(text="hi"))
        await publisher.send("price/hub", Say(text="hi"))
    assert [keep for _, _, keep in broker.asked] == [Retention(2, 60.0), Retention(0, 86400.0)]
    assert broker.sender is None


async def test_history_can_be_said_where_the_declaration_is_not():
    broker = Watched()
    async with Publisher(broker) as publisher:
        await publisher.send("chat/lobby", Say(text="hi"), history=7)
        await publisher.send("chat/lobby", Say(text="hi"), history=0, history_age=5.0)
    assert [keep for _, _, keep in broker.asked] == [Retention(7, 86400.0), Retention(0, 5.0)]


@pytest.mark.parametrize("options", [{}, {"history_age": 5.0}], ids=str)
async def test_history_that_is_not_known_is_not_guessed_and_nothing_is_lost(options):
    store = MemoryStore()
    async with Publisher(MemoryBroker(store)) as publisher:
        await publisher.send("chat/lobby", Say(text="kept"), history=5)
        with pytest.raises(ConfigurationError, match="rooms=hub"):
            await publisher.send("chat/lobby", Say(text="hi"), **options)
        assert len((await MemoryBroker(store).history("chat/lobby", None, 10)).entries) == 1


async def test_history_that_is_declared_is_not_said_again():
    async with Publisher(MemoryBroker(), rooms=application()) as publisher:
        with pytest.raises(ConfigurationError, match="is declared"):
            await publisher.send("chat/lobby", Say(text="hi"), history=2)


@pytest.mark.parametrize(("history", "age"), [(-1, 1.0), (1, 0.0), (1, float("inf")), (1, float("nan"))])
async def test_history_that_can_not_be_is_refused(history, age):
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(ConfigurationError, match="history"):
            await publisher.send("chat/lobby", Say(text="hi"), history=history, history_age=age)


async def test_a_room_that_is_not_declared_is_an_error():
    async with Publisher(MemoryBroker(), rooms=application()) as publisher:
        with pytest.raises(ConfigurationError, match="'caht/lobby'"):
            await publisher.send("caht/lobby", Say(text="hi"))


@pytest.mark.parametrize("rooms", [None, application()], ids=["alone", "with declarations"])
async def test_ephemeral_messages_leave_no_trace(rooms):
    broker = Watched()
    async with Publisher(broker, rooms=rooms) as publisher:
        await publisher.send("chat/lobby", Say(text="hi"), ephemeral=True)
        await publisher.user("ada", Say(text="hi"), ephemeral=True)
    assert [keep for _, _, keep in broker.asked] == [None, None]


async def test_the_same_idempotency_key_publishes_once():
    async with Publisher(MemoryBroker(), rooms=application()) as publisher:
        first, again, other = [
            await publisher.send("chat/lobby", Say(text="hi"), idempotency_key=key) for key in ("a", "a", "b")
        ]
    assert (first, again.offset, other.offset) == (again, 1, 2)


async def test_an_idempotency_key_is_none_that_a_client_s_request_can_have():
    broker = Watched()
    async with Publisher(broker, rooms=application()) as publisher:
        await publisher.send("chat/lobby", Say(text="hi"), idempotency_key="0123456789abcdef/1/1")
    assert [key for _, key, _ in broker.asked] == ["outside/0123456789abcdef/1/1"]


@pytest.mark.parametrize("name", ["key", "idempotency_key"])
@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_keys_have_a_length(name, key):
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(ValueError, match="128"):
            await publisher.send("price/hub", Say(text="hi"), history=0, **{name: key})


async def test_a_key_conflates_in_rooms_that_do():
    async with Publisher(MemoryBroker(), rooms=application()) as publisher:
        await publisher.send("price/hub", Say(text="1"), key="HUB")
        with pytest.raises(ConfigurationError, match='slow="conflate"'):
            await publisher.send("chat/lobby", Say(text="1"), key="HUB")


async def test_a_user_is_sent_what_their_inbox_keeps():
    broker = Watched()
    async with Publisher(broker, settings=Settings(inbox_history=7)) as publisher:
        await publisher.user("ada", Say(text="hi"), idempotency_key="once")
    assert broker.asked == [("$user/ada", "outside/once", Retention(7, 86400.0))]


@pytest.mark.parametrize("user", ["", "x" * 250])
async def test_a_user_has_an_id(user):
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(ValueError, match="249"):
            await publisher.user(user, Say(text="hi"))


@pytest.mark.parametrize("room", ["", "x" * 256])
async def test_a_room_has_a_name(room):
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(ValueError, match="255"):
            await publisher.send(room, Say(text="hi"), history=0)


async def test_names_of_the_protocol_are_not_published_to():
    async with Publisher(MemoryBroker()) as publisher:
        with pytest.raises(ConfigurationError, match=r"user\(\)"):
            await publisher.send("$user/ada", Say(text="hi"), history=0)


async def test_pydantic_models_and_envelopes_are_messages(start):
    store = MemoryStore()
    async with talk(start(application(MemoryBroker(store))).url) as client:
        await client.join("chat/lobby")
        async with Publisher(MemoryBroker(store)) as publisher:
            for message in (Told(text="hi"), Envelope("any", data={"a": [1]}), Envelope("bare")):
                await publisher.send("chat/lobby", message, history=2)
        arrived = [await client.receive() for _ in range(3)]
        assert [(message["type"], message["data"]) for message in arrived] == [
            ("told", {"text": "hi"}),
            ("any", {"a": [1]}),
            ("bare", {}),
        ]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"text": "hi"}, TypeError),
        (Envelope("$left"), ConfigurationError),
        (Envelope(""), ConfigurationError),
        (Envelope("any", data={(1, 2): 3}), InvalidMessage),
    ],
)
async def test_what_is_no_message_is_not_sent(message, error):
    broker = Watched()
    async with Publisher(broker) as publisher:
        with pytest.raises(error):
            await publisher.send("chat/lobby", message, history=0)
    assert broker.asked == []


async def test_a_broker_that_is_away_is_an_error_that_says_so():
    class Away(MemoryBroker):
        async def publish(self, *arguments, **named):
            raise Unavailable("The broker is away.")

    async with Publisher(Away(), rooms=application()) as publisher:
        with pytest.raises(Unavailable):
            await publisher.send("chat/lobby", Say(text="hi"))


@pytest.mark.parametrize("kind", [Publisher, sync.Publisher])
@pytest.mark.parametrize("url", ["memory://", "sqlite:///rooms.db"])
def test_what_is_one_process_s_own_can_not_be_published_to(kind, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{url.partition('/')[0]}//.*redis://"):
        kind(url)
    assert list(tmp_path.iterdir()) == []


async def test_the_broker_is_the_one_given_else_the_environment_s_else_the_application_s(shared, monkeypatch):
    hub = application(settings=Settings(broker="redis://application", inbox_history=3))
    assert Publisher(rooms=hub).settings.broker == "redis://application"
    monkeypatch.setenv("HUBBUB_BROKER", "redis://environment")
    for publisher in (Publisher(), Publisher(rooms=application())):
        assert publisher.settings.broker == "redis://environment"
    given = Publisher("redis://given", rooms=hub)
    assert (given.settings.broker, given.settings.inbox_history) == ("redis://given", 3)


async def test_it_is_open_in_its_block_only(shared):
    publisher = Publisher("redis://given")
    with pytest.raises(ConfigurationError, match="async with"):
        await publisher.send("chat/lobby", Say(text="hi"), history=0)
    async with publisher:
        await publisher.send("chat/lobby", Say(text="hi"), history=0)
    assert shared[0].stopped
    with pytest.raises(ConfigurationError, match="async with"):
        await publisher.send("chat/lobby", Say(text="hi"), history=0)


class TestBlocking:
    def test_it_publishes_from_any_thread_over_one_connection(self, shared):
        hub = application()
        with sync.Publisher("redis://given", rooms=hub) as publisher:
            threads = [
                threading.Thread(target=publisher.send, args=("chat/lobby", Say(text="hi"))) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert publisher.user("ada", Say(text="hi")).offset == 1
        [broker] = [broker for broker in shared if broker.asked]
        assert sorted(room for room, _, _ in broker.asked) == ["$user/ada"] + ["chat/lobby"] * 8
        assert broker.stopped

    def test_it_connects_as_it_is_first_used(self, shared):
        publisher = sync.Publisher("redis://given")
        try:
            assert not any(hasattr(broker, "thread") for broker in shared)
            publisher.send("chat/lobby", Say(text="hi"), history=1, idempotency_key="a", key="b")
            assert [broker.asked for broker in shared if broker.asked] == [
                [("chat/lobby", "outside/a", Retention(1, 86400.0))]
            ]
        finally:
            publisher.close()

    def test_closed_it_says_so(self, shared):
        publisher = sync.Publisher("redis://given")
        publisher.close()
        publisher.close()
        with pytest.raises(ConfigurationError, match="closed"):
            publisher.send("chat/lobby", Say(text="hi"), history=1)

    def test_its_thread_ends_with_it(self, shared):
        with sync.Publisher("redis://given"):
            [thread] = [broker.thread for broker in shared if hasattr(broker, "thread")]
            assert thread.is_alive()
        assert not thread.is_alive()

    def test_what_can_not_be_connected_leaves_no_thread_and_can_be_tried_again(self, shared, monkeypatch):
        started: list[threading.Thread] = []

        async def fail(broker, receiver):
            started.append(threading.current_thread())
            raise ConfigurationError("The password is wrong.")

        with monkeypatch.context() as patch:
            patch.setattr(Shared, "start", fail)
            publisher = sync.Publisher("redis://given")
            with pytest.raises(ConfigurationError, match="password"):
                publisher.send("chat/lobby", Say(text="hi"), history=1)
        assert not started[0].is_alive()
        publisher.send("chat/lobby", Say(text="hi"), history=1)
        publisher.close()

    def test_who_waits_too_long_is_told(self, shared, monkeypatch):
        async def never(broker, *arguments, **named):
            await asyncio.Event().wait()

        monkeypatch.setattr(Shared, "publish", never)
        with sync.Publisher("redis://given") as publisher, pytest.raises(TimeoutError):
            publisher.send("chat/lobby", Say(text="hi"), history=1, timeout=0.05)

    def test_its_methods_take_what_the_asynchronous_ones_take(self):
        for name in ("send", "user"):
            blocking = inspect.signature(getattr(sync.Publisher, name)).parameters
            plain = inspect.signature(getattr(hubbub.Publisher, name)).parameters
            assert set(blocking) == {*plain, "timeout"}

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_a_process_that_was_forked_has_a_connection_of_its_own(self, shared):
        publisher = sync.Publisher("redis://given")
        publisher.send("chat/lobby", Say(text="of the parent"), history=1)
        # A fork in another thread's middle of a call must not leave the child waiting for that thread.
        publisher._lock.acquire()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                publisher.send("chat/lobby", Say(text="of the child"), history=1)
                [mine] = [broker for broker in shared if getattr(broker, "process", None) == os.getpid()]
                publisher.close()
                status = 0 if len(mine.asked) == 1 and mine.stopped else 2
            finally:
                os._exit(status)
        publisher._lock.release()
        try:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        publisher.send("chat/lobby", Say(text="of the parent"), history=1)
        [mine] = [broker for broker in shared if broker.asked]
        assert len(mine.asked) == 2
        publisher.close()
