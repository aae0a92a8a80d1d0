import json
import math

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hubbub import Message
from hubbub.errors import InvalidMessage
from hubbub.protocol.codecs import CODECS, JSON, MESSAGEPACK, negotiate
from hubbub.protocol.envelope import Envelope, Page
from hubbub.protocol.messages import schema_of

patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

both = pytest.mark.parametrize("codec", [JSON, MESSAGEPACK], ids=["JSON", "MessagePack"])

texts = st.text(max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


class Said(Message):
    """With a field of every kind that a decoder treats in its own way."""

    text: str = ""
    number: int = 0
    ratio: float = 0.0
    anything: object = None
    numbers: list[int] = msgspec.field(default_factory=list)
    unique: set[int] = msgspec.field(default_factory=set)
    by_number: dict[int, int] = msgspec.field(default_factory=dict)
    pair: tuple[int, ...] = ()
    raw: bytes = b""


class Noted(pydantic.BaseModel):
    text: str = ""
    anything: object = None
    numbers: list[int] = []
    by_number: dict[int, int] = {}


SCHEMAS = [schema_of(Said), schema_of(Noted)]


def as_message(codec, envelope):
    """Return an envelope as a client would send it."""
    return msgspec.msgpack.encode(envelope) if codec is MESSAGEPACK else json.dumps(envelope)


def understood(codec, message):
    """Return an envelope as a client would read it."""
    return msgspec.msgpack.decode(message) if codec is MESSAGEPACK else json.loads(message)


# Round trips


@both
@patiently
@given(values, texts, st.integers(0, 2**53))
def test_what_is_sent_is_what_a_client_reads(codec, data, sender, offset):
    sent = codec.encode(Envelope("say", room="r", offset=offset, sender=sender, data=data))
    assert understood(codec, sent) == {
        "type": "say",
        "room": "r",
        "offset": offset,
        "from": sender,
        "data": data,
    }


@both
@patiently
@given(values, st.integers() | st.text(max_size=128))
def test_what_a_client_sends_is_what_is_read(codec, data, identifier):
    if isinstance(identifier, int):
        identifier %= 2**63
    incoming = codec.read(as_message(codec, {"type": "say", "room": "r", "id": identifier, "data": data}))
    assert (incoming.type, incoming.room, incoming.id) == ("say", "r", identifier)
    assert codec.decoder(object)(incoming.data) == data


@both
@patiently
@given(values)
def test_what_a_broker_carried_is_put_into_an_envelope(codec, data):
    carried = msgspec.Raw(msgspec.msgpack.encode(data))
    sent = codec.encode(Envelope("say", data=codec.data(carried)))
    assert understood(codec, sent) == {"type": "say", "data": data}


@both
@patiently
@given(text=texts, number=numbers, raw=st.binary(max_size=20))
def test_a_message_survives_its_way_from_one_client_to_another(codec, text, number, raw):
    said = Said(text=text, number=number, raw=raw)
    sent = codec.encode(Envelope("said", data=said))
    incoming = codec.read(sent if codec.binary else sent.decode())
    assert schema_of(Said).decode(incoming.data, codec) == said


@both
def test_a_pydantic_model_is_sent_as_its_fields(codec):
    sent = codec.encode(Envelope("noted", data=Noted(text="hi")))
    assert understood(codec, sent)["data"] == {"text": "hi", "anything": None, "numbers": [], "by_number": {}}


@both
def test_a_pydantic_model_inside_of_a_message_is_sent_as_its_fields(codec):
    sent = codec.encode(Envelope("said", data={"inner": [Noted(numbers=[1])]}))
    assert understood(codec, sent)["data"]["inner"][0]["numbers"] == [1]


@both
def test_envelopes_inside_of_a_page_keep_their_form(codec):
    page = Page(
        "e", 2, True, [Envelope("say", offset=2, sender="ada", data=codec.data(msgspec.Raw(b"\x01")))]
    )
    assert understood(codec, codec.encode(page))["messages"] == [
        {"type": "say", "offset": 2, "from": "ada", "data": 1}
    ]


@both
def test_what_is_no_message_is_not_sent(codec):
    class Bare:
        pass

    with pytest.raises(TypeError, match="Bare can't be sent: make it part of a message class"):
        codec.encode(Envelope("say", data=Bare()))


@both
def test_the_empty_data_is_an_empty_object(codec):
    assert codec.decoder(object)(codec.empty) == {}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_float_that_json_has_no_word_for_is_null(number):
    assert json.loads(JSON.encode(Envelope("say", data=number)))["data"] is None


# Hostile input: whatever arrives, the client is told, and nothing else is raised


def is_refused(read, *arguments):
    """Return whether it was refused, as everything may be."""
    try:
        read(*arguments)
    except InvalidMessage as refused:
        return bool(refused.message)
    return False


half_envelopes = st.builds(
    lambda head, tail: head + tail,
    st.sampled_from([b"\x81\xa4type", b"\x82\xa4type\xa3say\xa4data", b"\x82\xa4type\xa3say\xa2id", b""]),
    st.binary(max_size=60),
)
# Kinds of MessagePack that need not be what they claim: huge, nested, keys that are no keys, timestamps.
oddities = st.sampled_from(
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\x81\x80\x01",
        b"\x81\x90\x01",
        b"\x81\xc0\x01",
        b"\x81\xc4\x01a\x01",
        b"\xc7\x01\x05a",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xa2\xc3(",
        b"\xc1",
        b"\x91" * 3000 + b"\x01",
    ]
)


@patiently
@given(st.binary(max_size=100) | half_envelopes)
def test_random_bytes_are_an_envelope_or_refused(noise):
    is_refused(MESSAGEPACK.read, noise)


@patiently
@given(st.text(st.characters(), max_size=100) | st.text('{}[]":,\\u0dtypesay1e-. ', max_size=60))
@example('"\ud800"')
@example('{"type": "\ud800"}')
@example('{"type": "\\ud800"}')
@example('{"type": "\\u0000"}')
def test_random_text_is_an_envelope_or_refused(noise):
    is_refused(JSON.read, noise)


@pytest.mark.parametrize("schema", SCHEMAS, ids=["struct", "pydantic"])
@patiently
@given(field=st.sampled_from(Said.__struct_fields__), noise=st.binary(max_size=60) | oddities)
def test_random_messagepack_data_is_a_message_or_refused(schema, field, noise):
    data = b"\x81" + msgspec.msgpack.encode(field) + noise
    is_refused(schema.decode, msgspec.Raw(data), MESSAGEPACK)
    is_refused(schema.decode, msgspec.Raw(noise), MESSAGEPACK)


@pytest.mark.parametrize("schema", SCHEMAS, ids=["struct", "pydantic"])
@patiently
@given(
    field=st.sampled_from(Said.__struct_fields__),
    noise=values.map(json.dumps).map(str.encode)
    | st.text(max_size=60).map(str.encode)
    | st.binary(max_size=60),
)
@example("anything", b"9" * 5000)
@example("number", b"1e400")
@example("ratio", b"1e400")
def test_random_json_data_is_a_message_or_refused(schema, field, noise):
    data = b'{"' + field.encode() + b'":' + noise + b"}"
    is_refused(schema.decode, msgspec.Raw(data), JSON)
    is_refused(schema.decode, msgspec.Raw(noise), JSON)


@pytest.mark.parametrize("schema", SCHEMAS, ids=["struct", "pydantic"])
def test_data_that_is_nested_without_end_is_refused(schema):
    deep = 100_000
    assert is_refused(JSON.read, '{"type":"say","data":' + "[" * deep + "]" * deep + "}")
    assert is_refused(MESSAGEPACK.read, b"\x82\xa4type\xa3say\xa4data" + b"\x91" * deep + b"\x01")
    nested = b'{"anything":' + b"[" * deep + b"]" * deep + b"}"
    assert is_refused(schema.decode, msgspec.Raw(nested), JSON)
    nested = b"\x81\xa8anything" + b"\x91" * deep + b"\x01"
    assert is_refused(schema.decode, msgspec.Raw(nested), MESSAGEPACK)


@pytest.mark.parametrize(("codec", "message"), [(JSON, ""), (MESSAGEPACK, b"")])
def test_an_empty_message_is_refused_with_what_to_send(codec, message):
    with pytest.raises(InvalidMessage, match="The message is empty; send an envelope with at least a type"):
        codec.read(message)


@pytest.mark.parametrize(
    ("codec", "message", "told"),
    [
        (JSON, b'{"type": "say"}', "hubbub.v1.json: send text messages, not binary"),
        (MESSAGEPACK, '{"type": "say"}', "hubbub.v1.msgpack: send binary messages, not text"),
    ],
)
def test_a_message_of_the_other_kind_is_refused_with_the_right_one(codec, message, told):
    with pytest.raises(InvalidMessage, match=told):
        codec.read(message)


# Which codec


@pytest.mark.parametrize(
    ("offered", "codec", "answered"),
    [
        ([], JSON, None),
        (["chat"], JSON, None),
        (["hubbub.v1.json"], JSON, "hubbub.v1.json"),
        (["hubbub.v1.msgpack"], MESSAGEPACK, "hubbub.v1.msgpack"),
        (["chat", "hubbub.v1.msgpack", "hubbub.v1.json"], MESSAGEPACK, "hubbub.v1.msgpack"),
        (["hubbub.v1.json", "hubbub.v1.msgpack"], JSON, "hubbub.v1.json"),
        (["HUBBUB.V1.JSON"], JSON, None),
        (["hubbub.v2.json"], JSON, None),
    ],
)
def test_the_first_subprotocol_offered_that_is_known_decides(offered, codec, answered):
    assert negotiate(offered) == (codec, answered)


def test_codecs_go_by_their_subprotocols():
    assert CODECS == {"hubbub.v1.json": JSON, "hubbub.v1.msgpack": MESSAGEPACK}
    assert (JSON.binary, MESSAGEPACK.binary) == (False, True)


@pytest.mark.parametrize("limit", [4, 100])
def test_a_message_that_is_too_short_to_be_deep_needs_no_check(limit):
    for codec, deepest in ((JSON, "[" * limit + "]" * limit), (MESSAGEPACK, b"\x91" * (limit - 1) + b"\x90")):
        assert len(deepest) == codec.shallow(limit)
        codec.check_depth(deepest, limit)
        with pytest.raises(InvalidMessage, match="nested too deeply"):
            codec.check_depth(deepest, limit - 1)
