"""Run each contestant, one way of doing a job, in its own process, and interleave their turns.

Separate processes keep the allocator, thread pool and compiled kernels of one contestant away from the others. With
interleaved turns, load from other programs affects all contestants equally.

    python -m benchmarks.contestants JOB SETTINGS      (how this module starts a contestant)
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from machine.cores import wait_briefly

ROOT = Path(__file__).parent.parent
JOBS = {"scan": "screening", "network": "screening", "many": "screening", "step": "training", "epoch": "training"}
JOBS |= {"growth": "training", "bound": "bounds", "study": "dicom"}
UNTUNED = {"reference", "monai", "torchio"}  # ways with OpenMP's default settings


class Series(NamedTuple):
    """The turns of one contestant: seconds, the last answer, the peak memory of its process, and CPU seconds."""

    seconds: list[float]
    answer: object
    peak_bytes: int
    cpu_seconds: Sequence[float] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(
    job: str, contestants: dict[str, dict], turns: Iterable, *, warm_up: object = None, busy: int = 0
) -> dict:
    """Let all contestants take each turn, one contestant at a time, round after round.

    Args:
        job: a key of JOBS.
        contestants: name -> settings of the job.
        turns: the argument of each round.
        warm_up: the argument of an additional first round that does not count; default: the first turn's argument.
        busy: other programs that compute during the turns, each on one core.

    Returns:
        name -> Series, or a sentence if the contestant could not take part.
    """
    turns = list(turns)
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Contestant(job, settings)) for name, settings in contestants.items()}
        missing = {name: process.wait_until_ready() for name, process in processes.items()}
        results: dict[str, Series | str] = {}
        results |= {name: f"not installed: {package}" for name, package in missing.items() if package}
        ready = {name: process for name, process in processes.items() if name not in results}
        taken: dict[str, list[dict]] = {name: [] for name in ready}
        stack.enter_context(busy_programs(busy))
        for number, turn in enumerate([turns[0] if warm_up is None else warm_up, *turns]):
            for name, process in ready.items():
                answer = process.ask(turn)
                if number:
                    taken[name].append(answer)
    for name, answers in taken.items():
        last = answers[-1]
        seconds, cpu_seconds = ([answer[key] for answer in answers] for key in ("seconds", "cpu_seconds"))
        results[name] = Series(seconds, last["answer"], last["peak_bytes"], cpu_seconds)
    return results


@contextlib.contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Other programs of one thread each, which compute until the block ends, or this process."""
    code = "import os\nwhile os.getppid() == " + str(os.getpid()) + ":\n    sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Contestant:
    """A context manager around one contestant's process. All contestants set themselves up at the same time."""

    def __init__(self, job: str, settings: dict):
        self.log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "benchmarks.contestants", job, json.dumps(settings)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, cwd=ROOT)
        self.what = f"{job} {settings}"

    def wait_until_ready(self) -> str | None:
        """Wait until the contestant is set up.

        Returns:
            The name of a package that is not installed, or None.
        """
        return self._read().get("missing")

    def ask(self, turn: object) -> dict:
        """Let the contestant take one turn. Returns `seconds`, `cpu_seconds`, `answer` and `peak_bytes`."""
        print(json.dumps(turn), file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"the contestant {self.what} ended: {self.log.read()[-2000:]}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.log.close()


def set_openmp(way: str | None) -> None:
    """Set OpenMP up for one way, as a user of it would: ours as in our programs, the others untouched."""
    if way in UNTUNED:
        os.environ.pop("GOMP_SPINCOUNT", None)  # inherited from the program that compares, or from its user
    else:
        wait_briefly()


def main(argv: Sequence[str] | None = None) -> int:
    """Set up one contestant, then take one turn per line of standard input. Answers are lines of JSON.

    Errors keep their traceback: the parent process reads it from the log.
    """
    job, settings = sys.argv[1:] if argv is None else argv
    settings = json.loads(settings)
    set_openmp(settings.get("way"))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to standard output too, and the parent would read that as an answer
    try:
        do = getattr(import_module(f"benchmarks.{JOBS[job]}"), job)(**settings)
    except ImportError as error:
        print(json.dumps({"missing": error.name or str(error)}), file=answers)
        return 0
    print(json.dumps({}), file=answers)
    for line in sys.stdin:
        turn = json.loads(line)
        started, used = time.perf_counter(), time.process_time()
        answer = do(turn)
        found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used, "answer": answer}
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(found), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
