"""A line over Socket.IO, against a real hub: envelopes as events, and back."""

import asyncio
import json

import pytest

import hubbub
from client.chat import LOBBY, Double, Doubled, Say, chat_hub
from client.lines import at_once, soon
from hubbub import ConfigurationError, Connection, Denied, Hubbub, Message, Received, ReconnectFailed
from hubbub.client import LineLost, NotConnected
from hubbub.client.socketio_line import SocketIOLine, dialling
from hubbub.testing.serving import serving

pytestmark = pytest.mark.anyio


class Fail(Message):
    pass


class Leave(Message):
    code: int


@pytest.fixture
async def hub() -> Hubbub:
    hub = chat_hub(hubbub.Settings(drain=0.5), presence=False)
    hub.socketio()

    @hub.on_message
    async def fail(message: Fail) -> None:
        raise Denied("Never.")

    @hub.on_message
    async def leave(connection: Connection, message: Leave) -> None:
        await connection.send(Say("bye"))
        await connection.close(message.code, "as you asked")

    return hub


def url_of(served) -> str:
    return f"socketio+{served.http}"


async def test_the_client_does_on_it_what_it_does_on_any_line(hub):
    async with (
        serving(hub) as served,
        hubbub.connect(url_of(served), token="ada", messages=[Say]) as ada,
        hubbub.connect(served.url, token="bob", messages=[Say]) as bob,
    ):
        assert (ada.user, ada.state.line) == ("ada", "socketio+http")
        room, heard = await ada.join(LOBBY), await bob.join(LOBBY)
        await room.send(Say("from ada"))
        await heard.send(Say("from bob"))
        for there in (room, heard):
            assert [await soon(anext(there)) for _ in range(2)] == [
                Received(LOBBY, Say("from ada"), "say", "ada", 1),
                Received(LOBBY, Say("from bob"), "say", "bob", 2),
            ]
        assert await ada.request(Double(value=4), Doubled) == Doubled(8)
        with pytest.raises(hubbub.RequestFailed, match="Never") as failed:
            await ada.request(Fail())
        assert failed.value.code == "denied"
        assert len((await room.history()).messages) == 2
        await hub.user("ada").send(Say("to you"))
        assert (await soon(anext(ada.inbox))).message == Say("to you")


async def test_a_lost_line_is_taken_up_where_it_was(hub):
    async with (
        serving(hub) as served,
        hubbub.connect(url_of(served), messages=[Say], backoff=at_once(3)) as client,
        hubbub.connect(served.url) as other,
    ):
        room, others = await client.join(LOBBY), await other.join(LOBBY)
        states = client.states()
        await client.send(Leave(4513), acknowledged=False)
        for text in "abc":
            await others.send(Say(text))
        assert [(await soon(anext(room))).message.text for _ in range(3)] == ["a", "b", "c"]
        codes = []
        async with asyncio.timeout(5):
            async for change in states:
                codes.append(change.code)
                if change.resumed:
                    break
        assert 4513 in codes


async def test_a_refused_login_is_told(hub):
    async with serving(hub) as served:
        with pytest.raises(NotConnected, match="Not you") as refused:
            await dialling(url_of(served))("nobody")
        assert (refused.value.status, refused.value.comes_back) == (401, False)


async def test_a_close_code_is_told(hub):
    async with serving(hub) as served:
        line = await dialling(url_of(served))(None)
        assert json.loads(await soon(line.recv()))["type"] == "$welcome"
        await line.send('{"type": "leave", "data": {"code": 4403}}')
        assert json.loads(await soon(line.recv())) == {"type": "say", "data": {"text": "bye"}}
        with pytest.raises(LineLost) as lost:
            await soon(line.recv())
        assert (lost.value.code, lost.value.reason) == (4403, "as you asked")
        await line.close()


async def test_ids_that_are_texts_come_back(hub):
    async with serving(hub) as served:
        line = await dialling(url_of(served))(None)
        await line.recv()
        for number in ("first", -1, 2**60, 7):
            await line.send(json.dumps({"type": "double", "id": number, "data": {"value": 2}}))
            assert json.loads(await soon(line.recv())) == {"type": "$ack", "id": number, "data": {"value": 4}}
        await line.send('{"type": "$ping", "id": "p"}')
        assert json.loads(await soon(line.recv())) == {"type": "$pong", "id": "p"}
        await line.close()


async def test_a_server_without_socketio_is_told():
    async with serving(Hubbub()) as served:
        with pytest.raises(ReconnectFailed):
            await hubbub.connect(url_of(served)).__aenter__()


@pytest.mark.parametrize("url", ["socketio+http://", "socketio+http://[", "socketio+https://x:99999"])
def test_a_url_that_is_none_is_told(url):
    with pytest.raises(ConfigurationError):
        dialling(url)


class Scripted:
    """A WebSocket on which the test says what comes."""

    name, heard_at, subprotocol = "ws", 0.0, None

    def __init__(self, *messages: str | bytes) -> None:
        self.messages = list(messages)
        self.sent: list[str | bytes] = []

    async def send(self, message: str | bytes) -> None:
        self.sent.append(message)

    async def recv(self) -> str | bytes:
        if not self.messages:
            raise LineLost(1006)
        return self.messages.pop(0)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.sent.append(f"close {code}")


