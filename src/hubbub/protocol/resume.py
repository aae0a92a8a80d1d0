"""Session tokens: what a client shows to take its session up again, signed by the server."""

import hashlib
import hmac

import msgspec

SIGNATURE_SIZE = 16
"""Bytes of the signature: BLAKE2b with a key (RFC 7693), which takes a third of the time of an HMAC."""

LONGEST = 4096
"""Characters of a token that is looked at."""


class Claims(msgspec.Struct, frozen=True, array_like=True):
    """What a session token says.

    `turn` counts the connections that took the session up; `instance` is where the one is that was given
    the token. `expires` is in seconds of the Unix epoch.
    """

    session: str
    user: str | None
    turn: int
    instance: str
    expires: float


class Refused(Exception):
    """A token is not to be believed; the text says why, for the log and not for the client."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Claims).decode


def sign(claims: Claims, secret: bytes) -> str:
    """Return a token that says `claims`."""
    packed = _pack(claims)
    return (_signature(packed, secret) + packed).hex()


def verify(token: str, secret: bytes, now: float) -> Claims:
    """Return what a token says; :exc:`Refused` if it was not signed with `secret` or has expired at `now`."""
    if len(token) > LONGEST:
        raise Refused("too long")
    try:
        opened = bytes.fromhex(token)
    except ValueError:
        raise Refused("malformed") from None
    signature, packed = opened[:SIGNATURE_SIZE], opened[SIGNATURE_SIZE:]
    if not hmac.compare_digest(signature, _signature(packed, secret)):
        raise Refused("forged, or of another secret")
    try:
        claims = _unpack(packed)
    except (msgspec.DecodeError, UnicodeError):
        # Signed all the same: by another version.
        raise Refused("of another version") from None
    if claims.expires < now:
        raise Refused("expired")
    return claims


def _signature(packed: bytes, secret: bytes) -> bytes:
    # The purpose is signed along, should the secret ever sign something else.
    return hashlib.blake2b(packed, key=secret, digest_size=SIGNATURE_SIZE, person=b"hubbub session").digest()
