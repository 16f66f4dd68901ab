"""train.py in fresh processes that need not import its libraries, each forked from one that has done so."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess

TIME_LIMIT = 300  # seconds, after which a test fails rather than waits
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["train", "evaluation.report"])


def run_train(arguments: list, cwd: Path) -> CompletedProcess:
    """`python train.py ARGUMENTS` in the folder `cwd`: its exit status and what it said.

    Not for what libraries read while they are imported, such as HF_ENDPOINT.
    """
    _start_the_server()
    output, errors = (cwd / f".{os.urandom(8).hex()}.{name}" for name in ("out", "err"))
    process = _context.Process(target=_train, args=([str(word) for word in arguments], cwd, output, errors))
    process.start()
    process.join(TIME_LIMIT)
    process.kill()  # if it still runs, which its exit status then tells
    process.join()
    said = [file.read_text() for file in (output, errors)]
    output.unlink(), errors.unlink()
    return CompletedProcess(["train.py", *arguments], process.exitcode, *said)


def _start_the_server() -> None:
    """With this project on its path, which is no business of the processes that it forks."""
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent.parent}{os.pathsep}{known}"
    forkserver.ensure_running()
    os.environ["PYTHONPATH"] = known


def _train(arguments: list[str], cwd: Path, output: Path, errors: Path) -> None:
    import train

    os.environ.pop("PYTHONPATH", None)
    os.chdir(cwd)
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["train.py", *arguments]
    train.main()
