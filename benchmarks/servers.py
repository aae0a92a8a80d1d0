"""A peer's server in a process of its own, on a core of its own."""

import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.peers import Peer
from hubbub.errors import ConfigurationError
from hubbub.testing.servers import program

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """A running server, and what runs beside it for its sake."""

    pid: int
    port: int
    core: int
    others: Mapping[str, "Server"] = field(default_factory=dict)
    """By what they are there for, all on the same core."""


@contextmanager
def serving(peer: Peer, core: int, *, compressed: bool = False) -> Iterator[Server]:
    """Run the peer's server on one core; it is ended with the context.

    Raises `RuntimeError` if it ends or does not listen within `START_TIMEOUT`. Any exception that leaves the
    context has a note with what the server printed.
    """
    command = peer.compressed if compressed else peer.command
    assert command is not None
    with _running(peer.name, command, core) as server:
        yield server


def redis_missing() -> str | None:
    """Say why there is no Redis here."""
    try:
        program("redis-server", "redis-server")
    except ConfigurationError as problem:
        return str(problem)
    return None


@contextmanager
def redis(core: int) -> Iterator[Server]:
    """Run a Redis of its own on one core; what is written is on the disk within a second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program("redis-server", "redis-server"), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        with _running("redis", lambda port: [*command, "--port", str(port)], core) as server:
            yield server


@contextmanager
def serving_across(peer: Peer, core: int) -> Iterator[Server]:
    """Run two instances of the peer that share a Redis, all on one core.

    What is given is the one for subscribers; the one for the `publisher` and `redis` are beside it.
    """
    with redis(core) as broker:
        command = _sharing(peer, broker)
        with _running(peer.name, command, core) as other, _running(peer.name, command, core) as server:
            yield replace(server, others={"publisher": other, "redis": broker})


@contextmanager
def serving_with_redis(peer: Peer, core: int) -> Iterator[Server]:
    """Run one instance of the peer with a Redis of its own, on one core."""
    with redis(core) as broker, _running(peer.name, _sharing(peer, broker), core) as server:
        yield replace(server, others={"redis": broker})


def _sharing(peer: Peer, broker: Server) -> Callable[[int], list[str]]:
    across = peer.across
    assert across is not None
    return lambda port: across.command(port, f"redis://127.0.0.1:{broker.port}/0")


@contextmanager
def _running(name: str, command: Callable[[int], list[str]], core: int) -> Iterator[Server]:
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
            yield Server(process.pid, port, core)
        except Exception as error:
            output.seek(0)
            printed = output.read().decode(errors="replace")[-4000:]
            error.add_note(f"The server of {name} printed: {printed or 'nothing'}")
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
