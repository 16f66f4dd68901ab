"""Worker processes that never outlive the program: not after an error, Ctrl-C or SIGTERM, nor if it was killed.

`concurrent.futures` cannot end its workers, and waits forever for one that is killed while it returns a large result.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

from .interruption import end_with

Item = TypeVar("Item")
Result = TypeVar("Result")
CLEANING_UP = 2.0  # seconds that a worker has to remove its temporary files


class WorkerError(OSError):
    """A worker process was killed, most often for want of memory. The message says what to do."""


def in_workers(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int, *, start_method: str | None = None
) -> contextlib.closing[Generator[Result, None, None]]:
    """Apply a function to items in worker processes. Use as `with in_workers(...) as results: for result in results:`.

    At the end of the `with` block the workers are ended, also those in the middle of an item. They read the next item
    only after their last result was taken, so memory does not grow with the number of items.

    Args:
        function: must be picklable unless workers are forked.
        items: picklable.
        num_workers: number of processes; with 1 the function is applied in this process.
        start_method: of multiprocessing; by default `fork` on Linux, `spawn` elsewhere.

    Returns:
        A context manager around the results, in the order in which they are ready.

    Raises:
        WorkerError: while iterating; a worker process was killed. An error of the function is raised as it is.
    """
    if num_workers <= 1:
        return contextlib.closing(function(item) for item in items)
    return contextlib.closing(_results(function, items, num_workers, start_method))


def leave_signals_to_the_parent(_worker: int) -> None:
    """Let a worker of a DataLoader ignore Ctrl-C, and end when its parent has ended. This is its `worker_init_fn`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(os.getppid(), lambda: os._exit(1))


def _results(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int, start_method: str | None
) -> Generator[Result, None, None]:
    context: Any = multiprocessing.get_context(start_method or ("fork" if sys.platform == "linux" else "spawn"))
    if context.get_start_method() != "fork":
        resource_tracker.ensure_running()  # its start would unblock signals
    todo = iter(items)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for item in islice(todo, num_workers):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
            with _signals_blocked():  # a worker must not be interrupted before it has said what signals do to it
                worker.start()
            workers[ours] = worker
            theirs.close()  # a pipe whose only other end is in the worker closes when the worker ends
            ours.send((item,))
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    result, error = connection.recv()
                    following = next(((item,) for item in todo), None) if error is None else None
                    connection.send(following)
                except (EOFError, ConnectionError) as ended:
                    time.sleep(0.2)  # a signal for all processes of a job may reach a worker first
                    raise WorkerError(
                        "a worker process was killed (out of memory?); run the same command again to continue"
                    ) from ended
                if error is not None:
                    raise error
                if following is None:
                    workers.pop(connection).join()
                    connection.close()
                yield result
    finally:
        for worker in workers.values():
            worker.terminate()
        patience = time.monotonic() + CLEANING_UP
        for connection, worker in workers.items():
            worker.join(max(patience - time.monotonic(), 0))
            worker.kill()
            worker.join()
            connection.close()


def _work(function: Callable[[Item], Result], connection: Connection, parent: int) -> None:
    """Apply the function to each item received, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, _end_once)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    end_with(parent, _end_this_worker)
    while (received := connection.recv()) is not None:
        answer: tuple[Result | None, Exception | None]
        try:
            answer = function(received[0]), None
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = None, error
        connection.send(answer)


def _end_once(_number: int, _frame: FrameType | None) -> None:
    """End this worker. A second SIGTERM, from the parent, must not interrupt the removal of temporary files."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_this_worker() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(CLEANING_UP)
    os._exit(1)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Hold signals back: they arrive afterwards. A process that is started meanwhile inherits this."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
