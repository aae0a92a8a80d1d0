"""Codecs: how an envelope becomes a WebSocket message and back."""

import re
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import msgspec

from ..errors import InvalidMessage
from .depth import json_is_deeper, msgpack_is_deeper
from .envelope import Envelope, Incoming

Kind = TypeVar("Kind")

_PATH = re.compile(r"^(?P<message>.*) - at (?P<key>`key` in )?`(?P<path>[^`]*)`$", re.DOTALL)

UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding raises for data that a client got wrong; :func:`invalid` says it in a sentence."""


def _plain(value: object) -> object:
    # Pydantic models are the one thing that msgspec can't encode and a handler may return.
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} can't be sent: make it part of a message class.")
    # As JSON has it for both codecs, so that a client is sent the same whichever it speaks.
    return dump(mode="json", by_alias=True)


pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode
"""Encode as a broker carries it: MessagePack, which keeps what JSON can't."""

_unpack = msgspec.msgpack.Decoder().decode


class _Judge(Protocol):
    def __call__(self, message: str | bytes, limit: int, *, at_once: bool) -> bool | None: ...


class Codec:
    """One encoding of the protocol, agreed on as a WebSocket subprotocol.

    `binary` is whether its WebSocket messages are binary, of MessagePack, else they are text, of JSON
    (RFC 8259).
    """

    def __init__(self, subprotocol: str, *, binary: bool) -> None:
        self.subprotocol = subprotocol
        self.binary = binary
        self.empty = msgspec.Raw(b"\x80" if binary else b"{}")
        """An empty object: what ``data`` is where a client leaves it out."""
        self._kind = bytes if binary else str
        self._read = cast("Callable[[str | bytes], Incoming]", self.decoder(Incoming))
        self.encode: Callable[[Envelope], bytes]
        """Return the payload of the WebSocket message for an envelope."""
        self.encode = pack if binary else msgspec.json.Encoder(enc_hook=_plain).encode
        self._is_deeper = cast("_Judge", msgpack_is_deeper if binary else json_is_deeper)

    def read(self, message: str | bytes) -> Incoming:
        """Return a client's message; :exc:`InvalidMessage` if it is no envelope."""
        if type(message) is not self._kind:
            wanted, sent = ("binary", "text") if self.binary else ("text", "binary")
            raise InvalidMessage(
                f"This connection speaks {self.subprotocol}: send {wanted} messages, not {sent}."
            )
        try:
            return self._read(message)
        except UNREADABLE as problem:
            if not message:
                raise InvalidMessage("The message is empty; send an envelope with at least a type.") from None
            raise invalid("envelope", problem) from None

    def shallow(self, limit: int) -> int:
        """Return up to which length a message can't have more than `limit` levels, and needs no check."""
        return limit if self.binary else 2 * limit

    def check_depth(self, message: str | bytes, limit: int, *, at_once: bool = False) -> bool:
        """Raise :exc:`InvalidMessage` if a message that could be read has more than `limit` levels.

        False if that is still to be told, since it takes longer than it may `at_once`.
        """
        deeper = self._is_deeper(message, limit, at_once=at_once)
        if deeper:
            raise _too_deep("envelope")
        return deeper is not None

    def decoder(self, kind: type[Kind]) -> Callable[[msgspec.Raw], Kind]:
        """Return a function that decodes and checks as `kind`; it raises what is :data:`UNREADABLE`."""
        return msgspec.msgpack.Decoder(kind).decode if self.binary else msgspec.json.Decoder(kind).decode

    def data(self, packed: msgspec.Raw) -> object:
        """Return ``data`` that a broker carried, ready to be put into an envelope."""
        return packed if self.binary else _unpack(packed)


JSON = Codec("hubbub.v1.json", binary=False)
MESSAGEPACK = Codec("hubbub.v1.msgpack", binary=True)

CODECS = {codec.subprotocol: codec for codec in (JSON, MESSAGEPACK)}
"""Codec by subprotocol, in the order of the server's preference."""


def negotiate(offered: list[str]) -> tuple[Codec, str | None]:
    """Return the codec for the subprotocols a client offers, and the subprotocol to answer with.

    The client's order decides (RFC 6455 section 1.9). JSON, and no subprotocol, where it offers none
    that hubbub speaks, so that any WebSocket tool can talk.
    """
    for name in offered:
        if name in CODECS:
            return CODECS[name], name
    return JSON, None


def invalid(name: str, problem: Exception) -> InvalidMessage:
    """Return what a decoder's error means for a message of type `name`, with the path it names."""
    if isinstance(problem, RecursionError):
        return _too_deep(name)
    located = _PATH.match(str(problem))
    message, path = (located["message"], located["path"]) if located else (str(problem), "$")
    if located and located["key"]:
        message += " as a key"
    return InvalidMessage(f"Not a valid {name!r}: {message} at {path}", [(path, message)])


def _too_deep(name: str) -> InvalidMessage:
    return InvalidMessage(f"Not a valid {name!r}: nested too deeply", [("$", "Nested too deeply")])
