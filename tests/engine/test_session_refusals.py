import json
import threading
from typing import Any

import pytest

from echo import MoveCursor, Say, Wave, echo_hub, is_alive
from hubbub import Connection, Denied, InvalidMessage, Message, Settings, Unavailable
from hubbub.protocol.codecs import Codec
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


async def test_a_handler_that_denies_is_answered_and_the_connection_lives(start):
    hub = echo_hub()

    @hub.on_message
    async def wave(message: Wave) -> None:
        raise Denied("no waving")

    async with talk(start(hub).url) as client:
        assert await client.ask(type="chat.wave", id=3) == {
            "type": "$error",
            "id": 3,
            "data": {"code": "denied", "message": "no waving", "retry": False},
        }
        await is_alive(client)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (Denied("\ud800!"), "denied", "?!"),
        (Denied(404), "denied", "404"),  # type: ignore[arg-type]
        (InvalidMessage("none left", code="out_of_stock"), "out_of_stock", "none left"),
        (InvalidMessage("\ud800", [("$.\ud800", "\ud800")]), "invalid", "?"),
    ],
)
async def test_whatever_a_handler_refuses_with_is_told_and_the_connection_lives(start, raised, code, message):
    hub = echo_hub()

    @hub.on_message
    async def wave(message: Wave) -> None:
        raise raised

    async with talk(start(hub).url) as client:
        data = (await client.ask(type="chat.wave", id=3))["data"]
        assert (data["code"], data["message"], data["retry"]) == (code, message, False)
        await is_alive(client)


async def test_a_broker_that_can_not_be_reached_is_an_error_to_retry(start):
    hub = echo_hub()

    @hub.on_message
    async def wave(message: Wave) -> None:
        raise Unavailable("The broker is away; try again.")

    async with talk(start(hub).url) as client:
        assert (await client.ask(type="chat.wave"))["data"] == {
            "code": "unavailable", "message": "The broker is away; try again.", "retry": True,
        }  # fmt: skip
        await is_alive(client)


async def test_a_handler_that_raises_answers_its_own_message_only(start, logs):
    hub = echo_hub()

    @hub.on_message
    async def wave(message: Wave) -> None:
        raise ZeroDivisionError("none to divide")

    url = start(hub).url
    async with (
        talk(url, additional_headers={"X-Request-ID": "ticket-42"}) as ada,
        talk(url) as bob,
    ):
        assert await ada.ask(type="chat.wave", id=1) == {
            "type": "$error",
            "id": 1,
            "data": {
                "code": "internal",
                "message": "The server met an error (correlation id ticket-42).",
                "retry": False,
            },
        }
        await is_alive(ada)
        await is_alive(bob)
        [record] = logs.of("error", connection=ada.welcome["connection"], type="chat.wave")
        assert record.correlation_id == "ticket-42"
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert "none to divide" in str(record.exc_info[1])
        assert record.exc_info[2] is not None


async def test_a_reply_that_can_not_be_sent_is_an_error_of_the_server(start, logs):
    hub = echo_hub()

    @hub.on_message
    async def wave(message: Wave) -> object:
        return object()

    async with talk(start(hub).url) as client:
        assert (await client.ask(type="chat.wave"))["data"]["code"] == "internal"
        await is_alive(client)
    assert "object can't be sent" in str(logs.of("error")[0].exc_info)


async def test_sending_on_another_connection_that_is_closed_is_an_error_of_the_server(start, logs):
    hub = echo_hub()
    others: list[Connection] = []

    @hub.on_connect
    async def note(connection: Connection) -> None:
        others.append(connection)

    @hub.on_message
    async def wave(message: Wave) -> None:
        await others[0].send(message)

    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.websocket.close()
        assert (await bob.ask(type="chat.wave"))["data"]["code"] == "internal"
        await is_alive(bob)
    assert "ConnectionClosed" in str(logs.of("error")[0].exc_info)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


INVALID: list[tuple[str | bytes, str, str]] = [
    ("", "$", "The message is empty"),
    ("x", "$", "JSON is malformed"),
    ("{", "$", "truncated"),
    ("[]", "$", "Expected `object`"),
    ("null", "$", "Expected `object`"),
    ("{}", "$", "missing required field `type`"),
    ('{"type":""}', "$.type", "length >= 1"),
    (f'{{"type":"{"x" * 129}"}}', "$.type", "length <= 128"),
    ('{"type":1}', "$.type", "Expected `str`"),
    ('{"type":"say","room":7}', "$.room", "Expected `str | null`"),
    ('{"type":"say","room":""}', "$.room", "length >= 1"),
    (f'{{"type":"say","room":"{"x" * 256}"}}', "$.room", "length <= 255"),
    ('{"type":"say","id":[]}', "$.id", "Expected `int | str | null`"),
    ('{"type":"say","id":1.5}', "$.id", "Expected `int | str | null`"),
    (f'{{"type":"say","id":"{"x" * 129}"}}', "$.id", "length <= 128"),
    (f'{{"type":"say","id":{"9" * 5000}}}', "$.id", "out of range"),
    (f'{{"type":"say","data":{deep(200_000)}}}', "$", "Nested too deeply"),
    ('{"type":"say","data":{"text":"\\ud800"}}', "$", ""),
    (b'{"type":"say"}', "$", "send text messages, not binary"),
    (b"", "$", "send text messages, not binary"),
]


