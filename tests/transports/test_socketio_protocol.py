"""Socket.IO on the wire: the protocol's own test suite, and what the reference does beyond it.

The suite is https://github.com/socketio/socket.io/tree/main/docs/socket.io-protocol/v5-test-suite; its server
is `conforming` here.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import websockets

from hubbub import Connection, Denied, Hubbub, Message, Position, Settings, wire_type
from hubbub.brokers.base import History
from hubbub.brokers.memory import MemoryBroker
from hubbub.errors import CollisionError, ConfigurationError
from hubbub.testing.serving import serving
from socketio_chat import Say, chat_hub

pytestmark = pytest.mark.anyio

ARRIVES_WITHIN = 10.0
STAYS_AWAY = 0.3
OPENING = "/socket.io/?EIO=4&transport=websocket"


class Auth(Message):
    """What came with CONNECT."""


@wire_type("auth")
class AuthData(Message, array_like=True):
    data: Any


@wire_type("message")
class Three(Message, array_like=True):
    first: Any
    second: Any = msgspec.UNSET
    third: Any = msgspec.UNSET

    def arguments(self) -> list[Any]:
        return [item for item in (self.first, self.second, self.third) if item is not msgspec.UNSET]


@wire_type("message-with-ack")
class ThreeWithAck(Three, array_like=True):
    pass


@wire_type("message-back")
class One(Message, array_like=True):
    first: Any


@wire_type("message-back")
class Two(Message, array_like=True):
    first: Any
    second: Any


@wire_type("message-back")
class ThreeBack(Message, array_like=True):
    first: Any
    second: Any
    third: Any


BACK = {1: One, 2: Two, 3: ThreeBack}

SETTINGS = Settings(ping_interval=0.3, ping_timeout=0.2, handshake_timeout=1.0, max_message=1_000_000)


def conforming(settings: Settings = SETTINGS) -> Hubbub:
    """Return a hub that answers as the suite's server does."""
    hub = Hubbub(settings)

    @hub.on_connect
    async def tell(connection: Connection) -> None:
        await connection.send(AuthData(connection.scope.get("socketio.auth", {})))

    @hub.on_message
    async def echo(connection: Connection, message: Three) -> None:
        arguments = message.arguments()
        await connection.send(BACK[len(arguments)](*arguments))

    @hub.on_message
    async def answer(message: ThreeWithAck) -> tuple[Any, ...]:
        return tuple(message.arguments())

    return hub


class Line:
    """A WebSocket of a client; pings are left out, and answered."""

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            await self.websocket.send(message)

    async def receive(self) -> str | bytes:
        async with asyncio.timeout(ARRIVES_WITHIN):
            while (message := await self.websocket.recv()) == "2":
                await self.websocket.send("3")
        return message

    async def closed(self) -> None:
        """Wait until the server has closed; nothing else may come."""
        with pytest.raises(websockets.ConnectionClosed):
            await self.receive()

    async def closed_after(self, beginning: str) -> None:
        """Wait until the server has closed; what comes before that begins so."""
        try:
            while True:
                assert str(await self.receive()).startswith(beginning)
        except websockets.ConnectionClosed:
            pass

    async def connect(self, namespace: str = "") -> None:
        await self.send(f"40{namespace}")
        answer = await self.receive()
        assert isinstance(answer, str)
        assert answer.startswith(f"40{namespace}"), answer


@asynccontextmanager
async def line(url: str, opening: str = OPENING) -> AsyncIterator[Line]:
    async with websockets.connect(url + opening) as websocket:
        found = Line(websocket)
        assert str(await found.receive()).startswith("0{")
        yield found


@pytest.fixture
async def url() -> AsyncIterator[str]:
    hub = conforming()
    hub.socketio(namespaces={"/custom": conforming()}, plain=True)
    async with serving(hub) as at:
        yield at.url


# connect


@pytest.mark.parametrize("namespace", ["", "/custom,"])
@pytest.mark.parametrize("payload", ["", '{"token":"123"}'])
async def test_a_client_connects_to_a_namespace_with_and_without_a_payload(url, namespace, payload):
    async with line(url) as client:
        await client.send(f"40{namespace}{payload}")
        answer = await client.receive()
        assert isinstance(answer, str)
        assert answer.startswith(f"40{namespace}")
        assert json.loads(answer.removeprefix(f"40{namespace}")).keys() == {"sid"}
        assert await client.receive() == f'42{namespace}["auth",{payload or "{}"}]'


