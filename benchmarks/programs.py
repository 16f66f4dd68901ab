"""How long Python programs take, started as from a shell in the project's folder."""

import subprocess
import sys
import time

from .contestants import ROOT


def seconds_to_end(arguments: list[str], **options) -> float:
    """Of `python ARGUMENTS`; options as for `subprocess.run`, which raises where the program fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, **{"cwd": ROOT} | options)
    return time.perf_counter() - started


def seconds_until(arguments: list[str], words: str, **options) -> float:
    """Until `python ARGUMENTS` has said these words, on either stream; it is left to end.

    Raises:
        RuntimeError: it failed, or ended without having said them.
    """
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-u", *arguments], **options) as process:
        said = ""
        while words not in said and (letter := process.stdout.read(1)):
            said += letter
        seconds = time.perf_counter() - started
        said += process.stdout.read()
    if process.returncode or words not in said:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode}: {said}")
    return seconds
