"""Hostile messages: whatever is in them, they are understood or refused, and the connection goes on.

Each test names the published advisories that it is about; docs/security.md has the whole list.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel

from conftest import serving
from hubbub import Hubbub, Message, Room
from wire import Client, talk

MEGABYTE = "a" * 1_000_000
SHORT = 4_096
"""What no answer to a message that is refused may be larger than, in bytes."""


class Anything(Message):
    value: Any


class Say(Message):
    text: str


class Paint(Message, forbid_unknown_fields=True):
    colour: Literal["red", "green"] = "red"


class Picky(Message):
    text: str

    def __post_init__(self) -> None:
        raise ValueError(f"not liked: {self.text}")


class Inventory(BaseModel, extra="forbid"):
    counts: dict[str, int] = {}


def hub_of_everything() -> Hubbub:
    hub = Hubbub()
    room = hub.room("room", history=10)

    @room.on_message
    async def anything(room: Room, message: Anything) -> None:
        await room.send(message)

    @hub.on_message
    async def echo(message: Anything) -> Anything:
        return message

    @hub.on_message
    async def say(message: Say) -> Say:
        return message

    @hub.on_message
    async def paint(message: Paint) -> None: ...

    @hub.on_message
    async def picky(message: Picky) -> None: ...

    @hub.on_message
    async def inventory(message: Inventory) -> None: ...

    return hub


@pytest.fixture(scope="module", params=["native", "asgi"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where that hub is: one for all tests of this file, over each transport in turn."""
    with serving() as serve:
        yield serve(hub_of_everything(), native=request.param == "native").url


async def refused(client: Client, message: str | bytes) -> dict[str, Any]:
    """Send a message as it is; return the data of the error that answers it."""
    await client.websocket.send(message)
    answer = await client.receive()
    assert answer["type"] == "$error", answer
    # Nothing else is under way, and the connection goes on.
    assert (await client.ask(type="say", data={"text": "on"}))["data"] == {"text": "on"}
    return answer["data"]


def said(data: str) -> str:
    return f'{{"type": "anything", "room": "room", "data": {data}}}'


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("paint", {"colour": MEGABYTE}),
        ("paint", {MEGABYTE: 1}),
        ("picky", {"text": MEGABYTE}),
        ("inventory", {MEGABYTE: 1}),
        ("inventory", {"counts": {MEGABYTE: "many"}}),
        ("inventory", {"counts": {f"{number}{MEGABYTE[:5000]}": "many" for number in range(100)}}),
    ],
    ids=["a value", "a field", "a value in an exception", "a model's field", "a key", "many keys"],
)
async def test_an_error_does_not_send_back_what_it_is_about(url, kind, data):
    """Amplification: a refusal quotes the client's own megabyte, once or twice over."""
    async with talk(url, max_size=None) as client:
        await client.send(type=kind, id=1, data=data)
        answer = await client.receive()
        assert answer["data"]["code"] == "invalid"
        most = SHORT if len(answer["data"]["errors"]) == 1 else 20 * SHORT
        assert len(json.dumps(answer)) < most


@pytest.mark.parametrize(
    "number",
    [
        "1" * 1_000_000,
        "1" * 4_000,
        f"{2**64}",
        f"-{2**63 + 1}",
        "1e999",
        "-1e999",
        "1" * 400 + ".5",
        "NaN",
        "Infinity",
    ],
    ids=lambda number: f"{number[:8]} ({len(number)})",
)
async def test_a_number_that_is_out_of_range_is_refused(url, number):
    """CPython's CVE-2020-10735: digits without end take quadratic time. Also what no number is in JSON."""
    async with talk(url) as client:
        await client.join("room")
        assert (await refused(client, said(f'{{"value": {number}}}')))["code"] == "invalid"


async def test_digits_without_end_after_the_point_are_read_at_once(url):
    async with talk(url) as client:
        await client.websocket.send(
            f'{{"type": "anything", "id": 1, "data": {{"value": 0.{"0" * 900_000}1}}}}'
        )
        assert (await client.receive())["data"] == {"value": 0.0}


