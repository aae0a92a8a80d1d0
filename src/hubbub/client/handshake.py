"""What a client says and is told by HTTP as it opens a line, whatever kind of line it is."""

import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from ssl import SSLContext
from typing import Literal

from .line import NotConnected

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
TLSContext = SSLContext
Proxy = str | Literal[True] | None
"""A proxy's URL; True for what the environment says, None for none."""

LATER = frozenset({408, 425, 429, *range(500, 600)})
"""HTTP statuses after which another attempt may go better."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""HTTP statuses that say where to go instead."""

MOST_REDIRECTS = 10

Place = tuple[str, str | None, int | None]
"""The scheme, host and port of a URL."""

_WITH_TLS = {"http": "https", "ws": "wss"}


def may_follow(old: Place, new: Place) -> bool:
    """Tell whether a redirection may be followed: what is sent there has a login in it.

    It may on the same host, at the same port, and from no TLS to TLS.
    """
    (scheme, host, port), (new_scheme, new_host, new_port) = old, new
    same_port = (new_scheme, new_port) == (scheme, port)
    return new_host == host and (same_port or new_scheme == _WITH_TLS.get(scheme))


def listed(headers: Headers | None) -> list[tuple[str, str]]:
    """Return headers as pairs of a name and a value."""
    return list(headers.items() if isinstance(headers, Mapping) else headers or ())


def headers_with(given: Sequence[tuple[str, str]], token: str | None) -> list[tuple[str, str]]:
    """Return an application's headers and those of a login (RFC 6750 section 2.1).

    Raises :exc:`NotConnected` if one of them can't be sent. It repeats none: they may be secret.
    """
    login = [] if token is None else [("Authorization", f"Bearer {token}")]
    for name, value in (*given, *login):
        if not (value.isascii() and value.isprintable()):
            what = "the token" if (name, value) in login else f"the header {name!r}"
            raise NotConnected(
                f"{what} can't be sent: it has a line break or other characters than printable ASCII",
                comes_back=False,
                for_all=True,
            )
    return [*given, *login]


def seconds_of(retry_after: str = "") -> float:
    """Return what a ``Retry-After`` says (RFC 9110 section 10.2.3); 0 if it says nothing."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
