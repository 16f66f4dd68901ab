"""Contestants: each way of doing a job in a process of its own, which waits for its turn; turns are interleaved.

An allocator's state, a thread pool and compiled kernels of one way so never touch another's, and a load on the machine
from outside falls on all of them.

    python -m benchmarks.contestants JOB SETTINGS      (as this module starts them)
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
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
JOBS = {"scan": "screening", "network": "screening", "many": "screening", "step": "training", "epoch": "training"}
JOBS |= {"growth": "training", "bound": "bounds"}


class Series(NamedTuple):
    """What the turns of one contestant took, in seconds, what the last one answered, and the process's peak memory."""

    seconds: list[float]
    answer: object
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(job: str, contestants: dict[str, dict], turns: Iterable, *, warm_up: object = None) -> dict:
    """Let each contestant do each turn, one at a time, round after round.

    Args:
        job: a key of JOBS.
        contestants: name -> settings of the job.
        turns: the argument of each round.
        warm_up: the argument of a first round that does not count; the first turn's when left out.

    Returns:
        name -> Series, or why it did not take part.
    """
    turns = list(turns)
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Contestant(job, settings)) for name, settings in contestants.items()}
        missing = {name: process.wait_until_ready() for name, process in processes.items()}
        results = {name: f"not installed: {package}" for name, package in missing.items() if package}
        ready = {name: process for name, process in processes.items() if name not in results}
        taken = {name: [] for name in ready}
        for number, turn in enumerate([turns[0] if warm_up is None else warm_up, *turns]):
            for name, process in ready.items():
                answer = process.ask(turn)
                if number:
                    taken[name].append(answer)
    for name, answers in taken.items():
        last = answers[-1]
        results[name] = Series([answer["seconds"] for answer in answers], last["answer"], last["peak_bytes"])
    return results


class Contestant:
    """One process, as a context. It sets itself up while others do."""

    def __init__(self, job: str, settings: dict):
        self.log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "benchmarks.contestants", job, json.dumps(settings)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, cwd=ROOT)
        self.what = f"{job} {settings}"

    def wait_until_ready(self) -> str | None:
        """Wait until it is set up; the name of a package that it lacks, if it does."""
        return self._hear().get("missing")

    def ask(self, turn) -> dict:
        print(json.dumps(turn), file=self.process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> dict:
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


def main() -> None:
    job, settings = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        do = getattr(import_module(f"benchmarks.{JOBS[job]}"), job)(**settings)
    except ImportError as error:
        print(json.dumps({"missing": error.name or str(error)}), file=answers)
        return
    print(json.dumps({}), file=answers)
    for line in sys.stdin:
        turn = json.loads(line)
        started = time.perf_counter()
        answer = do(turn)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "answer": answer, "peak_bytes": peak}), file=answers)


if __name__ == "__main__":
    main()
