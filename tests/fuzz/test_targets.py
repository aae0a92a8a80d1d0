"""A target that finds nothing may be blind: each has to see that something is wrong where it is."""

from collections.abc import Callable

import msgspec
import pytest

from fuzz.seeds import all_seeds, frame
from fuzz.targets import envelope, frames, handshake, publication
from hubbub.engine import subscriptions
from hubbub.protocol import codecs
from hubbub.protocol.codecs import JSON
from hubbub.protocol.envelope import Incoming
from hubbub.transports import native
from hubbub.transports.handshake import Handshake

SEEDS = {(target, name.removeprefix("seed-")): data for target, name, data in all_seeds()}

PIECES_OF_8 = bytes((frames.PLAIN, *[8] * 8))
TWO = PIECES_OF_8 + frame(1, b"hi") * 2


def reading(monkeypatch: pytest.MonkeyPatch, change: Callable[..., int]) -> None:
    """Have `change` read messages; it is handed the real function first."""
    real = native.read_messages
    monkeypatch.setattr(native, "read_messages", lambda *given: change(real, *given))


# Frames


def test_a_message_that_gets_lost_is_seen(monkeypatch):
    reading(monkeypatch, lambda real, data, start, limit, deliver, *more: len(data))
    with pytest.raises(AssertionError, match="other messages than websockets reads"):
        frames.check(TWO)


def test_a_message_that_gets_lost_where_the_bytes_are_torn_is_seen(monkeypatch):
    reading(monkeypatch, lambda real, data, *given: len(data) if len(data) == 8 else real(data, *given))
    with pytest.raises(AssertionError, match="other messages when the bytes are torn"):
        frames.check(TWO)


def test_a_message_past_the_limit_is_seen(monkeypatch):
    reading(monkeypatch, lambda real, data, start, limit, *given: real(data, start, 5 * limit, *given))
    with pytest.raises(AssertionError, match="a message of 127 bytes, over the limit"):
        frames.check(SEEDS["frames", "too-big"])


def test_a_close_with_another_code_is_seen(monkeypatch):
    def leave(self, data):
        if self._open:
            self.close(1011, "")
        receive(self, data)

    receive = native.WebSocketProtocol.data_received
    monkeypatch.setattr(native.WebSocketProtocol, "data_received", leave)
    with pytest.raises(AssertionError, match=r"closed with 1011 '', where it is \{1002\}"):
        frames.check(PIECES_OF_8 + frame(1, b"hi", mask=None))


def test_bytes_that_are_kept_past_the_limit_are_seen(monkeypatch):
    def hoard(self, data):
        receive(self, data)
        if self._open:
            self._backlog = bytes(5000)

    receive = native.WebSocketProtocol.data_received
    monkeypatch.setattr(native.WebSocketProtocol, "data_received", hoard)
    with pytest.raises(AssertionError, match=r"5\d\d\d bytes are held, where a message may have 125"):
        frames.check(SEEDS["frames", "payload-cut"])


def test_an_exception_that_reaches_the_event_loop_is_seen(monkeypatch):
    reading(monkeypatch, lambda real, *given: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        frames.check(TWO)


# Envelope


def test_an_error_that_is_too_large_is_seen(monkeypatch):
    monkeypatch.setattr(envelope, "LONGEST_TEXT", 150)
    with pytest.raises(AssertionError, match=r"an error of \d+ characters"):
        envelope.check(SEEDS["envelope", "json-long-unknown"])
    monkeypatch.setattr(envelope, "LONGEST_TEXT", 1500)
    monkeypatch.setattr(envelope, "LARGEST_ERROR", 100)
    with pytest.raises(AssertionError, match=r"an error of \d+ bytes"):
        envelope.check(SEEDS["envelope", "json-long-key"])


def test_an_envelope_that_json_reads_otherwise_is_seen(monkeypatch):
    monkeypatch.setattr(JSON, "_read", lambda message: Incoming("say", msgspec.Raw(b"{}"), "elsewhere"))
    with pytest.raises(AssertionError):
        envelope.check(b"\0" + b'{"type": "say", "room": "here", "data": {}}')


def test_an_exception_that_is_not_for_the_client_is_seen(monkeypatch):
    monkeypatch.setattr(codecs, "UNREADABLE", ())
    with pytest.raises(msgspec.DecodeError):
        envelope.check(b"\0{")


# Handshake


def test_a_header_that_a_client_smuggles_in_is_seen(monkeypatch):
    def read(*given: object) -> object:
        found = real(*given)
        return found._replace(subprotocols=["a\r\nSet-Cookie: b"]) if isinstance(found, Handshake) else found

    real = native.read_handshake
    monkeypatch.setattr(native, "read_handshake", read)
    with pytest.raises(AssertionError, match="logged as an error"):
        handshake.check(SEEDS["handshake", "takes-over-echoing"])


def test_a_response_that_is_none_is_seen(monkeypatch):
    monkeypatch.setattr(native, "read_handshake", lambda *given: b"HTTP/1.1 200 OK\r\nno header\r\n\r\n")
    with pytest.raises(AssertionError, match="no header"):
        handshake.check(SEEDS["handshake", "takes-over"])


# Publication


def test_a_member_that_is_told_nothing_of_a_kept_message_is_seen(monkeypatch):
    monkeypatch.setattr(subscriptions, "chunk_of", lambda *given: None)
    with pytest.raises(AssertionError, match="members are told nothing"):
        publication.check(SEEDS["publication", "say-kept"])


def test_a_delivery_that_raises_is_seen(monkeypatch):
    monkeypatch.setattr(subscriptions, "UNREADABLE", ())
    with pytest.raises(AssertionError, match="members are told nothing"):
        publication.check(SEEDS["publication", "empty-kept"])
