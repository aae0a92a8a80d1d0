"""What is said to other instances without waiting: each is sent what there is for it together."""

import asyncio
from collections.abc import Iterator

import msgspec

from ..brokers.base import Broker
from ..errors import Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import pack
from .control import MAX_CONTROL, Several, send_packed

MAX_WAITING = 64 * 2**20
"""Bytes that may wait to be sent; what is too much is left out, and not waited for without end."""

BATCH = MAX_CONTROL - 1024
"""Bytes of messages that are sent as one."""

OVERHEAD = 5
"""Bytes that each takes in it beside its own: MessagePack's head of a string of bytes."""


class Outgoing:
    """Sends control messages in a task that is there only while some wait.

    A broadcast that ends thousands of polls of clients elsewhere is a few messages that way, and not
    thousands. What can't be sent is logged: a control message may always get lost.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: dict[str, list[bytes]] = {}
        self._size = 0
        self._sender: asyncio.Task[None] | None = None
        self._crowded = False

    def put(self, instance: str, message: msgspec.Struct) -> None:
        """Say something to an instance, in this turn of the event loop or a later one."""
        payload = pack(message)
        crowded = self._size + len(payload) > MAX_WAITING
        if not crowded:
            self._waiting.setdefault(instance, []).append(payload)
            self._size += len(payload)
            self._start()
        elif not self._crowded:
            logger.warning("control", extra=fields(waiting=self._size, more="is left out"))
        self._crowded = crowded

    async def stop(self, seconds: float) -> None:
        """Say what waits, within some seconds."""
        if self._sender is not None:
            sender = self._sender
            _, late = await asyncio.wait((sender,), timeout=seconds)
            self._waiting.clear()
            if late:
                sender.cancel()
                await asyncio.wait(late)

    def _start(self) -> None:
        if self._sender is None and self._waiting:
            self._sender = asyncio.create_task(self._send(), name="hubbub: control messages")
            self._sender.add_done_callback(self._done)

    async def _send(self) -> None:
        while self._waiting:
            instance = next(iter(self._waiting))
            payloads = self._waiting.pop(instance)
            try:
                for batch in _batches(payloads):
                    together = batch[0] if len(batch) == 1 else pack(Several(batch))
                    await self._send_to(instance, together)
            finally:
                self._size -= sum(map(len, payloads))

    async def _send_to(self, instance: str, payload: bytes) -> None:
        try:
            await send_packed(self._broker, instance, payload)
        except Unavailable as problem:
            logger.warning("control", extra=fields(unsaid_to=instance, problem=str(problem)))

    def _done(self, sender: asyncio.Task[None]) -> None:
        self._sender = None
        problem = None if sender.cancelled() else sender.exception()
        if problem is not None:
            logger.error("error", exc_info=problem, extra=fields(during="control message"))
        self._start()


def _batches(payloads: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        if batch and size + len(payload) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(payload)
        size += len(payload) + OVERHEAD
    yield batch
