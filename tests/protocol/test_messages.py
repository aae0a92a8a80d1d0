from datetime import datetime
from typing import Annotated, Literal

import msgspec
import pydantic
import pytest
from msgspec import Meta

from hubbub import Message, wire_type
from hubbub.errors import ConfigurationError, InvalidMessage
from hubbub.protocol.codecs import JSON, MESSAGEPACK
from hubbub.protocol.envelope import ABSENT
from hubbub.protocol.messages import (
    MANY_PROBLEMS,
    MOST_PROBLEMS,
    is_message_class,
    schema_of,
    wire_type_of,
)

both = pytest.mark.parametrize("codec", [JSON, MESSAGEPACK], ids=["JSON", "MessagePack"])


def packed(codec, data):
    encode = msgspec.msgpack.encode if codec is MESSAGEPACK else msgspec.json.encode
    return msgspec.Raw(encode(data))


class Point(Message):
    x: int
    y: Annotated[int, Meta(ge=0)] = 0


class Path(Message):
    points: list[Point]
    weights: dict[int, float] = msgspec.field(default_factory=dict)


class Checked(Message):
    text: str

    def __post_init__(self):
        if self.text == "bad":
            raise ValueError("this is a bad text")


class Empty(Message):
    pass


class Item(pydantic.BaseModel):
    price: Annotated[float, pydantic.Field(gt=0)]


class Order(pydantic.BaseModel):
    items: list[Item]
    at: datetime | None = None

    @pydantic.field_validator("items")
    @classmethod
    def not_seven(cls, items):
        if len(items) == 7:
            raise ValueError("not seven")
        return items


class Strict(Message, forbid_unknown_fields=True):
    kind: Literal["a", "b"] = "a"


class Cash(pydantic.BaseModel):
    kind: Literal["cash"]


class Card(pydantic.BaseModel):
    kind: Literal["card"]


class StrictModel(pydantic.BaseModel, extra="forbid"):
    counts: dict[str, int] = {}
    payment: Cash | Card | None = pydantic.Field(None, discriminator="kind")


class Nothing(pydantic.BaseModel):
    pass


# Wire types


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Say", "say"),
        ("SayHello", "say_hello"),
        ("HTTPRequest", "http_request"),
        ("GetURL", "get_url"),
        ("Move2D", "move2_d"),
        ("A", "a"),
        ("already_snake", "already_snake"),
    ],
)
def test_a_wire_type_is_the_classes_name_in_snake_case(name, kind):
    assert wire_type_of(msgspec.defstruct(name, [], bases=(Message,))) == kind
    assert wire_type_of(pydantic.create_model(name)) == kind


def test_a_wire_type_can_be_given():
    @wire_type("chat.said")
    class Say(Message):
        pass

    @wire_type("chat.noted")
    class Note(pydantic.BaseModel):
        pass

    assert wire_type_of(Say) == "chat.said"
    assert schema_of(Say).name == "chat.said"
    assert wire_type_of(Note) == "chat.noted"
    assert schema_of(Note).name == "chat.noted"


def test_a_subclass_is_another_message():
    @wire_type("chat.said")
    class Say(Message):
        pass

    class Shout(Say):
        pass

    assert wire_type_of(Say) == "chat.said"
    assert wire_type_of(Shout) == "shout"


@pytest.mark.parametrize("name", ["", "$join", "$"])
def test_a_name_of_the_protocols_own_can_not_be_a_wire_type(name):
    with pytest.raises(ConfigurationError, match=r"Say can't have the wire type .* Choose another\."):

        @wire_type(name)
        class Say(Message):
            pass


@pytest.mark.parametrize("kind", [str, dict, object])
def test_what_is_no_message_has_no_wire_type(kind):
    assert not is_message_class(kind)
    with pytest.raises(TypeError, match=f"{kind.__name__} is no message: send an instance of"):
        wire_type_of(kind)


@pytest.mark.parametrize("candidate", [Point, Order, Message, msgspec.Struct])
def test_structs_and_models_are_message_classes(candidate):
    assert is_message_class(candidate)


@pytest.mark.parametrize("candidate", [Point(1), "Point", None, list[Point], Order(items=[])])
def test_what_is_no_class_is_no_message_class(candidate):
    assert not is_message_class(candidate)


# Decoding


@both
def test_a_struct_is_decoded_and_checked(codec):
    schema = schema_of(Path)
    for _ in range(2):
        path = schema.decode(packed(codec, {"points": [{"x": 1}, {"x": 2, "y": 3}]}), codec)
        assert path == Path([Point(1), Point(2, 3)])


