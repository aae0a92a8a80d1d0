import pickle

import pytest
import websockets.exceptions
from websockets.frames import Close

from hubbub import errors
from hubbub.errors import (
    CollisionError,
    ConfigurationError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    Denied,
    HubbubError,
    InvalidMessage,
    Unavailable,
    connection_closed,
)

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ALL)
def test_every_exception_is_hubbubs_and_says_when_it_is_raised(kind):
    assert issubclass(kind, HubbubError)
    assert kind.__doc__
    assert kind.__doc__.endswith((".", ".\n", ".\n    "))


def test_the_tree_in_the_documentation_is_the_tree_there_is():
    tree = [line for line in errors.__doc__.splitlines() if line.lstrip().startswith("* ")]
    assert len(tree) == len(ALL)
    above: list[type] = []
    for line in tree:
        depth = (len(line) - len(line.lstrip())) // 4
        kind = getattr(errors, line.split(":exc:`")[1].split("`")[0])
        above[depth:] = [kind]
        assert kind.__mro__[1] is (above[depth - 1] if depth else Exception)


def test_a_collision_is_a_wrong_configuration():
    assert issubclass(CollisionError, ConfigurationError)


def test_a_refusal_has_a_reason():
    assert Denied().reason == "not allowed"
    assert Denied("members only").reason == str(Denied("members only")) == "members only"


def test_an_invalid_message_says_what_is_wrong_where():
    invalid = InvalidMessage("No.", [("$.text", "Missing")], code="unknown_type")
    assert str(invalid) == invalid.message == "No."
    assert invalid.problems == (("$.text", "Missing"),)
    assert invalid.code == "unknown_type"
    assert (InvalidMessage("No.").problems, InvalidMessage("No.").code) == ((), "invalid")


@pytest.mark.parametrize("raised", [Unavailable("Try again."), Denied("no"), InvalidMessage("No.")])
def test_an_exception_survives_its_way_to_another_process(raised):
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is type(raised)
    assert str(copy) == str(raised)
    assert vars(copy) == vars(raised)


# The end of a connection


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (ConnectionClosed, websockets.exceptions.ConnectionClosed),
        (ConnectionClosedOK, websockets.exceptions.ConnectionClosedOK),
        (ConnectionClosedError, websockets.exceptions.ConnectionClosedError),
    ],
)
def test_a_program_for_websockets_may_catch_its_own_exception(kind, theirs):
    with pytest.raises(theirs) as raised:
        raise kind(Close(1000, "bye"), Close(1000, "bye"), True)
    assert isinstance(raised.value, ConnectionClosed)
    assert isinstance(raised.value, HubbubError)
    assert (raised.value.rcvd, raised.value.sent) == (Close(1000, "bye"), Close(1000, "bye"))
    assert raised.value.rcvd_then_sent is True


def test_good_ends_and_bad_ends_are_kept_apart():
    assert not issubclass(ConnectionClosedOK, websockets.exceptions.ConnectionClosedError)
    assert not issubclass(ConnectionClosedError, websockets.exceptions.ConnectionClosedOK)


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_both_sides_closing_in_good_order_is_a_good_end(code):
    closed = connection_closed(Close(code, "bye"), Close(code, "bye"), rcvd_first=True)
    assert type(closed) is ConnectionClosedOK
    assert (closed.code, closed.reason) == (code, "bye")


@pytest.mark.parametrize(
    ("rcvd", "sent", "code", "reason"),
    [
        (Close(1011, "failed"), Close(1011, "failed"), 1011, "failed"),
        (Close(1000, ""), Close(4513, "too slow"), 1000, ""),
        (Close(4401, "who?"), Close(1000, ""), 4401, "who?"),
        (Close(1000, "bye"), None, 1000, "bye"),
        (None, Close(1000, "bye"), 1000, "bye"),
        (None, Close(4508, "idle"), 4508, "idle"),
        (None, None, 1006, ""),
    ],
)
def test_any_other_end_is_a_bad_one(rcvd, sent, code, reason):
    closed = connection_closed(rcvd, sent, rcvd_first=True)
    assert type(closed) is ConnectionClosedError
    assert (closed.code, closed.reason) == (code, reason)


@pytest.mark.parametrize("first", [True, False])
def test_who_closed_first_is_told_where_both_did(first):
    both = connection_closed(Close(1000, ""), Close(1000, ""), rcvd_first=first)
    assert both.rcvd_then_sent is first
    assert "received 1000" in str(both)
    assert "sent 1000" in str(both)
    assert connection_closed(Close(1000, ""), None, rcvd_first=first).rcvd_then_sent is None
    assert connection_closed(None, Close(1000, ""), rcvd_first=first).rcvd_then_sent is None
    assert connection_closed(None, None, rcvd_first=first).rcvd_then_sent is None


def test_a_lost_connection_says_so():
    assert "no close frame received or sent" in str(connection_closed(None, None, rcvd_first=False))


def test_what_is_told_of_an_invalid_message_is_short_however_much_of_it_is_quoted():
    error = InvalidMessage("m" * 1000, [("p" * 1000, "w" * 1000), ("$", "Missing")])
    assert error.message == "m" * 397 + "..."
    assert error.problems == (("p" * 397 + "...", "w" * 397 + "..."), ("$", "Missing"))
    assert InvalidMessage("m" * 400).message == "m" * 400
