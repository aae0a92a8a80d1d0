"""What fuzzing begins with, of the lines that are no WebSockets."""

import base64
import itertools
import json
from collections.abc import Iterator

import msgspec

from hubbub.protocol.bookmarks import Bookmark
from hubbub.protocol.envelope import Position
from hubbub.protocol.protobuf.messages import Message, Messages, Publication
from hubbub.transports.engineio.packets import Dialect, Kind, Packet
from hubbub.transports.engineio.payloads import BINARY, write_payload
from hubbub.transports.socketio.recovery import offset_of

from .targets import bookmarks, engineio, posts, protobuf, streams

Seeds = Iterator[tuple[str, bytes]]


def engineio_seeds() -> Seeds:
    """Yield payloads and messages of both versions, right and wrong."""
    packets = {
        **{kind.name.lower(): [Packet(kind=kind)] for kind in Kind},
        "text": [Packet(b"hi"), Packet("é€😀".encode())],
        "binary": [Packet(b"\0\xff", True), Packet(b"", True)],
        "both": [Packet(b"hi"), Packet(b"\1\2\3", True), Packet(b"probe", kind=Kind.PING)],
    }
    for (name, found), version, base in itertools.product(packets.items(), (4, 3), (False, True)):
        dialect = Dialect(version, not base)
        flags = engineio.VERSION_3 * (version == 3) | engineio.BASE64 * base
        body, media = write_payload(found, dialect)
        flags_of_body = flags | engineio.BYTES * (media == BINARY)
        yield f"payload-{name}-{version}{'-base64' * base}", bytes((flags_of_body,)) + body
        if len(found) > 1:
            payload, binary = found[-1].frame(lambda payload, binary: (payload, binary), dialect)
            flags |= engineio.MESSAGE | engineio.BYTES * binary
            yield f"message-{name}-{version}{'-base64' * base}", bytes((flags,)) + payload
    wrong = {
        "empty": b"",
        "kind": b"7",
        "separators": b"\x1e\x1e",
        "base64": b"b!",
        "base64-spaces": b"b a b c",
        "no-utf-8": b"4\xff",
        "no-length": b"4hi",
        "length-short": b"9:4hi",
        "length-zero": b"0:",
        "length-long": b"00000000002:4a",
        "length-sign": b"-1:4",
        "length-cuts": "2:4😀".encode(),
        "length-twice": b"2:4a2:4b3:4\x1ea",
        "bytes-cut": b"\0\2\xff4",
        "bytes-none": b"\0\xff",
        "bytes-kind": b"\2\1\xff4",
        "bytes-digit": b"\0\x0a\xff4",
        "bytes-long": b"\0" + b"\1" * 11 + b"\xff",
        "bytes-no-utf-8": b"\0\2\xff4\xff",
    }
    for name, body in wrong.items():
        flags = engineio.BYTES if name.startswith("bytes") else 0
        yield f"wrong-{name}-4", bytes((flags,)) + body
        yield f"wrong-{name}-3", bytes((flags | engineio.VERSION_3,)) + body


