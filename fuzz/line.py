"""A client's line into the real server without a socket, so that a thousand of them fit into a second."""

import asyncio
import atexit
import gc
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TypeVar

from starlette.types import ASGIApp

from hubbub import Settings
from hubbub.server import Server

Result = TypeVar("Result")

TURNS = 50
"""Turns of the event loop within which an application that waits for nothing has answered."""


_NOT_HELD = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, logging.Logger)


class Socket(asyncio.Transport):
    """Keeps what is written to it, and notes what else is asked of it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 50000)})
        self.written = bytearray()
        self.closed = False
        self.eof = False
        self.reading = True
        self.protocol: asyncio.Protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        # As a socket, which sends nothing after its end; asyncio raises after write_eof().
        assert not self.eof, "written after the end of what is sent"
        if not self.closed:
            self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading and not self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Lines:
    """Lines into one server, set up as `hubbub serve` does it."""

    def __init__(self, application: ASGIApp, settings: Settings | None = None) -> None:
        self._application = application
        self._settings = settings or Settings()
        self._loop = asyncio.new_event_loop()
        atexit.register(self._loop.close)
        self._loop.set_exception_handler(self._failed)
        self._failures: list[dict[str, object]] = []
        self._server = Server(application, self._settings)

    def run(self, coroutine: Coroutine[object, object, Result]) -> Result:
        """Run to the end; a failure that nobody saw is a finding too."""
        try:
            with errors_are_findings():
                result = self._loop.run_until_complete(coroutine)
            assert not self._failures, f"an exception reached the event loop: {self._failures}"
        except BaseException:
            self._begin_anew()
            raise
        return result

    def _begin_anew(self) -> None:
        """Leave nothing of a finding to the next input."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._failures.clear()
        self._server = Server(self._application, self._settings)

    def connect(self) -> Socket:
        """Return a line that was just accepted."""
        socket = Socket()
        config = self._server.config
        assert isinstance(config.http_protocol_class, type)
        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        socket.set_protocol(protocol(config=config, server_state=self._server.server_state, app_state={}))
        socket.protocol.connection_made(socket)
        return socket

    async def settle(self) -> None:
        """Wait until the application has answered what has arrived, and that is written."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if not self._server.server_state.tasks:
                break
        await asyncio.sleep(0)

    async def disconnect(self, socket: Socket) -> None:
        """End a line, and see that nothing of it is left."""
        socket.closed = True
        socket.protocol.connection_lost(None)
        await self.settle()
        state = self._server.server_state
        assert not state.tasks, "a task outlives its connection"
        assert not state.connections, "a connection is counted that has ended"

    def held(self, owner: object, *others: object) -> int:
        """Return how many bytes an object keeps in buffers, itself or through what it refers to.

        What the server shares and what `others` keep is theirs. References are followed, so that no buffer
        can be forgotten.
        """
        server = self._server
        shared = (self, self._loop, server, server.config, server.server_state, *others)
        seen = {id(owner), *map(id, shared)}
        to_do, total = [owner], 0
        while to_do:
            for found in gc.get_referents(to_do.pop()):
                if id(found) in seen or isinstance(found, _NOT_HELD):
                    continue
                seen.add(id(found))
                if isinstance(found, bytes | bytearray | memoryview):
                    total += len(found)
                else:
                    to_do.append(found)
        return total

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:  # noqa: ARG002
        self._failures.append(context)


class errors_are_findings(logging.Handler):  # noqa: N801  # it is used as a context manager
    """While it is open, a traceback in the log is a finding: somebody caught what nobody expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._found.append(record)

    def __enter__(self) -> None:
        for name in ("hubbub", "uvicorn.error", "websockets", "asyncio"):
            logging.getLogger(name).addHandler(self)

    def __exit__(self, *problem: object) -> None:
        for name in ("hubbub", "uvicorn.error", "websockets", "asyncio"):
            logging.getLogger(name).removeHandler(self)
        for record in self._found:
            assert record.exc_info
            raise AssertionError(f"logged as an error: {record.getMessage()}") from record.exc_info[1]


def pieces(data: bytes, lengths: bytes) -> Iterator[bytes]:
    """Yield `data` in pieces of these lengths, in turns; a length of 0 is all that is left."""
    position, turn = 0, 0
    while position < len(data):
        length = lengths[turn % len(lengths)] or len(data)
        yield data[position : position + length]
        position += length
        turn += 1
