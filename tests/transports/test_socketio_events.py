"""Events and acknowledgements as messages of hubbub's protocol, and back."""

from typing import Any

import msgspec
import pytest

from hubbub import Message
from hubbub.errors import InvalidMessage
from hubbub.protocol.envelope import Drain, Envelope, Failure, Position
from hubbub.transports.socketio.chunks import framing_of
from hubbub.transports.socketio.codec import EVENTS, PLAIN_EVENTS
from hubbub.transports.socketio.events import read_auth, read_event
from hubbub.transports.socketio.packets import MalformedPacket, Packet, PacketReader, PacketType


class Say(Message):
    text: str


class Spoken(Message, array_like=True):
    text: str
    times: int = 1


class Picture(Message):
    pixels: bytes


def read(*parts: str | bytes) -> dict[str, Any]:
    """Return what an event is for a session, its data as the codec brings it to a handler."""
    reader = PacketReader(10_000)
    for part in parts:
        packet = reader.read(part)
    assert packet is not None
    message = EVENTS.read(read_event(packet))
    data = EVENTS.decoder(object)(message.data or EVENTS.empty)
    return {"type": message.type, "id": message.id, "room": message.room, "data": data}


def decoded(kind: type, *parts: str | bytes) -> object:
    reader = PacketReader(10_000)
    for part in parts:
        packet = reader.read(part)
    assert packet is not None
    return EVENTS.decoder(kind)(EVENTS.read(read_event(packet)).data or EVENTS.empty)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('2["say",{"text":"hi"}]', {"type": "say", "data": {"text": "hi"}}),
        ('25["say",{"text":"hi"}]', {"type": "say", "id": 5, "data": {"text": "hi"}}),
        ('2["say",{"text":"hi"},{"room":"a/b"}]', {"type": "say", "room": "a/b", "data": {"text": "hi"}}),
        ('2["say", 1 , 2, {"room":"a"}]', {"type": "say", "room": "a", "data": [1, 2]}),
        ('2["say","hi"]', {"type": "say", "data": "hi"}),
        ('2["say","hi",3]', {"type": "say", "data": ["hi", 3]}),
        ('2["say",[1,2]]', {"type": "say", "data": [1, 2]}),
        ('2["say"]', {"type": "say", "data": {}}),
        ('2["say",null]', {"type": "say", "data": {}}),
        ('2["say",null,{"room":"a"}]', {"type": "say", "room": "a", "data": {}}),
        # Alone, or with more than a room in it, it is data.
        ('2["say",{"room":"a"}]', {"type": "say", "data": {"room": "a"}}),
        ('2["say",1,{"room":"a","more":1}]', {"type": "say", "data": [1, {"room": "a", "more": 1}]}),
        ('2["say",1,{"room":5}]', {"type": "say", "data": [1, {"room": 5}]}),
        # Controls name their room themselves.
        ('2["$join",{"room":"a"}]', {"type": "$join", "room": "a", "data": {"room": "a"}}),
        ('2["$join",{},{"room":"a"}]', {"type": "$join", "room": "a", "data": {}}),
        ('2["$auth",{"token":"t"}]', {"type": "$auth", "data": {"token": "t"}}),
        ('2[7,"x"]', {"type": "7", "data": "x"}),
    ],
)
def test_an_event_is_a_message(text, message):
    assert read(text) == {"id": None, "room": None, **message}


def test_binary_data_comes_as_it_is_wherever_it_stands():
    event = (
        '52-7["picture",{"pixels":{"_placeholder":true,"num":1}},{"_placeholder":true,"num":0},{"room":"a"}]'
    )
    assert read(event, b"\x00", b"\xff") == {
        "type": "picture",
        "id": 7,
        "room": "a",
        "data": [{"pixels": b"\xff"}, b"\x00"],
    }
    event = '51-["picture",{"pixels":{"_placeholder":true,"num":0}}]'
    assert decoded(Picture, event, b"\xff") == Picture(b"\xff")
    # Who has none sends Base64, like any client that speaks JSON.
    assert decoded(Picture, '2["picture",{"pixels":"/w=="}]') == Picture(b"\xff")


def test_a_message_that_is_an_array_is_of_the_arguments():
    assert decoded(Spoken, '2["spoken","hi"]') == Spoken("hi")
    assert decoded(Spoken, '2["spoken","hi",3]') == Spoken("hi", 3)
    assert decoded(Say, '2["say",{"text":"hi"}]') == Say("hi")
    with pytest.raises(msgspec.ValidationError):
        decoded(Say, '2["say","hi"]')


@pytest.mark.parametrize(
    "text",
    ['2["connect"]', '2["disconnect",1]', '2["newListener"]', "2[null]", "2[{}]", '2[["a"]]', '2["\\ud800"]'],
)
def test_what_has_no_name_of_an_event_is_refused(text):
    with pytest.raises(MalformedPacket):
        read(text)


