import multiprocessing
import os
import select
import signal
from multiprocessing.process import BaseProcess

import pytest

from worker_tasks import fail_to_start, ignore_signals, supervise, wait_for_a_signal

ENDS_WITHIN = 20


@pytest.fixture
def supervisor(tmp_path):
    """Start a supervisor; gives its process, and the file that workers write their process ids to."""
    os.mkfifo(tmp_path / "pipe")
    # Open for both, so that reading waits where no worker has it open yet.
    pipe = os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR), "r+b", buffering=0)
    processes: list[BaseProcess] = []

    def start(work, count):
        process = multiprocessing.get_context("spawn").Process(target=supervise, args=(work, tmp_path, count))
        process.start()
        processes.append(process)
        return process, pipe

    yield start
    for process in processes:
        process.kill()
        process.join(ENDS_WITHIN)
    pipe.close()


def ends(process: BaseProcess) -> int | None:
    process.join(ENDS_WITHIN)
    return process.exitcode


def test_a_signal_is_passed_on_to_every_worker_which_drains(supervisor, tmp_path):
    process, started = supervisor(wait_for_a_signal, 2)
    workers = [started.readline().decode().strip() for _ in range(2)]
    os.kill(process.pid, signal.SIGTERM)
    assert ends(process) == 0
    assert [(tmp_path / worker).read_text() for worker in workers] == ["drained", "drained"]


def test_a_worker_that_dies_is_replaced(supervisor):
    process, started = supervisor(wait_for_a_signal, 1)
    first = int(started.readline())
    os.kill(first, signal.SIGKILL)
    assert int(started.readline()) != first
    os.kill(process.pid, signal.SIGTERM)
    assert ends(process) == 0


def test_a_second_signal_ends_the_workers_at_once(supervisor):
    process, started = supervisor(ignore_signals, 1)
    started.readline()
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert ends(process) == 0


def test_workers_that_cannot_start_end_it_all(supervisor):
    process, _ = supervisor(fail_to_start, 2)
    assert ends(process) == 3


def test_workers_end_when_their_supervisor_is_killed(supervisor, tmp_path):
    process, started = supervisor(wait_for_a_signal, 1)
    worker = int(started.readline())
    gone = os.pidfd_open(worker)
    process.kill()
    poll = select.poll()
    poll.register(gone, select.POLLIN)
    assert poll.poll(ENDS_WITHIN * 1000)
    os.close(gone)
    assert (tmp_path / str(worker)).read_text() == "drained"
