"""Worker processes: as many as were asked for, each replaced when it dies."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from types import FrameType

from uvicorn.config import STARTUP_FAILURE

from .observe.log import fields, logger

SHORTEST_LIFE = 1.0
"""Seconds: a worker that dies younger is not replaced sooner, so that a broken one does not spin."""


class Workers:
    """Runs `work` in `count` processes until a signal comes.

    A first SIGTERM or SIGINT is passed on, so that each worker drains; a second one ends them at once.
    """

    def __init__(self, count: int, work: Callable[[], None]) -> None:
        self._count = count
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._started: dict[multiprocessing.process.BaseProcess, float] = {}
        self._signals = 0
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> None:
        """Start the workers and look after them; :exc:`SystemExit` if one can't start."""
        handlers = {name: signal.signal(name, self._signalled) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            failed = self._look_after()
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        if failed:
            sys.exit(STARTUP_FAILURE)

    def _look_after(self) -> bool:
        failed = False
        for _ in range(self._count):
            self._start()
        while self._processes:
            wait([*(process.sentinel for process in self._processes), self._wake_reader])
            self._pass_on()
            for process in [process for process in self._processes if process.exitcode is not None]:
                self._processes.remove(process)
                began = self._started.pop(process)
                if self._signals or failed:
                    continue
                logger.warning("worker died", extra=fields(pid=process.pid, exit_code=process.exitcode))
                if process.exitcode == STARTUP_FAILURE:
                    # It would fail in the same way again.
                    failed = True
                    self._terminate(signal.SIGTERM)
                else:
                    wait([self._wake_reader], max(0.0, began + SHORTEST_LIFE - time.monotonic()))
                    if not self._signals:
                        self._start()
        return failed

    def _start(self) -> None:
        process = self._context.Process(target=_work_under_supervision, args=(self._work,))
        process.start()
        self._processes.append(process)
        self._started[process] = time.monotonic()
        logger.info("worker started", extra=fields(pid=process.pid))

    def _signalled(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals += 1
        os.write(self._wake_writer, b"\0")

    def _pass_on(self) -> None:
        with suppress(BlockingIOError):
            os.set_blocking(self._wake_reader, False)
            while os.read(self._wake_reader, 64):
                self._terminate(signal.SIGTERM if self._signals == 1 else signal.SIGKILL)

    def _terminate(self, sig: int) -> None:
        for process in self._processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, sig)


def _work_under_supervision(work: Callable[[], None]) -> None:
    """Work, and leave as on a signal if the supervisor dies, so that no worker is left without one."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=leave, daemon=True, name="hubbub: supervisor watch").start()
    work()
