"""Codecs: how an envelope becomes a WebSocket message and back."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from ..errors import InvalidMessage
from .envelope import Envelope, Incoming
from .messages import invalid

EMPTY = "The message is empty; send an envelope with at least a type."


class Codec(Protocol):
    """One encoding of the protocol, agreed on as a WebSocket subprotocol."""

    subprotocol: str
    binary: bool
    """Whether its WebSocket messages are binary, else they are text."""
    empty: msgspec.Raw
    """An empty object: what ``data`` is where a client leaves it out."""

    def __hash__(self) -> int: ...

    def read(self, message: str | bytes) -> Incoming:
        """Return a client's message; :exc:`InvalidMessage` if it is no envelope."""

    def decoder(self, kind: type) -> Callable[[msgspec.Raw], object]:
        """Return a function that decodes and checks ``data`` as `kind`."""

    def encode(self, envelope: Envelope) -> bytes:
        """Return the payload of the WebSocket message."""

    def data(self, packed: msgspec.Raw) -> object:
        """Return ``data`` that a broker carried as MessagePack, ready to be put into an envelope."""


def _plain(value: object) -> object:
    # Pydantic models are the one thing that msgspec can't encode and a handler may return.
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} can't be sent: make it part of a message class.")
    return dump()


class JSONCodec:
    """Text messages of JSON (RFC 8259)."""

    subprotocol = "hubbub.v1.json"
    binary = False
    empty = msgspec.Raw(b"{}")

    def __init__(self) -> None:
        self._read = msgspec.json.Decoder(Incoming).decode
        self._unpack = msgspec.msgpack.Decoder().decode
        self.encode = msgspec.json.Encoder(enc_hook=_plain).encode

    def read(self, message: str | bytes) -> Incoming:  # noqa: D102
        if not isinstance(message, str):
            raise InvalidMessage(
                f"This connection speaks {self.subprotocol}: send text messages, not binary."
            )
        if not message:
            raise InvalidMessage(EMPTY)
        try:
            return self._read(message)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise invalid("envelope", problem) from None

    def decoder(self, kind: type) -> Callable[[msgspec.Raw], object]:  # noqa: D102
        return msgspec.json.Decoder(kind).decode

    def data(self, packed: msgspec.Raw) -> object:  # noqa: D102
        return self._unpack(packed)


class MessagePackCodec:
    """Binary messages of MessagePack."""

    subprotocol = "hubbub.v1.msgpack"
    binary = True
    empty = msgspec.Raw(b"\x80")

    def __init__(self) -> None:
        self._read = msgspec.msgpack.Decoder(Incoming).decode
        self.encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode

    def read(self, message: str | bytes) -> Incoming:  # noqa: D102
        if isinstance(message, str):
            raise InvalidMessage(
                f"This connection speaks {self.subprotocol}: send binary messages, not text."
            )
        if not message:
            raise InvalidMessage(EMPTY)
        try:
            return self._read(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise invalid("envelope", problem) from None

    def decoder(self, kind: type) -> Callable[[msgspec.Raw], object]:  # noqa: D102
        return msgspec.msgpack.Decoder(kind).decode

    def data(self, packed: msgspec.Raw) -> object:  # noqa: D102
        return packed


JSON: Codec = JSONCodec()
MESSAGEPACK: Codec = MessagePackCodec()

CODECS: dict[str, Codec] = {codec.subprotocol: codec for codec in (JSON, MESSAGEPACK)}
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
