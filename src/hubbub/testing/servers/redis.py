"""Redis on this machine: one server, a cluster of masters, or a master and its replica behind Sentinels."""

import asyncio
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ..processes import NotStarted, Process
from . import Server, program

FORMS_WITHIN = 60.0
"""Seconds within which a cluster forms, or Sentinels find each other."""
BETWEEN_LOOKS = 0.05
"""Seconds between two looks."""
_ERROR = re.compile(r"(?:AUTH failed: )?[A-Z]{3,} ")
"""How an error begins that redis-cli prints, and ends with 0 all the same."""

Synced = Literal["always", "everysec", "off"]
"""When a write is on the disk: before it is answered, within a second, or never."""


class RedisServer(Server):
    """A redis-server with a folder of its own: an async context manager.

    What it holds outlives :meth:`kill` and :meth:`start` as far as `synced` says, and is removed with the
    context. With `password`, who connects has to know it; with `tls`, it speaks TLS only, with the
    certificate :attr:`certificate`. `arguments` are further ones of redis-server's command line.

    Raises :exc:`hubbub.testing.processes.NotStarted` with its log if it does not start.
    """

    def __init__(
        self,
        *,
        synced: Synced = "always",
        password: str | None = None,
        tls: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        # First, as whoever has not installed it gets no server that could remove the folder.
        redis_server = program("redis-server", "redis-server")
        folder = Path(tempfile.mkdtemp(prefix="hubbub-redis-"))
        self.certificate = folder / "certificate.pem" if tls else None
        """The certificate that it shows, which is signed by itself."""
        self.password = password
        command = [redis_server, "--bind", "127.0.0.1", "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no" if synced == "off" else "yes"]
        if synced != "off":
            command += ["--appendfsync", synced]
        if password is not None:
            command += ["--requirepass", password, "--masterauth", password]
        if self.certificate is None:
            command += ["--port", "{port}"]
        else:
            command += ["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", str(self.certificate), "--tls-ca-cert-file", str(self.certificate)]
            command += ["--tls-key-file", str(folder / "key.pem")]
        super().__init__(command + list(arguments), folder=folder, ready=self._is_ready)

    @property
    def url(self) -> str:
        """A broker URL that leads to it."""
        user = "" if self.password is None else f":{self.password}@"
        if self.certificate is None:
            return f"redis://{user}127.0.0.1:{self.port}/0"
        return f"rediss://{user}127.0.0.1:{self.port}/0?ssl_ca_certs={self.certificate}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        if self.certificate is not None and not self.certificate.exists():
            await _make_certificate(self.folder / "key.pem", self.certificate)
        await super().start()

    async def ask(self, *words: str) -> str:
        """Run redis-cli with a command; return what it prints.

        Raises `RuntimeError` with what it printed if that is an error.
        """
        if self.password is not None:
            words = ("--pass", self.password, "--no-auth-warning", *words)
        if self.certificate is not None:
            words = ("--tls", "--cacert", str(self.certificate), *words)
        return await _redis_cli("-p", str(self.port), *words)

    async def _is_ready(self, port: int) -> bool:
        context = None
        if self.certificate is not None:
            context = ssl.create_default_context(cafile=self.certificate)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                writer.write(b"PING\r\n")
                # It is loading what it has on the disk, or wants the password.
                return (await reader.readline()).startswith((b"+PONG", b"-NOAUTH"))
            finally:
                writer.close()
                await writer.wait_closed()
        except OSError:
            return False


class RedisCluster:
    """Masters that share the slots of a Redis Cluster, without replicas: an async context manager.

    Raises :exc:`hubbub.testing.processes.NotStarted` if they don't form a cluster within a minute.
    """

    def __init__(self, *, masters: int = 3, synced: Synced = "always") -> None:
        self._places = [_reserved() for _ in range(masters)]
        self.nodes = [
            RedisServer(
                synced=synced,
                arguments=[
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
                    *("--cluster-port", str(place.getsockname()[1])),
                ],
            )
            for place in self._places
        ]

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(node.start() for node in self.nodes))
            await self._form()
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
    def url(self) -> str:
        """A broker URL that leads to it."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"

    async def until_formed(self) -> None:
        """Wait until every node sees all slots served; :exc:`NotStarted` if that takes more than a minute."""
        await _until(self._is_formed, "The cluster did not form.")

    async def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot and what lies in it from one master to another, as resharding does."""
        number = str(slot)
        await target.ask("cluster", "setslot", number, "importing", await source.ask("cluster", "myid"))
        name = await target.ask("cluster", "myid")
        await source.ask("cluster", "setslot", number, "migrating", name)
        while keys := await source.ask("cluster", "getkeysinslot", number, "100"):
            await source.ask(
                *("migrate", "127.0.0.1", str(target.port), "", "0", "5000", "keys", *keys.splitlines())
            )
        for node in (target, source, *self.nodes):
            await node.ask("cluster", "setslot", number, "node", name)

    async def close(self) -> None:
        """Stop all nodes, and remove their folders."""
        try:
            await asyncio.gather(*(node.close() for node in self.nodes))
        finally:
            for place in self._places:
                place.close()

    async def _form(self) -> None:
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        await _redis_cli("--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes")
        await self.until_formed()

    async def _is_formed(self) -> bool:
        told = await asyncio.gather(*(node.ask("cluster", "info") for node in self.nodes))
        known = f"cluster_known_nodes:{len(self.nodes)}"
        return all("cluster_state:ok" in info and known in info.split() for info in told)