def socketio_seeds() -> Seeds:
    """Yield packets of each type, with and without attachments, right and wrong."""
    one = '{"_placeholder":true,"num":0}'
    packets = {
        "connect": "0",
        "connect-auth": '0{"token":"ada"}',
        "connect-namespace": '0/chat,{"token":"a"}',
        "connect-no-comma": "0/chat",
        "connect-query": "0/chat?a=b,",
        "connect-array": "0[]",
        "connect-recovery": '0{"pid":"a","offset":"b!chat/lobby:c:1"}',
        "disconnect": "1",
        "disconnect-namespace": "1/chat,",
        "disconnect-payload": "1{}",
        "error": '4{"message":"no"}',
        "error-text": '4"no"',
        "event": '2["say",{"text":"hi"}]',
        "event-id": '212["say",{"text":"hi"}]',
        "event-room": '2["say",{"text":"hi"},{"room":"a"}]',
        "event-namespace": '2/chat,7["say"]',
        "event-several": '2["say","hi",3,null]',
        "event-null": '2["say",null]',
        "event-room-more": '2["say",1,{"room":"a","x":1}]',
        "event-room-number": '2["say",1,{"room":1}]',
        "event-room-only": '2["say",{"room":"a"}]',
        "event-number": "2[7,1]",
        "event-float": "2[1.50]",
        "event-name-null": "2[null]",
        "event-name-reserved": '2["connect"]',
        "event-name-empty": '2[""]',
        "event-empty": "2[]",
        "event-object": "2{}",
        "event-cut": '2["say"',
        "event-behind": '2["say"]x',
        "event-name-long": json.dumps(["x" * 130])[:140].join(("2", "")),
        "event-escapes": '2["\\u0073ay","\\ud83d\\ude00","\\ud800"]',
        "control": '21["$join",{"room":"chat/lobby","since":null}]',
        "control-array": '2["$join",[],{"room":"a"}]',
        "control-number": '2["$leave",{"room":1}]',
        "event-numbers": '2["n",1e400,123456789012345678901234567890,-0,1.0]',
        "event-deep": '2["d",' + "[" * 300 + "]" * 300 + "]",
        "event-whitespace": '2 [ "say" , 1 ]',
        "event-placeholder": f'2["say",{one}]',
        "id-high": '29007199254740993["a"]',
        "id-long": "2" + "1" * 17 + '["a"]',
        "ack": '31["ok"]',
        "ack-empty": "31[]",
        "ack-no-id": "3[]",
        "ack-object": "31{}",
        "type-7": "7",
        "type-letter": "x",
        "empty-attachment": "5-[]",
        "attachments-none": f'50-["a",{one}]',
        "attachments-many": f'511-["a",{one}]',
        "namespace-long": "2/" + "n" * 255 + ',["a"]',
        "attachments-of-event": f'21-["a",{one}]',
    }
    for name, text in packets.items():
        yield name, text.encode()
    two = '{"_placeholder":true,"num":1}'
    binary = {
        "binary": (f'51-["say",{one}]', b"\xff\0\1"),
        "binary-deep": (f'52-/chat,3["say",{{"a":[{one}]}},{two}]', b"\xffa\xffb"),
        "binary-room": (f'51-["say",{one},{{"room":"a"}}]', b"\xffx"),
        "binary-ack": (f"61-1[{one}]", b"\xff"),
        "binary-twice": (f'51-["say",{one},{one}]', b"\xffx"),
        "binary-none": ('51-["say",1]', b"\xffx"),
        "binary-other": (f'51-["say",{two}]', b"\xffx"),
        "binary-text": (f'51-["say",{one}]', b"\xfe2[]"),
        "binary-name": (f"51-[{one}]", b"\xffx"),
        "binary-big": (f'51-["say",{one}]', b"\xff" + b"x" * 500),
        "binary-number": (f'51-["say",{one},123456789012345678901]', b"\xffx"),
        "binary-null": (f'51-["say",null,{{"a":{one}}}]', b"\xffx"),
        "binary-odd": ('51-["say",{"_placeholder":true,"num":0,"more":1},{"_placeholder":1}]', b"\xffx"),
        "binary-float": ('51-["say",{"_placeholder":true,"num":0.0}]', b"\xffx"),
        "orphan": ('2["a"]', b"\xffx"),
        "two": ('2["a"]', b'\xfe2["b"]'),
        "ten": ('510-["a"]', b"\xffx" * 10),
    }
    for name, (text, more) in binary.items():
        yield name, text.encode() + more


def bookmark_seeds() -> Seeds:
    """Yield bookmarks and offsets of recovery, right and wrong."""
    position = Position("0123456789abcdef", 7)
    right = {
        "empty": Bookmark("", {}),
        "session": Bookmark("a.b.c-_", {}),
        "one": Bookmark("a.b", {"chat/lobby": position}),
        "three": Bookmark("a.b", dict.fromkeys(("chat/lobby", "$user/ada", "é €"), position)),
        "high": Bookmark("a", {"a": Position("", 2**64 - 1)}),
        "many": Bookmark("a", {f"r{n}": position for n in range(40)}),
        "quoted": Bookmark("a", {"a!b:c%d": Position("!:%", 0)}),
        "long": Bookmark("x" * 900, {"y" * 255: position}),
    }
    for name, bookmark in right.items():
        yield name, b"\0" + (bookmark.text() or "").encode()
        yield f"recovery-{name}", bytes((bookmarks.RECOVERY,)) + offset_of(bookmark)
    values: dict[str, object] = {
        "nil": None,
        "map": {"a": 1},
        "short": ["a"],
        "more": ["a", {}, 1],
        "negative": ["a", {"a": ["e", -1]}],
        "name-empty": ["a", {"": ["e", 1]}],
        "name-long": ["a", {"x" * 256: ["e", 1]}],
        "session-number": [1, {}],
        "position-short": ["a", {"a": ["e"]}],
        "position-float": ["a", {"a": ["e", 1.0]}],
        "epoch-long": ["a", {"a": ["e" * 65, 1]}],
        "session-bytes": [b"a", {}],
        "key-bytes": ["a", {b"b": ["e", 1]}],
    }
    for name, value in values.items():
        yield f"wrong-{name}", b"\0" + base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).rstrip(b"=")
    for name, text in {
        "padded": b"kqFhgA==",
        "plus": b"kqFh+/",
        "high": b"\xe9",
        "control": b"\0\n",
        "odd": b"k",
        "equals": b"====",
        "not-utf-8": b"kqH_gA",
    }.items():
        yield f"wrong-{name}", b"\0" + text
    for name, text in {
        "nothing": b"",
        "bang": b"!",
        "only-rooms": b"!a:b:1",
        "short": b"t!a:b",
        "long": b"t!a:b:1:2",
        "sign": b"t!a:b:-1",
        "digits": "t!a:b:٣".encode(),
        "percent": b"t!%ff:b:1",
        "percent-cut": b"t!%f:%:1",
        "twice": b"t!a:b:1!a:c:2",
        "huge": b"t!a:b:" + b"9" * 600,
        "raw": "t!é:ü:1".encode(),
        "epoch-high": b"t!a:%C3%A9:1",
        "name-empty": b"t!:b:1",
    }.items():
        yield f"recovery-wrong-{name}", bytes((bookmarks.RECOVERY,)) + text


