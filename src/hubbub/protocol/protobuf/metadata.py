"""What a call's metadata say: that a line is open, and beside its status why it ended, or was not opened."""

from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from ..envelope import Failure

PROTOCOL = "hubbub-protocol"
"""Among the initial metadata of a line that is open: the version of the protocol."""
CLOSE_CODE = "hubbub-close-code"
CLOSE_REASON = "hubbub-close-reason"
"""Percent-encoded, as of UTF-8 (RFC 3986 section 2.1): metadata are ASCII."""
STATUS = "hubbub-status"
"""The HTTP status with which a WebSocket would have been refused."""
RETRY_AFTER = "hubbub-retry-after"
"""Seconds for which a client that was refused is to stay away."""
FAILURE = "hubbub-failure-bin"
"""The data of an ``$error``, in JSON: why nothing was published."""

Metadata = tuple[tuple[str, str | bytes], ...]

_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class Close(NamedTuple):
    """Why a line ended."""

    code: int
    reason: str


class Refused(NamedTuple):
    """Why a line was not opened."""

    status: int
    after: float


def closed(code: int, reason: str) -> Metadata:
    """Return the metadata that say why a line ended."""
    return (CLOSE_CODE, str(int(code))), (CLOSE_REASON, quote(reason, safe=_PLAIN))


def refused(status: int, after: int | None) -> Metadata:
    """Return the metadata that say why a line was not opened; `after` is in seconds."""
    told: Metadata = ((STATUS, str(status)),)
    return told if after is None else (*told, (RETRY_AFTER, str(after)))


def failed(failure: Failure) -> Metadata:
    """Return the metadata that say why nothing was published."""
    return ((FAILURE, msgspec.json.encode(failure)),)


def read(metadata: Metadata) -> Close | Refused | None:
    """Return what trailing metadata say; None where they are not hubbub's."""
    told = {name: value for name, value in metadata if isinstance(value, str)}
    code, status, after = (_number(told.get(name, "")) for name in (CLOSE_CODE, STATUS, RETRY_AFTER))
    if code is not None:
        return Close(code, unquote(told.get(CLOSE_REASON, "")))
    if status is not None:
        return Refused(status, float(after or 0))
    return None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
