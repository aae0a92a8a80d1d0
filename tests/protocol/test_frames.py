import codecs
import os
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, Protocol

from hubbub.protocol import frames
from hubbub.protocol.frames import Assembler, read_messages
from protocol.reading import Reader, header, masked, pieces, server_frames

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

# Where the length of a payload changes the form of its header, and around.
EDGES = [0, 1, 2, 124, 125, 126, 127, 128, 253, 254, 255, 256, 65534, 65535, 65536, 65537]
LETTERS = "aé€😀"  # of one, two, three and four bytes


def text_of(size: int, turn: int) -> bytes:
    """Return UTF-8 of `size` bytes with letters of every length."""
    whole = (LETTERS[turn:] + LETTERS * (size // 10)).encode()[:size]
    text = whole.decode(errors="ignore")
    return text.encode() + b"." * (size - len(text.encode()))


sizes = st.sampled_from(EDGES) | st.integers(0, 300)
messages = st.one_of(
    st.builds(lambda size, turn: (TEXT, text_of(size, turn)), sizes, st.integers(0, 3)),
    st.builds(lambda size, seed: (BINARY, (seed * size)[:size]), sizes, st.binary(min_size=1, max_size=9)),
)
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def conversations(draw):
    """A client's frames, the messages in them, and the places at which the bytes are torn apart."""
    wire, said, pinged, starts = b"", [], [], []

    def put(opcode, payload, fin=True):
        nonlocal wire
        starts.append(len(wire))
        wire += masked(opcode, payload, fin=fin)
        if opcode is PING:
            pinged.append(payload)

    for opcode, payload in draw(st.lists(messages, max_size=4)):
        for control in draw(st.lists(controls, max_size=2)):
            put(*control)
        cuts = draw(st.lists(st.integers(0, len(payload)), max_size=4))
        parts = list(pieces(payload, cuts)) or [b""]
        # Empty fragments are allowed too.
        for _ in range(draw(st.integers(0, 2)) if len(parts) > 1 else 0):
            parts.insert(draw(st.integers(0, len(parts))), b"")
        for number, part in enumerate(parts):
            put(CONT if number else opcode, part, fin=number == len(parts) - 1)
            if number < len(parts) - 1:
                for control in draw(st.lists(controls, max_size=1)):
                    put(*control)
        said.append(payload.decode() if opcode is TEXT else payload)
    for control in draw(st.lists(controls, max_size=1)):
        put(*control)

    if draw(st.booleans()) and len(wire) < 2000:
        tears = list(range(len(wire)))
    else:
        headers = [start + by for start in starts for by in range(15)]
        anywhere = st.integers(0, len(wire))
        tears = draw(st.lists(st.sampled_from(headers) | anywhere if headers else anywhere, max_size=20))
    return list(pieces(wire, tears)), said, pinged


@patiently
@given(conversations())
def test_any_frames_torn_apart_anywhere_yield_exactly_the_messages_sent(conversation):
    arriving, said, pinged = conversation
    reader = Reader(limit=70_000)
    for data in arriving:
        reader.receive(data)
    assert not reader.ended
    assert reader.messages == said
    assert [type(message) for message in reader.messages] == [type(message) for message in said]
    assert server_frames(reader.answers) == [(PONG, payload) for payload in pinged]
    assert reader.assembler is None, "an idle connection holds no parser"


@patiently
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
@example(b"\x81\xff" + b"\xff" * 12, [])
def test_any_bytes_are_read_or_answered_with_a_close(noise, tears):
    reader = Reader(limit=200)
    for data in pieces(noise, tears):
        reader.receive(data)
    if reader.ended:
        code, _ = reader.close
        assert 1000 <= code < 5000
        assert server_frames(reader.answers)[-1][0] is CLOSE


@patiently
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_the_same_bytes_come_to_the_same_however_they_are_torn(noise, tears):
    whole, torn = Reader(limit=200).receive(noise), Reader(limit=200)
    for data in pieces(noise, tears):
        torn.receive(data)
    assert torn.messages == whole.messages
    assert torn.answers == whole.answers
    assert torn.ended == whole.ended


# What the server sends


@patiently
@given(st.sampled_from([TEXT, BINARY]), sizes)
def test_a_servers_frame_is_read_back_by_a_client(opcode, size):
    payload = b"x" * size
    first_byte = frames.TEXT if opcode is TEXT else frames.BINARY
    sent = frames.frame(first_byte, payload)
    assert sent == Frame(opcode, payload).serialize(mask=False)
    assert server_frames(sent) == [(opcode, payload)]


@pytest.mark.parametrize(
    ("first_byte", "opcode"), [(frames.PING, PING), (frames.PONG, PONG), (frames.CLOSE, CLOSE)]
)
def test_a_servers_control_frame_is_read_back_by_a_client(first_byte, opcode):
    payload = Close(1001, "bye").serialize()
    assert server_frames(frames.frame(first_byte, payload)) == [(opcode, payload)]


# The short cut


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65_534, 65_535])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_plain_messages_below_64_kib_and_up_to_the_limit_take_the_short_cut(opcode, size):
    payload = b"x" * size
    wire, delivered = masked(opcode, payload) * 2, []
    assert read_messages(wire, 0, size, lambda message, more: not delivered.append(message)) == len(wire)
    assert delivered == [payload.decode() if opcode is TEXT else payload] * 2


