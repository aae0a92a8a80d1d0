"""A target that finds nothing may be blind: each has to see that something is wrong where it is."""

from collections.abc import Callable

import msgspec
import pytest

from fuzz.seeds import all_seeds, frame
from fuzz.targets import (
    bookmarks,
    engineio,
    envelope,
    frames,
    handshake,
    posts,
    protobuf,
    publication,
    socketio,
    streams,
)
from hubbub.client.http_lines import parsing
from hubbub.engine import subscriptions
from hubbub.protocol import codecs
from hubbub.protocol.codecs import JSON
from hubbub.protocol.envelope import Incoming
from hubbub.protocol.protobuf import messages
from hubbub.transports import native
from hubbub.transports.engineio import payloads
from hubbub.transports.handshake import Handshake
from hubbub.transports.http_lines.posts import Posts
from hubbub.transports.socketio import codec as socketio_codec

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


# Engine.IO


def test_a_length_in_other_units_than_javascript_s_is_seen(monkeypatch):
    monkeypatch.setattr(payloads, "_count_off", lambda text: iter([text.partition(":")[2]]))
    with pytest.raises(AssertionError, match="a payload was read that is malformed"):
        engineio.check(SEEDS["engineio", "wrong-length-short-3"])


def test_a_packet_that_can_not_be_read_again_when_it_is_written_is_seen(monkeypatch):
    monkeypatch.setattr(payloads, "_utf_16_length", len)
    with pytest.raises(payloads.MalformedPacket):
        engineio.check(SEEDS["engineio", "payload-text-3"])


# Socket.IO


def test_a_room_that_is_taken_for_data_is_seen(monkeypatch):
    monkeypatch.setattr("hubbub.transports.socketio.events._room_of", lambda argument: None)
    with pytest.raises(AssertionError, match="the room is None, where it is 'a'"):
        socketio.check(SEEDS["socketio", "event-room"])


def test_a_placeholder_for_another_attachment_is_seen(monkeypatch):
    def fill_in(arguments, attachments):
        real(arguments, attachments[::-1])

    real = socketio.fill_in
    monkeypatch.setattr("hubbub.transports.socketio.events.fill_in", fill_in)
    with pytest.raises(AssertionError, match="where it is"):
        socketio.check(SEEDS["socketio", "binary-deep"])


def test_an_attachment_that_is_not_sent_on_is_seen(monkeypatch):
    monkeypatch.setattr(socketio_codec, "_without_binary", lambda data: None)
    with pytest.raises(AssertionError, match="was sent, where it is"):
        socketio.check(SEEDS["socketio", "binary"])


# Bookmarks


def test_a_bookmark_of_another_place_is_seen(monkeypatch):
    def read(text):
        found = real(text)
        return bookmarks.Bookmark(found.session + "x", found.rooms)

    real = bookmarks.read_bookmark
    monkeypatch.setattr(bookmarks, "read_bookmark", read)
    with pytest.raises(AssertionError, match="it means something else when it comes back"):
        bookmarks.check(SEEDS["bookmarks", "one"])


def test_an_offset_that_raises_is_seen(monkeypatch):
    monkeypatch.setattr("hubbub.transports.socketio.recovery.InvalidMessage", KeyError)
    with pytest.raises(KeyError):
        bookmarks.check(SEEDS["bookmarks", "recovery-wrong-bang"])


# gRPC


def test_data_that_takes_the_place_of_the_type_is_seen(monkeypatch):
    monkeypatch.setattr(messages, "_read_raw", lambda data: data)
    with pytest.raises(AssertionError, match="data took the place of the type"):
        protobuf.check(SEEDS["protobuf", "message-data-behind"])


def test_an_id_that_gets_lost_is_seen(monkeypatch):
    real = messages._message_of
    monkeypatch.setattr(messages, "_message_of", lambda read: real(messages.RawEnvelope(read.type)))
    with pytest.raises(AssertionError, match="id was 1, and is None"):
        protobuf.check(SEEDS["protobuf", "envelope-id"])


# POSTs


def test_a_post_that_is_taken_twice_is_seen(monkeypatch):
    async def take(self, found, sequence):
        return await real(self, found, None)

    real = Posts.take
    monkeypatch.setattr(Posts, "take", take)
    with pytest.raises(AssertionError):
        posts.check(SEEDS["posts", "post-again"])


def test_another_preference_is_seen(monkeypatch):
    monkeypatch.setattr(posts, "preferred", lambda *_, **__: "application/json")
    with pytest.raises(AssertionError, match="is preferred, where it is"):
        posts.check(SEEDS["posts", "accept-events"])


# Responses that go on


def test_a_message_that_gets_lost_where_a_response_is_torn_is_seen(monkeypatch):
    monkeypatch.setattr(parsing.EventStream, "_with_line_feeds", lambda self, chunk: chunk)
    with pytest.raises(AssertionError, match="where it is"):
        streams.check(SEEDS["streams", "events-returns-torn"])


def test_a_message_that_is_too_large_is_seen(monkeypatch):
    monkeypatch.setattr(parsing.Lines, "_check", lambda self, size: None)
    with pytest.raises(AssertionError, match="it ended with nothing"):
        streams.check(SEEDS["streams", "lines-too-large-torn"])