class RedisSentinel:
    """A master, its replica, and Sentinels that put the replica in its place: an async context manager.

    They take the master for gone after `down_after` seconds of silence.
    """

    NAME = "rooms"
    """What the Sentinels call it."""

    def __init__(self, *, sentinels: int = 3, synced: Synced = "always", down_after: float = 1.0) -> None:
        self.master = RedisServer(synced=synced)
        """The one that is the master at first."""
        self.replica = RedisServer(synced=synced)
        self.sentinels: list[Process] = []
        self._folder = Path(tempfile.mkdtemp(prefix="hubbub-sentinel-"))
        self._count = sentinels
        self._down_after = down_after

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(self.master.start(), self.replica.start())
            await self.replica.ask("replicaof", "127.0.0.1", str(self.master.port))
            await _until(self._is_replicated, "The replica did not follow.")
            for number in range(self._count):
                await self._start_sentinel(number)
            await _until(self._know_each_other, "The Sentinels did not find each other.")
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
    def url(self) -> str:
        """A broker URL that leads to whoever is the master."""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{self.NAME}/0"

    async def until_master(self, port: int) -> None:
        """Wait until the Sentinels say that the one at `port` is the master."""

        async def is_master() -> bool:
            return str(port) in await _redis_cli(
                "-p", str(self.sentinels[0].port), "sentinel", "get-master-addr-by-name", self.NAME
            )

        await _until(is_master, "The Sentinels did not change the master.")

    async def close(self) -> None:
        """Stop all of them, and remove their folders."""
        try:
            await asyncio.gather(
                *(sentinel.close() for sentinel in self.sentinels), self.master.close(), self.replica.close()
            )
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _start_sentinel(self, number: int) -> None:
        configuration = self._folder / f"sentinel-{number}.conf"
        down_after = round(self._down_after * 1000)
        configuration.write_text(
            f"dir {self._folder}\n"
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.master.port} {self._count // 2 + 1}\n"
            f"sentinel down-after-milliseconds {self.NAME} {down_after}\n"
            f"sentinel failover-timeout {self.NAME} {down_after * 5}\n"
        )
        sentinel = Process(
            [
                *(program("redis-server", "redis-server"), str(configuration), "--sentinel"),
                *("--bind", "127.0.0.1", "--port", "{port}"),
            ],
            ready=None,
            directory=self._folder,
        )
        self.sentinels.append(sentinel)
        await sentinel.start()

    async def _is_replicated(self) -> bool:
        return "master_link_status:up" in await self.replica.ask("info", "replication")

    async def _know_each_other(self) -> bool:
        others = f"sentinels={self._count}"
        for sentinel in self.sentinels:
            told = await _redis_cli("-p", str(sentinel.port), "info", "sentinel")
            if others not in told or "slaves=1" not in told:
                return False
        return True


def _reserved() -> socket.socket:
    """Keep a free port for one that will listen there with SO_REUSEADDR."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


async def _until(true: Callable[[], Awaitable[bool]], problem: str) -> None:
    """Look again and again whether it is true: servers tell nobody."""
    try:
        async with asyncio.timeout(FORMS_WITHIN):
            while not await true():  # noqa: ASYNC110
                await asyncio.sleep(BETWEEN_LOOKS)
    except TimeoutError:
        raise NotStarted(problem) from None


async def _redis_cli(*words: str) -> str:
    return await _run(program("redis-cli", "redis-tools"), *words)


async def _make_certificate(key: Path, certificate: Path) -> None:
    await _run(
        *(program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt"),
        *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(certificate)),
    )


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    text = output.decode(errors="replace").strip()
    if process.returncode or _ERROR.match(text):
        raise RuntimeError(f"{Path(command[0]).name} failed: {text}")
    return text