def test_of_messages_that_came_in_together_only_the_last_has_nothing_behind_it():
    told = []
    wire = masked(TEXT, b"one") + masked(TEXT, b"two") + masked(TEXT, b"three")
    read_messages(wire, 0, 100, lambda message, more: not told.append((message, more)))
    assert told == [("one", True), ("two", True), ("three", False)]


def test_reading_stops_after_a_message_that_was_one_too_many():
    first, second = masked(TEXT, b"one"), masked(TEXT, b"two")
    delivered = []

    def deliver(message, more):
        delivered.append(message)
        return False

    end = read_messages(first + second, 0, 100, deliver)
    assert delivered == ["one"]
    assert end == len(first)
    assert read_messages(first + second, end, 100, deliver) == len(first + second)
    assert delivered == ["one", "two"]


@pytest.mark.parametrize(
    "rest",
    [
        masked(TEXT, b"two")[:-1],
        masked(TEXT, b"two")[:3],
        masked(TEXT, b"x" * 126)[:7],
        masked(TEXT, b"two", fin=False),
        masked(PING),
        masked(TEXT, b"\xff"),
        masked(TEXT, b"x" * 101),
        masked(BINARY, b"x" * 70_000),
        Frame(TEXT, b"unmasked").serialize(mask=False),
        Frame(TEXT, b"x" * 200).serialize(mask=False),
        Frame(TEXT, b"x" * 70_000).serialize(mask=False),
    ],
    ids=[
        "incomplete payload", "incomplete header", "incomplete long header", "fragment", "control frame",
        "bad UTF-8", "too big", "64 KiB or more", "unmasked", "unmasked and long", "unmasked and longer",
    ],
)  # fmt: skip
def test_the_short_cut_leaves_all_that_is_not_plain(rest):
    plain = masked(TEXT, b"one")
    delivered = []
    end = read_messages(plain + rest, 0, 100, lambda message, more: not delivered.append(message))
    assert end == len(plain)
    assert delivered == ["one"]


# The assembler keeps only what it needs


def test_an_assembler_is_idle_when_no_message_is_under_way():
    assembler, delivered = Assembler(1000, compression=False), []

    def receive(data):
        position = 0
        while position < len(data):
            position = assembler.receive(data, position, 1000, lambda m, more: not delivered.append(m))
        return assembler.idle

    assert assembler.idle
    assert not receive(masked(TEXT, b"a", fin=False))
    assert not receive(masked(PING))
    assert receive(masked(CONT, b"b"))
    frame = masked(TEXT, b"cd")
    assert not receive(frame[:1])
    assert not receive(frame[1:6])
    assert not receive(frame[6:7])
    assert receive(frame[7:])
    assert receive(masked(BINARY, b"\xff"))
    assert delivered == ["ab", "cd", b"\xff"]


def test_an_assembler_stops_at_the_end_of_a_frame():
    assembler, delivered = Assembler(1000, compression=False), []
    first, second = masked(PING, b"!"), masked(TEXT, b"a")
    end = assembler.receive(first + second, 0, 1000, lambda m, more: not delivered.append(m))
    assert end == len(first)
    assert assembler.idle
    assert delivered == []


