"""Opening lines over HTTP."""

import asyncio

from yarl import URL

from ...errors import ConfigurationError
from ..handshake import Headers, Proxy, TLSContext, headers_with, listed
from ..line import Dial, NotConnected
from .carrying import HTTPLine
from .channel import PROBLEMS, Channel, cause_of, not_connected
from .parsing import EventStream, Lines
from .polling import ACCEPT, PollingLine
from .streaming import StreamingLine

KINDS = {"sse": "text/event-stream", "stream": "application/x-ndjson", "poll": ACCEPT}
"""By the first part of a URL's scheme: what is asked for."""


def dialling(
    url: str,
    *,
    headers: Headers | None = None,
    ssl: TLSContext | None = None,
    proxy: Proxy = True,
    max_size: int | None = 16 * 2**20,
    open_timeout: float = 10.0,
) -> Dial:
    """Return what opens lines to a URL such as ``sse+https://example.com``.

    The first part of its scheme says how messages come down: ``sse`` by Server-Sent Events, ``stream`` by one
    response with a line for each, ``poll`` by long polling. A line is open when the server has named it.

    Raises :exc:`hubbub.ConfigurationError` for a URL that can't be one. URLs and headers may have secrets in
    them, so no exception repeats them.
    """
    scheme, _, rest = url.partition("://")
    kind, _, protocol = scheme.lower().partition("+")
    name = f"{kind}+{protocol}"
    try:
        there = URL(f"{protocol}://{rest}").with_fragment(None)
    except ValueError:
        there = URL()
    if kind not in KINDS or protocol not in ("http", "https") or not there.host:
        raise ConfigurationError(
            "The URL is none for lines over HTTP: connect to a sse+https://, stream+https:// or "
            "poll+https:// URL, or the same without TLS."
        )
    if ssl is not None and protocol != "https":
        raise ConfigurationError(
            f"The URL is not encrypted: connect to a {kind}+https:// URL, or give no `ssl`."
        )
    given = listed(headers)

    async def opened(channel: Channel) -> HTTPLine:
        response = await channel.open(KINDS[kind])
        line: HTTPLine
        if kind == "poll":
            line = PollingLine(name, channel, response, max_size)
        else:
            parser = EventStream(max_size) if kind == "sse" else Lines(max_size)
            line = StreamingLine(name, channel, response, parser)
        try:
            await line.begin()
        except BaseException:
            response.close()
            raise
        return line

    async def dial(token: str | None) -> HTTPLine:
        channel = Channel(there, headers_with(given, token), ssl, proxy)
        try:
            async with asyncio.timeout(open_timeout):
                return await opened(channel)
        except BaseException as problem:
            await channel.close()
            if isinstance(problem, TimeoutError):
                raise NotConnected(f"no line was open within {open_timeout:g} s") from problem
            if isinstance(problem, PROBLEMS):
                raise not_connected(problem) from cause_of(problem)
            if isinstance(problem, ValueError):
                raise NotConnected(str(problem), comes_back=False) from None
            raise

    return dial
