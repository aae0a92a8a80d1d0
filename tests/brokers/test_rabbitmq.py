import asyncio

import aiormq
import pytest
from hypothesis import HealthCheck, settings

from brokers.rabbitmq_engine import RabbitEngine
from hubbub import Settings
from hubbub.brokers import open_broker
from hubbub.brokers.base import Entry
from hubbub.brokers.rabbitmq import RabbitBroker
from hubbub.brokers.rabbitmq.address import parse
from hubbub.brokers.rabbitmq.records import Bye, encode
from hubbub.errors import ConfigurationError, Unavailable
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import BrokerConformance, Inbox, Instance, payloads, publish
from hubbub.testing.brokers.model import RoomMachine
from hubbub.testing.servers.rabbitmq import RabbitServer

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def server():
    """One RabbitMQ for the tests of this module."""
    with asyncio.Runner() as runner:
        server = RabbitServer()
        runner.run(server.__aenter__())
        RabbitRoomMachine.url = server.broker
        yield server
        runner.run(server.close())


class TestRabbitBroker(BrokerConformance):
    @pytest.fixture(autouse=True)
    def address(self, server):
        self.url = server.broker

    def make_engine(self) -> RabbitEngine:
        return RabbitEngine(self.url)


class RabbitRoomMachine(RoomMachine):
    def make_engine(self) -> RabbitEngine:
        return RabbitEngine(type(self).url)


TestRabbitRoom = RabbitRoomMachine.TestCase
TestRabbitRoom.settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    stateful_step_count=30,
    max_examples=15,
)


# Publishing only


@pytest.fixture
async def engine(server):
    engine = RabbitEngine(server.broker, timeout=3.0)
    yield engine
    await engine.close()


@pytest.fixture
async def publisher(engine):
    broker = engine.make_broker()
    await broker.start(None)
    yield Instance(broker.instance, broker, Inbox())
    await broker.stop()


async def test_who_only_publishes_has_an_instance_do_it(engine, publisher):
    one = await engine.open()
    await one.broker.subscribe("room")
    first = await publish(publisher, b"first", sender="ada", key="k")
    assert first.offset == 1
    assert await publish(publisher, b"again", key="k") == first == await publish(one, b"again", key="k")
    assert await publish(publisher, b"gone", keep=None) == first
    positions = await asyncio.gather(*(publish(publisher, b"x") for _ in range(300)))
    assert sorted(position.offset for position in positions) == list(range(2, 302))
    entries = await one.inbox.entries("room", 302)
    assert entries[:2] == [Entry(1, b"first", "ada"), Entry(None, b"gone", None)]
    assert await publisher.broker.secret() == await one.broker.secret()
    await publisher.broker.send_control(None, b"to all")
    await publisher.broker.send_control(one.name, b"to one")
    await one.inbox.until(lambda: one.inbox.controls == [b"to all", b"to one"])
    assert await one.broker.instances() == [one.name]


async def published(instance: Instance, payload: bytes, key: str) -> Position:
    """Publish, again if nobody answered: an instance that was asked may have ended just then."""
    while True:
        try:
            return await publish(instance, payload, key=key)
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_who_only_publishes_where_no_instance_runs_reads_the_log(engine, publisher):
    one = await engine.open()
    first = await publish(one, b"first")
    await engine.crash(one)
    second = await published(publisher, b"second", "k")
    assert second == Position(first.epoch, 2)
    anew = await engine.open()
    assert await payloads(anew) == [b"first", b"second"]
    assert await publish(publisher, b"third") == Position(first.epoch, 3)
    assert publisher.name not in await anew.broker.instances()


async def test_what_cannot_be_read_is_not_appended_for_others(engine, publisher, server):
    one = await engine.open()
    connection = await aiormq.connect(server.url)
    channel = await connection.channel()
    for body in (b"", b"\xc1", b"\x92\x06\xa1x", encode(Bye(one.name))):
        properties = aiormq.spec.Basic.Properties(reply_to="nowhere")
        await channel.basic_publish(body, routing_key=f"{engine.prefix}.questions", properties=properties)
    await connection.close()
    assert (await publish(publisher, b"x")).offset == 1
    assert await one.broker.instances() == [one.name]


# The address


def parsed(url: str):
    return parse(url, heartbeat=5, name="hubbub one")


@pytest.mark.parametrize(
    ("url", "passed", "shown"),
    [
        ("amqp://rabbit", "amqp://guest:guest@rabbit:5672/", "amqp://rabbit:5672/"),
        ("amqp://ada:s%40@rabbit:7/", "amqp://ada:s%40@rabbit:7/", "amqp://rabbit:7/"),
        ("amqps://rabbit/chat", "amqps://guest:guest@rabbit:5671/chat", "amqps://rabbit:5671/chat"),
        ("amqp://[::1]/a%2Fb", "amqp://guest:guest@[::1]:5672/a%2Fb", "amqp://[::1]:5672/a%2Fb"),
    ],
)
def test_an_address_names_a_server_and_a_virtual_host(url, passed, shown):
    address = parsed(url)
    assert address.url == f"{passed}?heartbeat=5&name=hubbub+one"
    assert address.shown == shown


def test_an_address_has_settings_of_its_own_and_those_of_tls():
    address = parsed("amqps://rabbit?prefix=chat&log_bytes=2000000&cafile=%2Fca.pem")
    assert (address.prefix, address.log_bytes) == ("chat", 2_000_000)
    assert address.log == "chat.log"
    assert "cafile=%2Fca.pem" in address.url
    assert "prefix" not in address.url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://", "A RabbitMQ is named as"),
        ("amqp://user:s3cret@rabbit:port", "A RabbitMQ is named as"),
        ("amqp://user:s3cret@[rabbit", "The setting broker is no URL|A RabbitMQ is named as"),
        ("amqp://user:s3cret@rabbit#there", "A RabbitMQ is named as"),
        ("amqp://user:s3cret@rabbit?colour=blue", "has no setting colour. There are: prefix, log_bytes"),
        ("amqp://user:s3cret@rabbit?prefix=", "The prefix"),
        ("amqp://user:s3cret@rabbit?prefix=amq.log", "The prefix"),
        ("amqp://user:s3cret@rabbit?log_bytes=1000", "log_bytes of an amqp:// URL is at least 1048576"),
        ("amqp://user:s3cret@rabbit?log_bytes=many", "log_bytes"),
    ],
)
def test_an_address_that_cannot_be_is_refused_without_its_password(url, told):
    with pytest.raises(ConfigurationError, match=told) as refused:
        open_broker(Settings(broker=url))
    assert "s3cret" not in str(refused.value)


def test_a_broker_is_opened_with_the_settings():
    one, other = (open_broker(Settings(broker="amqp://rabbit", lease=3.0)) for _ in range(2))
    assert isinstance(one, RabbitBroker)
    assert one.instance != other.instance
    assert not one.available
    assert one.guarantees.shared
    assert one.guarantees.durable