@pytest.mark.parametrize("opening", ['{"value":', "["], ids=["objects", "arrays"])
async def test_nesting_without_end_is_refused(url, opening):
    """SignalR's CVE-2026-45591: nested arrays overflow the stack of whoever reads them."""
    async with talk(url) as client:
        await client.join("room")
        deep = opening * (900_000 // len(opening))
        assert (await refused(client, said(deep)))["code"] == "invalid"
        # The last one is nothing to a decoder, which has a limit of its own; it is over `max_depth`.
        for levels in (100_000, 200):
            closed = '{"value": ' + "[" * levels + "]" * levels + "}"
            assert (await refused(client, said(closed)))["code"] == "invalid"


async def test_nesting_without_end_in_messagepack_is_refused(url):
    """SignalR's CVE-2026-45591."""
    envelope = b"\x83\xa4type\xa8anything\xa4room\xa4room\xa4data\x81\xa5value"
    async with talk(url, subprotocols=["hubbub.v1.msgpack"]) as client:
        await client.join("room")
        assert (await refused(client, envelope + b"\x91" * 900_000))["code"] == "invalid"
        for levels in (100_000, 200):
            assert (await refused(client, envelope + b"\x91" * levels + b"\xc0"))["code"] == "invalid"


LENGTHS = {
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "a text of four gigabytes": b"\xdb\xff\xff\xff\xff",
    "bytes of four gigabytes": b"\xc6\xff\xff\xff\xff",
    "an extension of four gigabytes": b"\xc9\xff\xff\xff\xff\x05",
}


@pytest.mark.parametrize("before", [b"", b"\x81\xa4type", b"\x82\xa4type\xa8anything\xa4data\x81\xa5value"])
@pytest.mark.parametrize("lie", LENGTHS.values(), ids=LENGTHS)
async def test_a_length_that_is_a_lie_is_refused_and_nothing_is_set_aside_for_it(url, before, lie):
    """MessagePack that declares more than it brings: memory for four billion entries, or a wait for them."""
    async with talk(url, subprotocols=["hubbub.v1.msgpack"]) as client:
        assert (await refused(client, before + lie))["code"] == "invalid"
        assert (await refused(client, before + lie + bytes(1000)))["code"] == "invalid"


@pytest.mark.parametrize(
    "value",
    [
        msgspec.msgpack.Ext(5, b"x"),
        msgspec.msgpack.Ext(-1, b"no timestamp"),
        {None: 1},
        {(1, 2): 3},
        {True: 1},
        {1.5: 1},
    ],
    ids=[
        "an extension",
        "a broken timestamp",
        "null as a key",
        "an array as a key",
        "a truth as a key",
        "a fraction",
    ],
)
async def test_what_one_codec_only_can_say_harms_nobody_who_speaks_the_other(url, value):
    """A message that members of a room can't be sent: refused, or it reaches all of them."""
    message = msgspec.msgpack.encode({"type": "anything", "room": "room", "id": 1, "data": {"value": value}})
    async with talk(url) as member, talk(url, subprotocols=["hubbub.v1.msgpack"]) as client:
        await member.join("room")
        await client.join("room")
        await client.websocket.send(message)
        answer = await client.receive()
        if answer["type"] == "$error":
            assert answer["data"]["code"] == "invalid"
            await member.send(type="$ping", id="nothing came")
            assert await member.receive() == {"type": "$pong", "id": "nothing came"}
        else:
            assert answer["type"] == "anything"
            assert (await member.receive())["offset"] == answer["offset"]


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00\\ud800", "\\ud83d"], ids=["high", "swapped", "half"])
async def test_half_a_surrogate_pair_is_refused(url, text):
    """Text that no UTF-8 can carry would fail only later, when it is sent on."""
    async with talk(url) as client:
        await client.join("room")
        assert (await refused(client, said(f'{{"value": "{text}"}}')))["code"] == "invalid"


async def test_a_key_that_comes_twice_counts_once_and_nothing_is_made_of_its_first_value(url):
    """Two readers that disagree about which one counts: here one reader reads once."""
    async with talk(url) as client:
        await client.websocket.send(
            '{"type": "$leave", "type": "say", "id": 1, "data": {"text": "a", "text": "b"}}'
        )
        assert await client.receive() == {"type": "$ack", "id": 1, "data": {"text": "b"}}


async def test_names_that_python_gives_a_meaning_are_plain_keys(url):
    """Prototype pollution, and attributes that a decoder sets by name."""
    names = [
        "__class__",
        "__dict__",
        "__proto__",
        "constructor",
        "__init__",
        "__reduce__",
        "__struct_fields__",
    ]
    values = {name: {"a": [1]} for name in names}
    async with talk(url) as client:
        await client.send(type="say", id=1, data={"text": "x", **values}, **values)
        assert await client.receive() == {"type": "$ack", "id": 1, "data": {"text": "x"}}
        answer = await client.ask(type="anything", data={"value": values})
        assert answer["data"] == {"value": values}
        for name in names:
            await client.send(type=name, id=name)
            assert (await client.receive())["data"]["code"] == "unknown_type"


@pytest.mark.parametrize("identifier", ["1.5", "1e3", "true", "[1]", "{}", '"%s"' % ("x" * 129), "1" * 5_000])
async def test_an_id_is_a_whole_number_or_a_short_text_and_nothing_else(url, identifier):
    """Type confusion, and an answer that would send it back."""
    async with talk(url) as client:
        error = await refused(client, f'{{"type": "say", "id": {identifier}, "data": {{"text": "x"}}}}')
        assert error["errors"][0]["path"] == "$.id"


async def test_a_message_that_never_comes_to_its_end_keeps_nothing(url):
    """python-socketio's CVE-2026-48804 and Socket.IO's CVE-2026-33151: parts announced that never come.

    A message is one WebSocket message: there is nothing that the next one would be waited for with.
    """
    announced = json.dumps({"type": "51-say", "data": {"_placeholder": True, "num": 0}})
    async with talk(url) as client:
        for _ in range(3):
            assert (await refused(client, announced))["code"] == "unknown_type"
            assert (await refused(client, b"\x00" * 100))["code"] == "invalid"


async def test_many_keys_that_fall_into_one_place_are_read_like_others(url):
    """MessagePack-CSharp's CVE-2020-5234, of SignalR: keys that collide. Texts are hashed with a secret."""
    colliding = {str(number * (2**61 - 1)): 1 for number in range(20_000)}
    async with talk(url, max_size=None) as client:
        answer = await client.ask(type="anything", data={"value": colliding})
        assert answer["data"]["value"] == colliding