async def test_an_unknown_namespace_is_refused(url):
    async with line(url) as client:
        await client.send("40/random")
        assert await client.receive() == '44/random,{"message":"Invalid namespace"}'


async def test_an_invalid_handshake_closes_the_connection(url):
    async with line(url) as client:
        await client.send("4abc")
        await client.closed()


async def test_who_makes_no_handshake_is_closed(url):
    async with line(url) as client:
        await client.closed()


# disconnect


async def test_a_client_leaves_the_main_namespace_and_its_line_stays(url):
    async with line(url) as client:
        await client.connect()
        await client.receive()
        await client.send("41")
        # It may connect again.
        await client.connect()


async def test_a_client_leaves_a_namespace_and_goes_on_in_another(url):
    async with line(url) as client:
        await client.connect()
        await client.receive()
        await client.connect("/custom,")
        await client.receive()
        await client.send("41/custom", '42["message","message to main namespace"]')
        assert await client.receive() == '42["message-back","message to main namespace"]'


# message


async def ready(client: Line) -> None:
    await client.connect()
    await client.receive()


async def test_a_plain_text_packet_is_taken_and_sent(url):
    async with line(url) as client:
        await ready(client)
        await client.send('42["message",1,"2",{"3":[true]}]')
        assert await client.receive() == '42["message-back",1,"2",{"3":[true]}]'


async def test_a_packet_with_attachments_is_taken_and_sent(url):
    async with line(url) as client:
        await ready(client)
        head = '-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        await client.send("452" + head, b"\x01\x02\x03", b"\x04\x05\x06")
        assert [await client.receive() for _ in range(3)] == [
            "452" + head.replace("message", "message-back"),
            b"\x01\x02\x03",
            b"\x04\x05\x06",
        ]


