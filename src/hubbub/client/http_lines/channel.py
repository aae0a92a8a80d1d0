"""The requests of one line: where they go, by which proxy, and with which headers."""

import ssl
from collections.abc import Sequence
from contextlib import suppress
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ..handshake import LATER, MOST_REDIRECTS, REDIRECTS, Place, Proxy, TLSContext, may_follow, seconds_of
from ..line import NotConnected

PROBLEMS = (aiohttp.ClientError, OSError)
"""What a request raises that did not get there, or whose answer did not."""

OWN_HEADERS = {"Accept-Encoding": "identity", "Cache-Control": "no-store"}
"""What comes is taken as it is: nothing that expands as it is decoded."""


class Channel:
    """Requests to one URL, each with the same headers."""

    def __init__(
        self, url: URL, headers: Sequence[tuple[str, str]], tls: TLSContext | None, proxy: Proxy
    ) -> None:
        self._url = url
        self._proxy = proxy
        # All that a line needs: the response that goes on or the poll, a POST, and the last word.
        connector = aiohttp.TCPConnector(limit=3, ssl=True if tls is None else tls)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=[*OWN_HEADERS.items(), *headers],
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
        )

    async def open(self, accept: str) -> aiohttp.ClientResponse:
        """Ask for a line; return the response, with status 200 and its body to come.

        Redirections are followed on the same host, at the same port, and from no TLS to TLS: the requests
        have a login in them. Raises :exc:`NotConnected` if the server refuses, and :data:`PROBLEMS`.
        """
        for _ in range(MOST_REDIRECTS):
            response = await self.request("GET", {"Accept": accept})
            if response.status == 200:
                if response.content_type == accept:
                    return response
                response.close()
                what = response.content_type
                raise NotConnected(f"the server answered with {what} instead of a line", comes_back=False)
            response.close()
            if response.status not in REDIRECTS or not self._moved_to(response.headers.get("Location", "")):
                break
        status = response.status
        raise NotConnected(
            f"the server answered with HTTP {status}",
            status=status,
            comes_back=status in LATER,
            after=seconds_of(response.headers.get("Retry-After", "")),
        )

    def _moved_to(self, location: str) -> bool:
        with suppress(ValueError):
            url = self._url.join(URL(location))
            if location and may_follow(_place_of(self._url), _place_of(url)):
                self._url = url.with_fragment(None)
                return True
        return False

    async def request(
        self, method: str, headers: dict[str, str], body: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Make a request; return the response, whose body is still to come.

        Raises :exc:`NotConnected` where the proxy is none for it, and :data:`PROBLEMS`.
        """
        return await self._session.request(
            method, self._url, headers=headers, data=body, proxy=self._proxy_url(), allow_redirects=False
        )

    def _proxy_url(self) -> str | None:
        url, proxy = self._url, self._proxy
        if proxy is True:
            bypassed = proxy_bypass(f"{url.host}:{url.port}")
            proxy = None if bypassed else getproxies().get(url.scheme)
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise NotConnected(
                f"a proxy at {proxy.partition(':')[0]}:// can't be used for lines over HTTP", comes_back=False
            )
        return proxy

    async def close(self) -> None:
        """End all requests at once."""
        await self._session.close()


def cause_of(problem: Exception) -> OSError | None:
    """Return what the system, or TLS, says of a request that got nowhere; None if it was not that."""
    if isinstance(problem, aiohttp.ClientConnectorCertificateError):
        problem = problem.certificate_error
    elif isinstance(problem, aiohttp.ClientConnectorError):
        problem = problem.os_error
    elif isinstance(problem, aiohttp.ClientError):
        return None
    return problem if isinstance(problem, OSError) else None


def not_connected(problem: Exception) -> NotConnected:
    """Return what a request raised as the reason why there is no line."""
    cause = cause_of(problem)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return NotConnected(str(cause), comes_back=False, for_all=True)
    return NotConnected(said(problem), comes_back=not isinstance(problem, aiohttp.InvalidURL))


def said(problem: Exception) -> str:
    """Return in words what a request raised.

    URLs and headers may have secrets in them, and what aiohttp says may have a URL in it: nothing of it is
    repeated but what the system says.
    """
    match problem:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered with HTTP {problem.status}"
        case aiohttp.ClientConnectorError():
            return f"{problem.host}:{problem.port} can't be reached: {_of_system(problem.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "the response broke off"
        case aiohttp.ClientResponseError():
            return "the answer is no HTTP"
        case aiohttp.InvalidURL():
            return "the URL is none"
        case OSError():
            return _of_system(problem)
    return f"the connection was lost ({type(problem).__name__})"


def _of_system(problem: OSError) -> str:
    return problem.strerror if problem.errno and problem.strerror else type(problem).__name__


def _place_of(url: URL) -> Place:
    return url.scheme, url.host, url.port
