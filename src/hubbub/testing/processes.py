"""A real server in a process of its own, that can be killed and started again."""

import asyncio
import functools
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import HubbubError

LOG = 256 * 2**10
"""Bytes of the log that are kept, the last ones."""
BETWEEN_LOOKS = 0.02
"""Seconds between two looks whether a server is ready."""
LAST_WORDS = 1.0
"""Seconds for what is left of the log when the server has ended."""


Ready = Callable[[int], Awaitable[bool]]
"""Tells whether a server on a port of this machine is ready."""


class NotStarted(HubbubError):
    """A server ended before it was ready, or was not ready in time; the text has its log."""


class Command:
    """A command that serves on a port of this machine: an async context manager.

    Each ``{port}`` in the command stands for the port, a free one if none is given. It is ready when the
    `ready` path answers 200 over HTTP, with None when somebody listens, or when a function of the port
    returns true. The command gets this process's environment and `environment`; it and what it starts are a
    process group of their own.

    Raises :exc:`NotStarted` with the log if the server does not become ready within `starts_within` seconds.
    It is ended with the context in any case, by force if it does not stop within `stops_within` seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int = 0,
        ready: str | Ready | None = "/readyz",
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        starts_within: float = 30.0,
        stops_within: float = 15.0,
    ) -> None:
        self.command = list(command)
        self.returncode: int | None = None
        """How the last process ended: its exit status, or minus the signal; None while it runs."""
        self._ready = _probe(ready)
        self._environment = environment or {}
        self._directory = directory
        self._starts_within = starts_within
        self._stops_within = stops_within
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._log = bytearray()
        self._place: socket.socket | None = None
        self.port = port
        """Where it serves; before the start, what was asked for."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def log(self) -> str:
        """What it has written, to its standard output and standard error; the last 256 KiB."""
        return self._log.decode(errors="replace")

    @property
    def pid(self) -> int:
        """The id of the process; `RuntimeError` if none runs."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    def memory(self, name: str = "VmRSS") -> int:
        """Return the bytes of memory that it has now, or at most had (``VmHWM``). For Linux.

        Processes that it started are not counted.
        """
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024

    async def start(self) -> None:
        """Start it, and wait until it is ready; :exc:`NotStarted` if that fails."""
        if self._process is not None:
            raise RuntimeError("It has been started already.")
        if self._place is None:
            self._place = keep_port(self.port)
            self.port = self._place.getsockname()[1]
        self.returncode = None
        self._process = await asyncio.create_subprocess_exec(
            *(part.replace("{port}", str(self.port)) for part in self.command),
            cwd=self._directory,
            env={**os.environ, **self._environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read(), name="hubbub: a server's log")
        try:
            await self._until_ready()
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """End it, and what it started, as kill -9 does; nothing if it has ended."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Have it stop (SIGTERM), or kill it after `stops_within` seconds; return its `returncode`."""
        await self._end(signal.SIGTERM)
        assert self.returncode is not None
        return self.returncode

    async def restart(self) -> None:
        """Stop it, and start it again on the same port; after :meth:`kill`, just start it."""
        await self._end(signal.SIGTERM)
        await self.start()

    def pause(self) -> None:
        """Have it do nothing (SIGSTOP): its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        self._signal(signal.SIGCONT)

    async def wait(self) -> int:
        """Wait until it ends by itself; return its exit status, or minus the signal."""
        returncode = await self._running().wait()
        await self._end(signal.SIGKILL)
        return returncode

    async def close(self) -> None:
        """Stop it, and let go of the port."""
        try:
            await self._end(signal.SIGTERM)
        finally:
            if self._place is not None:
                self._place.close()
                self._place = None

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("It is not running.")
        return self._process

    async def _end(self, how: signal.Signals) -> None:
        if (process := self._process) is None:
            return
        try:
            self._signal(how)
            if how == signal.SIGTERM:
                # Who is paused would hear of it only later.
                self._signal(signal.SIGCONT)
            async with asyncio.timeout(self._stops_within):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            # Its children go with it: whatever is left of the group.
            self._signal(signal.SIGKILL)
            self._process = None
            self.returncode = await process.wait()
            if self._reader is not None:
                # Who left the group, as daemons do, may hold the log open for ever.
                await asyncio.wait([self._reader], timeout=LAST_WORDS)
                self._reader.cancel()

    def _signal(self, how: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._running().pid, how)

    async def _read(self) -> None:
        output = self._running().stdout
        assert output is not None
        while chunk := await output.read(2**16):
            self._log += chunk
            del self._log[:-LOG]

    async def _until_ready(self) -> None:
        process = self._running()
        problem = f"It was not ready within {self._starts_within:g} seconds."
        with suppress(TimeoutError):
            async with asyncio.timeout(self._starts_within):
                while not await self._ready(self.port):
                    if process.returncode is not None:
                        problem = f"It ended with {process.returncode} before it was ready."
                        break
                    await asyncio.sleep(BETWEEN_LOOKS)
                else:
                    return
        await self.kill()
        command = " ".join(self.command)
        raise NotStarted(f"{command} did not start. {problem} It wrote:\n{self.log or 'nothing'}")


class Process(Command):
    """A command that serves HTTP or WebSockets: it has URLs.

    It takes what :class:`Command` takes.
    """

    @classmethod
    def serving(
        cls,
        target: str,
        *,
        port: int = 0,
        ready: str | None = "/readyz",
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        starts_within: float = 30.0,
        stops_within: float = 15.0,
        **settings: object,
    ) -> Self:
        """Return ``hubbub serve target`` on a free port; `settings` are hubbub's, as ``drain=0.5``.

        One that is None is left as it is.

        `ready` is where the hub answers probes: ``/live/readyz`` for one that is mounted at ``/live``.
        """
        variables = {
            f"HUBBUB_{name.upper()}": str(value) for name, value in settings.items() if value is not None
        }
        return cls(
            [sys.executable, "-m", "hubbub", "serve", target, "--port", "{port}"],
            port=port,
            ready=ready,
            environment={**variables, **(environment or {})},
            directory=directory,
            starts_within=starts_within,
            stops_within=stops_within,
        )

    def url(self, path: str = "/", scheme: str = "ws") -> str:
        """Return the URL of a path on it."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"


def _probe(ready: str | Ready | None) -> Ready:
    return ready if callable(ready) else functools.partial(_answers, ready)


async def _answers(path: str | None, port: int) -> bool:
    """Tell whether a path is answered with 200, or with None whether somebody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if path is None:
                return True
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return (await reader.readline()).split(b" ")[1:2] == [b"200"]
        finally:
            writer.close()
            await writer.wait_closed()
    except OSError:
        return False


def keep_port(port: int = 0) -> socket.socket:
    """Keep a port of this machine, 0 for a free one, so that no other socket is given it while none listens.

    With SO_REUSEADDR, a server may listen there all the same.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind(("127.0.0.1", port))
    except OSError:
        place.close()
        raise
    return place
