"""`python -m fuzz.seeds`: put into the corpus what it begins with: real frames, envelopes, requests."""

import json
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from websockets.frames import Opcode

from hubbub.protocol.codecs import pack
from hubbub.protocol.envelope import Publication

from . import CORPUS, line_seeds
from .targets import envelope, frames, handshake, publication

PROTOCOL_PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

Seeds = Iterator[tuple[str, bytes]]


def write() -> None:
    """Write every seed that is not there as it should be."""
    for target, name, data in all_seeds():
        path = CORPUS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def all_seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yield target, file name and content of every seed."""
    sources = {
        "frames": frame_seeds, "envelope": envelope_seeds, "handshake": handshake_seeds,
        "publication": publication_seeds, "engineio": line_seeds.engineio_seeds,
        "socketio": line_seeds.socketio_seeds, "bookmarks": line_seeds.bookmark_seeds,
        "protobuf": line_seeds.protobuf_seeds, "posts": line_seeds.post_seeds,
        "streams": line_seeds.stream_seeds,
    }  # fmt: skip
    for target, source in sources.items():
        for name, data in source():
            yield target, f"seed-{name}", data


# Frames


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\0\0\0\0"
) -> bytes:
    """Return a client's frame, or one that looks like it; a mask of zeros lets the fuzzer see the payload."""
    bit, size = 0 if mask is None else 0x80, len(payload)
    length = (
        bytes((bit | size,)) if size < 126
        else bytes((bit | 126,)) + size.to_bytes(2, "big") if size < 65536
        else bytes((bit | 127,)) + size.to_bytes(8, "big")
    )  # fmt: skip
    key = mask or b"\0\0\0\0"
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    return bytes((0x80 * fin | rsv << 4 | opcode,)) + length + (mask or b"") + masked


