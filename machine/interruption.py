"""Ctrl-C and SIGTERM end a program at any moment, with one sentence, exit status 130 and no process left behind.

- While it imports libraries or reads its arguments, it ends at once.
- While its job runs, KeyboardInterrupt is raised, so that temporary files are removed. If the exception gets lost in a
  library, or the program still runs after GRACE seconds, it ends at once. What is then left under a temporary name is
  removed by the next run.

A program that `reproduce.py` or `accelerate launch` has started also ends when that process was killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from .cores import wait_briefly

INTERRUPTED = 130
GRACE = 10.0  # seconds
STARTED_BY = "GLORESNET_STARTED_BY"  # environment variable: the process id of the program that started this one
_LAUNCHERS = {"accelerate", "accelerate-launch", "accelerate.commands.launch", "torchrun", "torch.distributed.run"}
_LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}  # variables, one of which each of them sets


class Program:
    """The program that runs in this process, as far as signals are concerned.

    Attributes:
        received: a signal has arrived while the job ran.
    """

    def __init__(self, name: str):
        self.name, self.process, self.sentence = name, os.getpid(), f"{name}: interrupted."
        self.status = INTERRUPTED
        self.received = self.in_job = self._lost = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle Ctrl-C or SIGTERM."""
        if os.getpid() != self.process:  # a worker that was just forked: the parent handles Ctrl-C and ends its workers
            if number == signal.SIGTERM:
                os._exit(INTERRUPTED)
            return
        if not self.in_job and not self.received:
            self.end()
        if self.received and not self._lost:
            return  # it is ending; GRACE limits how long that takes
        if not self.received:
            timer = threading.Timer(GRACE, self.end)
            timer.daemon = True
            timer.start()
        self.received, self._lost = True, False
        raise KeyboardInterrupt

    def on_unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Raise KeyboardInterrupt again if it was raised where Python cannot pass it on, such as in a destructor."""
        if not (self.received and lost.exc_type is KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        self._lost = True
        threading.Timer(0.05, _signal_main_thread).start()

    def end(self) -> NoReturn:
        """End this process and its workers now, from any thread."""
        for worker in multiprocessing.active_children():
            worker.kill()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"{self.sentence}\n".encode() if self.sentence else b"")
        os._exit(self.status)


_program: Program | None = None


def begin_program(name: str) -> None:
    """Handle Ctrl-C and SIGTERM from now on, and share the cores with other programs (`cores.wait_briefly`).

    Call it first in a program's file, before its slow imports.

    Args:
        name: the program's name as the user knows it, such as `train.py`.
    """
    global _program
    _program = Program(name)
    wait_briefly()
    sys.unraisablehook = _program.on_unraisable
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _program.on_signal)
    starter = os.environ.pop(STARTED_BY, "")
    for process in filter(None, (starter.isdecimal() and int(starter), _launcher())):
        end_with(process, _signal_main_thread)


class Job:
    """A context manager around the job of a program. Without `begin_program`, as in a test, it changes nothing.

    Args:
        interrupted: the sentence to print after a signal.
    """

    def __init__(self, interrupted: str):
        self._interrupted = interrupted

    def __enter__(self) -> Job:
        if _program is not None:
            _program.sentence, _program.in_job = self._interrupted, True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _program is None:
            return
        if isinstance(error, Exception) and not _program.received:
            # a signal for all processes of a job may reach a worker first, whose end is then the error
            time.sleep(0.2)
        _program.in_job = False

    @property
    def interrupted(self) -> bool:
        """Whether a signal has arrived. An error after it is a consequence."""
        return _program is not None and _program.received


def said(status: int) -> None:
    """The program has said how it ended, so a later signal ends it without a sentence, and with this exit status."""
    if _program is not None:
        _program.sentence, _program.status = "", status


def end_with(process: int, end: Callable[[], object]) -> None:
    """Call `end` in a thread as soon as a parent of this process, or a parent's parent, has ended."""
    alive = _is_parent if _is_parent(process) else _is_ancestor

    def watch() -> None:
        while alive(process):
            time.sleep(0.5)
        end()

    threading.Thread(target=watch, daemon=True).start()


def _is_parent(process: int) -> bool:
    return os.getppid() == process


def _is_ancestor(process: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return any(parent.pid == process for parent in psutil.Process().parents())
    return False


def _launcher() -> int | None:
    """The process id of `accelerate launch` or `torchrun`, if it started this process."""
    if not _LAUNCHED & os.environ.keys():
        return None
    import psutil

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        if _LAUNCHERS & {Path(word).name for word in parent.cmdline()[:4]}:
            return int(parent.pid)
    return None


def _signal_main_thread() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
