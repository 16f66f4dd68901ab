"""Worker processes: what they return, and that none outlives its program."""

import os
import signal
import time
from multiprocessing import active_children

import numpy as np
import psutil
import pytest

from machine.workers import WorkerError, in_workers
from run_folder.files import WriteError
from tests.processes import wait_until_gone


def square(number):
    return number**2


def write(number):
    raise WriteError(f"no room for {number}")


def die_in_the_middle_of_a_result(number):
    """A large result fills the pipe, and the worker is killed while it waits to write the rest."""
    if number == 3:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        return np.zeros(10_000_000)
    return number


@pytest.mark.parametrize(("num_workers", "start_method"), [(1, None), (2, None), (5, None), (2, "spawn")])
def test_every_item_has_one_result(num_workers, start_method):
    with in_workers(square, iter(range(20)), num_workers, start_method=start_method) as results:
        assert sorted(results) == [number**2 for number in range(20)]
    assert not active_children()


def test_no_items():
    with in_workers(square, [], 2) as results:
        assert not list(results)


def test_the_error_of_a_worker_keeps_its_type_and_its_place():
    with pytest.raises(WriteError, match="no room for 0") as raised, in_workers(write, [0, 0], 2) as results:
        list(results)
    assert "in write" in raised.value.__notes__[0]
    assert not active_children()


def test_workers_end_with_the_block_also_in_the_middle_of_an_item():
    started = time.monotonic()
    with in_workers(time.sleep, [0, 1000, 1000], 2) as results:
        next(results)
        busy = [psutil.Process(child.pid) for child in active_children()]
        assert len(busy) == 2
    wait_until_gone(busy)
    assert time.monotonic() - started < 100


def leave_a_file(path):
    """For a path, a long item that removes its temporary file in the end, which takes a moment."""
    if path is None:
        return
    path.touch()
    try:
        time.sleep(1000)
    finally:
        time.sleep(0.5)
        path.unlink()


def test_a_worker_that_is_told_twice_to_end_still_removes_its_file(tmp_path):
    with in_workers(leave_a_file, [None, tmp_path / "temporary"], 2) as results:
        next(results)
        while not (tmp_path / "temporary").exists():
            time.sleep(0.01)
        for child in active_children():
            os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.2)  # the block ends while it removes the file, and tells it again
    assert not active_children() and not (tmp_path / "temporary").exists()


def test_a_worker_that_is_killed_in_the_middle_of_a_result_is_an_error():
    with pytest.raises(WorkerError, match="a worker process was killed .out of memory"):
        with in_workers(die_in_the_middle_of_a_result, range(8), 2) as results:
            for _ in results:
                time.sleep(0.3)
    assert not active_children()
