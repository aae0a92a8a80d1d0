"""Private servers for tests: each on free ports of this machine, with a folder of its own, and gone with it.

Each module has one program, which has to be installed; :func:`program` says so if it is not.
"""

import shutil

from ...errors import ConfigurationError

PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a program is looked for besides the path: servers are often in the administrator's folders."""


def program(name: str, package: str) -> str:
    """Return the path of a server's program; :exc:`ConfigurationError` says which package has it."""
    found = shutil.which(name) or shutil.which(name, path=PLACES)
    if found is None:
        raise ConfigurationError(f"{name} is not installed. On Debian: apt-get install {package}.")
    return found
