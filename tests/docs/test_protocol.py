"""docs/protocol.md keeps its word where it has no exchange to show for it."""

import asyncio
import base64
import re

import msgspec
import pytest
import websockets

from docs.pages import blocks, read
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from wire import Client, talk

PAGE = "docs/protocol.md"
MESSAGEPACK = [websockets.Subprotocol("hubbub.v1.msgpack")]

pytestmark = pytest.mark.anyio


class Note(Message):
    text: str = ""


class Parcel(Message):
    content: bytes


class Price(Message):
    amount: int


class Order(Message):
    items: list[Price]


@pytest.fixture
def hub() -> Hubbub:
    hub = Hubbub(Settings(max_rooms=2, max_message=1000))
    rooms = hub.room("notes/{name}", history=250, presence=True)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        connection.info = connection.request.query_params.get("info")
        return connection.token

    @hub.on_connect
    async def admit(connection: Connection) -> None:
        if connection.user == "eve":
            raise Denied("You may not connect.")

    @hub.on_message
    async def note(message: Note) -> Note:
        return message

    @hub.on_message
    async def order(message: Order) -> None:
        pass

    @rooms.on_message
    async def note_in_room(room: Room, message: Note) -> None:
        await room.send(message)

    @rooms.on_message
    async def parcel(room: Room, message: Parcel) -> None:
        await room.send(message)

    return hub