async def test_a_message_that_is_no_envelope_is_an_error_and_the_connection_lives(start):
    async with talk(start(echo_hub()).url) as client:
        for message, path, text in INVALID:
            await client.websocket.send(message)
            error = await client.receive()
            assert set(error) == {"type", "data"}
            assert error["type"] == "$error"
            assert error["data"]["code"] == "invalid"
            assert error["data"]["retry"] is False
            assert [problem["path"] for problem in error["data"].get("errors", [])] in ([path], [])
            assert text in json.dumps(error["data"], ensure_ascii=False), message[:100]
            await is_alive(client)


INVALID_BINARY: list[tuple[bytes | str, str]] = [
    (b"", "The message is empty"),
    (b"\xc1", "MessagePack data is malformed"),
    (b"\x81", "truncated"),
    (b"\x90", "Expected `object`"),
    (b"\x81\xa4type\xa2\xff\xff", "utf-8"),
    (b"\x82\xa4type\xa3say\xa4data" + b"\x91" * 200_000, "Nested too deeply"),
    (b"\x82\xa4type\xa3say\xa4data\xdd\xff\xff\xff\xff", "truncated"),
    ('{"type":"say"}', "send binary messages, not text"),
]


async def test_a_binary_message_that_is_no_envelope_is_an_error_too(start):
    async with talk(start(echo_hub()).url, subprotocols=["hubbub.v1.msgpack"]) as client:
        for message, text in INVALID_BINARY:
            await client.websocket.send(message)
            error = await client.receive()
            assert set(error) == {"type", "data"}
            assert error["data"]["code"] == "invalid"
            assert text in json.dumps(error["data"])
            await is_alive(client)


MISFITS: list[tuple[str, object, list[dict[str, str]]]] = [
    ("say", {}, [{"path": "$", "message": "Object missing required field `text`"}]),
    ("say", {"text": 1}, [{"path": "$.text", "message": "Expected `str`, got `int`"}]),
    ("say", [], [{"path": "$", "message": "Expected `object`, got `array`"}]),
    ("say", None, [{"path": "$", "message": "Expected `object`, got `null`"}]),
    (
        "move_cursor",
        {"x": -1, "y": 9},
        [
            {"path": "$.x", "message": "Input should be greater than or equal to 0"},
            {"path": "$.y", "message": "Input should be less than 9"},
        ],
    ),
    (
        "$join",
        {"since": {"epoch": "e"}},
        [{"path": "$.since", "message": "Object missing required field `offset`"}],
    ),
    (
        "$join",
        {"since": {"epoch": "e", "offset": -1}},
        [{"path": "$.since.offset", "message": "Expected `int` >= 0"}],
    ),
    ("$history", {"limit": 0}, [{"path": "$.limit", "message": "Expected `int` >= 1"}]),
    ("$history", {"limit": 1001}, [{"path": "$.limit", "message": "Expected `int` <= 1000"}]),
    ("$auth", {}, [{"path": "$", "message": "Object missing required field `token`"}]),
    ("$auth", {"token": ""}, [{"path": "$.token", "message": "Expected `str` of length >= 1"}]),
]


async def test_data_that_does_not_fit_its_schema_is_an_error_that_says_where(start):
    hub = echo_hub()
    hub.room("lobby")

    @hub.on_message
    async def move(message: MoveCursor) -> None: ...

    async with talk(start(hub).url) as client:
        await client.join("lobby")
        for number, (kind, data, problems) in enumerate(MISFITS):
            room = {"room": "lobby"} if kind in ("$join", "$history") else {}
            error = await client.ask(type=kind, id=number, data=data, **room)
            assert error["type"] == "$error"
            assert error["data"]["code"] == "invalid"
            assert error["data"]["errors"] == problems
            await is_alive(client)


