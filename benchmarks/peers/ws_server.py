"""node's `ws`, with its native unmasking; the server is ws_server.js."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from benchmarks.by_path import ECHO, FANOUT, ROOMS
from benchmarks.peers import Peer

SERVER = Path(__file__).with_suffix(".js")
NODE = shutil.which("node")
PACKAGES = SERVER.with_name("node_modules")

if NODE is None:
    raise ImportError("there is no node on the PATH")
if not PACKAGES.joinpath("ws").is_dir():
    raise ImportError(f"its packages are missing; run npm ci in {SERVER.parent}")


@cache
def versions() -> dict[str, str]:
    told = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    packages = {
        package: json.loads(PACKAGES.joinpath(package, "package.json").read_text())["version"]
        for package in ("ws", "bufferutil")
    }
    return {"node": told.strip().removeprefix("v")} | packages


peer = Peer(
    name="ws",
    command=lambda port: [NODE, str(SERVER), str(port), "plain"],
    compressed=lambda port: [NODE, str(SERVER), str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    versions=versions,
)