def deflated(payload: bytes, *, bits: int = 15, level: int = 6) -> bytes:
    """Return a payload as permessage-deflate carries it (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def frame_seeds() -> Seeds:
    """Yield every kind of frame, alone and among others, right and wrong."""
    for name, wire in _right_frames():
        yield name, _frames(wire)
        yield f"{name}-torn", _frames(wire, frames.PAUSING, b"\1\2\3\5\1\1\7\x40")
    for name, wire in _wrong_frames():
        yield name, _frames(wire, 0, b"\2\0")
    hi = frame(TEXT, b"hi")
    for code in (999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1011, 1015, 2999, 3000, 4999, 5000):
        yield f"close-{code}", _frames(hi + frame(CLOSE, code.to_bytes(2, "big") + b"bye") + hi)
    everything = hi + frame(PING, b"?") + hi + frame(CLOSE, b"\x03\xe8") + hi
    yield "slow-reader", _frames(everything, frames.SLOW, b"\3")
    yield "server-closes", _frames(everything, frames.CLOSING, b"\5")
    yield (
        "server-closes-within-a-message",
        _frames(
            frame(TEXT, b"a", fin=False) + frame(CONT, b"b") + frame(CLOSE, b"\x03\xe9"),
            frames.CLOSING,
            b"\7\0",
        ),
    )
    for number, name in enumerate(("deflate", "deflate-no-takeover", "deflate-window", "deflate-server")):
        first = deflated(b"hello hello hello hello")
        wire = (
            frame(TEXT, first, rsv=4) + hi + frame(TEXT, first[:4], rsv=4, fin=False) + frame(CONT, first[4:])
        )
        yield name, _frames(wire, number << 6, b"\3\0", plain=False)
    yield "deflate-bomb", _frames(frame(TEXT, deflated(bytes(5000)), rsv=4), 0, plain=False)
    yield "deflate-no-deflate", _frames(frame(TEXT, b"\xff\xff\xff", rsv=4), plain=False)
    yield "deflate-stored", _frames(frame(BINARY, deflated(b"hi", level=0), rsv=4), plain=False)
    yield "deflate-empty", _frames(frame(BINARY, b"\0", rsv=4) + frame(TEXT, b"", rsv=4), plain=False)
    yield "deflate-ping", _frames(frame(PING, b"\0", rsv=4), plain=False)
    yield (
        "deflate-continuation",
        _frames(frame(TEXT, b"a", fin=False) + frame(CONT, b"\0", rsv=4), plain=False),
    )


def _frames(wire: bytes, options: int = 0, lengths: bytes = b"\0", *, plain: bool = True) -> bytes:
    options |= frames.PLAIN if plain else 0
    return bytes((options,)) + lengths.ljust(8, lengths[-1:]) + wire


def _right_frames() -> Seeds:
    cafe = "café 😀".encode()
    yield "text", frame(TEXT, cafe) * 2
    yield "text-masked", frame(TEXT, cafe, mask=b"\x37\xfa\x21\x3d")
    yield "binary", frame(BINARY, b"\0\xff") + frame(BINARY)
    yield "length-125", frame(TEXT, b"a" * 125)
    yield "length-126", frame(TEXT, b"a" * 126)
    yield (
        "fragments",
        frame(TEXT, cafe[:4], fin=False) + frame(CONT, cafe[4:7], fin=False) + frame(CONT, cafe[7:]),
    )
    yield "fragments-empty", frame(BINARY, fin=False) + frame(CONT, fin=False) * 5 + frame(CONT)
    yield "fragments-many", frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) * 20 + frame(CONT)
    yield "controls-between", (
        frame(PING, b"1") + frame(TEXT, b"a", fin=False) + frame(PING, b"2") + frame(PONG, b"3")
        + frame(CONT, b"b", fin=False) + frame(PING, b"x" * 125) + frame(CONT, b"c") + frame(CLOSE)
    )  # fmt: skip
    yield "longer-length-than-needed", b"\x81\xfe\0\1\0\0\0\0a" + b"\x82\xff" + bytes(7) + b"\1\0\0\0\0b"


def _wrong_frames() -> Seeds:
    hi = frame(TEXT, b"hi")
    yield "unmasked", hi + frame(TEXT, b"hi", mask=None) + hi
    for bits in (1, 2, 4):
        yield f"reserved-bit-{bits}", hi + frame(TEXT, b"hi", rsv=bits) + hi
    for opcode in (3, 7, 11, 15):
        yield f"opcode-{opcode}", hi + frame(opcode, b"hi") + hi
    yield "continuation-of-nothing", frame(CONT, b"hi") + hi
    yield "text-within-a-message", frame(TEXT, b"a", fin=False) + hi
    yield "ping-in-fragments", frame(PING, b"a", fin=False) + hi
    yield "ping-too-long", frame(PING, b"x" * 126) + hi
    yield "close-of-one-byte", frame(CLOSE, b"\3") + hi
    yield "close-reason-not-utf-8", frame(CLOSE, b"\x03\xe8\xff") + hi
    yield "close-within-a-message", frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8") + hi
    yield "not-utf-8", hi + frame(TEXT, b"a\xff") + hi
    yield "not-utf-8-cut", frame(TEXT, b"a\xe2\x82") + hi
    yield "not-utf-8-surrogate", frame(TEXT, b"\xed\xa0\x80") + hi
    yield "not-utf-8-in-fragments", frame(TEXT, b"\xe2", fin=False) + frame(CONT, b"\x28", fin=False) + hi
    yield "too-big", hi + frame(TEXT, b"x" * 127) + hi
    yield "too-big-declared", hi + b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"\0\0\0\0" + hi
    yield "too-big-in-fragments", frame(BINARY, b"x" * 100, fin=False) + frame(CONT, b"y" * 26) + hi
    yield "header-cut", hi + b"\x81\xfe\x00"
    yield "payload-cut", hi + frame(TEXT, b"never whole")[:-3]


# Envelopes


def envelope_seeds() -> Seeds:
    """Yield the envelopes of the protocol's page, and data for each class of message."""
    for number, text in enumerate(_envelopes_of_the_page()):
        yield from _in_both_codecs(f"page-{number:02}", text)
    for number, (name, value) in enumerate(_data()):
        yield from _in_both_codecs(f"{name}-{number}", json.dumps({"type": name, "id": 1, "data": value}))
    for name, text in {
        "empty": "", "array": "[]", "duplicate": '{"type":"a","type":"b","id":1,"id":"x"}',
        "number-large": '{"type":"a","id":123456789012345678901234567890}',
        "number-out-of-range": '{"type":"anything","data":{"value":1e999}}',
        "nan": '{"type":"anything","data":{"value":NaN}}',
        "escapes": '{"ty\\u0070e":"\\ud83d\\ude00\\n","room":"\\u00e9/\\"","data":"\\/"}',
        "surrogate": '{"type":"a","data":"\\ud800"}',
        "deep": '{"type":"anything","data":{"value":' + "[" * 200 + "]" * 200 + "}}",
        "white-space": ' \t\r\n{ "type" : "tree" , "data" : { } } ',
        "long-key": '{"type":"order","data":{"notes":{"' + "k" * 1700 + '":[]}}}',
        "long-unknown": '{"type":"form","data":{"' + "u" * 1700 + '":1}}',
        "long-tag": '{"type":"draw","data":{"shape":{"type":"' + "t" * 1700 + '"}}}',
    }.items():  # fmt: skip
        yield f"json-{name}", b"\0" + text.encode()
    timestamp = msgspec.msgpack.encode(datetime(2026, 1, 1, tzinfo=UTC))
    for name, payload in {
        "extension": b"\xd4\x05\x00", "timestamp": timestamp, "timestamp-wrong": b"\xd6\xff\xff\xff\xff\xff",
        "not-utf-8": b"\xa2\xff\xfe", "nan": b"\xcb\x7f\xf8" + bytes(6), "float-32": b"\xca\x3f\x80\0\0",
        "binary": b"\xc4\x02\0\xff", "key-array": b"\x81\x91\x01\x02", "key-map": b"\x81\x80\x01",
        "declared-long": b"\xdd\xff\xff\xff\xff", "reserved": b"\xc1", "big": b"\xcf" + b"\xff" * 8,
    }.items():  # fmt: skip
        whole = b"\x82\xa4type\xa8anything\xa4data\x81\xa5value" + payload
        yield f"msgpack-{name}", bytes((envelope.BINARY,)) + whole
    yield "mistaken-text", bytes((envelope.BINARY | envelope.MISTAKEN,)) + b'{"type":"a"}'
    yield "mistaken-binary", bytes((envelope.MISTAKEN,)) + b"\x81\xa4type\xa1a"