@pytest.mark.parametrize(
    ("packets", "envelope"),
    [
        (['42["news"]'], {"type": "news"}),
        (['42["news",null]'], {"type": "news"}),
        (['42["news",1,2]'], {"type": "news", "data": [1, 2]}),
        (['42["news",{"a":1},"offset"]'], {"type": "news", "data": {"a": 1}}),
        (['42["news","text",{}]'], {"type": "news", "data": "text"}),
        (['42["news","text","offset"]'], {"type": "news", "data": "text"}),
        (
            ['42["news",5,{"room":"r","offset":3,"from":"ada"},"offset"]'],
            {"type": "news", "data": 5, "room": "r", "offset": 3, "from": "ada"},
        ),
        (['42["news",null,{"room":"r"}]'], {"type": "news", "room": "r"}),
        (['42["$bookmark","x"]', "2", '42["news"]'], {"type": "news"}),
        (['451-["news",{"_placeholder":true,"num":0}]', b"hi"], {"type": "news", "data": "aGk="}),
        (["433[]"], {"type": "$ack", "id": 3}),
        (['433[{"$error":{"code":"denied"}}]'], {"type": "$error", "id": 3, "data": {"code": "denied"}}),
    ],
)
async def test_a_packet_is_an_envelope(packets, envelope):
    line = SocketIOLine("socketio+http", Scripted(*packets))
    assert json.loads(await line.recv()) == envelope


@pytest.mark.parametrize(
    ("packets", "code"),
    [
        (["41"], 1006),
        (["1"], 1006),
        (["42{}"], 1002),
        (["42[3]"], 1002),
        (["42[]"], 1002),
        (['42["$close"]'], 1002),
        (['42["$close","offset"]'], 1002),
        ([b"nothing"], 1002),
        (['45999-["x"]'], 1009),
        (['42["$close",{"code":4409,"reason":"r"}]'], 4409),
    ],
)
async def test_what_ends_the_line(packets, code):
    with pytest.raises(LineLost) as lost:
        await SocketIOLine("socketio+http", Scripted(*packets)).recv()
    assert lost.value.code == code


@pytest.mark.parametrize(("closed", "code"), [(1000, 1006), (1005, 1006), (1009, 1009)])
async def test_an_end_without_a_word_is_a_lost_line_from_which_clients_come_back(closed, code):
    """So a server ends the session of a client whose heartbeat is late."""

    class Closed(Scripted):
        async def recv(self) -> str | bytes:
            raise LineLost(closed)

    with pytest.raises(LineLost) as lost:
        await SocketIOLine("socketio+http", Closed()).recv()
    assert lost.value.code == code


async def test_attachments_count_as_parts_of_their_message():
    packet = '452-["news",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    with pytest.raises(LineLost) as lost:
        await SocketIOLine("socketio+http", Scripted(packet, b"x" * 60, b"x" * 60), max_size=150).recv()
    assert lost.value.code == 1009
    envelope = await SocketIOLine("socketio+http", Scripted(packet, b"x" * 60, b"x"), max_size=150).recv()
    assert json.loads(envelope)["data"] == ["eHh4" * 20, "eA=="]


@pytest.mark.parametrize(
    ("envelope", "packet"),
    [
        ({"type": "say"}, '42["say"]'),
        ({"type": "say", "data": {"a": 1}, "id": 5}, '425["say",{"a":1}]'),
        ({"type": "say", "data": [1, 2], "room": "r"}, '42["say",1,2,{"room":"r"}]'),
        ({"type": "say", "data": [], "room": "r"}, '42["say",null,{"room":"r"}]'),
        ({"type": "$leave", "room": "r", "id": 1}, '421["$leave",null,{"room":"r"}]'),
    ],
)
async def test_an_envelope_is_a_packet(envelope, packet):
    websocket = Scripted()
    line = SocketIOLine("socketio+http", websocket)
    await line.send(json.dumps(envelope, separators=(",", ":")))
    assert websocket.sent == [packet]
    with pytest.raises(TypeError):
        await line.send(b"")


async def test_heartbeats_are_answered_and_heard():
    websocket = Scripted("2", '42["news"]')
    line = SocketIOLine("socketio+http", websocket)
    await line.recv()
    assert websocket.sent == ["3"]
    assert line.heard_at > 0


class Ended:
    """A WebSocket whose end has come, with messages before it that nobody has read so far."""

    name, subprotocol, heard_at = "socketio+http", None, 0.0

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)

    async def recv(self) -> str:
        if not self.messages:
            raise LineLost(1000)
        return self.messages.pop(0)

    async def send(self, message: str | bytes) -> None:
        raise LineLost(1000)

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


async def test_what_came_before_the_end_is_read_though_a_ping_can_t_be_answered_any_more():
    closing = '42["$close",{"code":4513,"reason":"it does not read"}]'
    line = SocketIOLine("socketio+http", Ended("2", '42["say",3]', "2", closing))
    assert json.loads(await line.recv()) == {"type": "say", "data": 3}
    with pytest.raises(LineLost) as lost:
        await line.recv()
    assert (lost.value.code, lost.value.reason) == (4513, "it does not read")
