"""A private RabbitMQ, for tests: nothing of the system's is used but its programs."""

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from ..processes import BETWEEN_LOOKS, Process
from . import Server, program

SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Where Debian has the program itself; the one on the path changes to the system's user and folders."""
CONFIGURATION = "log.console.level = warning\nlog.connection.level = error\n"
STARTS_WITHIN = 90.0
STOPS_WITHIN = 30.0
SETTLES_WITHIN = 30.0


class RabbitServer(Server):
    """A RabbitMQ node on free ports of this machine: an async context manager.

    It has a name server (epmd), folders and a cookie of its own, one scheduler, and the user ``guest`` with
    the password ``guest``. What it stores outlives :meth:`kill` and :meth:`start`, and is gone with the
    context. `configuration` are lines for its ``rabbitmq.conf``.

    Raises :exc:`hubbub.errors.ConfigurationError` if RabbitMQ is not installed.
    """

    def __init__(
        self, *, port: int = 0, configuration: str = "", starts_within: float = STARTS_WITHIN
    ) -> None:
        names = program("epmd", "rabbitmq-server")
        found = program("rabbitmq-server", "rabbitmq-server")
        script = SCRIPT if Path(SCRIPT).exists() else found
        folder = Path(tempfile.mkdtemp(prefix="hubbub-rabbitmq-"))
        (folder / "rabbitmq.conf").write_text(f"{CONFIGURATION}{configuration}\n")
        (folder / "plugins").write_text("[].\n")
        self._names = Process([names, "-address", "127.0.0.1", "-port", "{port}"], ready=None)
        super().__init__(
            ["env", "RABBITMQ_NODE_PORT={port}", script],
            folder=folder,
            port=port,
            ready=_greets,
            starts_within=starts_within,
            stops_within=STOPS_WITHIN,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._names.start()
            self._environment = _environment(self.folder, self._names.port)
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def settled(self) -> None:
        """Wait until a kill loses no stream: RabbitMQ 3.10 takes seconds to save that it has any at all.

        Raises `TimeoutError` if it has not saved that within 30 seconds, or there is none.
        """
        names = self.folder / "data/hubbub@localhost/coordination/hubbub@localhost/names.dets"
        async with asyncio.timeout(SETTLES_WITHIN):
            while not (names.exists() and _is_saved(names.read_bytes())):  # noqa: ASYNC110
                await asyncio.sleep(BETWEEN_LOOKS)

    async def close(self) -> None:
        """Stop it and its name server, and remove its folder."""
        try:
            await super().close()
        finally:
            await self._names.close()

    @property
    def url(self) -> str:
        """A broker URL; rooms that should not see those of another have a prefix: see :meth:`broker`."""
        return self.broker()

    def broker(self, *, port: int | None = None, account: str = "guest:guest", **query: object) -> str:
        """Return a broker URL: at another port, where a proxy stands, and with settings of the driver."""
        settings = f"/?{urlencode(query)}" if query else ""
        return f"amqp://{account}@127.0.0.1:{port or self.port}{settings}"


def _environment(folder: Path, names: int) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        # The script becomes the server, instead of waiting for it: signals reach the server itself.
        "RUNNING_UNDER_SYSTEMD": "true",
        "RABBITMQ_NODENAME": "hubbub@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(_free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
    }


def _is_saved(table: bytes) -> bool:
    """Tell whether a DETS file was saved, by its header, with the coordinator of streams in it."""
    return table[8:12] == b"\0\0\0\1" and b"rabbit_stream_coordinator" in table


def _free_port() -> int:
    """Return a port for the server to talk with others of a cluster, which there are none of."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        found: int = place.getsockname()[1]
        return found


async def _greets(port: int) -> bool:
    """Tell whether AMQP is spoken at a port."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"AMQP\0\0\x09\x01")
            return await reader.read(1) == b"\x01"
        finally:
            writer.close()
            await writer.wait_closed()
    except OSError:
        return False
