"""The service of `hubbub.proto`: each call of it is let into the hub as a line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import grpc
from grpc.aio import EOF
from starlette.types import Scope

from ...observe.log import fields, logger
from ...protocol.codecs import JSON
from ...protocol.codes import CloseCode
from ...protocol.envelope import Envelope, Failure, Join, Position, Resume
from ...protocol.protobuf import messages
from ...settings import Settings
from ..access import NAMELESS
from ..admission import Counts, OpenLine, Proxies, Refusal
from ..publish import Outcome
from . import statuses
from .line import GRPCLine

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

Publish = Callable[[Scope, bytes], Awaitable[Outcome]]
"""Publishes a message, in JSON, if the request may."""


class Calls:
    """The calls that are there and are no lines, in all and from each address; lines are counted as such."""

    def __init__(self, settings: Settings) -> None:
        self._counts = Counts(settings.max_connections, settings.max_connections_per_address)
        self._proxies = Proxies(settings)

    def scope_of(self, context: "ServicerContext", path: str) -> Scope:
        """Return a call as a request of ASGI's: metadata are headers."""
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in context.invocation_metadata()
            if isinstance(value, str)
        ]
        scope: Scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "scheme": "https"
            if context.auth_context().get("transport_security_type") == [b"ssl"]
            else "http",
            "path": path,
            "query_string": b"",
            "headers": headers,
            "client": address_of(context.peer()),
            "extensions": {NAMELESS: {}},
        }
        self._proxies.correct(scope)
        return scope

    async def admit(self, context: "ServicerContext", scope: Scope) -> None:
        """Count a call as long as it is there; end it if there may be no more."""
        client = self._proxies.counted_client(scope)
        refusal = self._counts.add(client)
        if refusal is not None:
            await end(context, statuses.refused(refusal))
        context.add_done_callback(lambda _: self._counts.remove(client))


class Service:
    """``Connect``, ``Subscribe`` and ``Publish``. Without `publish` there is none."""

    def __init__(
        self, open_line: OpenLine, settings: Settings, calls: Calls, publish: Publish | None = None
    ) -> None:
        self._open_line = open_line
        self._settings = settings
        self._calls = calls
        self._publish = publish
        self._sessions: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server finds the methods by. They take and give bytes, so that one serves many."""
        methods = {
            "Connect": grpc.stream_stream_rpc_method_handler(self.connect),
            "Subscribe": grpc.unary_stream_rpc_method_handler(self.subscribe),
        }
        if self._publish is not None:
            methods["Publish"] = grpc.unary_unary_rpc_method_handler(self.publish)
        return grpc.method_handlers_generic_handler(messages.SERVICE, methods)

    async def connect(self, requests: object, context: "ServicerContext") -> None:  # noqa: ARG002
        """Serve a line that goes both ways."""

        async def read(line: GRPCLine) -> bytes | None:  # noqa: ARG001
            message = await context.read()
            return None if message is EOF else message

        await self._serve(context, "Connect", GRPCLine(context, read))

    async def subscribe(self, request: bytes, context: "ServicerContext") -> None:
        """Serve a line that listens only."""
        try:
            waiting = requests_of(request)
        except (messages.UNREADABLE_PROTOBUF, ValueError) as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Not a Subscription: {problem}")
            return

        async def read(line: GRPCLine) -> str | None:
            if waiting:
                return waiting.pop(0)
            await asyncio.shield(line.ended)
            return None

        await self._serve(context, "Subscribe", GRPCLine(context, read))

    async def publish(self, request: bytes, context: "ServicerContext") -> bytes:
        """Publish a message of a program that is no client."""
        scope = self._calls.scope_of(context, _path("Publish"))
        await self._calls.admit(context, scope)
        try:
            body = messages.publication_of(request)
        except (messages.UNREADABLE_PROTOBUF, ValueError) as problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Not a Publication: {problem}")
            raise AssertionError from problem
        assert self._publish is not None
        outcome = await self._publish(scope, body)
        if isinstance(outcome.told, Failure):
            await end(context, statuses.failed(outcome.status, outcome.told))
        assert isinstance(outcome.told, Position)
        return messages.position_of(outcome.told)

    async def _serve(self, context: "ServicerContext", method: str, line: GRPCLine) -> None:
        try:
            serving = await self._open_line(self._calls.scope_of(context, _path(method)), line, JSON)
        except Exception:
            # gRPC would tell the client all of it.
            logger.exception("error", extra=fields(during="letting in a gRPC line"))
            await end(context, statuses.closed(CloseCode.INTERNAL_ERROR, "internal error"))
            return
        if isinstance(serving, Refusal):
            await end(context, statuses.refused(serving))
            return
        session: asyncio.Task[None] = asyncio.create_task(_run(serving), name="hubbub: gRPC session")
        self._sessions.add(session)
        session.add_done_callback(self._over)
        # Neither is to hold the other once it is gone.
        del serving, session
        await end(context, await line.until_ended())

    def _over(self, session: "asyncio.Task[None]") -> None:
        self._sessions.discard(session)
        if not session.cancelled() and (problem := session.exception()) is not None:
            logger.error("error", exc_info=problem, extra=fields(during="serving a gRPC line"))


async def _run(serving: Awaitable[None]) -> None:
    await serving


def _path(method: str) -> str:
    return f"/{messages.SERVICE}/{method}"


async def end(context: "ServicerContext", status: statuses.Status) -> None:
    """End a call; what is not OK is raised, as gRPC wants it."""
    if status.code is grpc.StatusCode.OK:
        context.set_trailing_metadata(status.metadata)
    else:
        await context.abort(status.code, status.details, status.metadata)


def requests_of(subscription: bytes) -> list[str]:
    """Return what a client would say over a line both ways: one ``$resume``, or a ``$join`` for each room.

    Each answer has the number of its room, from 1 on, as its id; that to ``$resume`` has 0.
    """
    wanted = messages.Subscription.FromString(subscription)
    since = {
        room.name: Position(room.since.epoch, room.since.offset) if room.HasField("since") else None
        for room in wanted.rooms
    }
    if wanted.session:
        resume = Resume(wanted.session, since, wanted.attempt)
        requests = [Envelope("$resume", id=0, data=resume)]
    else:
        requests = [
            Envelope("$join", id=number, room=name, data=Join(position))
            for number, (name, position) in enumerate(since.items(), 1)
        ]
    return [JSON.encode(request).decode() for request in requests]


def address_of(peer: str) -> tuple[str, int] | None:
    """Return address and port of what gRPC calls a peer.

    >>> address_of("ipv6:%5B::1%5D:40000")
    ('::1', 40000)
    """
    family, _, address = peer.partition(":")
    host, _, port = unquote(address).rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return host.strip("[]"), int(port)
