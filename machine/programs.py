"""How every program of this project starts and ends: expected errors become one sentence and an exit status.

Exit status: 0 success, 1 the job failed, 2 the call was wrong, 130 interrupted by Ctrl-C or SIGTERM.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from .interruption import INTERRUPTED, Job, said

FAILED, WRONG_CALL = 1, 2


def run_program(
    name: str,
    job: Callable[[], int | None],
    *,
    wrong_call: tuple[type[Exception], ...] = (),
    failed: tuple[type[Exception], ...] = (OSError,),
    interrupted: str = "interrupted; run the same command again to continue",
) -> int:
    """Run the body of a program and return its exit status.

    Args:
        name: the program's name as the user knows it, such as `train.py`; it starts every message.
        job: the body. It returns an exit status, or None for success.
        wrong_call: errors that mean the arguments or settings are wrong (status 2). Checked first.
        failed: errors that mean the job could not be done (status 1).
        interrupted: the message after Ctrl-C or SIGTERM (status 130). For SIGTERM, the program's file must call
            `begin_program` first.

    Returns:
        The exit status. An error that is in neither list is a bug: it is raised, with its traceback.
    """
    try:
        with (running := Job(_sentence(name, interrupted))):
            status = job() or 0
            if running.interrupted:  # a library caught the KeyboardInterrupt, as gradio does
                raise KeyboardInterrupt
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or running.interrupted:
            status = complain(name, interrupted, INTERRUPTED)
        elif isinstance(error, wrong_call):
            status = complain(name, error, WRONG_CALL)
        elif isinstance(error, failed):
            status = complain(name, error, FAILED)
        else:
            raise
    said(status)
    return status


@contextmanager
def stopped(outcome: str, advice: str, let_through: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around a long computation: an error of memory, disk or library becomes one sentence.

    Args:
        outcome: what is left, such as `no file was kept`.
        advice: what to do.
        let_through: errors that have a good sentence already.

    Raises:
        OSError: the sentence.
    """
    try:
        yield
    except let_through:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        raise OSError(f"stopped, {outcome} ({one_line(error).rstrip('.')[:300]}): {advice}") from error


def end_if_missing(name: str, paths: Iterable[object], status: int) -> None:
    """End the program with one sentence if a path does not exist. Call it before the slow imports that its job needs.

    Args:
        name: see `run_program`.
        paths: from the command line; None is left out.
        status: the exit status.

    Raises:
        SystemExit: a path does not exist.
    """
    for path in paths:
        if path is not None and not os.path.lexists(str(path)):
            sys.exit(complain(name, f"{path} does not exist: check the path", status))


def complain(name: str, message: Exception | str, status: int) -> int:
    """Print `NAME: MESSAGE` to standard error, as a sentence with a full stop, and return the exit status."""
    print(_sentence(name, message), file=sys.stderr)
    return status


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, or the name of its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: Exception) -> str:
    """An error's message. For an error of the operating system: which file, what is wrong with it, and what to do."""
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None or error.filename is None:
        return str(error)
    advice = "check the path and the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space, then run the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "change its permissions, or choose another place"
    elif error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        advice = "choose another place"
    elif error.errno == errno.ENOENT:
        advice = "check that it exists and is spelt correctly"
    return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror.lower()}; {advice}"


def _sentence(name: str, message: Exception | str) -> str:
    text = explain(message) if isinstance(message, Exception) else message
    return f"{name}: {text}" + ("" if text.endswith((".", "!", "?")) else ".")
