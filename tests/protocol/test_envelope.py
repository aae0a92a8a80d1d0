import json

import msgspec
import pytest

from hubbub.errors import InvalidMessage
from hubbub.protocol.codecs import JSON, MESSAGEPACK
from hubbub.protocol.envelope import ABSENT, Envelope, Join, Login, Position, Publication, Since, Welcome


def read_json(**envelope):
    return JSON.read(json.dumps(envelope))


def read_messagepack(**envelope):
    return MESSAGEPACK.read(msgspec.msgpack.encode(envelope))


@pytest.fixture(params=[read_json, read_messagepack])
def read(request):
    return request.param


def test_a_type_is_all_a_client_needs_to_say(read):
    incoming = read(type="say")
    assert (incoming.type, incoming.room, incoming.id, incoming.data) == ("say", None, None, ABSENT)


@pytest.mark.parametrize("identifier", [0, -1, 2**63, "a", "x" * 128, None])
def test_a_request_is_named_by_a_number_or_a_text(read, identifier):
    assert read(type="say", id=identifier).id == identifier


@pytest.mark.parametrize(
    ("envelope", "path"),
    [
        ({}, "$"),
        ({"type": ""}, "$.type"),
        ({"type": "x" * 129}, "$.type"),
        ({"type": 1}, "$.type"),
        ({"type": None}, "$.type"),
        ({"type": "say", "room": ""}, "$.room"),
        ({"type": "say", "room": "x" * 256}, "$.room"),
        ({"type": "say", "room": 1}, "$.room"),
        ({"type": "say", "id": "x" * 129}, "$.id"),
        ({"type": "say", "id": 1.5}, "$.id"),
        ({"type": "say", "id": [1]}, "$.id"),
    ],
)
def test_an_envelope_that_does_not_fit_is_refused_with_the_path(read, envelope, path):
    with pytest.raises(InvalidMessage) as refused:
        read(**envelope)
    [(where, what)] = refused.value.problems
    assert where == path
    assert what in refused.value.message
    assert refused.value.code == "invalid"


def test_what_a_later_version_adds_is_passed_over(read):
    assert read(type="say", later={"a": [1]}).type == "say"


def test_a_message_to_a_client_holds_only_what_there_is_to_say():
    assert json.loads(JSON.encode(Envelope("$pong"))) == {"type": "$pong"}
    full = Envelope("say", id="1", room="r", offset=1, sender="ada", data={"text": "hi"})
    assert json.loads(JSON.encode(full)) == {
        "type": "say",
        "id": "1",
        "room": "r",
        "offset": 1,
        "from": "ada",
        "data": {"text": "hi"},
    }


def test_data_that_is_null_is_not_data_left_out():
    assert json.loads(JSON.encode(Envelope("$ack", id=1, data=None))) == {
        "type": "$ack",
        "id": 1,
        "data": None,
    }


def test_a_welcome_leaves_out_a_user_and_an_inbox_that_there_are_not():
    welcome = Welcome(
        1, "session", "connection", resumed=False, heartbeat=20.0, max_message=125, lifetime=60.0, window=30.0
    )
    assert json.loads(JSON.encode(welcome)) == {
        "protocol": 1,
        "session": "session",
        "connection": "connection",
        "resumed": False,
        "heartbeat": 20.0,
        "max_message": 125,
        "lifetime": 60.0,
        "window": 30.0,
    }


@pytest.mark.parametrize("offset", [-1, 1.5, "1", None])
def test_an_offset_counts_from_zero(offset):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"since": {"epoch": "e", "offset": offset}}, Join)


def test_an_epoch_is_short():
    assert msgspec.convert({"epoch": "x" * 64, "offset": 0}, Position) == Position("x" * 64, 0)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"epoch": "x" * 65, "offset": 0}, Position)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_history_has_a_bound(limit):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"limit": limit}, Since)


def test_a_page_of_history_is_a_hundred_messages_unless_told():
    assert msgspec.convert({}, Since) == Since(None, 100)


@pytest.mark.parametrize("token", ["", "x" * 16_385, None])
def test_a_token_is_there_and_has_a_bound(token):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"token": token}, Login)


def test_a_publication_comes_back_from_a_broker_as_it_went():
    publication = Publication("say", msgspec.Raw(msgspec.msgpack.encode({"text": "hi"})), "ada", "session")
    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(publication), type=Publication)
    assert carried == publication
