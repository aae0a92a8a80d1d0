"""Socket.IO packets: the examples of the protocol's document, and what is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.transports.socketio.packets import (
    HIGHEST_ID,
    MalformedPacket,
    Packet,
    PacketReader,
    PacketTooBig,
    PacketType,
    fill_in,
    read_packet,
    take_out,
    write_packet,
)

EXAMPLES = [
    ("0", Packet(PacketType.CONNECT), 0),
    ('0{"sid":"wZX3"}', Packet(PacketType.CONNECT, payload='{"sid":"wZX3"}'), 0),
    ("0/admin,", Packet(PacketType.CONNECT, "/admin"), 0),
    ("0/admin", Packet(PacketType.CONNECT, "/admin"), 0),
    ('0/admin,{"sid":"oSO0"}', Packet(PacketType.CONNECT, "/admin", payload='{"sid":"oSO0"}'), 0),
    (
        '4{"message":"Not authorized"}',
        Packet(PacketType.CONNECT_ERROR, payload='{"message":"Not authorized"}'),
        0,
    ),
    ('2["foo"]', Packet(PacketType.EVENT, payload='["foo"]'), 0),
    ('2/admin,["bar"]', Packet(PacketType.EVENT, "/admin", payload='["bar"]'), 0),
    ('212["foo"]', Packet(PacketType.EVENT, id=12, payload='["foo"]'), 0),
    ("312[]", Packet(PacketType.ACK, id=12, payload="[]"), 0),
    ('2/admin,13["foo"]', Packet(PacketType.EVENT, "/admin", 13, '["foo"]'), 0),
    ('3/admin,13["bar"]', Packet(PacketType.ACK, "/admin", 13, '["bar"]'), 0),
    ("1", Packet(PacketType.DISCONNECT), 0),
    ("1/admin,", Packet(PacketType.DISCONNECT, "/admin"), 0),
    (
        '51-["baz",{"_placeholder":true,"num":0}]',
        Packet(PacketType.BINARY_EVENT, payload='["baz",{"_placeholder":true,"num":0}]'),
        1,
    ),
    (
        '52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
        Packet(
            PacketType.BINARY_EVENT,
            "/admin",
            payload='["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
        ),
        2,
    ),
    (
        '61-15["bar",{"_placeholder":true,"num":0}]',
        Packet(PacketType.BINARY_ACK, id=15, payload='["bar",{"_placeholder":true,"num":0}]'),
        1,
    ),
]


@pytest.mark.parametrize(("text", "packet", "attachments"), EXAMPLES)
def test_the_documents_examples_are_read(text, packet, attachments):
    assert read_packet(text) == (packet, attachments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "7",
        "9[]",
        "2",
        "2{}",
        "2[]",
        '2"foo"',
        '2["foo"',
        '2["foo",]',
        '2abc["foo"]',
        '2-1["foo"]',
        '2/admin["foo"]',
        "3",
        "3{}",
        "1x",
        "1{}",
        "0[]",
        "0null",
        '0"x"',
        "4",
        '5["foo"]',
        '50-["foo"]',
        '511-["foo"]',
        '51["foo"]',
        '5-["foo"]',
        '51e0-["foo"]',
        "61-{}",
        f'2{HIGHEST_ID + 1}["foo"]',
        '2٣["foo"]',
        '299999999999999999999999["foo"]',
        "0/" + "x" * 300,
        "2" + "[" * 100_000 + "]" * 100_000,
    ],
)
def test_what_is_no_packet_is_refused(text):
    with pytest.raises(MalformedPacket):
        read_packet(text)


@given(st.text(alphabet='0123456/,-[]{}"ab\x1e ', max_size=40))
def test_any_text_is_a_packet_or_is_refused(text):
    try:
        packet, attachments = read_packet(text)
    except MalformedPacket:
        return
    assert 0 <= attachments <= 10
    if packet.type in (PacketType.EVENT, PacketType.BINARY_EVENT):
        assert json.loads(packet.payload)


def test_a_packet_is_whole_with_its_last_attachment():
    reader = PacketReader(1000)
    assert reader.read('52-["a",{"_placeholder":true,"num":0}]') is None
    assert reader.read(b"one") is None
    packet = reader.read(b"two")
    assert packet is not None
    assert packet.attachments == (b"one", b"two")
    assert reader.read('2["b"]') == Packet(PacketType.EVENT, payload='["b"]')


def test_text_between_attachments_and_data_without_a_packet_are_refused():
    reader = PacketReader(1000)
    reader.read('51-["a"]')
    with pytest.raises(MalformedPacket, match="attachment"):
        reader.read('2["b"]')
    with pytest.raises(MalformedPacket, match="no packet"):
        PacketReader(1000).read(b"data")


def test_attachments_together_are_bounded():
    reader = PacketReader(100)
    reader.read('53-/admin,["a"]')
    reader.read(b"x" * 60)
    with pytest.raises(PacketTooBig) as refused:
        reader.read(b"x" * 60)
    assert refused.value.namespace == "/admin"


def test_of_attachments_that_never_come_no_more_waits_than_a_message_may_have():
    reader = PacketReader(100)
    assert reader.read('510-["a"]') is None
    for _ in range(9):
        assert reader.read(b"x" * 10) is None
    with pytest.raises(PacketTooBig):
        reader.read(b"x" * 2)


def test_while_attachments_are_missing_no_other_packet_begins():
    for packet in ('2["b"]', '51-["b"]', "0"):
        reader = PacketReader(100)
        reader.read('52-["a"]')
        reader.read(b"one")
        with pytest.raises(MalformedPacket, match="attachment"):
            reader.read(packet)


def test_attachments_come_where_their_placeholders_are():
    arguments = json.loads(
        '[{"a":[{"_placeholder":true,"num":1}]},{"_placeholder":true,"num":0},{"_placeholder":false}]'
    )
    fill_in(arguments, (b"zero", b"one"))
    assert arguments == [{"a": [b"one"]}, b"zero", {"_placeholder": False}]


@pytest.mark.parametrize("number", ["1", "-1", "0.0", '"0"', "null", "true", "{}"])
def test_a_placeholder_for_no_attachment_is_refused(number):
    arguments = json.loads(f'[{{"_placeholder":true,"num":{number}}}]')
    with pytest.raises(MalformedPacket):
        fill_in(arguments, (b"zero",))


def test_two_placeholders_can_not_stand_for_the_same_attachment():
    with pytest.raises(MalformedPacket):
        fill_in([{"_placeholder": True, "num": 0}, {"_placeholder": True, "num": 0}], (b"zero",))


def test_binary_data_is_taken_out_and_put_back():
    arguments: list[object] = [{"a": b"1", "b": [b"2", "text"]}, b"3"]
    attachments = take_out(arguments)
    assert attachments is not None
    assert sorted(attachments) == [b"1", b"2", b"3"]
    fill_in(arguments, attachments)
    assert arguments == [{"a": b"1", "b": [b"2", "text"]}, b"3"]


def test_what_clients_would_misread_is_not_taken_out():
    assert take_out([b"1", {"_placeholder": True, "num": 7}]) is None
    assert take_out([b"x"] * 11) is None


def test_a_packet_that_is_written_names_its_namespace_unless_it_is_the_first():
    assert write_packet(PacketType.DISCONNECT, "/") == b"1"
    assert write_packet(PacketType.CONNECT, "/admin", b'{"sid":"x"}') == b'0/admin,{"sid":"x"}'