@both
def test_a_model_is_decoded_and_checked(codec):
    data = packed(codec, {"items": [{"price": 1}], "at": "2024-01-02T03:04:05Z"})
    order = schema_of(Order).decode(data, codec)
    assert isinstance(order, Order)
    assert order.items == [Item(price=1.0)]
    assert order.at.isoformat() == "2024-01-02T03:04:05+00:00"


@both
@pytest.mark.parametrize("kind", [Empty, Nothing])
def test_data_left_out_is_an_empty_object(codec, kind):
    assert schema_of(kind).decode(ABSENT, codec) == kind()


@both
@pytest.mark.parametrize(
    ("data", "path", "told"),
    [
        ({}, "$", "Object missing required field `points`"),
        ({"points": [{"x": 1}, {"x": "1"}]}, "$.points[1].x", "Expected `int`, got `str`"),
        ({"points": [{"x": 1, "y": -1}]}, "$.points[0].y", "Expected `int` >= 0"),
        ({"points": 1}, "$.points", "Expected `array`, got `int`"),
        ([], "$", "Expected `object`, got `array`"),
    ],
)
def test_a_struct_that_does_not_fit_is_refused_with_the_path(codec, data, path, told):
    with pytest.raises(InvalidMessage) as refused:
        schema_of(Path).decode(packed(codec, data), codec)
    assert refused.value.problems == ((path, told),)
    assert refused.value.message == f"Not a valid 'path': {told} at {path}"


def test_a_key_that_does_not_fit_is_refused_with_the_path_of_its_object():
    with pytest.raises(InvalidMessage) as refused:
        schema_of(Path).decode(packed(JSON, {"points": [], "weights": {"a": 1}}), JSON)
    assert refused.value.problems == (("$.weights", "Expected `int`, got `str` as a key"),)


@both
def test_what_a_struct_checks_itself_is_refused_with_its_words(codec):
    with pytest.raises(InvalidMessage, match="Not a valid 'checked': this is a bad text"):
        schema_of(Checked).decode(packed(codec, {"text": "bad"}), codec)


@both
@pytest.mark.parametrize(
    ("data", "paths"),
    [
        ({}, ["$.items"]),
        ({"items": [{"price": 1}, {"price": 0}]}, ["$.items[1].price"]),
        ({"items": [{"price": "free"}, {}]}, ["$.items[0].price", "$.items[1].price"]),
        ({"items": [], "at": "never"}, ["$.at"]),
        ({"items": [{"price": 1}] * 7}, ["$.items"]),
        ([], ["$"]),
        (1, ["$"]),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_every_path(codec, data, paths):
    with pytest.raises(InvalidMessage) as refused:
        schema_of(Order).decode(packed(codec, data), codec)
    assert [path for path, _ in refused.value.problems] == paths
    assert refused.value.message == f"Not a valid 'order': {refused.value.problems[0][1]}"


@both
@pytest.mark.parametrize("kind", [Path, Order])
def test_data_that_is_malformed_is_refused(codec, kind):
    with pytest.raises(InvalidMessage) as refused:
        schema_of(kind).decode(msgspec.Raw(b"\xc1["), codec)
    assert refused.value.problems[0][0] == "$"


LONG = "x" * 100_000


@both
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Strict, {LONG: 1}),
        (Strict, {"kind": LONG}),
        (StrictModel, {LONG: 1}),
        (StrictModel, {"counts": {LONG: "many"}}),
        (StrictModel, {"payment": {"kind": LONG}}),
    ],
)
def test_an_error_does_not_repeat_what_a_client_made_long(codec, kind, data):
    with pytest.raises(InvalidMessage) as refused:
        schema_of(kind).decode(packed(codec, data), codec)
    said = [refused.value.message, *(text for problem in refused.value.problems for text in problem)]
    assert all(0 < len(text) < 500 for text in said)
    assert any(text.endswith("...") for text in said)


@both
def test_of_very_many_problems_only_their_number_is_told(codec):
    for count in (MANY_PROBLEMS, MANY_PROBLEMS + 1):
        with pytest.raises(InvalidMessage) as refused:
            schema_of(Order).decode(packed(codec, {"items": [0] * count}), codec)
        if count == MANY_PROBLEMS:
            assert len(refused.value.problems) == MOST_PROBLEMS
    assert refused.value.problems == (("$", "1001 problems, too many to tell"),)


# Describing


def test_a_struct_is_described_by_json_schema():
    description = schema_of(Point).describe()
    assert description["$ref"] == "#/$defs/Point"
    assert description["$defs"]["Point"]["properties"]["y"] == {"type": "integer", "minimum": 0, "default": 0}


def test_a_model_is_described_by_json_schema():
    description = schema_of(Item).describe()
    assert description["properties"]["price"]["exclusiveMinimum"] == 0


def test_a_class_that_is_no_message_has_no_schema():
    with pytest.raises(TypeError, match="int is no message"):
        schema_of(int)