def protobuf_seeds() -> Seeds:
    """Yield envelopes, messages, batches and publications, right and wrong."""
    envelopes = {
        "say": '{"type":"say","room":"chat/lobby","data":{"text":"hi"},"offset":7,"from":"ada"}',
        "id": '{"type":"$ack","id":1}',
        "id-text": '{"type":"$ack","id":"a"}',
        "id-zero": '{"type":"$ack","id":0}',
        "id-text-empty": '{"type":"$ack","id":""}',
        "id-high": '{"type":"a","id":9223372036854775808}',
        "id-low": '{"type":"a","id":-9223372036854775808}',
        "id-float": '{"type":"a","id":1.0}',
        "id-null": '{"type":"a","id":null}',
        "data-null": '{"type":"a","data":null}',
        "data-text": '{"type":"a","data":"é\\n"}',
        "data-spaces": '{"type":"a","data": [ 1 ] }',
        "offset-zero": '{"type":"a","offset":0}',
        "offset-negative": '{"type":"a","offset":-1}',
        "offset-high": '{"type":"a","offset":18446744073709551616}',
        "room-empty": '{"type":"a","room":""}',
        "type-empty": '{"type":""}',
        "type-number": '{"type":1}',
        "type-null-character": '{"type":"\\u0000"}',
        "more": '{"type":"a","new":1}',
        "array": "[]",
        "empty": "",
        "cut": '{"type":"a"',
        "behind": '{"type":"a"}x',
        "surrogate": '{"type":"\\ud800"}',
        "data-surrogate": '{"type":"a","data":"\\ud800"}',
    }
    for name, text in envelopes.items():
        yield f"envelope-{name}", bytes((protobuf.ENVELOPE,)) + text.encode()
    sent = {
        "say": Message(type="say", data=b'{"text":"hi"}', room="chat/lobby"),
        "number": Message(type="a", number=1),
        "text": Message(type="a", text="b"),
        "nothing": Message(),
        "data-behind": Message(type="a", data=b'{},"type":"b"'),
        "data-no-json": Message(type="a", data=b"{"),
        "data-no-utf-8": Message(type="a", data=b'"\xff"'),
        "data-envelope": Message(type="a", data=b'{"type":"b"}'),
        "data-raw": Message(type="a", data=b"\xff"),
        "offset": Message(type="a", offset=2**64 - 1, sender="x"),
        "data-spaces": Message(type="a", data=b" 1\n"),
        "data-deep": Message(type="a", data=b"[" * 300 + b"]" * 300),
        "number-low": Message(type="a", number=-(2**63)),
    }
    for name, message in sent.items():
        yield f"message-{name}", bytes((protobuf.MESSAGE,)) + message.SerializeToString()
    yield "message-cut", bytes((protobuf.MESSAGE,)) + b"\x0a\x05a"
    yield "message-no-utf-8", bytes((protobuf.MESSAGE,)) + b"\x0a\x01\xff"
    yield "message-both-ids", bytes((protobuf.MESSAGE,)) + b"\x0a\x01a\x20\x01\x2a\x01b"
    yield "message-unknown-field", bytes((protobuf.MESSAGE,)) + b"\x0a\x01a\x98\x06\x01"
    batch = Messages(messages=sent.values())
    yield "messages", bytes((protobuf.MESSAGES,)) + batch.SerializeToString()
    yield "messages-none", bytes((protobuf.MESSAGES,))
    for name, found in {
        "room": Publication(type="say", room="chat/lobby", data=b'{"text":"hi"}'),
        "user": Publication(type="say", user="ada", ephemeral=True),
        "keys": Publication(type="a", room="b", key="k", idempotency_key="i"),
        "data-behind": Publication(type="a", data=b'1,"room":"x"'),
        "data-no-utf-8": Publication(type="a", data=b'"\xff"'),
        "nothing": Publication(),
    }.items():
        yield f"publication-{name}", bytes((protobuf.PUBLICATION,)) + found.SerializeToString()