async def test_a_packet_is_acknowledged(url):
    async with line(url) as client:
        await ready(client)
        await client.send('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert await client.receive() == '43456[1,"2",{"3":[false]}]'


async def test_a_packet_with_attachments_is_acknowledged_with_attachments(url):
    async with line(url) as client:
        await ready(client)
        await client.send(
            '452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
            b"\x01\x02\x03",
            b"\x04\x05\x06",
        )
        assert [await client.receive() for _ in range(3)] == [
            '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
            b"\x01\x02\x03",
            b"\x04\x05\x06",
        ]


@pytest.mark.parametrize(
    "packet",
    [
        "4abc",
        "42{}",
        "42[]",
        "42",
        '42abc["message-with-ack",1]',
        '42["disconnect"]',
        "43{}",
        "44{}",
        "40",
        '452-["message",1]\x00',
        b"data that belongs to nothing",
    ],
)
async def test_an_invalid_packet_closes_the_connection(url, packet):
    async with line(url) as client:
        await ready(client)
        await client.send(packet)
        await client.closed()


async def test_a_text_where_an_attachment_should_be_closes_the_connection(url):
    async with line(url) as client:
        await ready(client)
        await client.send('451-["message",{"_placeholder":true,"num":0}]', '42["message",1]')
        await client.closed()


# What the suite leaves open: socket.io's client.ts


@pytest.mark.parametrize("packet", ['42["message",1]', "41", "431[]", '42/custom,["message",1]', "41/custom"])
async def test_a_packet_of_a_namespace_before_its_connect_closes_the_connection(url, packet):
    async with line(url) as client:
        await client.send(packet)
        await client.closed()


async def test_an_acknowledgement_that_nobody_asked_for_does_nothing(url):
    async with line(url) as client:
        await ready(client)
        await client.send('4312["x"]', '42["message",1]')
        assert await client.receive() == '42["message-back",1]'


async def test_a_packet_to_a_namespace_that_the_server_has_just_left_does_nothing():
    hub = conforming()
    hub.socketio(namespaces={"/chat": chat_hub()}, plain=True)
    async with serving(hub) as at, line(at.url) as client:
        await ready(client)
        await client.connect("/chat,")
        await client.send('42/chat,["leave",{"code":4403}]')
        assert await client.receive() == "41/chat,"
        await client.send('42/chat,["whoami"]', "41/chat,", '42["message",1]')
        assert await client.receive() == '42["message-back",1]'
        await client.connect("/chat,")


async def test_who_asks_twice_before_the_answer_is_connected_once():
    entered, go = asyncio.Event(), asyncio.Event()
    hub = Hubbub()

    @hub.authenticate
    async def slow(connection: Connection) -> None:
        entered.set()
        await go.wait()

    hub.socketio(plain=True)
    async with serving(hub) as at, line(at.url) as client:
        await client.send("40")
        await entered.wait()
        await client.send("40", "40/unknown")
        assert "Invalid" in str(await client.receive())
        go.set()
        assert str(await client.receive()).startswith("40{")
        await client.send('42["message"]')
        assert str(await client.receive()).startswith('42["$error"')


async def test_a_login_that_hangs_ends_with_the_line():
    entered, left = asyncio.Event(), asyncio.Event()
    hub = Hubbub()

    @hub.authenticate
    async def slow(connection: Connection) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    hub.socketio()
    async with serving(hub) as at:
        async with line(at.url) as client:
            await client.send("40")
            await entered.wait()
        async with asyncio.timeout(ARRIVES_WITHIN):
            await left.wait()


async def test_a_login_that_takes_too_long_closes_the_line_so_that_the_client_comes_back():
    hub = Hubbub(Settings(handshake_timeout=0.2))

    @hub.authenticate
    async def slow(connection: Connection) -> None:
        await asyncio.Event().wait()

    hub.socketio()
    async with serving(hub) as at, line(at.url) as client:
        await client.send("40")
        await client.closed()


async def test_a_refused_login_leaves_the_line_for_other_namespaces():
    hub = Hubbub()

    @hub.authenticate
    async def nobody(connection: Connection) -> None:
        raise Denied("not you")

    hub.socketio(namespaces={"/open": chat_hub()})
    async with serving(hub) as at, line(at.url) as client:
        await client.send("40")
        answer = await client.receive()
        assert answer == (
            '44{"message":"not you","data":{"code":"denied","message":"not you","retry":false}}'
        )
        await client.connect("/open,")


async def test_who_asks_for_namespaces_without_end_is_closed():
    hub = conforming(Settings(handshake_timeout=60))
    hub.socketio(plain=True)
    async with serving(hub) as at, line(at.url) as client:
        for _ in range(99):
            await client.send("40/random")
            assert "Invalid" in str(await client.receive())
        for _ in range(10):
            await client.send("40/random")
        await client.closed_after("44/random")


@pytest.mark.parametrize("packet", ["3", "6"])
async def test_heartbeats_of_a_client_that_is_nowhere_are_counted(packet):
    hub = conforming(Settings(max_message_burst=20, handshake_timeout=60))
    hub.socketio(plain=True)
    async with serving(hub) as at, line(at.url) as client:
        with suppress(websockets.ConnectionClosed):
            for _ in range(25):
                await client.send(packet)
        await client.closed()
    async with serving(hub) as at, line(at.url) as client:
        for _ in range(15):
            await client.send(packet)
        await client.connect()


async def test_before_the_login_no_more_of_attachments_waits_than_a_message_may_have():
    hub = conforming(Settings(max_message_before_login=1000, handshake_timeout=60))
    hub.socketio(plain=True)
    two = '452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    async with serving(hub) as at, line(at.url) as client:
        await client.send('453-["message"]', b"x" * 900, b"x" * 900)
        await client.closed()
    async with serving(hub) as at, line(at.url) as client:
        await client.connect()
        await client.receive()  # the event that the server sends by itself
        await client.send(two, b"x" * 900, b"x" * 900)
        assert str(await client.receive()).startswith('452-["message-back"')


async def test_attachments_that_are_too_big_together_end_the_connection():
    hub = chat_hub(Settings(max_message=2000))
    hub.socketio(plain=True)
    async with serving(hub) as at, line(at.url) as client:
        await client.connect()
        await client.send('453-["picture",{"_placeholder":true,"num":0}]', b"x" * 1500, b"x" * 1500)
        assert await client.receive() == "41"
        await client.closed()


async def test_a_placeholder_for_an_attachment_that_there_is_not_closes_the_connection(url):
    async with line(url) as client:
        await ready(client)
        await client.send('451-["message",{"_placeholder":true,"num":1}]', b"data")
        await client.closed()


async def test_each_namespace_has_its_own_limit_of_messages():
    hub = chat_hub(Settings(max_message_rate=1, max_message_burst=5))
    hub.socketio(namespaces={"/calm": chat_hub()})
    async with serving(hub) as at, line(at.url) as client:
        await client.connect()
        for _ in range(10):
            await client.send('42["typing"]')
        await client.closed_after("42[")


async def test_a_connection_that_is_one_too_many_is_told_to_come_back():
    hub = Hubbub(broker=MemoryBroker())
    hub.socketio(namespaces={"/full": chat_hub(Settings(max_connections=1))})
    async with serving(hub) as at, line(at.url) as first:
        await first.connect("/full,")
        async with line(at.url) as second:
            await second.send("40/full")
            await second.closed()
        # Who is connected to another namespace is not cut off from that.
        async with line(at.url) as third:
            await third.connect()
            await third.receive()
            await third.send("40/full")
            assert str(await third.receive()).startswith('44/full,{"message":"The server has no place')


async def test_a_client_that_reads_too_slowly_is_closed_and_holds_nobody_up():
    hub = chat_hub(Settings(max_outbox=100_000, close_timeout=0.5))
    hub.socketio()
    async with serving(hub) as at, line(at.url) as quick:
        await quick.connect()
        await quick.send('421["$join",{"room":"chat/lobby"}]')
        async with websockets.connect(at.url + OPENING, max_queue=1, close_timeout=0.1) as slow:
            for message, answer in (("40", "40{"), ('421["$join",{"room":"chat/lobby"}]', "431[")):
                await slow.send(message)
                while not str(await slow.recv()).startswith(answer):
                    pass
            while not str(await quick.receive()).startswith('42["$joined"'):
                pass
            lobby = hub.rooms[0](name="lobby")
            async with asyncio.timeout(ARRIVES_WITHIN):
                while not str(message).startswith('42["$left"'):
                    await lobby.send(Say(text="x" * 50_000))
                    message = await quick.receive()


async def test_who_comes_back_to_more_than_a_client_may_be_behind_is_closed():
    """What comes before its earlier session is taken up waits for that; it has the bound of an outbox."""

    class Slow(MemoryBroker):
        """Keeps who comes back waiting, once there is a gate."""

        gate: asyncio.Event | None = None

        async def history(self, room: str, since: Position | None, limit: int) -> History:
            if self.gate is not None:
                asked.set()
                await self.gate.wait()
            return await super().history(room, since, limit)

    broker, asked = Slow(), asyncio.Event()
    hub = chat_hub(Settings(max_outbox=100_000))
    hub.broker = broker
    hub.socketio()
    async with serving(hub) as at, line(at.url) as other, line(at.url) as client:
        await other.send('40{"token":"ada"}')
        async with line(at.url) as before:
            await before.send('40{"token":"ada"}')
            pid = json.loads(str(await before.receive())[2:])["pid"]
            offset = json.loads(str(await before.receive())[2:])[-1]
        broker.gate = asyncio.Event()
        await client.send("40" + json.dumps({"token": "ada", "pid": pid, "offset": offset}))
        await asked.wait()
        for _ in range(10):
            await hub.user("ada").send(Say(text="x" * 15_000))
            # When it has come to one of the user's connections, it was written to all.
            while not str(await other.receive()).startswith('42["say"'):
                pass
        broker.gate.set()
        await client.closed()


async def test_events_are_not_read_while_their_handlers_are_behind():
    go = asyncio.Event()
    handled: list[Any] = []
    hub = Hubbub(Settings(max_inbox=4))

    @hub.on_message
    async def slow(message: Three) -> None:
        await go.wait()
        handled.append(message.first)

    hub.socketio(namespaces={"/custom": conforming()}, plain=True)
    async with serving(hub) as at, line(at.url) as client:
        await client.connect()
        await client.connect("/custom,")
        await client.receive()
        for number in range(50):
            await client.send(f'42["message",{number}]')
        await client.send('42/custom,["message","behind"]')
        go.set()
        assert await client.receive() == '42/custom,["message-back","behind"]'
        assert handled == list(range(50))


# Older clients: Engine.IO 3 and Socket.IO's protocol 4


async def test_an_older_client_is_connected_to_the_main_namespace_without_asking():
    hub = chat_hub()
    hub.socketio(namespaces={"/admin": chat_hub()}, plain=True)
    async with serving(hub) as at, line(at.url, "/socket.io/?EIO=3&transport=websocket&token=ada") as client:
        assert await client.receive() == "40"
        await client.send('421["whoami"]')
        assert '"user":"ada"' in str(await client.receive())
        await client.send("40/admin?token=boss,")
        assert await client.receive() == "40/admin,"
        await client.send('42/admin,1["whoami"]')
        assert '"user":"boss"' in str(await client.receive())
        await client.send("40/admin2")
        assert await client.receive() == '44/admin2,"Invalid namespace"'
        await client.send("2probe?")
        assert str(await client.receive()).startswith("3")


async def test_an_older_client_whose_login_is_refused_is_told_so():
    hub = chat_hub()
    hub.socketio()
    async with (
        serving(hub) as at,
        line(at.url, "/socket.io/?EIO=3&transport=websocket&token=nobody") as client,
    ):
        assert await client.receive() == '44{"code":"denied","message":"You are nobody.","retry":false}'


# Declaring


def test_what_can_not_be_served_is_said_when_it_is_declared():
    hub = Hubbub()
    with pytest.raises(ConfigurationError, match="slash"):
        hub.socketio("socket.io/")
    with pytest.raises(ConfigurationError, match="slash"):
        hub.socketio(namespaces={"admin": Hubbub()})
    with pytest.raises(ConfigurationError, match="hub itself"):
        hub.socketio(namespaces={"/": Hubbub()})
    hub.socketio()
    with pytest.raises(CollisionError, match="already"):
        hub.socketio()


def test_a_path_is_socket_io_s_or_another_s():
    hub = chat_hub()
    with pytest.raises(CollisionError, match="the hub itself"):
        hub.socketio("/")

    @hub.endpoint("/live/{name}")
    async def live(connection: Connection, name: str) -> None: ...

    with pytest.raises(CollisionError, match="live"):
        hub.socketio("/live/chat/")
    hub.socketio()
    with pytest.raises(CollisionError, match=r"Socket\.IO"):
        hub.endpoint("/{name}")(live)


async def test_a_request_to_another_path_is_the_hubs():
    hub = chat_hub()
    hub.socketio("/live/")
    async with serving(hub) as at:
        async with line(at.url, "/live/?EIO=4&transport=websocket") as client:
            await client.connect()
        async with line(at.url, "/live?EIO=4&transport=websocket") as client:
            await client.connect()
        with pytest.raises(websockets.InvalidStatus):
            async with line(at.url):
                pass


# What hostile clients send


@pytest.mark.parametrize("namespace", ["/a\x1eb", "/\x1e", "/custom\x1e41"])
async def test_a_namespace_that_no_packet_can_name_closes_the_connection(url, namespace, caplog):
    async with line(url) as client:
        await client.send(f"40{namespace},")
        await client.closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("offset", ["9" * 19, "9" * 20, "9" * 4000])
async def test_a_position_that_can_not_be_is_nobodys(offset, caplog):
    hub = chat_hub()
    hub.socketio()
    async with serving(hub) as at, line(at.url) as client:
        auth = {"token": "ada", "pid": "mine", "offset": f"token!chat/lobby:e:{offset}"}
        await client.send("40" + json.dumps(auth))
        answer = str(await client.receive())
        assert answer.startswith("40{")
        assert json.loads(answer[2:])["pid"] != "mine"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_packets_to_a_namespace_that_was_left_are_counted_like_others():
    admin = chat_hub()
    hub = chat_hub(Settings(max_message_rate=1, max_message_burst=50))
    hub.socketio(namespaces={"/admin": admin})
    async with serving(hub) as at, line(at.url) as client:
        await client.send('40{"token":"ada"}')
        await client.receive()
        await client.send('40/admin,{"token":"nobody"}')
        while not str(await client.receive()).startswith("44/admin"):
            pass
        for _ in range(100):
            await client.send('42/admin,["say",{}]')
        while not str(answer := await client.receive()).startswith('42["$close"'):
            pass
        assert json.loads(str(answer)[2:])[1]["code"] == 4529


async def test_an_older_client_that_asks_again_and_again_is_counted_too():
    hub = chat_hub(Settings(max_message_rate=1, max_message_burst=50))
    hub.socketio()
    async with serving(hub) as at, line(at.url, OPENING.replace("EIO=4", "EIO=3")) as client:
        assert await client.receive() == "40"
        for _ in range(100):
            await client.send("40")
        while not str(answer := await client.receive()).startswith('42["$close"'):
            pass
        assert json.loads(str(answer)[2:])[1]["code"] == 4529


@pytest.mark.parametrize("ping", ["2a\x1eb", b"\x02\x1e\x1f"])
async def test_a_ping_of_an_older_client_that_can_not_be_answered_closes_the_connection(url, ping, caplog):
    async with line(url, OPENING.replace("EIO=4", "EIO=3")) as client:
        assert await client.receive() == "40"
        await client.send(ping)
        await client.closed_after("42")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
