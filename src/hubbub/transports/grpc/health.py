"""gRPC's health service, as its health checking protocol has it: the hub is ready, or not.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

from ...protocol.protobuf.messages import SERVICE
from .service import Calls

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

HEALTH = "grpc.health.v1.Health"

INTERVAL = 1.0
"""Seconds between two looks, for who watches."""


class Health:
    """``Check`` and ``Watch``, of the server as a whole and of hubbub's service.

    `ready` tells whether clients are taken in. Nobody tells of its changes: for who watches it is asked again
    and again.
    """

    def __init__(self, ready: Callable[[], bool], calls: Calls) -> None:
        self._ready = ready
        self._calls = calls
        self._leaving = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server finds the methods by."""
        read, write = (
            health_pb2.HealthCheckRequest.FromString,
            health_pb2.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check, read, write),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch, read, write),
            },
        )

    def leave(self) -> None:
        """Tell those who watch that the server stops, and end their calls."""
        self._leaving.set()

    async def check(
        self, request: health_pb2.HealthCheckRequest, context: "ServicerContext"
    ) -> health_pb2.HealthCheckResponse:
        """Say how it is now."""
        answer = self._answer(request)
        if answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return answer

    async def watch(self, request: health_pb2.HealthCheckRequest, context: "ServicerContext") -> None:
        """Say how it is, and again each time that it has changed."""
        await self._calls.admit(context, self._calls.scope_of(context, f"/{HEALTH}/Watch"))
        told = None
        while True:
            leaving = self._leaving.is_set()  # before it is answered, so that the end is told, too
            answer = self._answer(request)
            if answer != told:
                await context.write(answer)
                told = answer
            if leaving:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._leaving.wait()

    def _answer(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        if request.service not in ("", SERVICE):
            return statuses(status=statuses.SERVICE_UNKNOWN)
        ready = self._ready() and not self._leaving.is_set()
        return statuses(status=statuses.SERVING if ready else statuses.NOT_SERVING)
