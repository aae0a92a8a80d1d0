"""A line over gRPC: the bidirectional stream of `hubbub.proto`, by grpcio."""

import asyncio
import os
import ssl as tls
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

# With it, the programs that an application starts under uvloop crash now and then before they begin: uvloop
# forks, and gRPC's threads go on meanwhile. `grpc.aio` can't be used in a fork in any case. It is read once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    import grpc
    import grpc.aio

    from ..protocol.protobuf import messages
except ModuleNotFoundError as problem:
    if (problem.name or "").startswith("hubbub"):
        raise
    _missing = True
else:
    _missing = False
    ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError)
    """What a call raises that has ended; the last where it was cancelled, as nobody cancels what asks it."""

from ..errors import ConfigurationError
from ..protocol.codecs import JSON
from ..protocol.codes import CloseCode
from ..protocol.protobuf import metadata
from .handshake import LATER, Headers, headers_with, listed
from .line import Dial, LineLost, NotConnected
from .websocket import CLOSES_WITHIN

STATUS_WITHIN = 1.0
"""Seconds that the status of a call has to come in, once it is known that it has ended."""

CONNECT = "/hubbub.v1.Hubbub/Connect"

PORTS = {"grpc": 50051, "grpcs": 443}
"""By scheme: the port where a URL has none."""


class GRPCLine:
    """A call of ``Connect`` that is open, on an HTTP/2 connection of its own."""

    name = "grpc"
    subprotocol: str | None = JSON.subprotocol
    heard_at = 0.0
    """Heartbeats are messages here."""

    def __init__(self, name: str, channel: "grpc.aio.Channel", call: "grpc.aio.StreamStreamCall") -> None:
        self.name = name
        self._channel = channel
        self._call = call
        self._misspoken = False
        self._arrived: deque[str] = deque()
        self._messages: AsyncIterator[bytes] = aiter(call)
        self._reading: asyncio.Future[bool] | None = None
        self._writing: asyncio.Future[bool] | None = None

    async def send(self, message: str | bytes) -> None:
        """Send an envelope's JSON; :exc:`ValueError` for what is none."""
        payload = messages.message_of(message)
        if self._writing is not None:
            # Of one who was cancelled; gRPC takes one write at a time.
            await asyncio.wait([self._writing])
        # A call whose reading or writing is cancelled is cancelled itself, so each goes on whoever waits.
        self._writing = asyncio.ensure_future(self._write(payload))
        await asyncio.wait([self._writing])
        if not self._writing.result():
            with suppress(TimeoutError):
                async with asyncio.timeout(STATUS_WITHIN):
                    # The status comes behind what nobody has taken yet.
                    while await self._more():
                        pass
            raise await self._lost()

    async def recv(self) -> str:  # noqa: D102
        while not self._arrived:
            if not await self._more():
                raise await self._lost()
        return self._arrived.popleft()

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: ARG002  # it can't be told
        """Say that no more is sent, and wait some seconds for the server to end the call.

        All codes but 1006 are 1000 to the server: a gRPC client has no way to say why.
        """
        try:
            if code != CloseCode.ABNORMAL:
                with suppress(TimeoutError, grpc.aio.AioRpcError, LineLost):
                    async with asyncio.timeout(CLOSES_WITHIN):
                        await self._call.done_writing()
                        # What nobody takes would stand before the call's status.
                        while True:
                            await self.recv()
        finally:
            self._call.cancel()
            try:
                left = [work for work in (self._reading, self._writing) if work is not None]
                if left:
                    await asyncio.wait(left)
            finally:
                await self._channel.close()

    async def _more(self) -> bool:
        """Wait until more has arrived; false if nothing will. Several may wait."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())
        reading = self._reading
        await asyncio.wait([reading])
        return reading.result()

    async def _read(self) -> bool:
        try:
            read = await anext(self._messages)
        except (StopAsyncIteration, *ENDED):
            return False
        try:
            self._arrived.extend(messages.envelopes_of(read))
        except messages.UNREADABLE_PROTOBUF:
            self._misspoken = True
            self._call.cancel()
            return False
        else:
            return True

    async def _write(self, payload: bytes) -> bool:
        """Write a message; false if the call has ended."""
        if self._call.done():
            return False
        try:
            # The call's `write` would put an error of its own in the place of the server's status, for good.
            await self._call._cython_call.send_serialized_message(payload)
        except (grpc.aio.InternalError, asyncio.CancelledError):
            return False
        else:
            return True

    async def _lost(self) -> LineLost:
        """Return why the call has ended, once it has."""
        end = await _end_of(self._call)
        await self._channel.close()
        if self._misspoken:
            return LineLost(CloseCode.PROTOCOL_ERROR, "the server sent what is no protobuf")
        if isinstance(end.told, metadata.Close):
            return LineLost(*end.told)
        if end.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # grpcio's own, of either side: a message was larger than may be.
            return LineLost(CloseCode.MESSAGE_TOO_BIG, end.details)
        return LineLost(CloseCode.ABNORMAL, end.details)


class _Ended(NamedTuple):
    """The status of a call that has ended, and what hubbub's server has told with it."""

    status: "grpc.StatusCode"
    details: str
    told: metadata.Close | metadata.Refused | None


