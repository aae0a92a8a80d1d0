"""A private nats-server with JetStream, for tests."""

import asyncio
import json
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from . import Server, program

FILE = "server.conf"
STARTS_WITHIN = 30.0


class NatsServer(Server):
    """A nats-server on a free port of this machine: an async context manager.

    What JetStream stores is in a folder of its own, which outlives :meth:`kill` and :meth:`start` and is gone
    with the context. Whoever connects has to say `user` and `password`, or `token`, where they are given.
    `certificate` and `key` are PEM files for TLS. `sync_interval` ("always", "10s") is how often what was
    stored is brought to the disk, which servers before 2.10 refuse. `max_payload` is the most bytes of
    one message. `jetstream` False leaves JetStream out. `prefix` is put into the :attr:`url`: those with
    different ones don't see each other.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        sync_interval: str | None = None,
        max_payload: int | None = None,
        jetstream: bool = True,
        prefix: str | None = None,
        starts_within: float = STARTS_WITHIN,
    ) -> None:
        # First, as whoever has not installed it gets no server that could remove the folder.
        nats_server = program("nats-server", "nats-server")
        folder = Path(tempfile.mkdtemp(prefix="hubbub-nats-"))
        self.prefix = prefix or f"test{secrets.token_hex(4)}"
        self._user = user
        self._password = password
        self._token = token
        self._tls = (certificate, key) if certificate and key else None
        self._sync_interval = sync_interval
        self._max_payload = max_payload
        self._jetstream = jetstream
        super().__init__(
            [nats_server, "--config", str(folder / FILE), "--port", "{port}"],
            folder=folder,
            port=port,
            ready=self._is_ready,
            starts_within=starts_within,
        )
        self._write()

    @property
    def url(self) -> str:
        """A broker URL."""
        return self.broker()

    def broker(self, *, port: int | None = None, **query: object) -> str:
        """Return a broker URL with settings of the driver; at another `port` where a proxy stands there."""
        if self._token is not None:
            account = f"{quote(self._token, safe='')}@"
        elif self._user is not None:
            account = f"{quote(self._user, safe='')}:{quote(self._password or '', safe='')}@"
        else:
            account = ""
        settings = "&".join(
            f"{name}={quote(str(value), safe='')}" for name, value in {"prefix": self.prefix, **query}.items()
        )
        scheme = "tls" if self._tls else "nats"
        return f"{scheme}://{account}127.0.0.1:{port or self.port}?{settings}"

    def change_password(self, password: str) -> None:
        """Have it ask for another password from its next start on."""
        self._password = password
        self._write()

    def forget(self) -> None:
        """Remove all that it stored, while it does not run."""
        if self.running:
            raise RuntimeError("It is running.")
        shutil.rmtree(self.folder / "store", ignore_errors=True)

    def _write(self) -> None:
        lines = ['host: "127.0.0.1"', 'server_name: "hubbub"']
        if self._max_payload is not None:
            lines.append(f"max_payload: {self._max_payload}")
        if self._jetstream:
            lines.append("jetstream {")
            lines.append(f"  store_dir: {json.dumps(str(self.folder / 'store'))}")
            if self._sync_interval is not None:
                lines.append(f"  sync_interval: {json.dumps(self._sync_interval)}")
            lines.append("}")
        if self._token is not None:
            lines.append(f"authorization {{ token: {json.dumps(self._token)} }}")
        elif self._user is not None:
            account = f"user: {json.dumps(self._user)}, password: {json.dumps(self._password or '')}"
            lines.append(f"authorization {{ {account} }}")
        if self._tls is not None:
            certificate, key = (json.dumps(str(path.absolute())) for path in self._tls)
            lines.append(f"tls {{ cert_file: {certificate}, key_file: {key} }}")
        file = self.folder / FILE
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")

    async def _is_ready(self, port: int) -> bool:
        """Tell whether it greets, and says that it has JetStream if it should.

        JetStream has recovered what is stored before the port is listened on.
        """
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            kind, _, greeting = (await reader.readline()).partition(b" ")
            if kind != b"INFO":
                return False
            return bool(json.loads(greeting).get("jetstream", False)) or not self._jetstream
        except (OSError, ValueError):
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
