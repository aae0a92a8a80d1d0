"""One connection to RabbitMQ, from its opening to its end: it is never mended, but replaced.

It stands on aiormq, the protocol half of aio-pika, whose other half makes objects and bookkeeping for each
message that a log has no use for.
"""

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from ...errors import ConfigurationError
from ...observe.log import fields, logger
from .address import Address

PREFETCH = 1000
"""Messages of the log that may be on their way."""
ACKNOWLEDGE = 100
"""Messages after which their receipt is told."""
QUESTIONS = 100
"""Questions of others that are answered at a time."""
REPLY_TO = "amq.rabbitmq.reply-to"
"""A queue of RabbitMQ that needs none."""
CLOSES_WITHIN = 2.0
OLDEST = (3, 9)
"""The first version of RabbitMQ that has streams."""

Trouble = (OSError, aiormq.AMQPError, EOFError, TimeoutError, RuntimeError)
"""What the client library raises when a connection is of no use any more."""

_UNREADABLE = (ssl.SSLError, FileNotFoundError, IsADirectoryError, PermissionError)
"""What comes of files of certificates, before there is a connection."""

Take = Callable[[int, bytes], None]


class Line:
    """A connection with two channels: one that reads the log, and one for all else."""

    def __init__(self, address: Address, connection: aiormq.Connection, transport: "_Transport") -> None:
        self._address = address
        self._connection = connection
        self._transport = transport
        self._reading: aiormq.Channel
        self._channel: aiormq.Channel
        self._acknowledging: asyncio.Task[None] | None = None
        self._read = 0
        self._refused = False
        self._asking: aiormq.Channel
        self._asked: dict[str, asyncio.Future[bytes]] = {}
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when it is of no use any more, with why."""

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Connect, and make what is not there: the log, and the exchange to everyone.

        Raises :exc:`ConfigurationError` if that won't ever work, one of :data:`Trouble` if it does not now.
        """
        transport = _Transport(address.url.startswith("amqps:"))
        try:
            connection = await aiormq.connect(address.url, transport_factory=transport)
        except aiormq.exceptions.ProbableAuthenticationError:
            transport.abort()
            raise ConfigurationError(
                f"RabbitMQ at {address.shown} refuses the user or the password of the broker's URL."
            ) from None
        except aiormq.exceptions.InvalidFrameError:
            transport.abort()
            raise ConfigurationError(
                f"RabbitMQ at {address.shown} has no such virtual host, or the user may not use it."
            ) from None
        except BaseException as problem:
            transport.abort()
            if isinstance(cause := problem.__cause__, ssl.SSLCertVerificationError):
                raise ConfigurationError(
                    f"The certificate of RabbitMQ at {address.shown} is not trusted "
                    f"({cause.verify_message}): name who signed it with cafile in the URL."
                ) from None
            if isinstance(problem, _UNREADABLE) and not isinstance(problem, aiormq.AMQPError):
                raise ConfigurationError(
                    f"A line to RabbitMQ at {address.shown} can't be encrypted: look at the files of "
                    f"certificates and keys that the URL names ({problem})."
                ) from None
            raise
        line = cls(address, connection, transport)
        try:
            await line._prepare()
        except BaseException:
            await line.abort()
            raise
        return line

    async def _prepare(self) -> None:
        address = self._address
        told = str(self._connection.server_properties.get("version", ""))
        version = tuple(int(part) for part in told.split(".")[:2] if part.isdigit())
        if version < OLDEST:
            raise ConfigurationError(f"RabbitMQ at {address.shown} is {told}, which has no streams; 3.9 has.")
        self._connection.closing.add_done_callback(self._ended)
        self._channel = await self._open_channel()
        self._reading = await self._open_channel()
        await self._reading.basic_qos(prefetch_count=PREFETCH)
        self._reading.on_consumer_cancel_callbacks.add(lambda _: self.end("the log was deleted"))
        try:
            await self._channel.queue_declare(
                address.log,
                durable=True,
                arguments={
                    "x-queue-type": "stream",
                    "x-max-length-bytes": address.log_bytes,
                    "x-stream-max-segment-size-bytes": max(address.log_bytes // 16, 2**16),
                },
            )
            await self._channel.queue_declare(address.pointer, durable=True, arguments={"x-max-length": 1})
            await self._channel.exchange_declare(address.everyone, exchange_type="fanout", durable=True)
            await self._channel.exchange_declare(address.instances, exchange_type="direct", durable=True)
        except aiormq.exceptions.ChannelPreconditionFailed:
            raise ConfigurationError(
                f"The queues {address.prefix}.* at {address.shown} are there with other settings: "
                "use the same log_bytes everywhere, or another prefix."
            ) from None
        except aiormq.exceptions.ChannelAccessRefused as problem:
            raise self._lacks_rights() from problem

    async def _open_channel(self) -> aiormq.Channel:
        channel = await self._connection.channel(publisher_confirms=False)
        assert isinstance(channel, aiormq.Channel)
        channel.closing.add_done_callback(self._ended)
        return channel

    def _ended(self, closing: "asyncio.Future[object]") -> None:
        problem = None if closing.cancelled() else closing.exception()
        self._refused |= isinstance(problem, aiormq.exceptions.ChannelAccessRefused)
        self.end(str(problem) if problem else "the connection was closed")

    def check_rights(self, problem: BaseException | None = None) -> None:
        """Raise :exc:`ConfigurationError` if it ended, or met a problem, as the user lacks a right."""
        if self._refused or isinstance(problem, aiormq.exceptions.ChannelAccessRefused):
            raise self._lacks_rights() from problem

    def _lacks_rights(self) -> ConfigurationError:
        return ConfigurationError(
            f"The user of the broker's URL may not configure, write and read {self._address.prefix}.*, "
            f"amq.gen.* and amq.default at {self._address.shown}."
        )

    def end(self, why: str) -> None:
        """Have it be of no use any more."""
        if not self.ended.done():
            self.ended.set_result(why)

    async def pointer(self) -> int | None:
        """Return up to which offset of the log the newest snapshot is, if that is known.

        Another reader may be asking in this moment: then it is not known, and reading takes longer.
        """
        found = await self._channel.basic_get(self._address.pointer)
        if found.delivery_tag is None or not hasattr(found.delivery, "delivery_tag"):
            return None
        await self._channel.basic_nack(found.delivery_tag, requeue=True)
        return int(found.body) if found.body.isdigit() else None

    async def point(self, offset: int) -> None:
        """Tell readers to come up to which offset the newest snapshot is."""
        await self._publish(b"%d" % offset, self._address.pointer)

    async def end_of_log(self, probe: bytes) -> int:
        """Append `probe`, and return its offset."""
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        channel = await self._open_channel()
        await channel.basic_qos(prefetch_count=PREFETCH)

        async def look(message: DeliveredMessage) -> None:
            if message.body == probe and not found.done():
                found.set_result(_offset(message))
            elif not found.done() and message.delivery_tag:
                await channel.basic_ack(message.delivery_tag, wait=False)

        began = await channel.basic_consume(self._address.log, look, arguments={"x-stream-offset": "next"})
        await self.append(probe)
        awaited: list[asyncio.Future[Any]] = [found, self.ended]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise ConnectionError(self.ended.result())
        if began.consumer_tag:
            await channel.basic_cancel(began.consumer_tag)
        return found.result()

    async def read(self, begins: int | None, take: Take) -> None:
        """Hand every message of the log to `take`, in order, from an offset or from the first there is."""

        async def deliver(message: DeliveredMessage) -> None:
            if self.ended.done():
                return
            try:
                take(_offset(message), message.body)
            except Exception as problem:
                logger.exception("error", extra=fields(during="reading the log", broker=self._address.shown))
                self.end(f"a message could not be taken: {problem!r}")
                return
            self._read += 1
            if self._read % ACKNOWLEDGE == 0 and message.delivery_tag:
                with suppress(*Trouble):
                    # If the connection is gone, nobody waits for it.
                    await self._reading.basic_ack(message.delivery_tag, multiple=True, wait=False)

        await self._reading.basic_consume(
            self._address.log, deliver, arguments={"x-stream-offset": "first" if begins is None else begins}
        )

    async def listen(self, instance: str, take: Callable[[bytes], None]) -> None:
        """Hand what is sent to this instance, or to all, to `take`."""

        async def deliver(message: DeliveredMessage) -> None:
            if not self.ended.done():
                take(message.body)

        # Another one for each connection: the last one's may be there for a while.
        made = await self._channel.queue_declare("", exclusive=True, auto_delete=True)
        queue = made.queue or ""
        await self._channel.queue_bind(queue, self._address.everyone)
        await self._channel.queue_bind(queue, self._address.instances, routing_key=instance)
        await self._channel.basic_consume(queue, deliver, no_ack=True)

    async def answer(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Have questions answered that come to any instance, some at a time."""
        channel = await self._open_channel()
        await channel.basic_qos(prefetch_count=QUESTIONS)
        await channel.queue_declare(self._address.questions, auto_delete=True)

        async def deliver(message: DeliveredMessage) -> None:
            properties = message.header.properties
            try:
                # Who had it before may have done it, and whoever asked knows no better.
                if properties.reply_to and not message.redelivered:
                    await channel.basic_publish(
                        await answer(message.body),
                        routing_key=properties.reply_to,
                        properties=aiormq.spec.Basic.Properties(
                            correlation_id=properties.correlation_id, message_id="-"
                        ),
                        wait=False,
                    )
                if message.delivery_tag:
                    await channel.basic_ack(message.delivery_tag, wait=False)
            except Trouble:
                # With the connection, the one who asked is gone for this instance.
                return
            except Exception:
                logger.exception("error", extra=fields(during="answering", broker=self._address.shown))

        await channel.basic_consume(self._address.questions, deliver)

    async def take_answers(self) -> None:
        """Be ready to :meth:`ask`."""
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        assert isinstance(channel, aiormq.Channel)
        channel.closing.add_done_callback(self._ended)

        async def deliver(message: DeliveredMessage) -> None:
            waiting = self._asked.pop(message.header.properties.correlation_id or "", None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message.body)

        await channel.basic_consume(REPLY_TO, deliver, no_ack=True)
        self._asking = channel

    async def ask(self, question: bytes) -> bytes | None:
        """Return what an instance answers, or None if there is none."""
        name = secrets.token_hex(8)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[name] = answer
        properties = aiormq.spec.Basic.Properties(correlation_id=name, reply_to=REPLY_TO)
        try:
            await self._asking.basic_publish(
                question, routing_key=self._address.questions, properties=properties, mandatory=True
            )
            awaited: list[asyncio.Future[Any]] = [answer, self.ended]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except aiormq.PublishError:
            return None
        finally:
            self._asked.pop(name, None)
        if not answer.done():
            raise ConnectionError(self.ended.result())
        return answer.result()

    async def append(self, body: bytes, *, wait: bool = False) -> None:
        """Hand a message for the log over, and `wait` until it is on its way.

        That it is there is known when it is read.
        """
        await self._publish(body, self._address.log, wait=wait)

    async def send(self, instance: str | None, payload: bytes) -> None:
        """Send to one instance, or to all."""
        exchange = self._address.everyone if instance is None else self._address.instances
        await self._channel.basic_publish(payload, exchange=exchange, routing_key=instance or "", wait=False)

    async def _publish(self, body: bytes, queue: str, *, wait: bool = False) -> None:
        properties = aiormq.spec.Basic.Properties(delivery_mode=2, message_id="-")
        await self._channel.basic_publish(body, routing_key=queue, properties=properties, wait=wait)

    async def close(self) -> None:
        """End it in good order, or by force if the other side takes too long."""
        self.end("it is being closed")
        with suppress(*Trouble):
            async with asyncio.timeout(CLOSES_WITHIN):
                await self._connection.close()
        await self.abort()

    async def abort(self) -> None:
        """End it by force."""
        self.end("it was cut")
        self._transport.abort()
        with suppress(*Trouble):
            async with asyncio.timeout(CLOSES_WITHIN):
                await self._connection.close(ConnectionResetError("it was cut"))


class _Transport(TransportFactory):
    """Makes the connection's streams, and can cut them: to close one in good order takes an answer."""

    def __init__(self, tls: bool) -> None:
        self._factory = TLSTransportFactory() if tls else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **options)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _offset(message: DeliveredMessage) -> int:
    headers = message.header.properties.headers or {}
    offset = headers.get("x-stream-offset")
    assert isinstance(offset, int)
    return offset
