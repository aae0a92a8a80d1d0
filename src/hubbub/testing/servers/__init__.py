"""Private servers for tests: each on free ports of this machine, with a folder of its own, and gone with it.

Each module has one program, which has to be installed; :func:`program` says so if it is not.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigurationError
from ..processes import Command, Ready

PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a program is looked for besides the path: servers are often in the administrator's folders."""


def program(name: str, package: str) -> str:
    """Return the path of a server's program; :exc:`ConfigurationError` says which package has it."""
    found = shutil.which(name) or shutil.which(name, path=PLACES)
    if found is None:
        raise ConfigurationError(f"{name} is not installed. On Debian: apt-get install {package}.")
    return found


class Server(Command):
    """A broker's server: an async context manager.

    What it holds is in `folder`, where it is started. That outlives :meth:`kill` and :meth:`start`, and is
    removed with the context. The other arguments are those of :class:`hubbub.testing.processes.Command`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        ready: Ready,
        port: int = 0,
        starts_within: float = 30.0,
        stops_within: float = 15.0,
    ) -> None:
        self.folder = folder
        super().__init__(
            command,
            port=port,
            ready=ready,
            directory=folder,
            starts_within=starts_within,
            stops_within=stops_within,
        )

    @property
    def url(self) -> str:
        """A broker URL that leads to it."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop it, and remove its folder."""
        try:
            await super().close()
        finally:
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
