"""Engine.IO packets and payloads, without I/O."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubbub.protocol import frames
from hubbub.transports.engineio.packets import Dialect, Kind, MalformedPacket, Packet, read_packet
from hubbub.transports.engineio.payloads import BINARY, TEXT, read_payload, write_payload

MODERN, OLD, OLD_TEXT_ONLY = Dialect(4), Dialect(3), Dialect(3, False)

TEXTS = st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"]))
MESSAGES = st.lists(TEXTS | st.binary(), min_size=1, max_size=8)


def packets_of(messages):
    return [Packet(each.encode()) if isinstance(each, str) else Packet(each, True) for each in messages]


@given(MESSAGES, st.sampled_from([MODERN, OLD, OLD_TEXT_ONLY, Dialect(4, False)]))
@example(["€", "🎉", "", b"", b"\xff"], OLD)
@example(["€", "🎉", "a:b", "1:1"], OLD)
def test_what_is_written_into_a_payload_is_read_out_of_it(messages, dialect):
    body, content_type = write_payload(packets_of(messages), dialect)

    read = list(read_payload(body, content_type == BINARY, dialect))

    assert read == [(Kind.MESSAGE, message) for message in messages]


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([MODERN, OLD]))
@example(b"4294967296:", False, OLD)
@example(b"\x00\x09\x09\x09\xff", True, OLD)
@example("2:4🎉".encode(), False, OLD)
def test_what_is_no_payload_is_malformed_and_nothing_else(body, binary, dialect):
    with suppress(MalformedPacket):
        list(read_payload(body, binary, dialect))


def test_payloads_are_as_the_protocol_shows_them():
    packets = packets_of(["hello", b"\x01\x02\x03\x04"])
    assert write_payload(packets, MODERN) == (b"4hello\x1ebAQIDBA==", TEXT)
    assert write_payload(packets, OLD_TEXT_ONLY) == (b"6:4hello10:b4AQIDBA==", TEXT)
    assert write_payload(packets, OLD) == (b"\x00\x06\xff4hello\x01\x05\xff\x04\x01\x02\x03\x04", BINARY)
    assert write_payload(packets_of(["€"]), OLD) == ("2:4€".encode(), TEXT)
    assert write_payload(packets_of(["🎉"]), OLD) == ("3:4🎉".encode(), TEXT)


def test_a_payload_gives_what_came_before_the_malformed_part():
    read = read_payload(b"4a\x1e4b\x1ex", False, MODERN)

    assert [next(read), next(read)] == [(Kind.MESSAGE, "a"), (Kind.MESSAGE, "b")]
    with pytest.raises(MalformedPacket):
        next(read)


@pytest.mark.parametrize(
    ("data", "dialect", "packet"),
    [
        ("4hello", MODERN, (Kind.MESSAGE, "hello")),
        ("2probe", MODERN, (Kind.PING, "probe")),
        ("6", MODERN, (Kind.NOOP, "")),
        ("bAQID", MODERN, (Kind.MESSAGE, b"\x01\x02\x03")),
        ("b", MODERN, (Kind.MESSAGE, b"")),
        (b"\x04a", MODERN, (Kind.MESSAGE, b"\x04a")),
        (b"", MODERN, (Kind.MESSAGE, b"")),
        (b"\x04a", OLD, (Kind.MESSAGE, b"a")),
        (b"\x02probe", OLD, (Kind.PING, b"probe")),
        ("b4AQID", OLD, (Kind.MESSAGE, b"\x01\x02\x03")),
    ],
)
def test_packets_are_read(data, dialect, packet):
    assert read_packet(data, dialect) == packet


@pytest.mark.parametrize(
    ("data", "dialect"),
    [
        ("", MODERN),
        ("7", MODERN),
        ("x", MODERN),
        ("bA", MODERN),
        ("b$$$$", MODERN),
        ("bAQI D", MODERN),
        ("b", OLD),
        ("b9AQID", OLD),
        (b"", OLD),
        (b"\x07", OLD),
        (b"4a", OLD),
    ],
)
def test_what_is_no_packet_is_malformed(data, dialect):
    with pytest.raises(MalformedPacket):
        read_packet(data, dialect)


def test_a_text_with_a_record_separator_would_be_two_packets_and_is_refused():
    with pytest.raises(ValueError, match="record separator"):
        Packet(b"hello\x1e41")
    assert Packet(b"hello\x1e41", True).text(MODERN) == "baGVsbG8eNDE="


def test_a_packet_is_framed_once_for_all_lines_of_one_kind():
    framed = []

    def framing(payload, binary):
        framed.append(payload)
        return frames.message(payload, binary)

    text, data = Packet(b"hello"), Packet(b"\x01", True)

    assert text.frame(framing, MODERN) is text.frame(framing, MODERN) is text.frame(framing, OLD)
    assert data.frame(framing, MODERN) is data.frame(framing, MODERN)
    assert data.frame(framing, OLD) is data.frame(framing, OLD)
    assert data.frame(framing, Dialect(4, False)) == frames.message(b"bAQ==", False)
    assert framed == [b"4hello", b"\x01", b"\x04\x01", b"bAQ=="]


PARSER = Path(__file__).parents[1] / "peers" / "node_modules" / "engine.io-parser"


def test_engine_io_parser_reads_and_writes_the_same():
    script = """
      const { encodePayload, decodePayload } = require(process.argv[1]);
      const packets = decodePayload(process.argv[2], "nodebuffer");
      encodePayload(packets, (again) => console.log(JSON.stringify([
        packets.map((packet) => [packet.type, packet.data.toString("latin1")]), again])));
    """
    body, _ = write_payload(packets_of(["€🎉", b"\x00\xff", "x"]), MODERN)

    told = subprocess.run(
        ["node", "-e", script, str(PARSER), body.decode()],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    packets, again = json.loads(told.stdout)
    assert packets[1:] == [["message", "\x00\xff"], ["message", "x"]]
    assert again == body.decode()
