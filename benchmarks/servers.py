"""A peer's server in a process of its own, on a core of its own."""

import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Peer

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    port: int


@contextmanager
def serving(peer: Peer, core: int, *, compressed: bool = False) -> Iterator[Server]:
    """Run the peer's server on one core; it is ended with the context.

    Raises `RuntimeError` if it ends or does not listen within `START_TIMEOUT`. Any exception that leaves the
    context has a note with what the server printed.
    """
    command = peer.compressed if compressed else peer.command
    assert command is not None
    port = _free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command(port),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            start_new_session=True,
        )
        try:
            _wait_until_listening(process, port)
            yield Server(process.pid, port)
        except Exception as error:
            output.seek(0)
            printed = output.read().decode(errors="replace")[-4000:]
            error.add_note(f"The server of {peer.name} printed: {printed or 'nothing'}")
            raise
        finally:
            _stop(process)


def raise_file_limit() -> None:
    """Let this process and the servers it starts have as many open sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    if process.poll() is not None:
        raise RuntimeError("The server ended before it listened.")
    raise RuntimeError(f"The server did not listen on port {port} within {START_TIMEOUT:.0f} seconds.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own, so its children go with it
        process.wait(STOP_TIMEOUT)
