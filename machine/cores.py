"""How many CPU cores a process may use, and how its threads share them with other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SPINS = "10000"  # GNU OpenMP itself takes 300,000, and 100 if it has more threads than cores


def available_cores() -> int:
    """Number of CPU cores this process may use. In a container or batch job this can be fewer than the machine has.

    It is the number of cores the process may run on, or the CPU quota of its control groups (`docker run --cpus`, a
    Kubernetes limit) if that is smaller. A quota of 2.5 cores counts as 2, one below 1 as 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, cpu_quotas())]))


def computing_threads() -> int:
    """Threads for a library that computes: `OMP_NUM_THREADS`, as for PyTorch, but at most `available_cores`."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(available_cores(), int(wanted)) if wanted.isdecimal() and int(wanted) else available_cores()


def wait_briefly() -> None:
    """Let OpenMP threads that wait for each other soon sleep. Call it before importing torch.

    By default, GNU OpenMP (of torch's Linux packages) waits for milliseconds in a busy loop. If other programs use the
    cores, the thread that the loop waits for does not run, and much of the processor time is spent in the loop, see
    benchmarks/README.md. Settings of the user stay. The results are the same.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def cpu_quotas(
    mounts: str | os.PathLike[str] = "/sys/fs/cgroup", membership: str | os.PathLike[str] = "/proc/self/cgroup"
) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's control groups and the groups above them. None without a limit.

    Args:
        mounts: where the control groups are mounted: version 1 has one folder per controller here.
        membership: lists the groups of this process, as `ID:CONTROLLERS:PATH`; version 2 names no controllers.
    """
    try:
        lines = Path(membership).read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # version 2 is mounted in unified/ if version 1 is mounted as well
        roots = (controllers, "cpu") if controllers else ("", "unified")
        for root in dict.fromkeys(Path(mounts, name) for name in roots):
            # in a container the group's path may be the host's, which does not exist here; its root does
            folder = root / group.lstrip("/")
            for level in (folder, *folder.parents):
                if not level.is_relative_to(root):
                    break
                quota = _quota_v2(level) if not controllers else _quota_v1(level)
                if quota is not None:
                    yield quota


def _quota_v2(group: Path) -> float | None:
    """`cpu.max` holds `QUOTA PERIOD` in microseconds, or `max PERIOD`."""
    text = _read(group / "cpu.max").split()
    return _cores(*text) if len(text) == 2 else None


def _quota_v1(group: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 without a limit."""
    return _cores(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _cores(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or not int(quota) or not int(period):  # "max", "-1", no file
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
