"""What the worker processes of test_workers.py do; they import it anew."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from hubbub.workers import Workers


def announce(folder: Path) -> None:
    """Tell the test this worker's process id."""
    with open(folder / "pipe", "ab", buffering=0) as pipe:
        pipe.write(b"%d\n" % os.getpid())


def wait_for_a_signal(folder: Path) -> None:
    """Drain on SIGTERM, and leave a file that says so."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    announce(folder)
    stopped.wait()
    (folder / f"{os.getpid()}").write_text("drained")


def ignore_signals(folder: Path) -> None:
    """Never end by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce(folder)
    threading.Event().wait()


def fail_to_start(folder: Path) -> None:
    """End as a server does that can't start."""
    announce(folder)
    sys.exit(3)


def supervise(work: Callable[[Path], None], folder: Path, count: int) -> None:
    """Run the supervisor, in a process of its own."""
    Workers(count, functools.partial(work, folder)).run()
