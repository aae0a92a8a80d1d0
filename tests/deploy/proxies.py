"""nginx and HAProxy with the example configurations: only addresses, times and folders are others."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hubbub.testing.processes import Process
from hubbub.testing.servers import program

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"

Kind = Literal["nginx", "haproxy"]
RELOADS = {"nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2}

SHORT = {
    "nginx": {
        "proxy_read_timeout 60s": "proxy_read_timeout 1s",
        "proxy_send_timeout 60s": "proxy_send_timeout 1s",
    },
    "haproxy": {"timeout tunnel 60s": "timeout tunnel 1s"},
}
"""Changes to have a silent line cut after a second."""


def example(name: str, changes: Mapping[str, str]) -> str:
    """Return an example file with changes; each of them has to be of something in it."""
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx(path: Path) -> list[str]:
    """Return the command that runs nginx with a configuration, in the folder of that."""
    folder = path.parent
    folder.chmod(0o711)  # its workers are another user
    directives = f"daemon off; pid {folder}/pid; error_log stderr warn;"
    return [program("nginx", "nginx"), "-p", str(folder), "-e", "stderr", "-c", str(path), "-g", directives]


def quiet(folder: Path) -> str:
    """Return what its configuration says beside a site's: no log of requests, and all files in a folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "access_log off; " + "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


class Proxy(Process):
    """One of them, before the instances on two ports."""

    def __init__(self, kind: Kind, ports: Sequence[int], changes: Mapping[str, str]) -> None:
        # It is written into the file, so it has to be known before the start; held until the end.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        port = self._held.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory(prefix="hubbub-proxy-")
        folder = Path(self._folder.name)
        instances = {f"127.0.0.1:{8001 + number}": f"127.0.0.1:{port}" for number, port in enumerate(ports)}
        self._reload = RELOADS[kind]
        if kind == "nginx":
            own = {
                "listen 80 ": f"listen 127.0.0.1:{port} ",
                "http {": f"http {{ {quiet(folder)}",
            }
            path = folder / "nginx.conf"
            command = nginx(path)
        else:
            own = {"bind :80": f"bind 127.0.0.1:{port}", "maxconn 30000": "maxconn 500"}
            path = folder / "haproxy.cfg"
            command = [program("haproxy", "haproxy"), "-W", "-db", "-f", str(path)]
        path.write_text(example(path.name, {**instances, **own, **changes}))
        super().__init__(command, port=port, ready="/readyz", stops_within=5.0)

    async def reload(self) -> None:
        """Have it read its configuration again; return when new processes have taken over."""
        before = self._workers()
        async with asyncio.timeout(30):
            while not self._workers() - before:
                # HAProxy that has only just started may take a signal and do nothing.
                os.kill(self.pid, self._reload)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        while not self._workers() - before:  # noqa: ASYNC110  # others' processes have no event
                            await asyncio.sleep(0.02)

    def _workers(self) -> set[int]:
        return set(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self._held.close()
            self._folder.cleanup()
