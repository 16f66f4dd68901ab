"""How long whole Python programs take, started in the project's folder as a user would start them."""

import os
import subprocess
import sys
import time
from typing import NamedTuple

from .contestants import ROOT


def seconds_to_end(arguments: list[str], **options) -> float:
    """Time `python ARGUMENTS` until it exits.

    Args:
        arguments: what follows `python` on the command line.
        options: passed to `subprocess.run`, which raises CalledProcessError if the program fails.
    """
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, **{"cwd": ROOT} | options)
    return time.perf_counter() - started


class Usage(NamedTuple):
    """What a program needed: seconds until it exited, CPU seconds of all its threads, and peak memory in bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def usage_to_end(arguments: list[str]) -> Usage:
    """Run `python ARGUMENTS` to its end.

    Raises:
        RuntimeError: the program failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} ended with status {process.returncode}")
    return Usage(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def seconds_until(arguments: list[str], words: str, **options) -> float:
    """Time `python ARGUMENTS` until it prints `words` to either stream. The program then runs to its end.

    Raises:
        RuntimeError: the program failed or ended without printing these words.
    """
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-u", *arguments], **options) as process:
        printed = ""
        while words not in printed and (letter := process.stdout.read(1)):
            printed += letter
        seconds = time.perf_counter() - started
        printed += process.stdout.read()
    if process.returncode or words not in printed:
        raise RuntimeError(f"python {' '.join(arguments)} ended with status {process.returncode}: {printed}")
    return seconds
