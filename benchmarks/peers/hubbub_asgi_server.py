"""hubbub over plain ASGI, on the very server that the ASGI peers have too."""

import sys
from dataclasses import replace

from benchmarks import asgi
from benchmarks.peers import hubbub_server


def command(port: int, compression: str) -> list[str]:
    settings = [f"{setting.variable}={value}" for setting, value in hubbub_server.LIMITS]
    return ["env", *settings, sys.executable, "-m", __name__, str(port), compression]


peer = replace(
    hubbub_server.peer,
    name="hubbub-asgi",
    command=lambda port: command(port, "plain"),
    compressed=lambda port: command(port, "deflate"),
    across=None,
    held=None,
)

if __name__ == "__main__":
    asgi.serve(hubbub_server.hub, int(sys.argv[1]), compression=sys.argv[2] == "deflate")