def post_seeds() -> Seeds:
    """Yield what a browser and others accept, and POSTs in and out of order."""
    for name, header in {
        "events": "text/event-stream",
        "lines": "application/x-ndjson",
        "json": "application/json",
        "browser": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "any": "*/*",
        "application": "application/*",
        "both": "application/json, text/event-stream",
        "weights": "application/json;q=0.5, text/event-stream;q=0.9",
        "zero": "application/json;q=0",
        "parameter": "application/json;charset=utf-8;q=0.1",
        "case": "TEXT/Event-Stream;Q=1.000",
        "empty": "",
        "commas": ",,application/json,",
        "nan": "application/json;q=nan",
        "exponent": "application/json;q=1e-1",
        "over": "application/json;q=1.1",
        "twice": "application/json;q=0.1;q=0.9",
        "range": "text/*;q=0.3, */*;q=0.2",
    }.items():
        yield f"accept-{name}", bytes((posts.ACCEPT,)) + header.encode()
        yield f"accept-{name}-any", bytes((posts.ACCEPT | posts.WILDCARDS,)) + header.encode()
    envelope = b'{"type":"a"}'
    for name, items in {
        "one": [b"R", b"0" + envelope],
        "in-order": [b"R", b"1a", b"2b", b"3c"],
        "again": [b"R", b"1a", b"1a"],
        "hole": [b"R", b"2a", b"1b", b"2c"],
        "paused": [b"1a", b"2b", b"R"],
        "part": [b"R", b"1a\n!\nb", b"R", b"1c"],
        "ended": [b"1a", b"E", b"2b"],
        "ended-in-part": [b"R", b"1!\nb", b"E"],
        "many": [b"0a"] * 18 + [b"R"],
        "other-token": [b"Tx.y.z", b"T", b"There.a.b"],
        "not-utf-8": [b"1\xfe"],
        "empty": [b"R", b"1", b"2\n\n"],
        "lines": [b"R", b"1" + b"a\n" * 999 + b"b"],
        "too-many": [b"R", b"1" + b"a\n" * 1000 + b"b"],
        "pause-again": [b"R", b"0!", b"0a", b"P", b"R", b"R"],
    }.items():
        yield f"post-{name}", b"\0" + b"\xff".join(items)
        yield f"post-{name}-several", bytes((posts.SEVERAL,)) + b"\xff".join(items)


def stream_seeds() -> Seeds:
    """Yield lines and event streams, with each kind of end, right and wrong."""
    events = {
        "one": b"data: {}\n\n",
        "returns": b"data: a\r\rdata: b\r\r",
        "both-ends": b"data: a\r\n\r\ndata: b\r\n\r\n",
        "mixed": b"data: a\r\n\n\rdata: b\r\r\n",
        "return-and-feeds": b"data: a\r\n\ndata: b\r\n\n",
        "two-lines": b"data: a\ndata: b\n\n",
        "no-space": b"data:a\n\n",
        "spaces": b"data:  a\n\n",
        "no-colon": b"data\n\n",
        "empty": b"data:\n\n",
        "comment": b": hi\n\n",
        "id": b"id: x\n\ndata: a\n\n",
        "other": b"event: x\nretry: 5\ndatas: no\n data: no\ndata : no\n\n",
        "mark": b"\xef\xbb\xbfdata: a\n\n",
        "mark-later": b"\n\xef\xbb\xbfdata: a\n\n",
        "not-utf-8": b"data: \xff\n\n",
        "cut": b"data: a\n",
        "limit": b"data: " + b"x" * 40 + b"\n\n",
        "too-large": b"data: " + b"x" * 41 + b"\n\n",
        "too-large-together": b"data: xxxxxxxxx\n" * 5 + b"\n",
        "too-long-comment": b":" + b"x" * 60 + b"\n\n",
        "too-large-cut": b"data: a\n\ndata: " + b"x" * 50,
    }
    lines = {
        "one": b"{}\n",
        "two": b"a\nb\n",
        "returns": b"a\r\nb\r\n",
        "empty": b"\n \n\r\n\na\n",
        "cut": b"a\nb",
        "not-utf-8": b"a\n\xff\n",
        "limit": b"x" * 40 + b"\n",
        "too-large": b"a\n" + b"x" * 41 + b"\n",
        "too-large-cut": b"a\n" + b"x" * 41,
        "utf-8": "é€😀\n".encode(),
    }
    for flags, found in ((streams.EVENTS, events), (0, lines)):
        kind = "events" if flags else "lines"
        for name, response in found.items():
            yield f"{kind}-{name}", bytes((flags, *[0] * 8)) + response
            yield f"{kind}-{name}-torn", bytes((flags | streams.LIMITED, *[1] * 8)) + response