@pytest.mark.parametrize(("fragments", "content"), [(20_000, b""), (20_000, b"ab")])
def test_tiny_fragments_take_no_more_memory_than_their_bytes(fragments, content):
    reader = Reader().receive(masked(TEXT, b"a", fin=False))
    thousand = masked(CONT, content, fin=False) * 1000
    reader.receive(thousand)
    tracemalloc.start()
    try:
        for _ in range(fragments // 1000 - 1):
            reader.receive(thousand)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2 * fragments * len(content) + 20_000
    assert reader.receive(masked(CONT)).messages == ["a" + content.decode() * fragments]


# A client that breaks the protocol


@pytest.mark.parametrize("size", [0, 5, 200, 70_000])
def test_an_unmasked_frame_is_a_protocol_error(size):
    reader = Reader().receive(header(frames.TEXT, size, mask=False) + b"x" * size)
    assert reader.failure == 1002
    assert reader.messages == []


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
def test_a_reserved_bit_is_a_protocol_error(bit):
    assert Reader().receive(header(frames.TEXT | bit, 2) + b"hi").failure == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_a_protocol_error_before_its_payload_arrives(opcode):
    assert Reader().receive(header(0x80 | opcode, 100)).failure == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_above_125_bytes_is_a_protocol_error(opcode):
    assert Reader().receive(header(0x80 | opcode, 126) + b"x" * 126).failure == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_fragmented_control_frame_is_a_protocol_error(opcode):
    assert Reader().receive(header(opcode, 2) + b"\x03\xe8").failure == 1002


def test_a_continuation_of_nothing_is_a_protocol_error():
    assert Reader().receive(masked(CONT, b"more")).failure == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_new_message_inside_of_a_fragmented_one_is_a_protocol_error(opcode):
    reader = Reader().receive(masked(TEXT, b"a", fin=False))
    assert reader.receive(masked(opcode, b"b")).failure == 1002
    assert reader.messages == []


def test_a_close_may_come_inside_of_a_fragmented_message_as_any_control_frame():
    """RFC 6455 section 5.4."""
    reader = Reader().receive(masked(TEXT, b"a", fin=False))
    reader.receive(masked(CLOSE, Close(4000, "had enough").serialize()))
    assert not reader.assembler.failed
    assert reader.close == (4000, "had enough")
    assert reader.messages == []


def test_what_came_before_a_broken_frame_is_delivered_and_nothing_after_it():
    wire = masked(TEXT, b"one") + header(frames.TEXT | 0x40, 2) + b"hi" + masked(TEXT, b"two")
    reader = Reader().receive(wire)
    assert reader.failure == 1002
    assert reader.messages == ["one"]


# Text that is not UTF-8

BROKEN = [b"\xff", b"\x80", b"ok\xc3(", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"]


@pytest.mark.parametrize("payload", BROKEN)
def test_bad_utf_8_in_one_frame_is_invalid_data(payload):
    reader = Reader().receive(masked(TEXT, payload))
    assert reader.failure == 1007
    assert reader.messages == []


@pytest.mark.parametrize("payload", BROKEN)
def test_bad_utf_8_in_fragments_of_one_byte_is_invalid_data(payload):
    reader = Reader().receive(masked(TEXT, b"", fin=False))
    for byte in payload:
        reader.receive(masked(CONT, bytes((byte,)), fin=False))
    reader.receive(masked(CONT, b""))
    assert reader.failure == 1007
    assert reader.messages == []


def test_a_bad_byte_is_invalid_data_in_its_fragment_not_at_the_end_of_the_message():
    reader = Reader().receive(masked(TEXT, "é".encode()[:1], fin=False))
    assert not reader.ended, "the letter may go on in the next fragment"
    assert reader.receive(masked(CONT, b"(", fin=False)).failure == 1007


def test_a_letter_may_go_on_in_the_next_fragment():
    reader = Reader()
    for byte in "😀".encode():
        reader.receive(masked(CONT if reader.assembler else TEXT, bytes((byte,)), fin=False))
    assert reader.receive(masked(CONT)).messages == ["😀"]


def test_binary_messages_may_hold_anything():
    assert Reader().receive(masked(BINARY, b"\xff\xc3(")).messages == [b"\xff\xc3("]


def test_a_binary_message_after_a_fragmented_text_is_binary():
    wire = masked(TEXT, b"a", fin=False) + masked(CONT, b"b")
    wire += masked(BINARY, b"\xff", fin=False) + masked(CONT, b"\xfe")
    assert Reader().receive(wire).messages == ["ab", b"\xff\xfe"]


# The largest message


@pytest.mark.parametrize("limit", [125, 126, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_exactly_the_limit_passes(opcode, limit):
    payload = b"x" * limit
    reader = Reader(limit).receive(masked(opcode, payload))
    reader.receive(masked(opcode, payload[:50], fin=False) + masked(CONT, payload[50:]))
    assert reader.messages == [payload.decode() if opcode is TEXT else payload] * 2


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("declared", [126, 65_536, 2**31, 2**63 - 1])
def test_a_declared_length_above_the_limit_is_judged_before_the_payload_arrives(opcode, declared):
    reader = Reader(125)
    whole = header(0x80 | opcode, declared)
    for byte in whole[:-1]:
        reader.receive(bytes((byte,)))
    assert reader.receive(whole[-1:]).failure == 1009


def test_fragments_that_together_pass_the_limit_are_judged_before_the_last_ones_payload_arrives():
    reader = Reader(200).receive(masked(TEXT, b"x" * 100, fin=False) + masked(CONT, b"x" * 100, fin=False))
    assert not reader.ended
    assert reader.receive(header(0x00, 1)).failure == 1009


def test_a_control_frame_does_not_count_towards_the_message_it_came_into():
    reader = Reader(200).receive(masked(TEXT, b"x" * 200, fin=False))
    reader.receive(masked(PING, b"p" * 125))
    assert server_frames(reader.answers) == [(PONG, b"p" * 125)]
    assert reader.receive(masked(CONT)).messages == ["x" * 200]


def test_a_control_frame_does_not_widen_the_limit_of_the_message_it_came_into():
    reader = Reader(200).receive(masked(TEXT, b"x" * 200, fin=False) + masked(PING, b"p" * 125))
    reader.answers = b""
    assert reader.receive(header(0x00, 1)).failure == 1009


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frames_declared_length_is_judged_before_the_payload_arrives(opcode):
    assert Reader(200).receive(header(0x80 | opcode, 126)).failure == 1002


# The end


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 3000, 4000, 4513, 4999])
def test_a_close_frame_is_told_and_echoed(code):
    payload = Close(code, "é").serialize()
    reader = Reader().receive(masked(TEXT, b"last") + masked(CLOSE, payload) + masked(TEXT, b"late"))
    assert reader.ended
    assert reader.assembler.closed
    assert not reader.assembler.failed
    assert reader.close == (code, "é")
    assert server_frames(reader.answers) == [(CLOSE, payload)]
    assert reader.messages == ["last"]


def test_a_close_frame_without_code_is_told_as_1005_and_echoed_empty():
    reader = Reader().receive(masked(CLOSE))
    assert reader.close == (1005, "")
    assert not reader.assembler.failed
    assert server_frames(reader.answers) == [(CLOSE, b"")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_a_protocol_error(code):
    assert Reader().receive(masked(CLOSE, code.to_bytes(2, "big"))).failure == 1002


def test_a_close_frame_of_one_byte_is_a_protocol_error():
    assert Reader().receive(masked(CLOSE, b"\x03")).failure == 1002


def test_a_close_reason_that_is_not_utf_8_is_invalid_data():
    assert Reader().receive(masked(CLOSE, b"\x03\xe8\xff")).failure == 1007


def test_a_close_frame_in_two_pieces_is_told_when_it_is_whole():
    wire = masked(CLOSE, Close(1000, "bye").serialize())
    reader = Reader().receive(wire[:-1])
    assert not reader.ended
    assert reader.receive(wire[-1:]).close == (1000, "bye")


@pytest.mark.parametrize("length", [0, 125])
@pytest.mark.parametrize("form", [2, 8])
def test_a_length_that_is_not_in_its_shortest_form_is_a_protocol_error(form, length):
    head = bytes((frames.TEXT, 0x80 | (126 if form == 2 else 127))) + length.to_bytes(form, "big")
    assert Reader().receive(head + b"\0\0\0\0" + b"x" * length).failure == 1002


def test_a_long_length_that_fits_into_two_bytes_is_a_protocol_error():
    head = bytes((frames.TEXT, 0xFF)) + (65_535).to_bytes(8, "big")
    assert Reader().receive(head).failure == 1002


@pytest.mark.parametrize("declared", [2**63, 2**64 - 1])
def test_a_length_of_64_bits_is_a_protocol_error(declared):
    assert Reader().receive(header(frames.BINARY, declared)).failure == 1002


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_a_reserved_bit_is_judged_before_the_payload_arrives(opcode, bit):
    assert Reader().receive(header(0x80 | bit | opcode, 100)).failure == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_judged_before_the_payload_arrives(opcode):
    assert Reader().receive(header(0x80 | opcode, 100)).failure == 1002


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("payload", [broken for broken in BROKEN if broken != b"\xe2\x82"])
def test_a_bad_byte_is_found_before_its_frame_ends(payload, compressed):
    said = b"x" * 100 + payload
    if compressed:
        # Flushed behind the bad byte, so that it can be seen.
        compressor = zlib.compressobj(wbits=-15)
        wire = compressor.compress(said) + compressor.flush(zlib.Z_SYNC_FLUSH)
    else:
        wire = said
    first = frames.TEXT | (0x40 if compressed else 0)
    assert Reader(compression=True).receive(header(first, 70_000) + wire).failure == 1007


# Fragments


def test_a_message_may_have_as_many_fragments_as_the_limit_says_and_no_more():
    reader = Reader(max_fragments=3)
    whole = masked(TEXT, b"a", fin=False) + masked(CONT, b"", fin=False) + masked(CONT, b"b")
    assert reader.receive(whole * 2).messages == ["ab", "ab"]
    reader.receive(masked(TEXT, b"a", fin=False) + masked(CONT, b"", fin=False) * 2)
    assert not reader.ended
    assert reader.receive(header(0x00, 0)).failure == 1009


def test_control_frames_are_no_fragments():
    reader = Reader(max_fragments=2).receive(masked(TEXT, b"a", fin=False) + masked(PING) * 10)
    assert reader.receive(masked(CONT, b"b")).messages == ["ab"]


# Signs of life


def test_each_control_frame_is_one_sign_of_life_however_it_is_torn():
    reader = Reader()
    for byte in masked(PING, b"x" * 100) + masked(PONG):
        reader.receive(bytes((byte,)))
    assert reader.signs == 2


def test_a_message_that_drips_in_is_a_sign_of_life_for_each_16_kib():
    reader = Reader()
    for byte in masked(BINARY, b"x" * (2 * frames.SIGN + 100)):
        reader.receive(bytes((byte,)))
    assert reader.messages == [b"x" * (2 * frames.SIGN + 100)]
    assert reader.signs == 2


def test_plain_messages_are_no_signs_of_life_of_their_own():
    assert Reader().receive(masked(TEXT, b"a") * 10 + masked(TEXT, b"a", fin=False) + masked(CONT)).signs == 0


# Compressed messages


def deflated(payload: bytes, *, bits: int = 15) -> bytes:
    """Compress as another implementation does."""
    extension = PerMessageDeflate(True, True, 15, bits)
    return bytes(extension.encode(Frame(BINARY, payload)).data)


def test_compressed_messages_take_the_short_cut():
    wire = masked(TEXT, deflated("é".encode() * 200), compressed=True)
    wire += masked(BINARY, deflated(b"\xff"), compressed=True) + masked(TEXT, b"plain")
    delivered = []
    assert read_messages(wire, 0, 400, lambda m, more: not delivered.append(m), True) == len(wire)
    assert delivered == ["é" * 200, b"\xff", "plain"]


def test_without_an_agreement_a_compressed_message_is_a_protocol_error():
    assert Reader().receive(masked(TEXT, deflated(b"a"), compressed=True)).failure == 1002


@pytest.mark.parametrize(
    ("wire", "failure"),
    [
        (masked(TEXT, deflated(b"x" * 1001), compressed=True), 1009),
        (masked(TEXT, deflated(b"\xff"), compressed=True), 1007),
        (masked(TEXT, b"\x07", compressed=True), 1002),
        (masked(TEXT, deflated(b"one, two, three")[:-2], compressed=True), 1002),
        (masked(PING, deflated(b"a"), compressed=True), 1002),
        (masked(TEXT, deflated(b"a"), fin=False, compressed=True) + masked(CONT, compressed=True), 1002),
        (masked(TEXT, b"a", fin=False) + masked(CONT, deflated(b"a"), compressed=True), 1002),
        (header(frames.COMPRESSED_BINARY, 1200), 1009),
    ],
    ids=[
        "larger than it seems", "bad UTF-8", "no deflate", "cut off", "a compressed ping",
        "a compressed continuation", "a continuation that is compressed alone", "declared too large",
    ],
)  # fmt: skip
def test_compressed_messages_are_held_to_the_same(wire, failure):
    reader = Reader(1000, compression=True).receive(masked(TEXT, b"before") + wire)
    assert reader.failure == failure
    assert reader.messages == ["before"]


def test_a_message_of_the_limit_passes_though_it_can_t_be_compressed():
    payload = os.urandom(1000)
    wire = deflated(payload)
    assert len(wire) > 1000
    assert Reader(1000, compression=True).receive(masked(BINARY, wire, compressed=True)).messages == [payload]


def test_a_message_may_end_with_a_final_block():
    wire = masked(TEXT, bytes.fromhex("f3 48 cd c9 c9 07 00 00"), compressed=True)
    assert Reader(compression=True).receive(wire).messages == ["Hello"]


def test_a_bomb_in_fragments_is_stopped_at_the_limit():
    compressor = zlib.compressobj(9, wbits=-15)
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(64)]
    reader = Reader(1 << 16, compression=True)
    tracemalloc.start()
    try:
        for number, part in enumerate(parts):
            reader.receive(masked(CONT if number else BINARY, part, fin=False, compressed=not number))
            if reader.ended:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.failure == 1009
    assert peak < 1 << 19


@patiently
@given(conversations(), st.data())
def test_compressed_fragments_torn_apart_anywhere_are_the_messages_sent(conversation, data):
    _, said, _ = conversation
    wire = b""
    for message in said:
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        packed = deflated(payload, bits=data.draw(st.integers(9, 15)))
        cuts = data.draw(st.lists(st.integers(0, len(packed)), max_size=3))
        parts = list(pieces(packed, cuts)) or [b""]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            wire += masked(CONT if number else opcode, part, fin=last, compressed=not number)
            if not last and data.draw(st.booleans()):
                wire += masked(PING, b"between")
    reader = Reader(limit=70_000, compression=True)
    for part in pieces(wire, data.draw(st.lists(st.integers(0, len(wire)), max_size=10))):
        reader.receive(part)
    assert reader.messages == said
    assert reader.assembler is None


# The `websockets` library as the measure

likely = [0x01, 0x02, 0x00, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x41, 0x42]
plain_payloads = st.binary(max_size=20) | st.sampled_from(
    ["é".encode(), b"\xc3", b"\xa9", b"\x03\xe8", b"\x03\xe8\xff", b"\x03\xed"]
)
packed_payloads = st.builds(deflated, plain_payloads) | st.just(b"\x07")


@st.composite
def frames_of_any_kind(draw):
    """Whole frames in any order, right or wrong, with lengths in their shortest form."""
    wire = b""
    for first in draw(st.lists(st.sampled_from(likely) | st.integers(0, 255), max_size=6)):
        # What comes behind the end of compressed data, it lets pass.
        payload = draw(packed_payloads if first & 0x40 else plain_payloads)
        wire += header(first, len(payload)) + payload  # masked with zeros
    return wire


def as_websockets_judges(wire: bytes, compression: bool) -> tuple[list[str | bytes], int | None]:
    """Return messages and close code, with what `websockets` leaves to its callers: text is UTF-8."""
    peer = Protocol(SERVER)
    peer.extensions = [PerMessageDeflate(True, True, 15, 15)] if compression else []
    messages: list[str | bytes] = []
    text, whole, decoder = False, b"", None
    for byte in wire:
        peer.receive_data(bytes((byte,)))
        for event in peer.events_received():
            if event.opcode not in (TEXT, BINARY, CONT):
                continue
            if event.opcode is not CONT:
                text, whole, decoder = event.opcode is TEXT, b"", codecs.getincrementaldecoder("utf-8")()
            whole += event.data
            try:
                if text:
                    decoder.decode(bytes(event.data), event.fin)
            except UnicodeDecodeError:
                return messages, 1007
            if event.fin:
                messages.append(whole.decode() if text else whole)
        if peer.close_sent is not None:
            return messages, int(peer.close_sent.code)
    return messages, None


@patiently
@given(frames_of_any_kind(), st.booleans())
def test_whole_frames_are_judged_as_websockets_judges_them(wire, compression):
    reader = Reader(compression=compression).receive(wire)
    messages, code = as_websockets_judges(wire, compression)
    assert reader.messages == messages
    if reader.ended and reader.assembler.closed and code == 1002:
        return  # it takes no close inside of a message, which RFC 6455 section 5.4 allows
    assert (reader.close[0] if reader.ended else None) == code