def test_a_room_with_too_long_a_name_is_the_clients_error_and_no_broken_packet():
    with pytest.raises(InvalidMessage):
        read('2["say",1,{"room":"%s"}]' % ("x" * 300))


def test_data_that_is_nested_too_deeply_is_refused():
    packet = Packet(PacketType.EVENT, payload='["say",' + "[" * 50 + "]" * 50 + "]")
    message = read_event(packet)
    EVENTS.check_depth(message, 51)
    with pytest.raises(InvalidMessage):
        EVENTS.check_depth(message, 20)


def test_auth_is_an_object_or_nothing():
    assert read_auth(Packet(PacketType.CONNECT)) == {}
    assert read_auth(Packet(PacketType.CONNECT, payload='{"token":"x","n":[1]}')) == {"token": "x", "n": [1]}


@pytest.mark.parametrize(
    ("envelope", "text", "plain"),
    [
        (
            Envelope("say", room="a", offset=3, sender="ada", data=Say("hi")),
            b'2["say",{"text":"hi"},{"room":"a","offset":3,"from":"ada"}]',
            b'2["say",{"text":"hi"}]',
        ),
        (Envelope("say", data=Say("hi")), b'2["say",{"text":"hi"}]', b'2["say",{"text":"hi"}]'),
        (
            Envelope("spoken", room="a", data=["hi", 3]),
            b'2["spoken","hi",3,{"room":"a"}]',
            b'2["spoken","hi",3]',
        ),
        (Envelope("spoken", data=Spoken("hi", 3)), b'2["spoken","hi",3]', b'2["spoken","hi",3]'),
        (Envelope("none", data=[]), b'2["none"]', b'2["none"]'),
        (Envelope("$joined", room="a", data=[1]), b'2["$joined",[1],{"room":"a"}]', b'2["$joined",[1]]'),
        (Envelope("$drain", data=Drain(1.5)), b'2["$drain",{"after":1.5}]', b'2["$drain",{"after":1.5}]'),
        (Envelope("$ack", id=7, data=Say("hi")), b'37[{"text":"hi"}]', b'37[{"text":"hi"}]'),
        (Envelope("$ack", id=7), b"37[]", b"37[]"),
        (Envelope("$ack", id=7, data=[1, 2]), b"37[[1,2]]", b"37[[1,2]]"),
        (Envelope("$ack", id=7, data=(1, 2)), b"37[1,2]", b"37[1,2]"),
        (Envelope("$ack", id=7, data=Spoken("hi")), b'37["hi",1]', b'37["hi",1]'),
        (Envelope("$pong", id=7), b"37[]", b"37[]"),
        (
            Envelope("$error", id=7, data=Failure("denied", "No.", retry=False)),
            b'37[{"$error":{"code":"denied","message":"No.","retry":false}}]',
            b'37[{"$error":{"code":"denied","message":"No.","retry":false}}]',
        ),
    ],
)
def test_an_envelope_is_an_event_or_an_acknowledgement(envelope, text, plain):
    assert EVENTS.encode(envelope) == text
    assert PLAIN_EVENTS.encode(envelope) == plain


def test_binary_data_is_attached():
    payload = EVENTS.encode(Envelope("picture", room="a", data={"pixels": b"\xff", "more": [b"\x00"]}))
    chunk = framing_of("/admin")(payload, False)
    text, *attachments = chunk.packets  # type: ignore[attr-defined]
    assert text.payload.startswith(b'52-/admin,["picture",{"pixels":{"_placeholder":true,"num":')
    assert {packet.payload for packet in attachments} == {b"\xff", b"\x00"}
    assert all(packet.binary for packet in attachments)
    payload = EVENTS.encode(Envelope("$ack", id=4, data=Picture(b"\xff")))
    assert payload == b'61-4[{"pixels":{"_placeholder":true,"num":0}}]'


def test_binary_data_that_can_not_be_attached_is_base64():
    many = EVENTS.encode(Envelope("pictures", data=[b"\xff"] * 11))
    assert many == b'2["pictures",' + b",".join([b'"/w=="'] * 11) + b"]"
    poisoned = EVENTS.encode(Envelope("picture", data=[b"\xff", {"_placeholder": True, "num": 9}]))
    assert poisoned == b'2["picture","/w==",{"_placeholder":true,"num":9}]'


def test_letters_that_look_like_binary_data_are_none():
    assert EVENTS.encode(Envelope("say", data=Say("čau"))) == '2["say",{"text":"čau"}]'.encode()


def test_no_message_has_the_name_of_an_event_that_clients_keep_for_themselves():
    with pytest.raises(ValueError, match="wire_type"):
        EVENTS.encode(Envelope("disconnect", data={}))


def test_the_heartbeat_of_the_hub_is_not_written():
    assert framing_of("/")(EVENTS.encode(Envelope("$ping")), False).packets == ()  # type: ignore[attr-defined]


def test_a_position_is_an_acknowledgement_like_any_other():
    assert EVENTS.encode(Envelope("$ack", id=1, data=Position("e", 3))) == b'31[{"epoch":"e","offset":3}]'
