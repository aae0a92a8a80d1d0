"""Every kind of line, by the scheme of its URL."""

import importlib
from ssl import SSLContext

from ..errors import ConfigurationError
from ..protocol.codecs import JSON
from . import websocket
from .handshake import Headers, Proxy
from .line import Dial

OTHERS = {
    "sse+http": ("http", ".http_lines"),
    "sse+https": ("http", ".http_lines"),
    "stream+http": ("http", ".http_lines"),
    "stream+https": ("http", ".http_lines"),
    "poll+http": ("http", ".http_lines"),
    "poll+https": ("http", ".http_lines"),
    "grpc": ("grpc", ".grpc_line"),
    "grpcs": ("grpc", ".grpc_line"),
    "socketio+http": (None, ".socketio_line"),
    "socketio+https": (None, ".socketio_line"),
}
"""By the scheme of a URL: the extra with the library that the line needs, and the module that opens it."""

SCHEMES = ("ws", "wss", *OTHERS)
"""What URLs begin with."""

SECURE = frozenset({"wss", "grpcs", *(scheme for scheme in OTHERS if scheme.endswith("https"))})
"""Those with TLS."""

_PROXIED = frozenset({".http_lines", ".socketio_line"})


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case."""
    return url.partition("://")[0].lower()


def dialling(
    url: str,
    *,
    subprotocol: str | None = JSON.subprotocol,
    headers: Headers | None = None,
    ssl: SSLContext | None = None,
    proxy: Proxy = True,
    compression: str | None = "deflate",
    max_size: int | None = 16 * 2**20,
    open_timeout: float = 10.0,
) -> Dial:
    """Return what opens lines to a URL, of the kind that its scheme names.

    `subprotocol` and `compression` are for WebSockets; all others speak JSON. Over gRPC, its library does
    what the environment says of proxies. Raises :exc:`hubbub.ConfigurationError` for what can't work.
    """
    scheme = scheme_of(url)
    if scheme not in OTHERS:
        if "://" in url and scheme not in SCHEMES:
            raise ConfigurationError(
                f"There is no line of the kind {scheme}://. Connect to a ws:// or wss:// URL, or to one of "
                f"{', '.join(f'{other}://' for other in OTHERS)}."
            )
        return websocket.dialling(
            url,
            subprotocol=subprotocol,
            headers=headers,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            max_size=max_size,
            open_timeout=open_timeout,
        )
    if subprotocol != JSON.subprotocol:
        raise ConfigurationError(
            f"A line of the kind {scheme}:// speaks {JSON.subprotocol}; give no other `subprotocol`."
        )
    extra, module = OTHERS[scheme]
    try:
        opener = importlib.import_module(module, __package__)
    except ModuleNotFoundError as problem:
        if (problem.name or "").startswith("hubbub") or extra is None:
            raise
        raise ConfigurationError(
            f"A line of the kind {scheme}:// needs a package more: pip install 'hubbub[{extra}]'."
        ) from None
    options = {"proxy": proxy} if module in _PROXIED else {}
    dial: Dial = opener.dialling(
        url, headers=headers, ssl=ssl, max_size=max_size, open_timeout=open_timeout, **options
    )
    return dial