async def test_a_large_message_is_looked_at_for_its_depth_while_others_have_their_turns(start, monkeypatch):
    hub, threads = echo_hub(), Told()
    check = Codec.check_depth

    def noted(self: Codec, message: str | bytes, limit: int, *, at_once: bool = False) -> bool:
        told = check(self, message, limit, at_once=at_once)
        if told:
            threads(threading.current_thread().name)
        return told

    monkeypatch.setattr(Codec, "check_depth", noted)
    async with talk(start(hub).url) as client:
        for text in ("[" * 1000, "x" * 70_000, "[" * 70_000):
            await client.ask(type="say", id=text[:1], data={"text": text})
        small, plain, large = [await threads.next() for _ in range(3)]
        assert small == plain
        assert "AnyIO worker" not in small
        assert "AnyIO worker" in large
        deep: object = []
        for _ in range(101):
            deep = [deep]
        answer = await client.ask(type="say", id=2, data={"text": "x" * 70_000, "more": deep})
        assert answer["data"]["errors"] == [{"path": "$", "message": "Nested too deeply"}]


async def test_data_that_is_nested_too_deeply_for_its_schema_is_an_error(start):
    class Grow(Message):
        tree: list[Any]

    hub = echo_hub(Settings(max_depth=20_000))

    @hub.on_message
    async def grow(message: Grow) -> None: ...

    async with talk(start(hub).url) as client:
        # What the envelope's own check passes over the schema's may not, and the other way round.
        for levels in (100, 500, 900, 950, 1000, 2000, 10_000):
            await client.websocket.send(f'{{"type":"grow","id":1,"data":{{"tree":{deep(levels)}}}}}')
            answer = await client.receive()
            assert answer["type"] == "$ack" or answer["data"]["code"] == "invalid"
        assert answer["type"] == "$error"
        await is_alive(client)


@pytest.mark.parametrize("codec", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_a_message_has_as_many_levels_as_it_may_and_not_one_more(start, codec):
    class Grow(Message):
        tree: list[Any]

    hub, told = echo_hub(Settings(max_depth=30)), Told()

    @hub.on_message
    async def grow(message: Grow) -> None:
        told("grown")

    async with talk(start(hub).url, subprotocols=[codec]) as client:
        # The envelope and its data are two of them.
        for levels, kind in ((28, "$ack"), (29, "$error")):
            tree = json.loads(deep(levels))
            answer = await client.ask(type="grow", id=levels, data={"tree": tree, "wide": [[]] * 100})
            assert answer["type"] == kind
        assert answer["data"]["code"] == "invalid"
        assert answer["data"]["errors"] == [{"path": "$", "message": "Nested too deeply"}]
        assert await told.next() == "grown"
        assert told.silent
        await is_alive(client)


async def test_an_unknown_type_is_an_error_that_names_the_known_ones(start):
    hub = echo_hub()
    lobby = hub.room("lobby")

    @lobby.on_message
    async def wave(message: Wave) -> None: ...

    async with talk(start(hub).url) as client:
        await client.join("lobby")
        error = await client.ask(type="shout")
        assert error["data"]["code"] == "unknown_type"
        assert "in the hub handles messages of type 'shout'; it handles: say" in error["data"]["message"]
        error = await client.ask(type="say", room="lobby", data={"text": "x"})
        assert error["data"]["code"] == "unknown_type"
        assert "in the rooms 'lobby' handles messages of type 'say'" in error["data"]["message"]
        assert "it handles: chat.wave" in error["data"]["message"]
        await is_alive(client)


async def test_an_unknown_control_message_is_an_error(start):
    async with talk(start(echo_hub()).url) as client:
        for kind in ("$", "$welcome", "$ack", "$nonsense"):
            error = await client.ask(type=kind)
            assert error["data"]["code"] == "unknown_type"
            assert error["data"]["message"] == f"There is no {kind!r} in version 1 of the protocol."
        await is_alive(client)


async def test_an_answer_carries_the_id_of_its_request_whatever_that_is(start):
    async with talk(start(echo_hub()).url) as client:
        for identifier in (0, -1, 2**64, 10**300, "", "x" * 128, "\u0000"):
            answer = await client.ask(type="say", id=identifier, data={"text": "x"})
            assert answer == {"type": "$ack", "id": identifier, "data": {"text": "x"}}


async def test_a_message_to_a_room_that_was_not_joined_is_an_error(start):
    hub = echo_hub()
    lobby = hub.room("lobby")

    @lobby.on_message
    async def say(message: Say) -> None: ...

    async with talk(start(hub).url) as client:
        assert await client.ask(type="say", id=1, room="lobby", data={"text": "x"}) == {
            "type": "$error",
            "id": 1,
            "room": "lobby",
            "data": {
                "code": "not_joined",
                "message": "Join 'lobby' first.",
                "retry": False,
                "errors": [{"path": "$.room", "message": "Not joined"}],
            },
        }