def _in_both_codecs(name: str, text: str) -> Seeds:
    yield f"json-{name}", b"\0" + text.encode()
    yield f"msgpack-{name}", bytes((envelope.BINARY,)) + msgspec.msgpack.encode(json.loads(text))


def _envelopes_of_the_page() -> list[str]:
    page = PROTOCOL_PAGE.read_text()
    found: list[tuple[object, str]] = []
    for block in re.findall(r"^```wire\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for text in re.findall(r"→ (\{.*)", re.sub(r"\n +", " ", block)):
            try:
                kind = (json.loads(text).get("type"), sorted(json.loads(text).get("data") or ()))
            except ValueError:
                continue  # shown there for being wrong
            if all(kind != seen for seen, _ in found):
                found.append((kind, text))
    return [text for _, text in found]


def _data() -> Iterator[tuple[str, object]]:
    yield "draw", {"shape": {"type": "Circle", "center": {"x": 1, "y": 2.5}, "radius": 3}, "name": "moon"}
    yield "draw", {"shape": {"type": "Box", "corners": [{}, {"x": -1}]}, "tags": ["a", 1, None]}
    yield "form", {
        "kind": "b", "colour": "green", "when": "2026-01-02T03:04:05.678Z",
        "key": "123e4567-e89b-12d3-a456-426614174000", "amount": "12.50", "blob": "aGk=", "names": ["a", "b"],
        "counts": {"a": 1}, "by_colour": {"red": True}, "by_number": {"7": "x"},
    }  # fmt: skip
    yield "form", {"kind": "c", "unknown": 1}
    yield "tree", {"children": [{"name": "a", "children": [{}]}, {}], "name": "root"}
    yield "anything", {"value": [None, True, -1, 1.5, "x", {"a": {}}]}
    yield "order", {
        "lines": [{"article": "a", "count": 1}], "payment": {"kind": "card", "number": "1234"},
        "notes": {"a": 1, "b": "c"}, "colour": "red", "total": 9.5,
    }  # fmt: skip
    yield (
        "order",
        {"lines": [{"article": "too long for this", "count": -1, "more": 1}], "payment": {"kind": "x"}},
    )


# Handshakes

WEBSOCKET = (
    b"GET /chat?token=x HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def handshake_seeds() -> Seeds:
    """Yield requests, right and wrong, each for what an application may do with it."""
    for does, name in enumerate(("takes-over", "accepts", "refuses", "leaves")):
        protocols = b"Sec-WebSocket-Protocol: one, two\r\nOrigin: http://example.com\r\n\r\n"
        for echoes in (0, handshake.ECHOES):
            yield f"{name}{'-echoing' * bool(echoes)}", _request(WEBSOCKET + protocols, does | echoes)
    everything = WEBSOCKET + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    yield "torn", _request(everything, handshake.TAKES_OVER, b"\1\7\3")
    yield "frames-follow", _request(everything + frame(TEXT, b"hi") + frame(CLOSE), lengths=b"\xd2\0")
    changes = {
        "version-8": (b"Version: 13", b"Version: 8"), "key-short": (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhl"),
        "key-wrong": (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff!"), "post": (b"GET", b"POST"),
        "http-1.0": (b"HTTP/1.1", b"HTTP/1.0"), "upgrade-h2c": (b": websocket", b": h2c"),
        "no-upgrade": (b"Connection: Upgrade\r\n", b""), "host-twice": (b"Host:", b"Host: a\r\nHost:"),
        "key-twice": (b"Sec-WebSocket-Key:", b"Sec-WebSocket-Key: YQ==\r\nSec-WebSocket-Key:"),
        "target-absolute": (b"/chat", b"http://example.com/chat"), "target-star": (b"/chat", b"*"),
        "target-escaped": (b"/chat", b"/%0d%0aa%00%c3%a9%zz"), "target-high": (b"/chat", b"/\xff\xc3\xa9"),
        "target-fragment": (b"/chat", b"/a#b?c"), "line-feeds": (b"\r\n", b"\n"),
        "folded": (b"example.com", b"example\r\n .com"), "no-name": (b"Host", b""),
        "null": (b"example.com", b"ex\0ample"), "space-in-name": (b"Host:", b"Host :"),
        "upgrades": (b": Upgrade", b": keep-alive, Upgrade"), "carriage-return": (b"example.com", b"a\rX: b"),
        "length": (b"Host:", b"Content-Length: 5\r\nHost:"),
        "chunked": (b"Host:", b"Transfer-Encoding: chunked\r\nHost:"),
    }  # fmt: skip
    for name, (before, after) in changes.items():
        yield name, _request(WEBSOCKET.replace(before, after) + b"\r\n")
    for name, value in {
        "tab": b"a\tb", "control": b"a\x01b", "high": b"\xe9", "empty": b"", "commas": b",, a ,",
        "quotes": b'"a"',
    }.items():  # fmt: skip
        protocols = b"Sec-WebSocket-Protocol: " + value + b"\r\n\r\n"
        yield f"subprotocol-{name}", _request(WEBSOCKET + protocols, handshake.ECHOES)
        yield (
            f"subprotocol-{name}-asgi",
            _request(WEBSOCKET + protocols, handshake.ECHOES | handshake.ACCEPTS),
        )
    for name, request in {
        "get": b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", "head": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "pipelined": b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" * 3, "get-1.0": b"GET / HTTP/1.0\r\n\r\n",
        "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "body-chunked": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        "both-lengths": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        "continue": b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "tls": b"\x16\x03\x01\x02\0\x01\0",
        "noise": b"\xff" * 20,
        "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "head-cut": b"GET / HTTP/1.1\r\nHo",
        "upgrade-behind-requests": b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + WEBSOCKET + b"\r\n",
        "forwarded": b"GET / HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4, x\r\nX-Forwarded-Proto: wss\r\n\r\n",
    }.items():  # fmt: skip
        yield f"http-{name}", _request(request)


def _request(request: bytes, does: int = 0, lengths: bytes = b"\0") -> bytes:
    return bytes((does,)) + lengths.ljust(8, lengths[-1:]) + request


# Publications


def publication_seeds() -> Seeds:
    """Yield what a broker may bring: what hubbub put there, and what it didn't."""
    data = {"text": "hi", "list": [1, -1, 1.5, None, True], "binary": b"\xff", "map": {"a": {"b": "c"}}}
    payloads = {
        "say": pack(Publication("say", msgspec.Raw(pack(data)), "ada", None)),
        "excluding": pack(Publication("say", msgspec.Raw(pack({})), None, "0123456789abcdef")),
        "joined": pack(Publication("$joined", msgspec.Raw(pack({"user": "ada", "info": None})))),
        "empty": b"", "nil": b"\xc0", "map": pack({"type": "say"}), "short": pack(["say"]),
        "json": b'{"type":"a"}',
        "more": pack(["say", {}, None, None, "newer", 1]), "gap": pack(["$gap", {"epoch": "", "offset": 1}]),
        "data-timestamp": pack(["a", datetime(2026, 1, 1, tzinfo=UTC)]),
        "data-timestamp-wrong": b"\x92\xa1a\xd6\xff\xff\xff\xff\xff",
        "data-extension": b"\x92\xa1a\xd4\x05\x00",
        "data-not-utf-8": b"\x92\xa1a\xa2\xff\xfe", "data-nan": pack(["a", float("nan")]),
        "data-key-array": b"\x92\xa1a\x81\x91\x01\x02", "data-key-map": b"\x92\xa1a\x81\x80\x01",
        "data-key-number": b"\x92\xa1a\x81\x01\x02", "data-reserved": b"\x92\xa1a\xc1",
        "data-cut": b"\x92\xa1a\xdd\xff\xff\xff\xff", "data-deep": b"\x92\xa1a" + b"\x91" * 2000 + b"\xc0",
        "data-big": b"\x92\xa1a\xcf" + b"\xff" * 8, "type-not-utf-8": b"\x92\xa1\xff\xc0",
        "type-empty": pack(["", {}]),
        "trailing": pack(["a", {}]) + b"\xc0",
    }  # fmt: skip
    for name, payload in payloads.items():
        yield f"{name}-kept", bytes((publication.KEPT,)) + payload
        yield name, b"\0" + payload


if __name__ == "__main__":
    write()
