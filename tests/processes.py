"""Real processes that tests interrupt: wait for a moment instead of a time, and know what is left alive."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

TIME_LIMIT = 120  # seconds until a test fails instead of waiting


def wait_until(happened: Callable[[], object], limit: float = TIME_LIMIT) -> None:
    """Wait until something is true. Fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < deadline, f"not within {limit} s"
        time.sleep(0.02)


def descendants(process: int) -> list[psutil.Process]:
    """The living processes that a process has started, and those that they have started."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_until_gone(processes: list[psutil.Process], limit: float = 20) -> None:
    """Wait until none of the processes is alive."""
    wait_until(lambda: not [process for process in processes if _alive(process)], limit)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def leftovers(folder: Path) -> list[Path]:
    """Files and folders under a temporary name."""
    return [path for path in folder.rglob("*") if path.name.endswith((".part", ".partial", ".retired"))]
