"""One connection to one Redis server: what is asked in one turn of the event loop is sent at once."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ...errors import Unavailable
from .address import Address, Place
from .replies import Replies, Reply


def packed(words: Sequence[bytes]) -> bytes:
    """Return a command as it goes over the line."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


async def all_of(*jobs: Coroutine[None, None, None]) -> None:
    """Do several things at once until one fails; raise that when the others have been ended."""
    tasks = [asyncio.create_task(job, name="hubbub: Redis") for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class Line:
    """A connection that is written to as a whole, and read from many answers at a time.

    `connect` raises `OSError` or redis-py's errors. What breaks it later ends :meth:`run`.
    """

    def __init__(self, address: Address, place: Place) -> None:
        self._replies = Replies()
        # It times what it does itself, and tries again itself.
        settings: dict[str, Any] = {
            "host": place.host,
            "port": place.port,
            "db": address.database,
            "username": address.username,
            "password": address.password,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "parser_class": lambda socket_read_size: self._replies,  # noqa: ARG005
            "protocol": 2,
        }
        if address.tls is None:
            self._connection = Connection(**settings)
        else:
            self._connection = SSLConnection(**settings, **dict[str, Any](address.tls))
        self._out: list[bytes] = []
        self._wanted = asyncio.Event()

    async def connect(self) -> None:
        """Connect and log in."""
        await self._connection.connect()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in."""
        await self._connection.disconnect(nowait=True)

    async def exchange(self, *words: bytes) -> Reply:
        """Ask one thing before :meth:`run`; an error in answer is raised."""
        await self._connection.send_packed_command([packed(words)], check_health=False)
        reply = await self._replies.read_response()
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def send(self, command: bytes) -> None:
        """Have a packed command sent with what else there is in this turn."""
        self._out.append(command)
        self._wanted.set()

    async def run(self) -> None:
        """Write and read until the connection breaks; always ends with an exception."""
        await all_of(self._write(), self._read())

    def take(self, replies: list[Reply]) -> None:
        """Take answers, in the order in which they came."""
        raise NotImplementedError

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            out, self._out = self._out, []
            try:
                await self._connection.send_packed_command([b"".join(out)], check_health=False)
            except RuntimeError as problem:
                # What uvloop says of a socket that is closed, before the reading half has come to tell.
                raise ConnectionResetError("The server closed the connection.") from problem

    async def _read(self) -> None:
        while True:
            self.take(await self._replies.read_all())


class Commands(Line):
    """A line for commands, each of which is answered in its turn.

    When the oldest has waited for `timeout` seconds, the line is broken.
    """

    def __init__(self, address: Address, place: Place, timeout: float) -> None:
        super().__init__(address, place)
        self._timeout = timeout
        self._asked: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._broken = False

    def ask(self, *words: bytes) -> "asyncio.Future[Reply]":
        """Send a command; the answer is a `ResponseError` if it is an error.

        :exc:`Unavailable` if the line breaks before it is answered.
        """
        return self.asked(packed(words))

    def asked(self, command: bytes) -> "asyncio.Future[Reply]":
        """Send a packed command (see :meth:`ask`)."""
        loop = asyncio.get_running_loop()
        if self._broken:
            raise Unavailable("The connection to Redis was lost.")
        future: asyncio.Future[Reply] = loop.create_future()
        self._asked.append((future, loop.time()))
        self.send(command)
        return future

    async def run(self) -> None:
        """Work until the line breaks; those who wait for an answer are told so."""
        try:
            await all_of(super().run(), self._watch())
        finally:
            self.give_up()

    async def ask_well(self, *words: bytes) -> Reply:
        """Send a command; an error in answer is raised."""
        reply = await self.ask(*words)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def give_up(self) -> None:
        """Tell all who wait that there will be no answer."""
        self._broken = True
        while self._asked:
            future, _ = self._asked.popleft()
            if not future.done():
                future.set_exception(Unavailable("The connection to Redis was lost."))
                # Whoever gave up waiting does not look.
                future.exception()

    def take(self, replies: list[Reply]) -> None:
        """Hand each answer to who asked."""
        asked = self._asked
        for reply in replies:
            future, _ = asked.popleft()
            if not future.done():
                future.set_result(reply)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout / 4)
            if self._asked and loop.time() - self._asked[0][1] > self._timeout:
                raise TimeoutError(f"It did not answer within {self._timeout:g} seconds.")


async def asked_once(address: Address, place: Place, *words: bytes) -> Reply:
    """Connect, ask one thing, and let go of the connection. An error in answer is raised."""
    line = Line(address, place)
    try:
        await line.connect()
        return await line.exchange(*words)
    finally:
        await line.close()


BROKEN = (OSError, RedisError, TimeoutError, EOFError)
"""What a connection may end with."""