async def _end_of(call: "grpc.aio.Call") -> _Ended:
    """Return how a call ended, which is about to come in."""
    try:
        async with asyncio.timeout(STATUS_WITHIN):
            told = metadata.read(tuple(await call.trailing_metadata() or ()))
            return _Ended(await call.code(), str(await call.details() or ""), told)
    except TimeoutError:
        return _Ended(grpc.StatusCode.UNKNOWN, "the server did not say why", None)


def _refused(end: _Ended) -> NotConnected:
    if isinstance(end.told, metadata.Refused):
        later = end.told.status in LATER
        return NotConnected(end.details, status=end.told.status, comes_back=later, after=end.told.after)
    stays = (
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    # gRPC has no status for it; the words are OpenSSL's and BoringSSL's.
    distrusted = "certificate_verify_failed" in end.details.lower().replace(" ", "_")
    return NotConnected(
        end.details or end.status.name.lower(),
        comes_back=end.status not in stays and not distrusted,
        for_all=distrusted,
    )


def _target(url: str) -> tuple[bool, str]:
    """Return whether a URL is encrypted, and host and port as gRPC has them."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in PORTS or not parts.hostname or extra:
        # What it says may hold a password.
        raise ConfigurationError(
            "The URL is none for gRPC: connect to grpc://host:port or grpcs://host:port."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme == "grpcs", f"{host}:{port}"


def _credentials(context: tls.SSLContext | None) -> "grpc.ChannelCredentials":
    """Return gRPC's credentials for an `ssl` context: its authorities, for gRPC has a TLS of its own."""
    if context is None:
        context = tls.create_default_context()
    elif context.verify_mode != tls.CERT_REQUIRED or not context.check_hostname:
        raise ConfigurationError(
            "gRPC always checks the server's certificate and name; give an `ssl` that does."
        )
    authorities = "".join(tls.DER_cert_to_PEM_cert(found) for found in context.get_ca_certs(binary_form=True))
    return grpc.ssl_channel_credentials(root_certificates=authorities.encode() or None)


def dialling(
    url: str,
    *,
    headers: Headers | None = None,
    ssl: tls.SSLContext | None = None,
    open_timeout: float = 10.0,
    max_size: int | None = 16 * 2**20,
) -> Dial:
    """Return what opens lines to a ``grpc://`` or ``grpcs://`` URL.

    `headers` become metadata. Of `ssl`, the authorities that it trusts are used; gRPC has a TLS of its own,
    which knows neither its client certificate nor its ciphers. `max_size` is in bytes, `open_timeout` in
    seconds. Raises :exc:`hubbub.ConfigurationError` for what can't work.

    URLs and headers may have secrets in them, so no exception repeats them.
    """
    if _missing:
        raise ConfigurationError("A line over gRPC needs packages more: pip install 'hubbub[grpc]'.")
    secure, target = _target(url)
    if ssl is not None and not secure:
        raise ConfigurationError("The URL is not encrypted: connect to a grpcs:// URL, or give no `ssl`.")
    credentials = _credentials(ssl) if secure else None
    given = listed(headers)
    options = [
        ("grpc.max_receive_message_length", -1 if max_size is None else max_size),
        ("grpc.max_send_message_length", -1),
        # Each line has a connection of its own: it ends with it, and waits for nobody else's.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]

    async def dial(token: str | None) -> GRPCLine:
        headers_to_send = headers_with(given, token)
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, options)
        else:
            channel = grpc.aio.secure_channel(target, credentials, options)
        try:
            call = channel.stream_stream(CONNECT)(
                metadata=tuple((name.lower(), value) for name, value in headers_to_send)
            )
            try:
                async with asyncio.timeout(open_timeout):
                    await _opened(call)
            except TimeoutError:
                raise NotConnected(f"not opened within {open_timeout:g} s") from None
        except BaseException:
            await channel.close()
            raise
        return GRPCLine("grpcs" if secure else "grpc", channel, call)

    return dial


async def _opened(call: "grpc.aio.StreamStreamCall") -> None:
    """Wait until the server has let the call in, which it says before anything else."""
    initial = await call.initial_metadata()
    if metadata.PROTOCOL not in dict(initial or ()):
        raise _refused(await _end_of(call))