async def raw(port: int, head: str) -> list[str]:
    """Send an HTTP request as it is written and return the lines of the answer's head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    return answer.decode().split("\r\n")


class TestConnecting:
    async def test_the_handshake_goes_as_the_page_says(self, hub, serve):
        asked, answered, _ = (block.text for block in blocks(PAGE) if block.language == "http")
        lines = await raw(serve(hub).port, asked)
        status, *headers = answered.split("\n")
        assert lines[0] == status
        told = {line.lower() for line in lines}
        assert {header.lower() for header in headers if header} <= told

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            (("GET ", "POST "), 405),
            (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426),
            (("Sec-WebSocket-Key: ", "X-Key: "), 400),
            (("GET / ", "GET /elsewhere "), 404),
        ],
    )
    async def test_a_refusal_has_a_status_of_the_table(self, hub, serve, change, status):
        asked = next(block.text for block in blocks(PAGE) if block.language == "http")
        lines = await raw(serve(hub).port, asked.replace(*change))
        assert lines[0].split(" ")[1] == str(status)
        assert re.search(rf"^\| [\d, ]*\b{status}\b[\d, ]* \|", read(PAGE), re.MULTILINE)

    async def test_compression_is_agreed_to_as_the_page_says(self, hub, serve):
        asked, _, agreed = (block.text for block in blocks(PAGE) if block.language == "http")
        offer = asked.strip() + "\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        assert agreed.strip() in await raw(serve(hub).port, offer)

    @pytest.mark.parametrize("offered", [None, ["chat"]])
    async def test_without_a_known_subprotocol_it_is_json(self, hub, serve, offered):
        async with talk(serve(hub).url, subprotocols=offered) as client:
            assert client.websocket.subprotocol is None
            await client.websocket.send('{"type": "$ping"}')
            assert await client.websocket.recv() == '{"type":"$pong"}'

    async def test_the_clients_preference_decides(self, hub, serve):
        offered = ["hubbub.v2.json", "hubbub.v1.json", "hubbub.v1.msgpack"]
        async with talk(serve(hub).url, subprotocols=offered) as client:
            assert client.websocket.subprotocol == "hubbub.v1.json"

    async def test_the_client_may_send_before_the_welcome(self, hub, serve):
        async with talk(serve(hub).url, welcome=False) as client:
            await client.send(type="$ping")
            assert [(await client.receive())["type"] for _ in range(2)] == ["$welcome", "$pong"]

    async def test_the_header_wins_over_the_query(self, hub, serve):
        headers = {"Authorization": "Bearer ada"}
        async with talk(f"{serve(hub).url}/?token=bob", additional_headers=headers) as client:
            assert client.welcome["user"] == "ada"

    async def test_who_may_not_connect_is_let_go_with_4403(self, hub, serve):
        async with talk(f"{serve(hub).url}/?token=eve", welcome=False) as client:
            assert (await client.receive())["data"]["code"] == "denied"
            assert await client.closed() == (4403, "You may not connect.")


class TestTheEnvelope:
    @pytest.fixture(params=["hubbub.v1.json", "hubbub.v1.msgpack"])
    async def client(self, request, hub, serve):
        async with talk(serve(hub).url, subprotocols=[request.param]) as client:
            yield client

    async def test_unknown_fields_are_ignored(self, client: Client):
        answer = await client.ask(type="note", data={"text": "a", "more": 1}, offset=7, colour="red")
        assert answer["data"] == {"text": "a"}

    async def test_data_that_is_left_out_is_an_empty_object(self, client: Client):
        assert (await client.ask(type="note"))["data"] == {"text": ""}

    @pytest.mark.parametrize("id_", [0, -1, 2**53, "", "x" * 128])
    async def test_an_id_is_an_integer_or_a_short_string(self, client: Client, id_):
        assert (await client.ask(type="$ping", id=id_)) == {"type": "$pong", "id": id_}

    @pytest.mark.parametrize("id_", [1.5, True, "x" * 129, [1]])
    async def test_an_id_is_nothing_else(self, client: Client, id_):
        await client.send(type="$ping", id=id_)
        answer = await client.receive()
        assert (answer["data"]["code"], "id" in answer) == ("invalid", False)

    @pytest.mark.parametrize("field", [{"type": ""}, {"type": "x" * 129}, {"room": ""}, {"room": "x" * 256}])
    async def test_names_have_a_length(self, client: Client, field):
        await client.send(**{"type": "note", **field})
        assert (await client.receive())["data"]["code"] == "invalid"

    async def test_success_without_an_id_has_no_answer(self, client: Client):
        await client.send(type="note")
        await client.send(type="$ping")
        assert await client.receive() == {"type": "$pong"}

    async def test_control_messages_are_answered_without_an_id(self, client: Client):
        await client.send(type="$join", room="notes/a")
        for kind in ("$history", "$presence", "$leave"):
            await client.send(type=kind, room="notes/a")
        await client.send(type="$auth", data={"token": "ada"})
        answers = [await client.receive() for _ in range(5)]
        assert [(answer["type"], "id" in answer) for answer in answers] == [("$ack", False)] * 5

    async def test_answers_come_in_the_order_of_the_requests(self, client: Client):
        for number in range(20):
            await client.send(type="note", id=number)
        assert [(await client.receive())["id"] for _ in range(20)] == list(range(20))

    async def test_a_path_leads_into_data(self, client: Client):
        items = [{"amount": 1}, {"amount": 2}, {"amount": 3}, {"amount": "four"}]
        answer = await client.ask(type="order", data={"items": items})
        assert [problem["path"] for problem in answer["data"]["errors"]] == ["$.items[3].amount"]


async def test_binary_values_are_base64_in_json(hub, serve):
    url = serve(hub).url
    async with talk(url) as text, talk(url, subprotocols=MESSAGEPACK) as binary:
        await text.join("notes/a")
        await binary.join("notes/a")
        await binary.send(type="parcel", room="notes/a", data={"content": b"\x00\xff"})
        assert (await binary.receive_type("parcel"))["data"] == {"content": b"\x00\xff"}
        written = base64.b64encode(b"\x00\xff").decode()
        assert (await text.receive_type("parcel"))["data"] == {"content": written}
        await text.send(type="parcel", room="notes/a", data={"content": written})
        assert (await binary.receive_type("parcel"))["data"] == {"content": b"\x00\xff"}


async def test_messagepack_envelopes_are_maps_of_strings(hub, serve):
    async with talk(serve(hub).url, welcome=False, subprotocols=MESSAGEPACK) as client:
        welcome = msgspec.msgpack.decode(await client.websocket.recv())
        assert welcome["type"] == "$welcome"
        await client.websocket.send(msgspec.msgpack.encode({"type": "$ping", "id": 1}))
        assert await client.websocket.recv() == msgspec.msgpack.encode({"type": "$pong", "id": 1})


class TestRooms:
    async def test_history_is_read_on_until_there_is_none(self, hub, serve):
        async with talk(serve(hub).url) as client:
            since = await client.join("notes/a")
            for number in range(230):
                await client.send(type="note", room="notes/a", data={"text": str(number)})
            texts: list[str] = []
            sizes: list[int] = []
            while not sizes or sizes[-1]:
                answer = await client.ask(type="$history", room="notes/a", data={"since": since})
                page = answer["data"]
                assert page["complete"]
                since = {"epoch": page["epoch"], "offset": page["offset"]}
                sizes.append(len(page["messages"]))
                texts += [message["data"]["text"] for message in page["messages"]]
            assert sizes == [100, 100, 30, 0]
            assert texts == [str(number) for number in range(230)]

    @pytest.mark.parametrize(
        ("limit", "answer"), [(0, "$error"), (1, "$ack"), (1000, "$ack"), (1001, "$error")]
    )
    async def test_history_has_a_limit(self, hub, serve, limit, answer):
        async with talk(serve(hub).url) as client:
            await client.join("notes/a")
            asked = await client.ask(type="$history", room="notes/a", data={"limit": limit})
            assert asked["type"] == answer

    async def test_history_of_another_epoch_is_not_complete(self, hub, serve):
        async with talk(serve(hub).url) as client:
            await client.join("notes/a")
            await client.send(type="note", room="notes/a")
            since = {"epoch": "another", "offset": 0}
            page = (await client.ask(type="$history", room="notes/a", data={"since": since}))["data"]
            assert (page["complete"], page["offset"], len(page["messages"])) == (False, 1, 1)

    async def test_a_member_has_the_info_that_the_application_gives(self, hub, serve):
        async with talk(f"{serve(hub).url}/?token=ada&info=away") as client:
            await client.join("notes/a")
            members = await client.ask(type="$presence", room="notes/a")
            assert members["data"] == {"members": [{"user": "ada", "info": "away"}]}

    async def test_a_guest_has_a_name(self, hub, serve):
        async with talk(serve(hub).url) as client:
            await client.join("notes/a")
            await client.send(type="note", room="notes/a")
            assert re.fullmatch("guest:[0-9a-f]+", (await client.receive_type("note"))["from"])

    async def test_a_new_login_hears_its_inbox(self, hub, serve):
        async with talk(serve(hub).url) as client:
            await client.ask(type="$auth", data={"token": "ada"})
            history = await client.ask(type="$history", room="$user/ada")
            assert history["type"] == "$ack"

    async def test_nobody_sends_to_an_inbox_or_joins_anothers(self, hub, serve):
        async with talk(f"{serve(hub).url}/?token=ada") as client:
            sent = await client.ask(type="note", room="$user/ada")
            assert sent["data"]["code"] == "unknown_type"
            joined = await client.ask(type="$join", room="$user/bob")
            assert joined["data"]["code"] == "unknown_room"


class TestLimits:
    def test_they_are_the_defaults_of_the_settings(self):
        table = read(PAGE).partition("## Limits")[2].partition("## A whole session")[0]
        rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE))
        settings = Settings()
        assert rows["the handshake and the login"] == f"{settings.handshake_timeout:g} s"
        assert rows["what waits for a client that reads too slowly"] == f"{settings.max_outbox / 2**20:g} MiB"
        assert rows["a message before `$welcome`"] == f"{settings.max_message_before_login / 2**10:g} KiB"
        levels = rows["levels of nesting in a message, the envelope and its data included"]
        assert levels == str(settings.max_depth)
        assert rows["messages, pings and pongs to the server"] == (
            f"{settings.max_message_rate:g} a second in the long run, {settings.max_message_burst} at once"
        )
        waiting = rows["messages of a client that wait for their handler"]
        assert waiting == f"{settings.max_inbox}, and {settings.max_inbox_bytes / 2**20:g} MiB together"
        assert rows["rooms that a connection is in"] == str(settings.max_rooms)

    async def test_a_message_over_the_limit_ends_the_connection(self, hub, start):
        async with talk(start(hub).url) as client:
            assert client.welcome["max_message"] == 1000
            await client.send(type="note", data={"text": "x" * 1000})
            assert (await client.closed())[0] == 1009

    async def test_a_connection_is_in_so_many_rooms(self, hub, serve):
        async with talk(f"{serve(hub).url}") as client:
            await client.join("notes/a")
            await client.join("notes/b")
            assert (await client.ask(type="$join", room="notes/c"))["data"]["code"] == "too_many_rooms"
