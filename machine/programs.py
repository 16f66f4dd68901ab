"""How every program of this project starts and ends: expected errors become one sentence and an exit status.

Exit status: 0 success, 1 the job failed, 2 the call was wrong, 130 interrupted.
"""

import sys
from collections.abc import Callable

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130


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
        interrupted: the message after Ctrl-C (status 130).

    Returns:
        The exit status. An error that is in neither list is a bug: it is raised, with its traceback.
    """
    try:
        return job() or 0
    except KeyboardInterrupt:
        return complain(name, interrupted, INTERRUPTED)
    except wrong_call as error:
        return complain(name, error, WRONG_CALL)
    except failed as error:
        return complain(name, error, FAILED)


def complain(name: str, message: Exception | str, status: int) -> int:
    """Print `NAME: MESSAGE` to standard error, as a sentence with a full stop, and return the exit status."""
    text = str(message)
    print(f"{name}: {text}" + ("" if text.endswith((".", "!", "?")) else "."), file=sys.stderr)
    return status


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, or the name of its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
